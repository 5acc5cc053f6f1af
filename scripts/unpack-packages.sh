#!/bin/bash
# Unpacks packages of a Debian suite into the directory DIR, from the mirror that apt
# uses here. Nothing is installed, and no package is configured.
#
#   unpack-packages.sh [--with-dependencies | --source | --depends] DIR SUITE PACKAGE...
#
# --with-dependencies makes DIR a root file system for chroot(8). --source puts the
# original sources of the packages there, as they are. --depends unpacks nothing, and
# prints what the packages depend on as apt-cache(8) does.
set -euo pipefail

how=
case ${1-} in
--*) how=$1 && shift ;;
esac
dir=${1:?DIR} suite=${2:?SUITE}
shift 2
mirror=$(apt-get indextargets --format "\$(REPO_URI)" 'Origin: Debian' 'Component: main' 2>/dev/null |
    grep -v security | head -1) || :
[[ -n $mirror ]] || {
    echo "unpack-packages.sh: this is not Debian, or its package lists are missing (apt-get update)" >&2
    exit 1
}
rm -rf "$dir"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/sources"
: >"$apt/status"
export APT_CONFIG=$apt/apt.conf
for kind in deb deb-src; do
    echo "$kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
done >"$apt/sources/debian.list"
cat >"$APT_CONFIG" <<CONFIG
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$apt/sources";
Dir::State::lists "$apt/lists";
Dir::Cache "$apt";
Dir::Cache::archives "$apt/archives";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Languages "none";
CONFIG
apt-get update -qq
case $how in
--depends)
    LC_ALL=C apt-cache depends "$@"
    exit
    ;;
--source)
    # What the distribution changed is not needed, so it need not be there.
    cd "$dir"
    apt-get source -qq --download-only "$@" || ls ./*.orig.tar.* >/dev/null
    exit
    ;;
--with-dependencies)
    echo "Dir::State::status \"$apt/status\";" >>"$APT_CONFIG"
    apt-get install -qq --yes --download-only "$@" >/dev/null
    ;;
*) (cd "$apt/archives" && apt-get download -qq "${@/%//$suite}") ;;
esac
for package in "$apt"/archives/*.deb; do
    dpkg-deb -x "$package" "$dir"
done
