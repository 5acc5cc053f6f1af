#!/bin/sh
# copy-tree.sh DIRECTORY: copies this tree into a new directory, as a tarball of it would
# have it: what git knows and does not ignore, with changes that are not committed. The
# files have the date SOURCE_DATE_EPOCH, and modes that do not depend on the umask.
set -eu

rm -rf "$1"
mkdir -p "$1"
# What has been removed and not yet committed is listed too.
git ls-files --cached --others --exclude-standard -z |
    tar --create --null --files-from=- --ignore-failed-read --file=- 2>/dev/null |
    tar --extract --directory="$1" --file=-
chmod -R u=rwX,go=rX "$1"
find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
