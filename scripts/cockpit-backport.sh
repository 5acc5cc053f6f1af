#!/bin/bash
# cockpit-backport.sh DIRECTORY unpacks Cockpit from Debian's backports below a
# directory, with its shell, and two of its own pages to compare with, without installing
# them. It does nothing if the files exist already, and does not touch the system's own
# package lists.
set -euo pipefail

dir=$1
[[ ! -e $dir/usr/share/cockpit/shell/manifest.json ]] || exit 0

work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
# shellcheck source=/dev/null
release=$(. /etc/os-release && printf '%s\n' "$VERSION_CODENAME")
# The mirror that this machine already uses.
site=$(apt-get indextargets --format "\$(SITE) \$(RELEASE)" 'Created-By: Packages' |
    awk -v r="$release" '$2 == r { print $1; exit }')
[[ -n $site ]] || {
    echo "no mirror of Debian $release in this machine's sources" >&2
    exit 1
}
cat >"$work/backports.sources" <<END
Types: deb
URIs: $site
Suites: $release-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages" "$dir"
apt=(apt-get -q -o "Dir::Etc::sourcelist=$work/backports.sources" -o Dir::Etc::sourceparts=-
    -o "Dir::State::lists=$work/lists"
    -o "Dir::Cache=$work/cache" -o APT::Sandbox::User="$(id -un)")
"${apt[@]}" update
(cd "$work/packages" && "${apt[@]}" download cockpit-ws cockpit-bridge cockpit-system cockpit-machines cockpit-podman)
for package in "$work"/packages/*.deb; do
    dpkg --extract "$package" "$dir"
done
