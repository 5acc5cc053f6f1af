#!/bin/sh
# build.sh binary|source DIRECTORY VERSION OUTPUT: builds the Debian packages, or the
# source package, from a copy of this tree in DIRECTORY. VERSION has the revision.
# SOURCE_DATE_EPOCH and what the programs say of their build (VERSION, COMMIT) come in
# the environment.
#
# The source package has the Go modules in vendor/, so it builds without a network. Go is
# newer than Debian's here, so the build does not insist on Debian's package (the profile
# pkg.dlmlockd.gopath): it takes the go that is in PATH.
set -eu

kind=$1
dir=$(realpath --canonicalize-missing "$2")
version=$3
output=$(realpath "$4")

upstream=${version%-*}
copy=$dir/dlmlockd-$upstream
rm -rf "$dir"
packaging/copy-tree.sh "$copy"
[ "$kind" != source ] || (cd "$copy" && go mod vendor)

maintainer=$(sed -n 's/^Maintainer: //p' debian/control)
cat >"$copy/debian/changelog" <<EOF
dlmlockd ($version) unstable; urgency=medium

  * Built from the commit of this date. CHANGELOG.md, in the packages
    changelog.gz, tells what has changed.

 -- $maintainer  $(LC_ALL=C date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")
EOF

log=$dir/log
cd "$copy"
export DEB_BUILD_PROFILES=pkg.dlmlockd.gopath
if [ "$kind" = source ]; then
    tar --create --gzip --exclude=./debian --transform="s,^\.,dlmlockd-$upstream," --sort=name \
        --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --file="../dlmlockd_$upstream.orig.tar.gz" .
    set -- --build=source -d
else
    set -- --build=binary
fi
if ! dpkg-buildpackage "$@" --no-sign --jobs=auto >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
fi
cd ..
rm -rf "$copy"
find . -maxdepth 1 -type f ! -name log ! -name '*.buildinfo' ! -name '*.changes' \
    -exec cp -t "$output" {} + -printf '%f\n'
