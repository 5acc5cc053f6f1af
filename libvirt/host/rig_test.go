package host_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/libvirt/host"
)

const (
	root = "../.."
	// patience bounds every wait for another process.
	patience = 60 * time.Second
)

// built is what TestMain has made: the service, the lock driver as "make
// install-libvirt" installs it, the runtime of its sanitizer if it has one, and a
// place for libvirt's knowledge of QEMU. root is the root file system that libvirtd
// runs in, "" for this machine's, and libvirtd the name of the daemon that is used.
var built struct{ daemon, install, preload, cache, root, libvirtd string }

func TestMain(m *testing.M) {
	host.Main()
	os.Exit(func() int {
		if os.Getenv("LIBVIRT") != "1" {
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "libvirt")
		if err == nil {
			defer os.RemoveAll(dir)
			err = build(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// build fills built. With LIBVIRT_SANITIZE=1 the lock driver is the one for the
// address and undefined behaviour sanitizers. With LIBVIRT_ROOT the hosts run the
// libvirt and QEMU of that root file system, and with LIBVIRT_DAEMON=virtqemud
// libvirt's modular daemon.
func build(dir string) error {
	if built.libvirtd = os.Getenv("LIBVIRT_DAEMON"); os.Getenv("LIBVIRT_ROOT") != "" {
		var err error
		if built.root, err = filepath.Abs(os.Getenv("LIBVIRT_ROOT")); err != nil {
			return err
		}
	}
	built.daemon, built.install, built.cache = filepath.Join(dir, "dlmlockd"), filepath.Join(dir, "install"),
		filepath.Join(dir, "cache")
	install := []string{"make", "--no-print-directory", "-C", root, "install-libvirt", "DESTDIR=" + built.install}
	if os.Getenv("LIBVIRT_SANITIZE") == "1" {
		runtime, err := exec.Command("gcc", "-print-file-name=libasan.so").Output()
		if err != nil {
			return err
		}
		built.preload = strings.TrimSpace(string(runtime))
		install = append(install, "PLUGIN=bin/sanitize/dlmlock.so")
	}
	for _, argv := range [][]string{
		{"go", "build", "-tags", "godbus_no_tcp", "-o", built.daemon, root + "/cmd/dlmlockd"},
		install,
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s(make test-libvirt installs what is missing)", argv, err, out)
		}
	}
	return os.Mkdir(built.cache, 0o755)
}

// rig is a bus with the shipped policy, the service with the embedded engine, and
// a directory of disk images.
type rig struct {
	t      testing.TB
	bus    *testbus.Bus
	dir    string
	conf   string // what more is in dlmlockd.toml
	driver string // of its hosts
	way    string // from dlmlock to the service
	socket string // where the service listens for Varlink
	daemon *exec.Cmd
	client *client.Client
}

// start starts them, and skips the test where it was not asked for.
func start(t *testing.T) *rig {
	return startWith(t, ours, "")
}

// The lock drivers: the one that is tested, and libvirt's own, which is served where
// virtlockd would be.
const (
	ours  = "dlmlock"
	stock = "lockd"
)

// The ways from dlmlock to the service. Guests are started over Varlink where a test is not about
// one of them.
const (
	varlink = "varlink"
	dbus    = "dbus"
)

// bothWays runs a test with hosts whose driver goes one way, and then the other.
func bothWays(t *testing.T, test func(t *testing.T, r *rig)) {
	for _, way := range []string{varlink, dbus} {
		t.Run(way, func(t *testing.T) { test(t, startOver(t, way)) })
	}
}

// startOver is start with one way.
func startOver(t *testing.T, way string) *rig {
	r := start(t)
	r.way = way
	return r
}

// bothDrivers runs a test on hosts with each of them.
func bothDrivers(t *testing.T, test func(t *testing.T, r *rig)) {
	for _, driver := range []string{ours, stock} {
		t.Run(driver, func(t *testing.T) {
			r := start(t)
			r.driver = driver
			test(t, r)
		})
	}
}

// startWith is start with hosts of a driver, and more in dlmlockd.toml.
func startWith(t testing.TB, driver, conf string) *rig {
	if os.Getenv("LIBVIRT") != "1" {
		t.Skip("set LIBVIRT=1 or run make test-libvirt")
	}
	sockets, err := os.MkdirTemp("", "varlink") // not t.TempDir, whose paths may be too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	r := &rig{t: t, bus: testbus.Start(t, testbus.Daemon), dir: t.TempDir(), driver: driver, conf: conf, way: varlink,
		socket: filepath.Join(sockets, "org.example.DlmLock")}
	r.startDaemon()
	t.Cleanup(r.endDaemon)
	r.client, err = client.Dial(t.Context(), r.bus.Address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.client.Close() })
	return r
}

// host starts a host; driver is the text of its qemu-dlmlock.conf.
func (r *rig) host(name, driver string) *machine {
	if r.driver == stock {
		return r.stockHost(name, "")
	}
	bus := r.bus.Address
	if r.way == varlink {
		bus = "unix:path=" + filepath.Join(r.dir, "no-bus")
	}
	return r.hostOn(bus, name, driver)
}

// stockHost starts a host with libvirt's own driver; lockd is the text of its
// qemu-lockd.conf.
func (r *rig) stockHost(name, lockd string) *machine {
	return r.stockHostAt(r.virtlockd(), name, lockd)
}

// stockHostAt is stockHost with another socket in the place of virtlockd's.
func (r *rig) stockHostAt(socket, name, lockd string) *machine {
	return &machine{Host: host.Start(r.t, host.Config{Name: name, Bus: r.bus.Address, Virtlockd: socket, Lockd: lockd,
		Install: built.install, Cache: built.cache, Root: built.root, Daemon: built.libvirtd}), rig: r}
}

// virtlockd is the socket for libvirt's own driver.
func (r *rig) virtlockd() string { return filepath.Join(r.dir, "virtlockd-sock") }

// inUse is what somebody is told who wants a disk that a domain has.
func (r *rig) inUse(domain, path string) string {
	if r.driver == stock {
		return "resource busy: '" + path + "' is in use by domain '" + domain + "' on node 1 (this one)"
	}
	return domain + ": " + path
}

// hostOn is host with another bus.
func (r *rig) hostOn(bus, name, driver string) *machine {
	driver = fmt.Sprintf("transport = %q\nvarlink_socket = %q\n%s", r.way, r.socket, driver)
	return &machine{Host: host.Start(r.t, host.Config{Name: name, Bus: bus, Driver: driver,
		Install: built.install, Preload: built.preload, Cache: built.cache, Root: built.root,
		Daemon: built.libvirtd}), rig: r}
}

func (r *rig) startDaemon() {
	r.t.Helper()
	conf, state := filepath.Join(r.dir, "dlmlockd.toml"), filepath.Join(r.dir, "state")
	require.NoError(r.t, os.WriteFile(conf,
		[]byte("engine = \"local\"\nlockspaces = [\"libvirt\", \"other\"]\n"+r.conf), 0o644))
	require.NoError(r.t, os.MkdirAll(state, 0o700))
	log, err := os.OpenFile(filepath.Join(r.dir, "dlmlockd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(r.t, err)
	defer log.Close()
	r.daemon = exec.Command(built.daemon, "--config", conf, "--state-dir", state, "--bus", r.bus.Address,
		"--virtlockd", r.virtlockd(), "--varlink", r.socket)
	r.daemon.Stderr = log
	r.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(r.t, r.daemon.Start())
	watch := r.bus.Dial(r.t)
	r.until("dlmlockd on the bus", func() bool {
		var has bool
		return watch.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, client.Name).Store(&has) == nil && has
	})
	require.NoError(r.t, watch.Close())
}

// killDaemon kills the service, as a crash does.
func (r *rig) killDaemon() {
	if r.daemon != nil {
		_ = r.daemon.Process.Kill()
		_ = r.daemon.Wait()
		r.daemon = nil
	}
}

func (r *rig) endDaemon() {
	r.killDaemon()
	if text, err := os.ReadFile(filepath.Join(r.dir, "dlmlockd.log")); err == nil && r.t.Failed() {
		r.t.Logf("dlmlockd said:\n%s", text)
	}
}

// image makes a disk image and returns its path. Guests that boot from it wait
// for a key and shut down.
func (r *rig) image(name string) string {
	path := filepath.Join(r.dir, name)
	require.NoError(r.t, host.WriteImage(path))
	return path
}

// locks are "LABEL MODE" of what is held, sorted, without the images' directory.
func (r *rig) locks() []string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	held, err := r.client.Locks(ctx, client.Filter{})
	require.NoError(r.t, err)
	out := []string{}
	for _, l := range held {
		out = append(out, strings.ReplaceAll(l.Label, r.dir+"/", "")+" "+l.Mode)
	}
	slices.Sort(out)
	return out
}

// held waits until just these locks are there: "DOMAIN: IMAGE MODE". What ends
// with a process ends a moment after it.
func (r *rig) held(want ...string) {
	r.t.Helper()
	slices.Sort(want)
	var got []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if got = r.locks(); slices.Equal(got, want) {
			return
		}
	}
	require.Equal(r.t, want, got, "the locks")
}

// now requires that just these locks are there already.
func (r *rig) now(want ...string) {
	r.t.Helper()
	slices.Sort(want)
	require.Equal(r.t, append([]string{}, want...), r.locks(), "the locks")
}

// until waits for what must come true, and fails the test if it does not.
func (r *rig) until(what string, is func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not in time: %s", what)
		}
	}
}

