package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

const (
	serviceName = "org.example.DlmLock"
	servicePath = godbus.ObjectPath("/org/example/DlmLock")
	floorName   = "org.example.DlmFloor"
	sdbusName   = "org.example.DlmFloorC"
	space       = "vms"
)

const floorPolicy = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <policy user="root"><allow own="org.example.DlmFloor"/><allow send_destination="org.example.DlmFloor"/></policy>
  <policy user="root"><allow own="org.example.DlmFloorC"/><allow send_destination="org.example.DlmFloorC"/></policy>
</busconfig>
`

// floor is the empty method: it takes the arguments of Acquire and Release and returns the same
// kinds of values, served by godbus in the simplest way.
type floor struct{}

func (floor) Acquire(_, _, _ string, _ map[string]godbus.Variant) (uint32, uint64, godbus.ObjectPath, *godbus.Error) {
	return 1, 1, "/org/example/DlmLock/lock/1", nil
}

func (floor) Release(_, _ string, _ map[string]godbus.Variant) *godbus.Error { return nil }

// serveFloor is the process behind floorName; it ends with the bus.
func serveFloor(address string) {
	conn, err := godbus.Connect(address)
	if err == nil {
		err = conn.Export(floor{}, servicePath, floorName)
	}
	if err == nil {
		_, err = conn.RequestName(floorName, godbus.NameFlagDoNotQueue)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-conn.Context().Done()
}

// site is a bus with the service on it, and a client.
type site struct {
	bus *testbus.Bus
	dir string
	cmd *exec.Cmd
}

func newSite(tb testing.TB, kind testbus.Kind) *site {
	policy := filepath.Join(tb.TempDir(), "floor.conf")
	must(tb, os.WriteFile(policy, []byte(floorPolicy), 0o644))
	// A tmpfs, as /run is.
	dir, err := os.MkdirTemp("/dev/shm", "dlmlockd-bench")
	must(tb, err)
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(tb, os.WriteFile(filepath.Join(dir, "c.toml"),
		[]byte("[limits]\nlocks-per-uid = 1000000\nlocks-per-call = 10000\n"), 0o600))
	return &site{bus: testbus.Start(tb, kind, policy), dir: dir}
}

// start starts the daemon and returns how long it took to be ready.
func (s *site) start(tb testing.TB) time.Duration {
	socket := filepath.Join(s.dir, "notify")
	_ = os.Remove(socket)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	must(tb, err)
	tb.Cleanup(func() { _ = conn.Close() })
	must(tb, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	s.cmd = s.run(daemonPath(tb), []string{"NOTIFY_SOCKET=" + socket}, "--engine=local",
		"--state-dir="+filepath.Join(s.dir, "state"),
		"--config="+filepath.Join(s.dir, "c.toml"), "--log-level=warn", "--bus="+s.bus.Address,
		"--varlink="+s.varlinkSocket())
	began := time.Now()
	must(tb, s.cmd.Start())
	tb.Cleanup(func() { s.kill() })
	buf := make([]byte, 64<<10)
	for {
		var n int
		n, err = conn.Read(buf)
		must(tb, err)
		if strings.HasPrefix(string(buf[:n]), "READY=1") {
			took := time.Since(began)
			must(tb, conn.SetReadDeadline(time.Time{}))
			go func() { // the daemon goes on telling
				for err == nil {
					_, err = conn.Read(buf)
				}
			}()
			return took
		}
	}
}

// varlinkSocket is where the daemon serves Varlink.
func (s *site) varlinkSocket() string { return filepath.Join(s.dir, "varlink") }

func (s *site) run(path string, env []string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (s *site) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// startFloor starts the process with the empty method.
func (s *site) startFloor(tb testing.TB) {
	s.serve(tb, s.run(os.Args[0], []string{envFloor + "=" + s.bus.Address}), floorName)
}

// startFloorC builds and starts the process with the empty method in C.
func (s *site) startFloorC(tb testing.TB) {
	program := filepath.Join(tb.TempDir(), "floor")
	flags, err := exec.Command("pkg-config", "--cflags", "--libs", "libsystemd").Output()
	if err != nil {
		tb.Fatalf("pkg-config libsystemd: %v: apt-get install pkg-config libsystemd-dev", err)
	}
	args := append([]string{"-O2", "-Wall", "-Wextra", "-Werror", "-o", program, "sdbus/floor.c"},
		strings.Fields(string(flags))...)
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		tb.Fatalf("gcc: %v\n%s", err, out)
	}
	s.serve(tb, s.run(program, nil, s.bus.Address, sdbusName), sdbusName)
}

// serve starts a process, and waits until it has its name on the bus.
func (s *site) serve(tb testing.TB, cmd *exec.Cmd, name string) {
	must(tb, cmd.Start())
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c := s.bus.Dial(tb)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var has bool
		must(tb, c.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, name).Store(&has))
		if has {
			return
		}
		if time.Now().After(end) {
			tb.Fatal("the floor does not come up")
		}
	}
}

// caller makes Acquire and Release on one of the services.
type caller struct {
	tb       testing.TB
	obj      godbus.BusObject
	name     string
	resource string
}

func (s *site) caller(tb testing.TB, name, resource string) *caller {
	return &caller{tb: tb, obj: s.bus.Dial(tb).Object(name, servicePath), name: name, resource: resource}
}

func (c *caller) call(member string, args ...any) *godbus.Call {
	return c.obj.CallWithContext(context.Background(), c.name+"."+member, 0, args...)
}

var ownerOptions = map[string]godbus.Variant{"owner": godbus.MakeVariant("bench")}

// pairs makes n times Acquire and Release, one after the other.
func (c *caller) pairs(n int) {
	for range n {
		for _, err := range []error{
			c.call("Acquire", space, c.resource, "EX", ownerOptions).Err,
			c.call("Release", space, c.resource, ownerOptions).Err,
		} {
			if err != nil {
				c.tb.Error(err)
				return
			}
		}
	}
}

// together has all of them make n pairs each.
func together(cs []*caller, n int) {
	var wg sync.WaitGroup
	for _, c := range cs {
		wg.Go(func() { c.pairs(n) })
	}
	wg.Wait()
}

// fill acquires n locks and keeps them.
func (c *caller) fill(n int) {
	type want struct{ Lockspace, Resource, Mode string }
	for done := 0; done < n; {
		var many []want
		for ; done < n && len(many) < 1000; done++ {
			many = append(many, want{space, fmt.Sprintf("kept-%d", done), "EX"})
		}
		must(c.tb, c.call("AcquireMany", many, map[string]godbus.Variant{"owner": godbus.MakeVariant("keeper"),
			"label": godbus.MakeVariant("/images/disk.qcow2")}).Err)
	}
}

func (c *caller) join() {
	must(c.tb, c.call("JoinLockspace", space, map[string]godbus.Variant{}).Err)
}
