#!/bin/sh
# build.sh binary|source DIRECTORY VERSION OUTPUT: builds the rpm packages, or the source
# package, with packaging/dlmlockd.spec from a copy of this tree in DIRECTORY. VERSION has
# the release. SOURCE_DATE_EPOCH and what the programs say of their build (VERSION,
# COMMIT) come in the environment.
#
# The source package has the Go modules in vendor/, so it builds without a network. That
# what BuildRequires: names is there is not asked of rpm, because Debian's dpkg knows it.
set -eu
: "${VERSION:?}"

kind=$1
dir=$(realpath --canonicalize-missing "$2")
version=$3
output=$(realpath "$4")

upstream=${version%-*}
copy=$dir/dlmlockd-$upstream
rm -rf "$dir"
packaging/copy-tree.sh "$copy"
[ "$kind" != source ] || (cd "$copy" && go mod vendor)
mkdir -p "$dir/SOURCES" "$dir/db"
# With its macros as they are in this build: whoever rebuilds it needs no arguments.
{
    printf '%%global dlmlock_version %s\n%%global dlmlock_release %s\n' "$upstream" "${version##*-}"
    printf '%%global dlmlock_git %s\n' "$VERSION"
    printf '%%global dlmlock_date %s\n' "$(LC_ALL=C date --utc --date="@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')"
    cat packaging/dlmlockd.spec
} >"$dir/dlmlockd.spec"
(cd "$dir" && tar --create --gzip --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    --file="SOURCES/dlmlockd-$upstream.tar.gz" "dlmlockd-$upstream")
rm -rf "$copy"

case $kind in
source) set -- -bs ;;
binary) set -- -bb ;;
esac
# The bytes depend on the commit alone: no host, no time of the build.
if ! rpmbuild "$@" --nodeps --quiet --dbpath "$dir/db" \
    --define "_topdir $dir" --define '_buildhost localhost' \
    --define 'use_source_date_epoch_as_buildtime 1' --define 'clamp_mtime_to_source_date_epoch 1' \
    --define '_binary_payload w6.xzdio' --define '_source_payload w6.xzdio' \
    --define '__brp_compress /bin/true' --define '_libdir %{_prefix}/lib64' \
    "$dir/dlmlockd.spec" >"$dir/log" 2>&1; then
    cat "$dir/log" >&2
    exit 1
fi
rm -rf "$dir/BUILD"
find "$dir/RPMS" "$dir/SRPMS" -name '*.rpm' -exec cp -t "$output" {} + -printf '%f\n'
