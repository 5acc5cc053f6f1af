#!/bin/bash
# Installs those of the Debian packages named as arguments that are missing, with
# apt-get, through sudo if this is not root. It says what it does. A machine that has
# just started may be updating itself, and that is waited for.
set -euo pipefail

missing=()
for package in "$@"; do
    # Installed, or provided by what is installed.
    if ! dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed; then
        missing+=("$package")
    fi
done
((${#missing[@]} > 0)) || exit 0
if ! command -v apt-get >/dev/null; then
    echo "This is not Debian. Please install the equivalents of: ${missing[*]}" >&2
    exit 1
fi
as_root=()
if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || {
        echo "Missing packages: ${missing[*]}. Install them as root, or install sudo." >&2
        exit 1
    }
    as_root=(sudo)
fi
echo "Installing Debian packages: ${missing[*]}"
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "${missing[@]}")
# The package lists may be old or missing: then try again with new ones.
"${install[@]}" </dev/null || {
    "${as_root[@]}" apt-get update -q </dev/null
    "${install[@]}" </dev/null
}
