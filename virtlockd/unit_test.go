package virtlockd

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/virtlockd/disknames"
)

// systemManagerScript starts systemd as the system's service manager in namespaces of its own, with
// the units in $UNITS and no others, and has it run what follows it in the script. A user's manager
// won't do: since systemd 254 it puts a unit with a sandbox into a user namespace.
const systemManagerScript = `set -e
export container=other # systemd changes nothing of the kernel's in a container
mount -t tmpfs tmpfs /run
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for dir in /etc/systemd/system /lib/systemd/system /lib/systemd/system-generators; do
	mkdir -p "/run/hides$dir"
	mount --bind "/run/hides$dir" "$dir"
done
mkdir -p /run/systemd/system
cp "$UNITS"/* /run/systemd/system/
for target in sysinit basic shutdown; do echo '[Unit]' >/run/systemd/system/$target.target; done
printf '[Unit]\nDefaultDependencies=no\n' >/run/systemd/system/nothing.target
bash -e -c "$SCRIPT" bash "$@" &
exec /lib/systemd/systemd --system --unit=nothing.target --show-status=no --log-target=null
`

// unitScript has the shipped unit run the real service, with libvirt's socket, under a
// real service manager. A client that plays the child which becomes QEMU locks disks,
// and waits.
const unitScript = `
trap 'systemctl --force --force poweroff' EXIT
until systemctl list-units >/dev/null 2>&1; do sleep 0.05; done
mkdir /run/bus
echo 'engine = "local"' >/run/dlmlockd.toml
cp "$PROGRAM" /run/program # the sandbox has a /tmp of its own
dbus-daemon --config-file="$UNITS/bus.conf" --nofork --nopidfile &
until busctl --address=unix:path=/run/bus/socket list >/dev/null 2>&1; do sleep 0.05; done
"$1" enable
pid=$(systemctl show -P MainPID dlmlockd)
grep -E '^(NoNewPrivs|Seccomp):' /proc/$pid/status
[ "$(readlink /proc/$pid/ns/mnt)" != "$(readlink /proc/self/ns/mnt)" ]
mount -t tmpfs tmpfs /home
touch /home/a.img
ln -s a.img /home/link.img
python3 "$UNITS/client.py" /home/link.img >/run/client &
until [ "$(wc -l </run/client)" = 2 ]; do sleep 0.05; done # registered, and locked
cat /run/client
grep -h '^\(resource\|label\)' /run/dlmlockd/state.toml
systemctl restart dlmlockd
grep -c '^resource' /run/dlmlockd/state.toml
`

// clientProgram registers itself and acquires the disks in its arguments.
const clientProgram = `import os, socket, struct, sys, time
def text(t): return struct.pack('>I', len(t)) + t.encode() + bytes(-len(t) % 4)
def call(procedure, body):
    m = struct.pack('>6I', 0x0EA7BEEF, 1, procedure, 0, 0, 0) + body
    s.sendall(struct.pack('>I', len(m) + 4) + m)
    length, *_, status = struct.unpack('>7I', s.recv(28, socket.MSG_WAITALL))
    return status, s.recv(length - 28, socket.MSG_WAITALL) if length > 28 else b''
s = socket.socket(socket.AF_UNIX)
s.connect('/run/libvirt/virtlockd-sock')
print(call(1, bytes(16) + text('web') + struct.pack('>3I', 7, os.getpid(), 0)))
for disk in sys.argv[1:]:
    print(disk, call(6, text('') + text(disk) + struct.pack('>I', 0)), flush=True)
time.sleep(60)
`

const busConfig = `<busconfig><type>system</type><auth>EXTERNAL</auth><listen>unix:path=/run/bus/socket</listen>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="*"/><allow receive_type="*"/></policy>
</busconfig>`

// In the sandbox of the shipped unit the service does what it does for libvirt: it
// gets the socket, knows who is there, watches processes, and sees a disk with the
// eyes of its caller, also where the sandbox hides it from the service (/home).
func TestSandbox(t *testing.T) {
	dir := t.TempDir()
	daemon := filepath.Join(t.TempDir(), "dlmlockd")
	out, err := exec.Command("go", "build", "-tags", "godbus_no_tcp", "-o", daemon, "../cmd/dlmlockd").CombinedOutput()
	require.NoError(t, err, "%s", out)
	unit, err := os.ReadFile("../systemd/dlmlockd.service")
	require.NoError(t, err)
	text := regexp.MustCompile(`(?m)^(BusName|Requires|Wants|PartOf|After|Before|WantedBy)=.*\n`).ReplaceAllString(
		string(unit), "")
	require.Contains(t, text, "ExecStart=/usr/sbin/dlmlockd\n")
	text = strings.Replace(text, "ExecStart=/usr/sbin/dlmlockd\n",
		"ExecStart=/run/program --config=/run/dlmlockd.toml --bus=unix:path=/run/bus/socket\n", 1)
	all := map[string]string{"dlmlockd.service": text, "bus.conf": busConfig, "client.py": clientProgram}
	for _, name := range []string{"virtlockd.socket", "virtlockd-admin.socket", "virtlockd.service"} {
		all[name] = units[name]
	}
	for name, text := range all {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	tool, err := filepath.Abs("virtlockd-socket")
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), "timeout", "300", "unshare", "--mount", "--uts", "--pid", "--fork",
		"--kill-child", "--mount-proc", "bash", "-c", systemManagerScript, "bash", tool)
	cmd.Env = append(os.Environ(), "UNITS="+dir, "PROGRAM="+daemon, "SCRIPT="+unitScript, "LC_ALL=C.UTF-8")
	var said strings.Builder
	cmd.Stderr = &said
	out, err = cmd.Output()
	require.ErrorContains(t, err, "signal: interrupt", "how poweroff ends a container")
	require.True(t, strings.HasSuffix(string(out), "\n2\n"),
		"%s\n%s\n(the packages dbus, systemd and python3 are needed)", out, &said)
	require.Contains(t, string(out), "dlmlockd serves libvirt's lock driver\nNoNewPrivs:\t1\nSeccomp:\t2\n")
	require.Contains(t, string(out), "(0, b'')\n/home/link.img (0, b'')\n")
	for _, path := range []string{"/home/link.img", "/home/a.img"} {
		require.Contains(t, string(out), "resource = \""+disknames.Hash(path)+"\"\n", path)
	}
	require.Contains(t, string(out), "label = \"web: /home/link.img\"\n")
}
