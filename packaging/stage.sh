#!/bin/sh
# Puts what goes into the packages below a directory: DIR/dlmlockd,
# DIR/dlmlockd-libvirt and DIR/cockpit-dlmlock, as "make install" does, and what
# only packages have: compressed pages and changelogs, the copyright, lintian's overrides.
#
# Every date is that of the commit, and every mode is set, so that the packages
# of one commit are the same, whoever builds them, where and when.
set -eu

dir=$1
kind=$2 # deb or rpm
libdir=$3
version=$4 # with release
epoch=$5

main=$dir/dlmlockd
driver=$dir/dlmlockd-libvirt
cockpit=$dir/cockpit-dlmlock
umask 022

# compress FILE...: as gzip(1) does it without name and date.
compress() {
    gzip -9 --no-name --force "$@"
}

# changelog PACKAGE: dpkg's own, of one entry; what has changed is told once, in
# the changelog of the project.
changelog() {
    maintainer=$(sed -n 's/^maintainer: *"\(.*\)"/\1/p' packaging/dlmlockd.yaml)
    date=$(LC_ALL=C date --utc --rfc-email --date="@$epoch")
    cat <<END
$1 ($version) unstable; urgency=medium

  * Built from the commit of this date; see changelog.gz for what has changed.

 -- $maintainer  $date
END
}

rm -rf "$dir"
mkdir -p "$dir"
if [ "$kind" = deb ]; then
    zsh=/usr/share/zsh/vendor-completions
else
    zsh=/usr/share/zsh/site-functions
fi
make --no-print-directory install DESTDIR="$main" PREFIX=/usr SYSCONFDIR=/etc ZSH_COMPLETIONS="$zsh" >/dev/null
make --no-print-directory install-libvirt DESTDIR="$driver" PREFIX=/usr SYSCONFDIR=/etc LIBDIR="$libdir" >/dev/null
make --no-print-directory install-cockpit DESTDIR="$cockpit" PREFIX=/usr >/dev/null
strip --strip-unneeded "$main/usr/sbin/dlmlockd" "$main/usr/bin/dlmlockctl" \
    "$driver$libdir/libvirt/lock-driver/dlmlock.so"

doc=$main/usr/share/doc/dlmlockd
mkdir -p "$doc/docs" "$driver/usr/share/doc/dlmlockd-libvirt" "$cockpit/usr/share/doc/cockpit-dlmlock"
install -m 644 README.md ARCHITECTURE.md BUGS.md "$doc/"
install -m 644 docs/*.md "$doc/docs/"
install -D -m 644 -t "$doc/docs/pictures" docs/pictures/*
install -m 644 data/dlmlockd.toml "$doc/examples/"
install -m 644 docs/cockpit.md "$cockpit/usr/share/doc/cockpit-dlmlock/"
install -D -m 644 -t "$cockpit/usr/share/doc/cockpit-dlmlock/pictures" docs/pictures/*
install -m 644 libvirt/README.md libvirt/qemu-dlmlock.conf "$driver/usr/share/doc/dlmlockd-libvirt/"
for page in "$main"/usr/share/man/man*/*; do
    compress "$page"
done

for package in dlmlockd dlmlockd-libvirt cockpit-dlmlock; do
    docs=$dir/$package/usr/share/doc/$package
    install -m 644 packaging/copyright "$docs/copyright"
    install -m 644 CHANGELOG.md "$docs/changelog"
    compress "$docs/changelog"
    if [ "$kind" = deb ]; then
        changelog "$package" >"$docs/changelog.Debian"
        compress "$docs/changelog.Debian"
        install -D -m 644 "packaging/lintian/$package" "$dir/$package/usr/share/lintian/overrides/$package"
    fi
done
chmod -R u=rwX,go=rX "$dir"
find "$dir" -exec touch --no-dereference --date="@$epoch" {} +
