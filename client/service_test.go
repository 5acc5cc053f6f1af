package client

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// daemonPath is the real service, built by TestMain.
var daemonPath string

// TestMain builds the real service, and runs one for the examples, which reach it by
// DLMLOCK_ADDRESS. No goroutine may be left at the end.
func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	if socket := os.Getenv(asHolder); socket != "" {
		return beHolder(socket)
	}
	dir, err := os.MkdirTemp("", "client")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	daemonPath = filepath.Join(dir, "dlmlockd")
	build := exec.Command("go", "build", "-tags", "godbus_no_tcp", "-o", daemonPath, "../cmd/dlmlockd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the service: %v\n%s", err, out)
		return 1
	}
	end := func(syscall.Signal) {}
	if os.Getenv(AddressVariable) == "" {
		socket := filepath.Join(dir, "socket")
		if end, err = startService(dir, "--bus=none", "--varlink="+socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		os.Setenv(AddressVariable, socket)
	}
	code := m.Run()
	end(syscall.SIGTERM)
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// startService starts the service with its state in a directory, and returns when it is
// ready, in the lockspace vms.
func startService(dir string, options ...string) (end func(syscall.Signal), err error) {
	notify := filepath.Join(dir, "notify")
	os.Remove(notify)
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	config := filepath.Join(dir, "dlmlockd.toml")
	if err := os.WriteFile(config, []byte("lockspaces = [\"vms\"]\n"), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.Command(daemonPath, append([]string{"--engine=local", "--config=" + config,
		"--state-dir=" + filepath.Join(dir, "state")}, options...)...)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	_ = ready.SetReadDeadline(time.Now().Add(patience))
	for buf := make([]byte, 4096); ; {
		n, err := ready.Read(buf)
		if err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			text, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("the service is not ready: %w\n%s", err, text)
		}
		for line := range strings.Lines(string(buf[:n])) {
			if strings.TrimSpace(line) == "READY=1" {
				return func(sig syscall.Signal) {
					_ = cmd.Process.Signal(sig)
					_ = cmd.Wait()
				}, nil
			}
		}
	}
}

// patience is how long a test waits for what must come.
const patience = time.Minute

// real is the real service with its embedded engine on a bus and a socket of its own.
type real struct {
	t      *testing.T
	dir    string
	bus    *testbus.Bus
	socket string
	end    func(syscall.Signal)
}

func startReal(t *testing.T) *real {
	dir, err := os.MkdirTemp("", "client-real") // short: the path of a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	r := &real{t: t, dir: dir, bus: testbus.Start(t, testbus.Daemon), socket: filepath.Join(dir, "socket")}
	r.start()
	t.Cleanup(func() { r.end(syscall.SIGTERM) })
	return r
}

func (r *real) start() {
	r.t.Helper()
	end, err := startService(r.dir, "--bus="+r.bus.Address, "--varlink="+r.socket)
	require.NoError(r.t, err)
	r.end = end
}

// open connects over one of the transports.
func (r *real) open(varlink bool) *Client {
	cfg := Config{Bus: r.bus.Address}
	if varlink {
		cfg = Config{Varlink: r.socket}
	}
	c, err := Open(r.t.Context(), cfg)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// both runs a test over D-Bus and over Varlink.
func both(t *testing.T, test func(t *testing.T, r *real, c *Client)) {
	for _, varlink := range []bool{false, true} {
		t.Run(map[bool]string{false: "dbus", true: "varlink"}[varlink], func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			t.Run("", func(t *testing.T) {
				r := startReal(t)
				test(t, r, r.open(varlink))
			})
		})
	}
}

func TestOpenChooses(t *testing.T) {
	bus := testbus.Start(t, testbus.Daemon)
	open := func(cfg Config) *Client {
		t.Helper()
		c, err := Open(t.Context(), cfg)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	t.Setenv(AddressVariable, "/from/environment")
	require.Equal(t, "/from/environment", open(Config{}).Varlink())
	require.Equal(t, "/from/caller", open(Config{Varlink: "/from/caller", Bus: bus.Address}).Varlink())
	c := open(Config{Bus: bus.Address})
	require.Empty(t, c.Varlink())
	require.NotNil(t, c.Conn())
	t.Setenv(AddressVariable, bus.Address)
	require.Empty(t, open(Config{}).Varlink())
	t.Setenv(AddressVariable, "")
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
	if _, err := os.Stat(VarlinkSocket); err != nil {
		_, err := Open(t.Context(), Config{})
		require.ErrorIs(t, err, NoBus)
	}
}

// Everything that a member returns is the same over both.
func TestBothSayTheSame(t *testing.T) {
	r := startReal(t)
	bus, varlink := r.open(false), r.open(true)
	ctx := t.Context()
	w := Want{"vms", "disk", "shared"}
	g, err := bus.Acquire(ctx, w, Options{Owner: "o", Label: "l", Lifetime: Process, PID: uint32(os.Getpid())})
	require.NoError(t, err)
	again, err := varlink.Acquire(ctx, w, Options{Owner: "o", Label: "l", Lifetime: Process, PID: uint32(os.Getpid())})
	require.NoError(t, err)
	require.Equal(t, g, again)
	many, err := varlink.AcquireMany(ctx, []Want{{"vms", "two", "EX"}, {"vms", "one", "EX"}}, Options{Owner: "o"})
	require.NoError(t, err)
	same, err := bus.AcquireMany(ctx, []Want{{"vms", "two", "EX"}, {"vms", "one", "EX"}}, Options{Owner: "o"})
	require.NoError(t, err)
	require.Equal(t, many, same)
	compare := func(what string, ask func(c *Client) (any, error)) {
		t.Helper()
		a, err := ask(bus)
		require.NoError(t, err, what)
		b, err := ask(varlink)
		require.NoError(t, err, what)
		require.Equal(t, a, b, what)
	}
	compare("locks", func(c *Client) (any, error) { return c.Locks(ctx, Filter{}) })
	compare("one lock", func(c *Client) (any, error) { return c.Locks(ctx, Filter{Mode: "PR", Limit: 1, HasUID: true}) })
	compare("no lock", func(c *Client) (any, error) { return c.Locks(ctx, Filter{Owner: "nobody"}) })
	waits := waitsBehind(t, bus, w)
	compare("waits", func(c *Client) (any, error) { return c.Waits(ctx, Filter{Lockspace: "vms", Resource: "disk"}) })
	compare("a page of one", func(c *Client) (any, error) { return c.Waits(ctx, Filter{Owner: "waits1", Limit: 1}) })
	compare("no waiter", func(c *Client) (any, error) { return c.Waits(ctx, Filter{Owner: "o", HasUID: true}) })
	waits()
	compare("held", func(c *Client) (any, error) { return c.Held(ctx, g) })
	compare("inspect", func(c *Client) (any, error) { return c.Inspect(ctx, "vms", "two") })
	compare("lockspaces", func(c *Client) (any, error) { return c.Lockspaces(ctx) })
	compare("orphans", func(c *Client) (any, error) { return c.Orphans(ctx, "vms") })
	compare("status", func(c *Client) (any, error) {
		st, err := c.Status(ctx)
		delete(st, "RequestsRefused") // counts the calls
		return st, err
	})
	compare("pids", func(c *Client) (any, error) { return c.SeesPIDs(ctx), nil })
	for _, c := range []*Client{bus, varlink} {
		_, err = c.Acquire(ctx, Want{"vms", "disk", "EX"}, Options{})
		require.ErrorIs(t, err, WouldBlock)
		_, err = c.Acquire(ctx, Want{"vms", "disk", "EX"}, Options{Wait: time.Millisecond})
		require.ErrorIs(t, err, Timeout)
		_, err = c.Acquire(ctx, Want{"vms", "disk", "XX"}, Options{})
		require.ErrorIs(t, err, InvalidMode)
		_, err = c.Acquire(ctx, Want{"vms", "disk", "EX"}, Options{Owner: "o"})
		require.ErrorIs(t, err, AlreadyHeld)
		_, err = c.Acquire(ctx, Want{"nowhere", "disk", "EX"}, Options{})
		require.ErrorIs(t, err, NoSuchLockspace)
		_, err = c.Acquire(ctx, Want{"vms", "disk", "PR"}, Options{Lifetime: "long"})
		require.ErrorIs(t, err, InvalidArgs)
		require.ErrorIs(t, c.Release(ctx, "vms", "none", Selector{}), NotHeld)
		_, err = c.Held(ctx, Grant{Lockspace: "vms", Resource: "disk", Lock: Path + "/lock/999"})
		require.ErrorIs(t, err, NotHeld)
	}
	token, err := varlink.Convert(ctx, Want{"vms", "disk", "EX"}, Selector{Lock: g.Lock}, time.Second)
	require.NoError(t, err)
	require.Greater(t, token, uint64(0))
	n, err := varlink.ReleaseMany(ctx, []Want{{"vms", "one", ""}}, "o")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.NoError(t, varlink.Release(ctx, "vms", "disk", Selector{Lock: g.Lock}))
	n, err = varlink.ReleaseOwner(ctx, "", "o")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
}

// waitsBehind has two locks wait for a shared lock, one behind the other, and looks at
// what is said of them. The function ends the waits.
func waitsBehind(t *testing.T, c *Client, w Want) (end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var found []Waiter
	for i := range 2 {
		wg.Go(func() {
			_, err := c.Acquire(ctx, Want{w.Lockspace, w.Resource, "EX"},
				Options{Owner: fmt.Sprint("waits", i), Label: "l", Lifetime: Process, PID: uint32(os.Getpid()), Wait: time.Hour})
			assert.ErrorIs(t, err, context.Canceled)
		})
		require.Eventually(t, func() bool {
			var err error
			found, err = c.Waits(t.Context(), Filter{Resource: w.Resource})
			require.NoError(t, err)
			return len(found) == i+1
		}, patience, time.Millisecond)
	}
	first, second := found[0], found[1]
	require.Equal(t, []string{"vms", "disk", "", "EX", "waits0", "waits0", "l"}, []string{first.Lockspace, first.Resource,
		first.Mode, first.Wanted, first.Who, first.Owner, first.Label})
	require.Len(t, first.For, 1)
	require.Equal(t, []any{"PR", "o", false}, []any{first.For[0].Mode, first.For[0].Who, first.For[0].Waits})
	require.False(t, second.Since.Before(first.Since))
	require.True(t, slices.ContainsFunc(second.For, func(b Blocker) bool { return b.Waits && b.Who == "waits0" }),
		second.For)
	return func() {
		cancel()
		wg.Wait()
		require.Eventually(t, func() bool {
			found, err := c.Waits(t.Context(), Filter{})
			require.NoError(t, err)
			return len(found) == 0
		}, patience, time.Millisecond)
	}
}

// A lock of lifetime connection ends with the client, and not with other calls.
func TestConnectionLocks(t *testing.T) {
	both(t, func(t *testing.T, r *real, c *Client) {
		ctx := t.Context()
		other := r.open(true)
		_, err := c.Acquire(ctx, Want{"vms", "a", "EX"}, Options{Lifetime: Connection})
		require.NoError(t, err)
		_, err = c.AcquireMany(ctx, []Want{{"vms", "b", "EX"}, {"vms", "c", "EX"}}, Options{Lifetime: Connection})
		require.NoError(t, err)
		// The end of a context is that of its call alone.
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, err = c.Acquire(short, Want{"vms", "a", "PR"}, Options{Wait: -1, Lifetime: Connection})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		locks, err := other.Locks(ctx, Filter{State: "held"})
		require.NoError(t, err)
		require.Len(t, locks, 3)
		require.NoError(t, c.Close())
		require.Eventually(t, func() bool {
			locks, err := other.Locks(ctx, Filter{})
			return err == nil && len(locks) == 0
		}, patience, 5*time.Millisecond)
		<-c.Done()
	})
}

// Names that JSON can't carry are refused here, and never changed.
func TestVarlinkCarriesTextOnly(t *testing.T) {
	r := startReal(t)
	c := r.open(true)
	for _, bad := range []string{"a\xff", "a\x00"} {
		_, err := c.Acquire(t.Context(), Want{"vms", bad, "EX"}, Options{})
		require.ErrorIs(t, err, InvalidArgs)
		_, err = c.AcquireMany(t.Context(), []Want{{"vms", bad, "EX"}}, Options{})
		require.ErrorIs(t, err, InvalidArgs)
		_, err = c.Acquire(t.Context(), Want{"vms", "r", "EX"}, Options{Lifetime: Connection, Label: bad})
		require.ErrorIs(t, err, InvalidArgs)
		require.ErrorIs(t, c.Release(t.Context(), "vms", "r", Selector{Owner: bad}), InvalidArgs)
	}
	require.NoError(t, c.Join(t.Context(), "vms"), "the connection is still good")
}

// A service that is not there, goes during a call, or talks nonsense.
func TestVarlinkConnectionErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	c := OpenVarlink(path)
	defer c.Close()
	require.ErrorIs(t, c.Join(t.Context(), "vms"), NotRunning)
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	answers := make(chan string)
	go func() {
		for answer := range answers {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(conn).ReadBytes(0)
			_, _ = conn.Write([]byte(answer))
			_ = conn.Close()
		}
	}()
	defer close(answers)
	for answer, kind := range map[string]Kind{
		"":                        NoAnswer,
		"{\"parameters\":{}":      NoAnswer,
		"nonsense\x00":            Failed,
		"{\"error\":\"a.B\"}\x00": Failed,
		"{\"error\":\"org.varlink.service.MethodNotFound\",\"parameters\":{\"method\":\"x\"}}\x00":    Unknown,
		"{\"error\":\"io.systemd.InteractiveAuthenticationRequired\"}\x00":                            InteractionRequired,
		"{\"error\":\"org.example.DlmLock.ShuttingDown\",\"parameters\":{\"message\":\"going\"}}\x00": ShuttingDown,
	} {
		answers <- answer
		require.ErrorIs(t, c.Join(t.Context(), "vms"), kind, answer)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, c.Join(ctx, "vms"), Canceled)
	require.NoError(t, c.Close())
	require.Error(t, c.Join(t.Context(), "vms"))
}

// Monitoring goes on over a restart, and says that there was one.
func TestWatchOverRestarts(t *testing.T) {
	both(t, func(t *testing.T, r *real, c *Client) {
		events, err := c.Watch(t.Context())
		require.NoError(t, err)
		hear := func(kind EventKind) Event {
			t.Helper()
			for timeout := time.After(patience); ; {
				select {
				case e := <-events:
					if e.Kind == kind {
						return e
					}
				case <-timeout:
					t.Fatalf("no %s", kind)
				}
			}
		}
		require.NoError(t, c.Join(t.Context(), "more"))
		require.Equal(t, "more", hear(LockspaceChanged).Lockspace)
		r.end(syscall.SIGKILL)
		hear(ServiceStopped)
		r.start()
		hear(ServiceStarted)
		g, err := c.Acquire(t.Context(), Want{"more", "a", "EX"}, Options{})
		require.NoError(t, err)
		require.NoError(t, c.Leave(t.Context(), "more", true))
		e := hear(LockLost)
		require.Equal(t, g.Lock, e.Lock)
		require.Equal(t, []string{"more", "a", "EX"}, []string{e.Lockspace, e.Resource, e.Mode})
		require.NotEmpty(t, e.Reason)
	})
}
