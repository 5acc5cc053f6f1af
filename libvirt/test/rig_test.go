package test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/internal/testprocess"
)

// patience bounds every wait for another process.
const patience = time.Minute

const (
	root   = "../.."
	uuidA  = "aaaaaaaa-0000-4000-8000-000000000001"
	uuidB  = "bbbbbbbb-0000-4000-8000-000000000002"
	busy   = "error 87 "
	failed = "error 9 "
)

var daemonPath string

func TestMain(m *testing.M) {
	if os.Getenv(apart) != "" {
		fmt.Fprintln(os.Stderr, startApart())
		os.Exit(1)
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "lockdriver")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		daemonPath = filepath.Join(dir, "dlmlockd")
		for _, argv := range [][]string{
			{"go", "build", "-tags", "godbus_no_tcp", "-o", daemonPath, root + "/cmd/dlmlockd"},
			{"make", "--no-print-directory", "-C", root, "libvirt-test-programs"},
		} {
			cmd := exec.Command(argv[0], argv[1:]...)
			if out, err := cmd.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "%v: %v\n%s(make deps installs what is missing)\n", argv, err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

// rig is a bus, a service, and a program that plays libvirtd.
type rig struct {
	t       *testing.T
	bus     *testbus.Bus
	dir     string
	sockets string // the directory of the Varlink socket
	// noVarlink has the service not listen there.
	noVarlink bool
	daemon    *exec.Cmd
	client    *client.Client
	in        io.WriteCloser
	out       *bufio.Scanner
	driver    *exec.Cmd
}

// The ways from the driver to the service. What only names disks goes the faster one.
const (
	overVarlink = "varlink"
	overDBus    = "dbus"
)

// bothWays runs a test with each of them.
func bothWays(t *testing.T, test func(t *testing.T, way string)) {
	for _, way := range []string{overVarlink, overDBus} {
		t.Run(way, func(t *testing.T) { test(t, way) })
	}
}

// start starts them. conf is the text of qemu-dlmlock.conf.
func start(t *testing.T, conf string) *rig { return startBy(t, overVarlink, conf) }

// startBy is start with a driver that goes one way, and can't go the other one.
func startBy(t *testing.T, way, conf string) *rig {
	return startOn(t, testbus.Start(t, testbus.Daemon), way, conf)
}

// startOn is startBy with a bus that is there.
func startOn(t *testing.T, bus *testbus.Bus, way, conf string) *rig {
	r := &rig{t: t, bus: bus, dir: t.TempDir()}
	conf = r.reach(way) + conf
	r.connect()
	address := r.bus.Address
	if way == overVarlink {
		address = "unix:path=" + filepath.Join(r.dir, "no-bus")
	}
	r.startDriver(address)
	require.Equal(t, "ok", r.say("init %s", r.write("qemu-dlmlock.conf", conf)))
	return r
}

// connect starts the service and connects the rig's client.
func (r *rig) connect() {
	r.startDaemon()
	r.t.Cleanup(r.stopDaemon)
	var err error
	r.client, err = client.Dial(r.t.Context(), r.bus.Address)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { require.NoError(r.t, r.client.Close()) })
}

// reach is how qemu-dlmlock.conf names a way to the service.
func (r *rig) reach(way string) string {
	return fmt.Sprintf("transport = %q\nvarlink_socket = %q\n", way, r.socket())
}

// socket is where the service listens for Varlink. Not in t.TempDir, whose paths may be too long.
func (r *rig) socket() string {
	if r.sockets == "" {
		dir, err := os.MkdirTemp("", "lockdriver")
		require.NoError(r.t, err)
		r.t.Cleanup(func() { _ = os.RemoveAll(dir) })
		r.sockets = dir
	}
	return filepath.Join(r.sockets, "org.example.DlmLock")
}

func (r *rig) write(name, text string) string {
	path := filepath.Join(r.dir, name)
	require.NoError(r.t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func (r *rig) startDaemon() {
	conf := r.write("dlmlockd.toml", "engine = \"local\"\nlockspaces = [\"libvirt\", \"leases\"]\n")
	state := filepath.Join(r.dir, "state")
	require.NoError(r.t, os.MkdirAll(state, 0o700))
	r.daemon = exec.Command(daemonPath, "--config", conf, "--state-dir", state, "--bus", r.bus.Address)
	if !r.noVarlink {
		r.daemon.Args = append(r.daemon.Args, "--varlink", r.socket())
	}
	ready, w, err := os.Pipe()
	require.NoError(r.t, err)
	r.daemon.Stderr = w
	require.NoError(r.t, r.daemon.Start())
	w.Close()
	go func() { _, _ = io.Copy(io.Discard, ready); ready.Close() }()
	watch := r.bus.Dial(r.t)
	require.Eventually(r.t, func() bool {
		var has bool
		return watch.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, client.Name).Store(&has) == nil && has
	}, patience, 5*time.Millisecond, "dlmlockd")
}

func (r *rig) stopDaemon() {
	if r.daemon != nil {
		_ = r.daemon.Process.Kill()
		_ = r.daemon.Wait()
		r.daemon = nil
	}
}

// startDriver starts the program under the sanitizers, with a bus; a leak fails
// the test.
func (r *rig) startDriver(bus string) {
	r.startProgram(bus, exec.Command(driverProgram[0], driverProgram[1:]...))
}

var driverProgram = []string{root + "/bin/sanitize/lockdriver", root + "/bin/sanitize/dlmlock.so"}

// apart tells this program to be the driver's, in a mount namespace of its own with
// one mount more: "TYPE DIRECTORY OPTIONS".
const apart = "DRIVER_APART"

// startDriverApart starts the driver's program again, in a mount namespace of its
// own with one mount more. It has fuse, if given, as descriptor 3 when it mounts.
func (r *rig) startDriverApart(kind, dir, options string, fuse ...*os.File) {
	r.t.Helper()
	r.in.Close()
	self, err := os.Executable()
	require.NoError(r.t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s", apart, kind, dir, options), "LC_ALL=C.UTF-8")
	cmd.ExtraFiles = fuse
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS} // and what it mounts is private
	r.startProgram(r.bus.Address, cmd)
}

// startApart is what the program does then. It returns only if it fails.
func startApart() error {
	words := strings.SplitN(os.Getenv(apart), " ", 3)
	if err := unix.Mount("apart", words[1], words[0], 0, words[2]); err != nil {
		return err
	}
	unix.CloseOnExec(3)
	return unix.Exec(driverProgram[0], driverProgram, os.Environ())
}

func (r *rig) startProgram(bus string, driver *exec.Cmd) {
	r.driver = driver
	r.driver.Env = append(driver.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+bus, "ASAN_OPTIONS=detect_leaks=1",
		"LC_ALL=C.UTF-8")
	var err error
	r.in, err = r.driver.StdinPipe()
	require.NoError(r.t, err)
	out, err := r.driver.StdoutPipe()
	require.NoError(r.t, err)
	complaints := &strings.Builder{}
	r.driver.Stderr = complaints
	require.NoError(r.t, r.driver.Start())
	r.out = bufio.NewScanner(out)
	in := r.in
	r.t.Cleanup(func() {
		in.Close()
		require.NoError(r.t, driver.Wait(), "%s", complaints)
	})
}

// say gives a command and returns the answer.
func (r *rig) say(format string, args ...any) string {
	_, err := fmt.Fprintf(r.in, format+"\n", args...)
	require.NoError(r.t, err)
	require.True(r.t, r.out.Scan(), "the driver has ended")
	return r.out.Text()
}

func (r *rig) ok(format string, args ...any) {
	r.t.Helper()
	require.Equal(r.t, "ok", r.say(format, args...), fmt.Sprintf(format, args...))
}

// guest is a process that sleeps, as QEMU is to the lock driver.
type guest struct {
	uuid, name string
	pid        int
	cmd        *exec.Cmd
}

func (r *rig) guest(uuid, name string) *guest {
	cmd := exec.Command("sleep", "infinity")
	require.NoError(r.t, cmd.Start())
	g := &guest{uuid, name, cmd.Process.Pid, cmd}
	r.t.Cleanup(g.kill)
	return g
}

func (g *guest) kill() {
	if g.cmd != nil {
		_ = g.cmd.Process.Kill()
		_ = g.cmd.Wait()
		g.cmd = nil
	}
}

// do makes a manager with disks ("FLAGS PATH") and leases ("lease LOCKSPACE KEY"),
// calls verb ("acquire 0", "release") and frees it. It returns the answer.
func (r *rig) do(g *guest, verb string, resources ...string) string {
	r.t.Helper()
	r.ok("new 0 %s %s %d", g.uuid, g.name, g.pid)
	defer r.ok("free 0")
	for _, res := range resources {
		if lease, ok := strings.CutPrefix(res, "lease "); ok {
			if a := r.say("lease 0 %s", lease); a != "ok" {
				return a
			}
			continue
		}
		r.ok("disk 0 %s", res)
	}
	name, arg, _ := strings.Cut(verb, " ")
	return r.say("%s", strings.TrimSpace(name+" 0 "+arg))
}

// locks are "LABEL MODE" of what is held.
func (r *rig) locks() []string {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	held, err := r.client.Locks(ctx, client.Filter{})
	require.NoError(r.t, err)
	out := []string{}
	for _, l := range held {
		require.Equal(r.t, "process", l.Lifetime)
		out = append(out, l.Label+" "+l.Mode)
	}
	return out
}

// startTime is when a process was started, in the kernel's ticks.
func startTime(t *testing.T, pid int) string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	require.NoError(t, err)
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')'):]))[20]
}

// signalDaemon signals the daemon. SIGSTOP has stopped each of its threads when it returns.
func (r *rig) signalDaemon(s syscall.Signal) {
	if s == syscall.SIGSTOP {
		require.NoError(r.t, testprocess.Stop(r.daemon.Process))
		return
	}
	require.NoError(r.t, r.daemon.Process.Signal(s))
}
