#!/bin/bash
# Unpacks foreign Varlink clients for the tests into the directory DIR: varlinkctl of
# Debian 13 and of Debian's testing, which Debian 12 lacks, as DIR/varlinkctl-SUITE, each
# with its own C library, and Python's Varlink module as DIR/python. Nothing is installed. It asks the
# mirror that apt uses here, once: what another version of this script has unpacked is replaced.
set -euo pipefail

dir=${1:?DIR}
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
made_by=$(cat "${BASH_SOURCE[0]}" "$scripts/unpack-packages.sh" | sha256sum)
[[ $(cat "$dir/complete" 2>/dev/null) != "$made_by" ]] || exit 0
rm -rf "$dir"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
libraries=(libc6 libsystemd-shared libacl1 libblkid1 libcap2 libcrypt1 libmount1 libssl3t64 libpam0g libseccomp2
    libselinux1 zlib1g libzstd1 libaudit1 libpcre2-8-0 libcap-ng0)

for suite in trixie testing; do
    "$scripts/unpack-packages.sh" "$dir/$suite" "$suite" systemd "${libraries[@]}"
    cat >"$dir/varlinkctl-$suite" <<SCRIPT
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")/$suite
libs=\$(dirname "\$(find "\$root/usr/lib" -name 'libc.so.6')")
loader=\$(find "\$root/usr" -name 'ld-linux*.so.*' | head -1)
exec "\$loader" --library-path "\$libs:\$libs/systemd" "\$root/usr/bin/varlinkctl" "\$@"
SCRIPT
    chmod +x "$dir/varlinkctl-$suite"
    "$dir/varlinkctl-$suite" --version | head -1
done
"$scripts/unpack-packages.sh" "$dir/python" bookworm-backports python3-varlink
echo "$made_by" >"$dir/complete"
