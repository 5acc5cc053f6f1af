#!/bin/sh
# The version of the packages, from what git describe says (v1.2.3,
# v1.2.3-4-gabcdef0, abcdef0, each perhaps with -dirty) and the date of the
# commit in seconds since 1970. Versions of both dpkg and rpm sort as releases
# do: "~" before everything, "+" after nothing.
set -eu

describe=$1
epoch=$2

case $describe in
v[0-9]*) printf '%s\n' "$describe" | sed -E 's/^v//; s/-([0-9]+)-g([0-9a-f]+)/+\1.g\2/; s/-dirty$/+dirty/; s/-/~/g' ;;
unknown) echo 'git knows no version of this tree; say VERSION=v1.2.3' >&2 && exit 1 ;;
*) printf '0~%s.g%s\n' "$(date --utc --date="@$epoch" +%Y%m%d%H%M%S)" "$(printf '%s\n' "$describe" | sed 's/-/+/g')" ;;
esac
