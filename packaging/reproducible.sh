#!/bin/sh
# Builds the packages of HEAD twice, in two directories of different names, with
# caches, umask, time zone and locale of their own, and compares the bytes.
set -eu

work=$(mktemp --directory)
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT

# build DIRECTORY UMASK: only what git has, and none of this tree's objects.
build() {
    git clone --quiet --no-hardlinks . "$1"
    (
        umask "$2"
        cd "$1"
        GOCACHE=$1/cache make --no-print-directory build-deb build-rpm >log 2>&1 || {
            cat log >&2
            exit 1
        }
        cd bin/packages
        sha256sum -- *
    )
}

build "$work/one" 022 >"$work/first"
(
    export TZ=Pacific/Kiritimati LC_ALL=C.UTF-8
    build "$work/a/longer-name" 077
) >"$work/second"
cat "$work/first"
diff "$work/first" "$work/second" || {
    echo 'not reproducible: the two builds differ' >&2
    exit 1
}
echo "reproducible: $(wc -l <"$work/first") packages, the same bytes from two directories"
