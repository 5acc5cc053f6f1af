package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// userManager starts systemd as the manager of a user's units, in a mount namespace of its own
// with an empty /run and its own cgroups: everything that a service manager does is real, and
// nothing of the host is touched. It returns a shell in that namespace.
func userManager(t *testing.T, units string) *container {
	t.Helper()
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "sh")
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR=/run/user/0", "XDG_CONFIG_HOME="+units, "HOME="+units)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start(), "the package util-linux")
	c := &container{t, cmd, in, bufio.NewScanner(out)}
	group := fmt.Sprintf("/sys/fs/cgroup/dlmlockd-test-%d", os.Getpid())
	c.run("set -e; mount -t tmpfs none /run; mkdir -p /run/systemd/system /run/user/0; chmod 700 /run/user/0; " +
		"umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; mkdir " + group + "; " +
		"echo $$ >" + group + "/cgroup.procs; set +e; " +
		"/lib/systemd/systemd --user --log-target=console </dev/null >" + units + "/log 2>&1 & manager=$!")
	t.Cleanup(func() {
		c.run("systemctl --user exit; wait $manager; echo $$ >/sys/fs/cgroup/cgroup.procs; " +
			"find " + group + " -depth -type d -exec rmdir {} +")
		_ = in.Close()
		_ = cmd.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(units + "/log")
			t.Logf("systemd said:\n%s", log)
		}
	})
	require.Eventually(t, func() bool {
		return strings.Contains(c.run("systemctl --user show -p Version"), "Version=")
	}, patience, 20*time.Millisecond, "the package systemd")
	return c
}

// installUnits writes the units of the service for the manager of a user, with the lines about
// descriptors of those that are shipped.
func installUnits(t *testing.T, units, socket, state string) {
	t.Helper()
	shipped, err := os.ReadFile("../../systemd/dlmlockd.service")
	require.NoError(t, err)
	kept := regexp.MustCompile(`(?m)^(Type|NotifyAccess|Restart|KillMode|FileDescriptorStoreMax|Environment)=.*$`).
		FindAllString(string(shipped), -1)
	require.Len(t, kept, 6)
	dir := filepath.Join(units, "systemd", "user")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "dlmlockd.service"), []byte(
		"[Unit]\nStartLimitIntervalSec=0\n[Service]\n"+strings.Join(kept, "\n")+"\nRestartSec=20ms\nExecStart="+program(t)+
			" --engine=local --bus=none --config=/dev/null --state-dir="+state+
			"\nStandardError=file:"+units+"/daemon\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "dlmlockd.socket"), []byte(
		"[Socket]\nListenStream="+socket+"\nFileDescriptorName=varlink\n"), 0o644))
}

// restartedDaemon and killedDaemon end the daemon. The second waits until the process is gone: kill(2)
// returns before that, and the daemon may still read a call that it does not answer.
const (
	restartedDaemon = "systemctl --user restart dlmlockd; echo $?"
	killedDaemon    = "pid=$(systemctl --user show -P MainPID dlmlockd); " +
		"systemctl --user kill -s KILL dlmlockd && while kill -0 $pid 2>/dev/null; do sleep 0.01; done; echo $?"
)

// settle waits until the daemon has noted on each of its connections that the last reply is written; a
// client can read the reply before that (manager.settle). The store of the service manager can't be
// looked into, but the daemon has the same sockets.
func (c *container) settle() {
	c.t.Helper()
	pid := c.run("systemctl --user show -P MainPID dlmlockd")
	number, err := strconv.Atoi(pid)
	require.NoError(c.t, err)
	daemon, err := unix.PidfdOpen(number, 0)
	require.NoError(c.t, err)
	defer func() { _ = unix.Close(daemon) }()
	unclear := func(e os.DirEntry) bool {
		fd, err := strconv.Atoi(e.Name())
		if err == nil {
			fd, err = unix.PidfdGetfd(daemon, fd, 0)
		}
		if err != nil {
			return false // it was closed meanwhile
		}
		f := os.NewFile(uintptr(fd), "of the daemon")
		defer func() { _ = f.Close() }()
		raw, err := f.SyscallConn()
		require.NoError(c.t, err)
		mark, err := wire.ReadMark(raw)
		return err == nil && mark == wire.Unclear
	}
	require.Eventually(c.t, func() bool {
		all, err := os.ReadDir("/proc/" + pid + "/fd")
		require.NoError(c.t, err)
		return !slices.ContainsFunc(all, unclear)
	}, patience, time.Millisecond)
}

