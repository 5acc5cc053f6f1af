package conventions

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// exposure is the highest score that the sandbox of each service may have, in tenths; the comments
// in the units give the reason for each tenth.
var exposure = map[string]string{
	"dlmlockd.service": "18", "dlmlockd-lockspaces.service": "23", "dlmlockd-controld.service": "8",
	"dlmlockd-cpg.service": "14",
	"dlmlock@.service":     "12",
}

func systemdAnalyze(t *testing.T, args ...string) (string, error) {
	t.Helper()
	_, err := exec.LookPath("systemd-analyze")
	require.NoError(t, err, "apt-get install systemd")
	out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
	return string(out), err
}

// shippedUnits are the units of the project; the first is the service.
var shippedUnits = []string{"dlmlockd.service", "dlmlockd-lockspaces.service", "dlmlockd-controld.socket",
	"dlmlockd-controld.service", "dlmlockd-cpg.socket", "dlmlockd-cpg.service", "dlmlockd-varlink.socket",
	"dlmlock@.service"}

// unitRoot makes a root directory with the unit and everything that it names, so that verify does
// not complain about this machine. The programs are our own, and those that every host has.
func unitRoot(t *testing.T) (dir, unit string) {
	t.Helper()
	dir = t.TempDir()
	for path, mode := range map[string]os.FileMode{"/usr/sbin/dlmlockd": 0o755, "/bin/sh": 0o755, "/bin/true": 0o755,
		"/usr/lib/systemd/systemd-socket-proxyd": 0o755, "/usr/bin/dlmlockctl": 0o755, "/usr/bin/sleep": 0o755} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(path)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, path), nil, mode))
	}
	units := filepath.Join(dir, "usr/lib/systemd/system")
	require.NoError(t, os.MkdirAll(units, 0o755))
	for _, name := range shippedUnits {
		text, err := os.ReadFile(filepath.Join(root, "systemd", name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(units, name), text, 0o644))
	}
	unit = filepath.Join(units, "dlmlockd.service")
	for name, body := range map[string]string{
		"dbus.socket":       "[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
		"dbus.service":      "[Service]\nExecStart=/usr/sbin/dlmlockd\n",
		"sysinit.target":    "[Unit]\n",
		"basic.target":      "[Unit]\n",
		"shutdown.target":   "[Unit]\n",
		"sockets.target":    "[Unit]\n",
		"multi-user.target": "[Unit]\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(units, name), []byte(body), 0o644))
	}
	return dir, unit
}

func TestUnitVerifies(t *testing.T) {
	dir, unit := unitRoot(t)
	for _, name := range shippedUnits {
		out, err := systemdAnalyze(t, "verify", "--man=no", "--root="+dir, "/usr/lib/systemd/system/"+name)
		require.NoError(t, err, out)
		require.Empty(t, out, "no warnings")
	}

	text, err := os.ReadFile(unit)
	require.NoError(t, err)
	broken := strings.Replace(string(text), "Type=notify", "Tpye=notify", 1)
	require.NoError(t, os.WriteFile(unit, []byte(broken), 0o644))
	out, _ := systemdAnalyze(t, "verify", "--man=no", "--root="+dir, strings.TrimPrefix(unit, dir))
	require.Contains(t, out, "Tpye", "this test sees mistakes")
}

// The documented pattern of a service on one node at a time: the units are valid, and
// the manual shows them as they are installed.
func TestFailoverExample(t *testing.T) {
	dir, _ := unitRoot(t)
	etc := filepath.Join(dir, "etc/systemd/system")
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(root, "data/examples", name))
		require.NoError(t, err)
		return string(text)
	}
	require.NoError(t, os.MkdirAll(filepath.Join(etc, "dlmlock@vms-failover.service.d"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(etc, "failover.service"), []byte(read("failover.service")), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(etc, "dlmlock@vms-failover.service.d/failover-lock.conf"),
		[]byte(read("failover-lock.conf")), 0o644))
	for _, unit := range []string{"/etc/systemd/system/failover.service", "dlmlock@vms-failover.service"} {
		out, err := systemdAnalyze(t, "verify", "--man=no", "--root="+dir, unit)
		require.NoError(t, err, out)
		require.Empty(t, out, "no warnings")
	}
	page, err := os.ReadFile(filepath.Join(root, "man/dlmlockctl.1"))
	require.NoError(t, err)
	shown := strings.ReplaceAll(string(page), `\-`, "-")
	for _, name := range []string{"failover.service", "failover-lock.conf"} {
		for line := range strings.Lines(read(name)) {
			if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "Description=") && line != "\n" {
				require.Contains(t, shown, "\n"+line, "dlmlockctl(1) does not show a line of %s", name)
			}
		}
	}
}

