#!/bin/bash
# Runs a command as root in a root file system that lab-root.sh has made, as on another machine
# with the same kernel: in this directory, with this Go and its caches, and with a /run and a /tmp
# of its own.
#
#   in-root.sh ROOT COMMAND...
set -euo pipefail

root=$(realpath "${1:?ROOT}")
shift
(($# > 0)) || { echo 'in-root.sh: no command' >&2 && exit 2; }
shared=("$PWD" "$(go env GOROOT)" "$(go env GOMODCACHE)" "$(go env GOCACHE)")
mkdir -p "${shared[@]}"
# go may be a link that the root does not have, as Debian's /usr/bin/go is.
PATH=${shared[1]}/bin:$PATH
[[ ${IN_ROOT-} == "$root" ]] ||
    IN_ROOT=$root exec unshare --mount "$0" "$root" "$@"

# The mounts are seen only here. The new root must be a mount itself. With chroot(2) alone, the
# tests could make no user namespace: unshare(2), EPERM.
mount --make-rprivate /
mount --bind "$root" "$root"
for dir in proc sys dev; do
    mount --rbind "/$dir" "$root/$dir"
done
for dir in run tmp; do
    mount -t tmpfs -o "mode=$([[ $dir == tmp ]] && echo 1777 || echo 755)" "$dir" "$root/$dir"
done
for dir in "${shared[@]}"; do
    mkdir -p "$root$dir"
    mount --bind "$dir" "$root$dir"
done
# dbus-broker wants one.
[[ -s $root/etc/machine-id ]] || tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
dir=$PWD
cd "$root"
pivot_root . .
umount --lazy .
cd "$dir"
exec "$@"