// machine is a host of the rig.
type machine struct {
	*host.Host
	rig *rig
}

// virsh runs virsh, which must succeed.
func (m *machine) virsh(args ...string) string {
	m.rig.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := m.Virsh(ctx, args...)
	require.NoError(m.rig.t, err, "virsh %v: %s", args, out)
	return out
}

// refused runs virsh, which must fail, and returns what it said.
func (m *machine) refused(args ...string) string {
	m.rig.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := m.Virsh(ctx, args...)
	require.Error(m.rig.t, err, "virsh %v: %s", args, out)
	require.NoError(m.rig.t, ctx.Err(), "virsh %v", args)
	return out
}

// file writes a domain's or a disk's description and returns its path.
func (r *rig) file(name, xml string) string {
	path := filepath.Join(r.dir, name+".xml")
	require.NoError(r.t, os.WriteFile(path, []byte(xml), 0o644))
	return path
}

// define makes a domain known that has these disks. The same name has the same
// UUID on every host.
func (m *machine) define(name string, disks ...host.Disk) {
	m.rig.t.Helper()
	m.virsh("define", m.rig.file(m.Name+"-"+name, domain(name, disks...).XML()))
}

func domain(name string, disks ...host.Disk) host.Domain {
	return host.Domain{Name: name, UUID: fmt.Sprintf("d0000000-0000-4000-8000-%012x", []byte(name + "      ")[:6]),
		Disks: disks}
}