// The units in docs/programs.md are valid.
func TestUnitsOfTheDocument(t *testing.T) {
	dir, _ := unitRoot(t)
	text, err := os.ReadFile(filepath.Join(root, "docs/programs.md"))
	require.NoError(t, err)
	bin := filepath.Join(dir, "usr/local/bin")
	require.NoError(t, os.MkdirAll(bin, 0o755))
	for _, program := range []string{"report", "ledger"} {
		require.NoError(t, os.WriteFile(filepath.Join(bin, program), []byte("#!/bin/sh\n"), 0o755))
	}
	files := regexp.MustCompile(`(?m)^# (/etc/systemd/system/(\S+))\n((?:[^#` + "`" + `\n].*\n|\n)+)`)
	var units []string
	for _, m := range files.FindAllStringSubmatch(string(text), -1) {
		path := filepath.Join(dir, m[1])
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(m[3]), 0o644))
		if filepath.Base(m[2]) == m[2] {
			units = append(units, m[1])
		}
	}
	require.Len(t, units, 4, "a timer, a socket, and a service of each")
	for _, unit := range append(units, "dlmlock@vms-ledger.service") {
		out, err := systemdAnalyze(t, "verify", "--man=no", "--root="+dir, unit)
		require.NoError(t, err, out)
		require.Empty(t, out, "no warnings")
	}
}

func TestUnitSandbox(t *testing.T) {
	for name, most := range exposure {
		out, err := systemdAnalyze(t, "security", "--offline=true", "--threshold="+most,
			filepath.Join(root, "systemd", name))
		require.NoError(t, err, out)
	}
}

// The unit settings that the contract requires.
func TestUnitSays(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "systemd/dlmlockd.service"))
	require.NoError(t, err)
	lines := strings.Split(string(text), "\n")
	for _, want := range []string{
		"Type=notify", "NotifyAccess=main", "BusName=org.example.DlmLock", "RuntimeDirectory=dlmlockd",
		"RuntimeDirectoryMode=0700", "RuntimeDirectoryPreserve=yes", "Restart=on-failure",
		"After=dlm.service dbus.socket dlmlockd-lockspaces.service dlmlockd-controld.socket dlmlockd-varlink.socket",
		"Wants=dlmlockd-lockspaces.service dlmlockd-controld.socket dlmlockd-cpg.socket dlmlockd-varlink.socket",
		"PrivateNetwork=yes",
		"PartOf=dlmlockd-lockspaces.service",
		"RestartPreventExitStatus=2 5 6", "LimitNOFILE=524288",
		"CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_READ_SEARCH CAP_SYS_PTRACE", "DeviceAllow=char-misc rw",
	} {
		require.Contains(t, lines, want)
	}
	for _, line := range lines {
		// The kernel's DLM listens on a socket of this unit's cgroup.
		require.NotRegexp(t, `^(IPAddressDeny|IPAddressAllow|SocketBindDeny|SocketBindAllow)=`, line)
		require.NotRegexp(t, `^(PrivateDevices|PrivateUsers)=`, line)
		require.NotEqual(t, "ProcSubset=pid", line, "libdlm reads /proc/misc")
	}
}

// The Varlink socket is where the documents say, outside of the directory of the state, which is
// root's alone; everybody may connect; and the registry leads to it by the name of the interface.
func TestVarlinkSocketUnit(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "systemd/dlmlockd-varlink.socket"))
	require.NoError(t, err)
	const socket = "/run/dlmlock/org.example.DlmLock"
	for _, line := range []string{"ListenStream=" + socket, "FileDescriptorName=varlink", "SocketMode=0666",
		"DirectoryMode=0755", "Symlinks=/run/varlink/registry/org.example.DlmLock", "Service=dlmlockd.service"} {
		require.Contains(t, strings.Split(string(text), "\n"), line)
	}
	require.NotContains(t, string(text), "Accept=", "one service for all connections")
	document, err := os.ReadFile(filepath.Join(root, "docs/varlink.md"))
	require.NoError(t, err)
	require.Contains(t, string(document), "S="+socket+"`")
}
