package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/config"
	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// patience bounds every wait for another process.
const patience = time.Minute

var (
	buildDir  string
	buildOnce = map[string]func() error{}
	buildMu   sync.Mutex
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "dlmlockd-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = os.Chmod(dir, 0o777) // go build may run as another user than the tests
	buildDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// build returns the real program, built once for each set of tags.
func build(t *testing.T, cgo bool, tags string) string {
	t.Helper()
	path := filepath.Join(buildDir, strings.ReplaceAll(fmt.Sprintf("dlmlockd-%v-%s", cgo, tags), " ", "-"))
	buildMu.Lock()
	once := buildOnce[path]
	if once == nil {
		once = sync.OnceValue(func() error { return goBuild(path, cgo, tags) })
		buildOnce[path] = once
	}
	buildMu.Unlock()
	require.NoError(t, once())
	return path
}

func goBuild(path string, cgo bool, tags string) error {
	cmd := exec.Command("go", "build", "-tags", tags, "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if cgo {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	// Under sudo the compiler runs as the user, whose cache this is.
	if uid, err := strconv.Atoi(os.Getenv("SUDO_UID")); err == nil && os.Geteuid() == 0 {
		u, err := user.LookupId(os.Getenv("SUDO_UID"))
		if err != nil {
			return err
		}
		gid, _ := strconv.Atoi(u.Gid)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		cmd.Env = append(cmd.Env, "HOME="+u.HomeDir)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// program is the daemon as it is shipped, but for libdlm.
func program(t *testing.T) string { return built(t, "DLMLOCKD_TEST_PROGRAM", "godbus_no_tcp") }

// built builds the program with the given tags, unless the environment names
// one: the lab runs these tests on nodes, where nothing is built.
func built(t *testing.T, variable, tags string) string {
	if path := os.Getenv(variable); path != "" {
		return path
	}
	return build(t, false, tags)
}

// testEngine is the engine that the daemons of the tests use: local, or
// dlm in the lab.
func testEngine() string { return cmp.Or(os.Getenv("DLMLOCKD_TEST_ENGINE"), config.EngineLocal) }

// running is a daemon that runs.
type running struct {
	cmd    *exec.Cmd
	exited chan struct{}
	code   int // after exited; -1 if a signal ended it

	mu     sync.Mutex
	change *sync.Cond
	told   []string // what it told systemd, line by line
	stderr bytes.Buffer
	keeps  *manager // takes its descriptors; nil: nobody does
}

// Write takes the daemon's log.
func (p *running) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.change.Broadcast()
	return p.stderr.Write(b)
}

func (p *running) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// launch starts a daemon whose messages for systemd go to a socket of the test. It does not wait
// for anything.
func launch(t *testing.T, path, address, dir string, env []string, args ...string) *running {
	t.Helper()
	return launchKept(t, nil, path, address, dir, env, args...)
}

// launchKept is launch by a service manager with a store for descriptors.
func launchKept(t *testing.T, m *manager, path, address, dir string, env []string, args ...string) *running {
	t.Helper()
	p := &running{exited: make(chan struct{}), keeps: m}
	p.change = sync.NewCond(&p.mu)
	socketDir, err := os.MkdirTemp("", "notify")
	require.NoError(t, err)
	socket := filepath.Join(socketDir, "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	require.NoError(t, err)
	p.cmd = exec.Command(path, append([]string{"--engine=" + testEngine(), "--state-dir=" + dir, "--bus=" + address,
		"--config=" + os.DevNull}, args...)...)
	p.cmd.Stderr = p
	p.cmd.Env = append(append(os.Environ(), "NOTIFY_SOCKET="+socket), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if m != nil {
		m.passOn(t, p.cmd)
	}
	require.NoError(t, p.cmd.Start())
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		p.listen(conn)
	}()
	go func() {
		_ = p.cmd.Wait()
		p.code = p.cmd.ProcessState.ExitCode()
		// The last message behind all of the daemon's.
		_, _ = conn.WriteToUnix([]byte(lastMessage), &net.UnixAddr{Name: socket, Net: "unixgram"})
		<-heard
		_ = conn.Close()
		_ = os.RemoveAll(socketDir)
		p.mu.Lock()
		close(p.exited)
		p.change.Broadcast()
		p.mu.Unlock()
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the daemon said:\n%s", p.log())
		}
	})
	return p
}

const lastMessage = "X_END=1"

func (p *running) listen(conn *net.UnixConn) {
	buf, rights := make([]byte, 64<<10), make([]byte, 1024)
	for {
		n, nr, _, _, err := conn.ReadMsgUnix(buf, rights)
		if p.keeps != nil {
			p.keeps.take(string(buf[:n]), rights[:nr])
		}
		if err != nil || string(buf[:n]) == lastMessage {
			return
		}
		p.mu.Lock()
		p.told = append(p.told, strings.Split(string(buf[:n]), "\n")...)
		p.change.Broadcast()
		p.mu.Unlock()
	}
}

// await waits until what holds, and fails if it does not in time.
func (p *running) await(t *testing.T, what string, holds func(told []string, log string) bool) {
	t.Helper()
	late := time.AfterFunc(patience, p.change.Broadcast)
	defer late.Stop()
	end := time.Now().Add(patience)
	p.mu.Lock()
	defer p.mu.Unlock()
	for !holds(p.told, p.stderr.String()) {
		select {
		case <-p.exited:
			t.Fatalf("the daemon ended with %d before %s:\n%s", p.code, what, p.stderr.String())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("no %s in %v; the daemon told %q and said:\n%s", what, patience, p.told, p.stderr.String())
		}
		p.change.Wait()
	}
}

func (p *running) awaitTold(t *testing.T, line string) {
	t.Helper()
	p.await(t, line, func(told []string, _ string) bool {
		for _, l := range told {
			if strings.HasPrefix(l, line) {
				return true
			}
		}
		return false
	})
}

// forget discards the messages so far.
func (p *running) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = nil
}

// readyOrDead waits until the daemon is ready or has ended.
func (p *running) readyOrDead(t *testing.T) (ready bool) {
	t.Helper()
	late := time.AfterFunc(patience, p.change.Broadcast)
	defer late.Stop()
	end := time.Now().Add(patience)
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if slices.Contains(p.told, "READY=1") {
			return true
		}
		select {
		case <-p.exited:
			return false
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("the daemon is neither ready nor dead after %v:\n%s", patience, p.stderr.String())
		}
		p.change.Wait()
	}
}

