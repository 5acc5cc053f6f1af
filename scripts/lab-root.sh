#!/bin/bash
# Makes a root file system of another Debian suite for nodes of the lab, with
# mmdebstrap(1), from the mirror that apt uses here.
#
#   lab-root.sh DIR SUITE PACKAGE...
#
# Run it as root. The packages are installed and configured, but nothing is started.
# Tests use it with LAB_ROOT=DIR.
set -euo pipefail

dir=${1:?DIR} suite=${2:?SUITE}
shift 2
mirror=$(apt-get indextargets --format "\$(REPO_URI)" 'Origin: Debian' 'Component: main' 2>/dev/null |
    grep -v security | head -1) || :
[[ -n $mirror ]] || {
    echo "lab-root.sh: this is not Debian, or its package lists are missing (apt-get update)" >&2
    exit 1
}
rm -rf "$dir" "$dir.new"
mkdir -p "$(dirname "$dir")"
include=$*
mmdebstrap --mode=root --variant=minbase --include="${include// /,}" \
    --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
    --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    "$suite" "$dir.new" "deb $mirror $suite main"
# The nodes install only packages that the tests copy to them, none from a mirror.
rm -rf "$dir.new"/var/cache/apt/archives/*.deb "$dir.new"/etc/apt/sources.list*
# Its Go files are not those of the lab: go's ./... passes by another module.
: >"$dir.new/go.mod"
mv "$dir.new" "$dir"
touch "$dir"
