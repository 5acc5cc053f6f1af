#!/bin/bash
# Unpacks the libvirt and QEMU of a newer Debian SUITE into the root file system
# DIR/SUITE, for the tests. Nothing is installed. With --virtqemud it also builds
# libvirt's modular daemon, which Debian leaves out of its packages, from its sources
# (half a gigabyte, some minutes).
set -euo pipefail

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
virtqemud=
[[ ${1-} != --virtqemud ]] || { virtqemud=1 && shift; }
dir=${1:?DIR} suite=${2:?SUITE}
root=$dir/$suite

made_by=$(cat "${BASH_SOURCE[0]}" "$scripts/unpack-packages.sh" | sha256sum)
if [[ $(cat "$root/complete" 2>/dev/null) != "$made_by" ]]; then
    "$scripts/unpack-packages.sh" --with-dependencies "$root" "$suite" base-files coreutils dash libc-bin \
        libvirt-clients libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-lock libvirt-daemon-plugin-lockd \
        qemu-system-x86 qemu-utils
    chroot "$root" /sbin/ldconfig
    cp /etc/passwd /etc/group "$root/etc"
    chroot "$root" /usr/sbin/libvirtd --version
    echo "$made_by" >"$root/complete"
fi
[[ -n $virtqemud && ! -e $root/usr/sbin/virtqemud ]] || exit 0

build=$dir/build-$suite
"$scripts/unpack-packages.sh" --with-dependencies "$build" "$suite" base-files bash coreutils dash diffutils findutils \
    gawk gcc gettext grep libc-bin libc6-dev libglib2.0-dev libgnutls28-dev libjson-c-dev libnl-3-dev \
    libnl-route-3-dev libpciaccess-dev libtirpc-dev libudev-dev libxml2-dev libxml2-utils meson ninja-build perl \
    pkg-config python3 python3-docutils rpcsvc-proto sed xsltproc
"$scripts/unpack-packages.sh" --source "$build/source" "$suite" libvirt
tar -C "$build/source" -xf "$build"/source/libvirt_*.orig.tar.* --strip-components=1
chroot "$build" /sbin/ldconfig
[[ -e $build/usr/bin/awk ]] || ln -s gawk "$build/usr/bin/awk"
# shellcheck disable=SC2016 # expanded inside
unshare --mount sh -ec '
for dir in dev proc; do mount --rbind /$dir "$1/$dir"; done
mount -t tmpfs tmpfs "$1/tmp"
chroot "$1" sh -ec "
cd /source
export PATH=/usr/sbin:/usr/bin:/sbin:/bin CC=gcc LC_ALL=C.UTF-8
meson setup build --prefix=/usr --sysconfdir=/etc --localstatedir=/var -Drunstatedir=/run -Dsystem=true \
    --auto-features=disabled -Ddriver_remote=enabled -Ddriver_libvirtd=enabled -Ddriver_qemu=enabled \
    -Djson_c=enabled -Dlibnl=enabled -Dudev=enabled -Dpciaccess=enabled >/dev/null
ninja -C build --quiet src/virtqemud"' sh "$(cd "$build" && pwd)"
cp "$build/source/build/src/virtqemud" "$root/usr/sbin/"
chroot "$root" /usr/sbin/virtqemud --version
rm -rf "$build"
