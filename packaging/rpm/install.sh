#!/bin/sh
# install.sh BUILDROOT VARIABLE=VALUE...: the section %install of dlmlockd.spec. Installs
# all there is into the build root, and writes NAME.files, the list of the files of each
# package. What is below /etc is configuration, and what is below /usr/share/doc documents.
set -eu

root=$1
shift

# finish PACKAGE STAGE: adds the documents, writes the list, moves all to the root.
finish() {
    mkdir -p "$2/usr/share/doc/$1"
    cp -R "bin/doc/$1/." "$2/usr/share/doc/$1/"
    for program in "$2"/usr/bin/* "$2"/usr/sbin/* "$2"/usr/lib64/libvirt/lock-driver/*; do
        [ ! -e "$program" ] || strip --strip-unneeded "$program"
    done
    find "$2" -path '*/man/man*' -type f -exec gzip -9 --no-name {} +
    {
        # Directories of our own, and all files. Where rpm compresses manual pages again,
        # with something else, their names change.
        find "$2" -type d \( -name '*dlmlock*' -o -path '*dlmlock*/*' \) ! -path '*/doc/*' -printf '%%dir /%P\n'
        find "$2" -type d -path '*/doc/*dlmlock*' -printf '%%doc %%dir /%P\n'
        find "$2" -type f -path '*/doc/*dlmlock*' -printf '%%doc /%P\n'
        find "$2" -type f -path "$2/etc/*" -printf '%%config(noreplace) /%P\n'
        find "$2" -type f ! -path "$2/etc/*" ! -path '*/doc/*' -printf '/%P\n' | sed -E '/\/man\/man[0-9]\//s/gz$/*/'
    } | LC_ALL=C sort >"$1.files"
    mkdir -p "$root"
    cp -R "$2/." "$root/"
    rm -rf "$2"
}

make --no-print-directory install DESTDIR="$PWD/stage" "$@" >/dev/null
install -D -m 755 -t stage/usr/libexec/dlmlockd packaging/before-removal
finish dlmlockd stage
make --no-print-directory install-libvirt DESTDIR="$PWD/stage" "$@" >/dev/null
finish dlmlockd-libvirt stage
make --no-print-directory install-cockpit DESTDIR="$PWD/stage" "$@" >/dev/null
finish cockpit-dlmlock stage
make --no-print-directory install-python DESTDIR="$PWD/stage" "$@" >/dev/null
# Compiled as at an installation, by content instead of date, and without the name of the stage.
python3 -m compileall -q -s stage -p / --invalidation-mode checked-hash stage
finish python3-dlmlock stage