// kill ends the daemon as kill -9 does.
func (p *running) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// stop ends it in order and returns its exit code.
func (p *running) stop(t *testing.T) int {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	return p.wait(t)
}

func (p *running) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
		return p.code
	case <-time.After(patience):
		t.Fatalf("the daemon did not end in %v:\n%s", patience, p.log())
		return 0
	}
}

// start launches a daemon and waits until it is ready.
func start(t *testing.T, b *testbus.Bus, dir string, args ...string) *running {
	t.Helper()
	p := launch(t, program(t), b.Address, dir, nil, args...)
	p.awaitTold(t, "READY=1")
	return p
}

// client calls the service.
type client struct{ obj godbus.BusObject }

func newClient(c *godbus.Conn) client {
	return client{c.Object("org.example.DlmLock", "/org/example/DlmLock")}
}

type map_ = map[string]godbus.Variant

func opts(pairs ...any) map_ {
	m := map_{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(string)] = godbus.MakeVariant(pairs[i+1])
	}
	return m
}

func (c client) call(member string, args ...any) *godbus.Call {
	return c.obj.Call("org.example.DlmLock."+member, 0, args...)
}

func (c client) join(space string) error { return c.call("JoinLockspace", space, opts()).Err }

func (c client) acquire(space, resource, mode string, pairs ...any) (lockid uint32, err error) {
	var token uint64
	var lock godbus.ObjectPath
	err = c.call("Acquire", space, resource, mode, opts(pairs...)).Store(&lockid, &token, &lock)
	return lockid, err
}

func (c client) convert(space, resource, mode string, pairs ...any) error {
	return c.call("Convert", space, resource, mode, opts(pairs...)).Err
}

func (c client) release(space, resource string, pairs ...any) error {
	return c.call("Release", space, resource, opts(pairs...)).Err
}

// row is one lock of ListLocks.
type row struct {
	Lock      godbus.ObjectPath
	Lockspace string
	Resource  string
	LockID    uint32
	Mode      string
	Wanted    string
	State     string
	Token     uint64
	Owner     string
	Label     string
	Lifetime  string
	UID, PID  uint32
	Since     uint64
	Details   map_
}

func (c client) list(t *testing.T) []row {
	t.Helper()
	var all []row
	filter := opts()
	for {
		var page []row
		require.NoError(t, c.call("ListLocks", filter).Store(&page))
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		filter["after"] = godbus.MakeVariant(page[len(page)-1].Lock)
	}
}

// errorName is the D-Bus name of an error, or "" for none.
func errorName(err error) string {
	var e godbus.Error
	if errors.As(err, &e) {
		return e.Name
	}
	if err != nil {
		return err.Error()
	}
	return ""
}
