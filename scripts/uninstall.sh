#!/bin/bash
# uninstall.sh TARGET: removes what "make TARGET" (install, install-libvirt,
# install-cockpit) installs: whatever it puts into an empty directory now. A
# configuration that has been changed is the administrator's and stays, and so does
# what the service has written. Called by make, which passes its variables on.
set -euo pipefail

target=$1
list=$(mktemp --directory)
trap 'rm -rf "$list"' EXIT
make --no-print-directory "$target" DESTDIR="$list" >/dev/null

cd "$list"
find . -type f -printf '/%P\n' | while read -r file; do
    there=${DESTDIR:-}$file
    if [[ $file == "${SYSCONFDIR:-/etc}"/* ]] && ! cmp --silent "$list$file" "$there"; then
        [[ ! -e $there ]] || echo "$there has been changed, and stays"
        continue
    fi
    rm -fv "$there"
done
# Directories are removed where they carry the name and are empty.
find . -depth -type d -name '*dlmlock*' -printf '/%P\n' | while read -r dir; do
    find "${DESTDIR:-}$dir" -depth -type d -empty -delete 2>/dev/null || true
done