// state is that of a domain, "running" for example.
func (m *machine) state(name string) string {
	m.rig.t.Helper()
	return m.virsh("domstate", name)
}

// ending watches a domain that runs, from now on. The function that it returns
// waits until QEMU and its locks are gone, and tells how long the locks stayed.
func (m *machine) ending(name string) (stayed func() time.Duration) {
	m.rig.t.Helper()
	pid, err := m.PID(name)
	require.NoError(m.rig.t, err)
	pidfd, err := unix.PidfdOpen(pid, 0)
	require.NoError(m.rig.t, err)
	ended, gone := make(chan time.Time, 1), make(chan time.Time, 1)
	go func() {
		defer unix.Close(pidfd)
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
			if n > 0 || err != unix.EINTR {
				ended <- time.Now()
				return
			}
		}
	}()
	go func() {
		for m.rig.t.Context().Err() == nil {
			held, err := m.rig.client.Locks(m.rig.t.Context(), client.Filter{})
			if err == nil && !slices.ContainsFunc(held, func(l client.Lock) bool { return l.PID == uint32(pid) }) {
				gone <- time.Now()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	return func() time.Duration {
		m.rig.t.Helper()
		limit := time.After(patience)
		var at [2]time.Time
		for i, c := range []chan time.Time{ended, gone} {
			select {
			case at[i] = <-c:
			case <-limit:
				m.rig.t.Fatalf("%s: %s", name, []string{"QEMU does not end", "the locks stay"}[i])
			}
		}
		return at[1].Sub(at[0])
	}
}
