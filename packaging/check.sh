#!/bin/sh
# Checks the packages in a directory: lintian for Debian's, and that rpm can read
# its own. Warnings are shown, errors end it.
set -eu

dir=$1

lintian --allow-root --fail-on error --tag-display-limit 0 "$dir"/*.deb
for package in "$dir"/*.rpm; do
    echo "== $package"
    rpm --query --package --info --list --scripts --requires "$package" >/dev/null
    rpm --checksig --nosignature "$package"
    # Everything belongs to root, and only root may write to it.
    rpm --query --package "$package" \
        --queryformat '[%{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILENAMES}\n]' |
        awk '$1 !~ /^l/ && ($2 != "root:root" || substr($1, 6, 1) == "w" || substr($1, 9, 1) == "w") {
                print "bad owner or mode: " $0
                bad = 1
            }
            END { exit bad }'
done
