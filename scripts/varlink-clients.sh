#!/bin/bash
# Unpacks foreign Varlink clients for the tests into the directory DIR: varlinkctl of
# Debian 13 and of Debian's testing, which Debian 12 lacks, as DIR/varlinkctl-SUITE, each
# with its own C library, and Python's Varlink module as DIR/python. Nothing is installed. It asks the
# mirror that apt uses here.
set -euo pipefail

dir=${1:?DIR}
[[ ! -e $dir/complete ]] || exit 0
mirror=$(apt-get indextargets --format "\$(REPO_URI)" 'Origin: Debian' 'Component: main' | grep -v security | head -1)
[[ -n $mirror ]] || {
    echo "This is not Debian: put a varlinkctl of systemd 257 or newer at $dir/varlinkctl-SUITE" >&2
    exit 1
}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
export APT_CONFIG=$dir/apt.conf
libraries=(libc6 libsystemd-shared libacl1 libblkid1 libcap2 libcrypt1 libmount1 libssl3t64 libpam0g libseccomp2
    libselinux1 zlib1g libzstd1 libaudit1 libpcre2-8-0 libcap-ng0)

# unpack SUITE PACKAGE...: into DIR/SUITE.
unpack() {
    local suite=$1 apt=$dir/apt-$1
    shift
    rm -rf "$apt" "${dir:?}/$suite"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/sources" "$dir/$suite"
    local key=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$key] $mirror $suite main" >"$apt/sources/debian.list"
    cat >"$APT_CONFIG" <<CONFIG
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$apt/sources";
Dir::State::lists "$apt/lists";
Dir::Cache::archives "$apt/archives";
APT::Sandbox::User "root";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Languages "none";
CONFIG
    apt-get update -qq
    (cd "$apt/archives" && apt-get download -qq "${@/%//$suite}")
    for package in "$apt"/archives/*.deb; do
        dpkg-deb -x "$package" "$dir/$suite"
    done
    rm -rf "$apt"
}

for suite in trixie testing; do
    unpack "$suite" systemd "${libraries[@]}"
    cat >"$dir/varlinkctl-$suite" <<SCRIPT
#!/bin/sh
root=$dir/$suite
libs=\$(dirname "\$(find "\$root/usr/lib" -name 'libc.so.6')")
loader=\$(find "\$root/usr" -name 'ld-linux*.so.*' | head -1)
exec "\$loader" --library-path "\$libs:\$libs/systemd" "\$root/usr/bin/varlinkctl" "\$@"
SCRIPT
    chmod +x "$dir/varlinkctl-$suite"
    "$dir/varlinkctl-$suite" --version | head -1
done
unpack bookworm-backports python3-varlink
mv "$dir/bookworm-backports" "$dir/python"
rm "$APT_CONFIG"
touch "$dir/complete"
