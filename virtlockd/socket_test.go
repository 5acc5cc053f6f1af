package virtlockd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The units of libvirt 9.0.0 as Debian has them, as far as they matter here, and
// one that stands in for dlmlockd.
var units = map[string]string{
	"virtlockd.socket": "[Unit]\nBefore=libvirtd.service\n[Socket]\nListenStream=/run/libvirt/virtlockd-sock\n" +
		"SocketMode=0600\n",
	"virtlockd-admin.socket": "[Unit]\nBindsTo=virtlockd.socket\nAfter=virtlockd.socket\n[Socket]\n" +
		"ListenStream=/run/libvirt/virtlockd-admin-sock\nService=virtlockd.service\nSocketMode=0600\n",
	// It notes an orderly stop, at which the real one ends guests.
	"virtlockd.service": "[Unit]\nRequires=virtlockd.socket\nRequires=virtlockd-admin.socket\n[Service]\n" +
		"Type=exec\nExecStart=/bin/sh -c 'trap \"touch /run/guests-ended; exit\" TERM; while :; do sleep 0.1; done'\n",
	"libvirtd.service": "[Unit]\nRequires=virtlockd.socket\n[Service]\nType=exec\nExecStart=/bin/sleep infinity\n",
	"dlmlockd.service": "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=exec\nExecStart=/bin/sleep infinity\n",
}

// systemdScript starts a service manager of systemd's own in namespaces of its own,
// whose units of the administrator are where those of the machine are.
const systemdScript = `set -e
mount -t tmpfs tmpfs /run
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/systemd/system /run/runtime /run/conf/systemd/user /run/data/systemd/user /run/bin
mount --bind /run/conf/systemd/user /etc/systemd/system
cp "$UNITS"/* /run/data/systemd/user/
printf '#!/bin/sh\nexec /usr/bin/systemctl --user "$@"\n' >/run/bin/systemctl
chmod +x /run/bin/systemctl
export PATH=/run/bin:$PATH XDG_RUNTIME_DIR=/run/runtime XDG_CONFIG_HOME=/run/conf XDG_DATA_HOME=/run/data
/lib/systemd/systemd --user &
until systemctl list-units >/dev/null 2>&1; do sleep 0.05; done
names() { tr '\0' '\n' <"/proc/$(systemctl show -P MainPID "$1")/environ" | sed -n 's/^LISTEN_FDNAMES=//p' |
	tr : '\n' | sort | paste -sd :; }
tell() {
	echo "$1: libvirtd $(systemctl is-active libvirtd), virtlockd $(systemctl is-active virtlockd.service)" \
		"$(names virtlockd 2>/dev/null), admin $(systemctl is-active virtlockd-admin.socket)," \
		"dlmlockd $(systemctl is-active dlmlockd) $(names dlmlockd 2>/dev/null)" | tr -s ' '
}
connect() { python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect("/run/libvirt/virtlockd-sock")'; }
await() { until [ "$(systemctl is-active "$1")" = "$2" ]; do sleep 0.05; done; }
`

const socketScript = systemdScript + `
tool=$1
"$tool" status
systemctl start dlmlockd virtlockd.socket virtlockd-admin.socket libvirtd virtlockd
pid=$(systemctl show -P MainPID libvirtd)
tell before
"$tool" enable
[ ! -e /run/guests-ended ] || echo 'virtlockd was stopped in order, and has ended its guests'
tell enabled
"$tool" enable
systemctl stop dlmlockd
"$tool" status
connect; await dlmlockd.service active
tell 'connection after a stop'
systemctl restart dlmlockd
tell restarted
"$tool" status
"$tool" disable
tell disabled
"$tool" disable
[ "$(systemctl show -P MainPID libvirtd)" = "$pid" ] && echo 'libvirtd ran all the time'
systemctl stop libvirtd dlmlockd virtlockd.service
systemctl stop virtlockd.socket # and the admin socket, which is bound to it
"$tool" enable
tell 'with nothing running before'
find /etc/systemd/system | sort
"$tool" disable
find /etc/systemd/system | sort
`

// An administrator gives libvirt's socket to dlmlockd with one command and takes it
// back with another, under a real service manager: libvirtd runs on, virtlockd does
// not come back by itself, and a connection finds dlmlockd also after it has stopped.
func TestSocketOfSystemd(t *testing.T) {
	dir := t.TempDir()
	for name, text := range units {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	tool, err := filepath.Abs("virtlockd-socket")
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"timeout", "300", "bash", "-c", socketScript, "bash", tool)
	cmd.Env = append(os.Environ(), "UNITS="+dir, "LC_ALL=C.UTF-8")
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	require.NoError(t, err, "%s\n%s\n(the packages systemd and python3 are needed)", out, &said)
	require.Equal(t, `not enabled: virtlockd serves libvirt's lock driver
before: libvirtd active, virtlockd active virtlockd-admin.socket:virtlockd.socket, admin active, dlmlockd active
dlmlockd serves libvirt's lock driver
enabled: libvirtd active, virtlockd inactive , admin inactive, dlmlockd active virtlockd
dlmlockd serves libvirt's lock driver
enabled, but dlmlockd does not have the socket: systemctl restart dlmlockd
connection after a stop: libvirtd active, virtlockd inactive , admin inactive, dlmlockd active virtlockd
restarted: libvirtd active, virtlockd inactive , admin inactive, dlmlockd active virtlockd
dlmlockd serves libvirt's lock driver
not enabled: virtlockd serves libvirt's lock driver
disabled: libvirtd active, virtlockd active virtlockd-admin.socket:virtlockd.socket, admin active, dlmlockd active
not enabled: virtlockd serves libvirt's lock driver
libvirtd ran all the time
dlmlockd serves libvirt's lock driver
with nothing running before: libvirtd inactive, virtlockd inactive , admin inactive, dlmlockd active virtlockd
/etc/systemd/system
/etc/systemd/system/dlmlockd.service.d
/etc/systemd/system/dlmlockd.service.d/50-virtlockd.conf
/etc/systemd/system/virtlockd-admin.socket
/etc/systemd/system/virtlockd.service
/etc/systemd/system/virtlockd.socket.d
/etc/systemd/system/virtlockd.socket.d/50-dlmlockd.conf
not enabled: virtlockd serves libvirt's lock driver
/etc/systemd/system
`, strings.ReplaceAll(string(out), " \n", "\n"))
}