// TestDescriptorStore has the real service manager keep connections and descriptors over a restart
// and over kill -9, and drop them when the other end is closed and at a stop.
func TestDescriptorStore(t *testing.T) {
	units, dir := t.TempDir(), t.TempDir()
	socket := filepath.Join(dir, "varlink")
	installUnits(t, units, socket, filepath.Join(dir, "state"))
	shell := userManager(t, units)
	require.Equal(t, "0", shell.run("systemctl --user start dlmlockd.socket; echo $?"))
	r := &keptRig{t: t, m: &manager{socket: socket}}
	r.dial().ok("JoinLockspace", fields{"lockspace": "vms"})
	idle, holder, fd := r.hold("idle", ""), r.hold("holder", "more"), r.descriptor("fd")
	before := lockids(r.dial())
	stored := func() string { return shell.run("systemctl --user show --value -p NFileDescriptorStore dlmlockd") }
	require.Eventually(t, func() bool { return stored() == "3" }, patience, time.Millisecond)
	for _, end := range []string{
		restartedDaemon,
		killedDaemon,
		killedDaemon,
		"systemctl --user daemon-reexec; " + restartedDaemon,
	} {
		shell.settle()
		require.Equal(t, "0", shell.run(end))
		require.Len(t, idle.ok("Inspect", fields{"lockspace": "vms", "resource": "idle"})["locks"], 1, end)
		require.Equal(t, before, lockids(r.dial()), end)
	}
	waiter := r.dial()
	waiter.send("Acquire", want("holder", "persistent"), "more")
	require.NotNil(t, holder.receive().Parameters["blocking"])
	require.NoError(t, holder.conn.Close())
	require.NotNil(t, waiter.receive().Parameters["granted"])
	require.NoError(t, fd.Close())
	r.becomes("idle", "holder")
	require.Eventually(t, func() bool { return stored() == "1" }, patience, time.Millisecond)

	require.Equal(t, "0", shell.run("systemctl --user stop dlmlockd.service; echo $?"))
	require.Empty(t, idle.receive())
	r.becomes("holder")
}

// TestUnitsOfVarlinkctl has the real service manager run systemd's own client: a unit of it is active
// from the grant on, as long as it has the lock, and a command has a lock as long as it runs. Restarts
// and kill -9 of the service end neither.
func TestUnitsOfVarlinkctl(t *testing.T) {
	client := ""
	for version, path := range varlinkctls(t) {
		if version >= 259 { // READY=1 at the first reply
			client = path
		}
	}
	require.NotEmpty(t, client, "a varlinkctl of systemd 259 or newer: make varlink-clients")
	units, dir := t.TempDir(), t.TempDir()
	socket := filepath.Join(dir, "varlink")
	installUnits(t, units, socket, filepath.Join(dir, "state"))
	acquire := func(resource, lifetime string) string {
		return socket + " org.example.DlmLock.Acquire '{\"lockspace\":\"vms\",\"resource\":\"" + resource +
			"\",\"mode\":\"ex\",\"lifetime\":\"" + lifetime + "\"}'"
	}
	for name, text := range map[string]string{
		"holder": "[Service]\nType=notify\nTimeoutStartSec=infinity\nExecStart=" + client + " call -E " +
			acquire("unit", "connection"),
		"after": "[Unit]\nRequires=holder.service\nAfter=holder.service\n[Service]\nExecStart=/bin/sleep infinity",
		"command": "[Service]\nExecStart=" + client + " --exec call " + acquire("command", "descriptor") +
			" -- /bin/sleep infinity",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(units, "systemd", "user", name+".service"), []byte(text+"\n"), 0o644))
	}
	shell := userManager(t, units)
	active := func(want string) {
		t.Helper()
		require.Eventually(t, func() bool {
			return want == shell.run("echo $(systemctl --user is-active holder after command)")
		}, patience, time.Millisecond, want)
	}
	require.Equal(t, "0", shell.run("systemctl --user start dlmlockd.socket; echo $?"))
	r := &keptRig{t: t, m: &manager{socket: socket}}
	other := r.dial()
	other.ok("JoinLockspace", fields{"lockspace": "vms"})
	other.ok("Acquire", want("unit", "persistent"))
	shell.run("systemctl --user start --no-block after command")
	require.Eventually(t, func() bool {
		return other.ok("Describe", fields{})["service"].(fields)["waitingCount"] == 1.0
	}, patience, time.Millisecond)
	active("activating inactive active")
	other.ok("Release", fields{"lockspace": "vms", "resource": "unit"})
	active("active active active")
	r.becomes("unit", "command")

	before := lockids(r.dial())
	pids := shell.run("echo $(systemctl --user show -P MainPID holder command)")
	for _, end := range []string{restartedDaemon, killedDaemon, killedDaemon} {
		shell.settle()
		require.Equal(t, "0", shell.run(end))
		require.Equal(t, before, lockids(r.dial()), end)
		active("active active active")
	}
	require.Equal(t, pids, shell.run("echo $(systemctl --user show -P MainPID holder command)"), "none was started again")
	require.Equal(t, "0", shell.run("systemctl --user stop holder; echo $?"))
	r.becomes("command")
	active("inactive inactive active")
	require.Equal(t, "0", shell.run("systemctl --user stop command; echo $?"))
	r.becomes()
}
