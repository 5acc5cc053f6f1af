package test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// peer plays the service at the rig's socket. Each call goes to its function, which returns the
// bytes of the answer, and whether the connection goes on.
type peer struct {
	t      *testing.T
	listen net.Listener
	mu     sync.Mutex
	calls  []seenCall
	serve  func(call seenCall, c net.Conn) (answer string, goOn bool)
}

// seenCall is one call that peer has seen.
type seenCall struct {
	conn       int   // the number of its connection
	pid        int32 // of the process that has made the connection
	Method     string
	Parameters map[string]any
}

const (
	twoGranted = `{"parameters":{"granted":[{},{}]}}` + "\x00"
	oneGranted = `{"parameters":{"granted":[{}]}}` + "\x00"
	released   = `{"parameters":{"released":1}}` + "\x00"
)

// right answers as the service does where all is well.
func right(call seenCall, _ net.Conn) (string, bool) {
	if call.Method != "org.example.DlmLock.AcquireMany" {
		return released, true
	}
	n := len(call.Parameters["wanted"].([]any))
	return `{"parameters":{"granted":[` + strings.TrimSuffix(strings.Repeat("{},", n), ",") + `]}}` + "\x00", true
}

// startPeer starts a driver whose service is played, and which has no bus.
func startPeer(t *testing.T, conf string, serve func(seenCall, net.Conn) (string, bool)) (*rig, *peer) {
	r := &rig{t: t, dir: t.TempDir()}
	p := &peer{t: t, serve: serve}
	var err error
	p.listen, err = net.Listen("unix", r.socket())
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.listen.Close() })
	go p.accept()
	r.startDriver("unix:path=" + filepath.Join(r.dir, "no-bus"))
	r.ok("init %s", r.write("qemu-dlmlock.conf", r.reach(overVarlink)+conf))
	return r, p
}

func (p *peer) accept() {
	for n := 0; ; n++ {
		c, err := p.listen.Accept()
		if err != nil {
			return
		}
		go p.serveConn(n, c.(*net.UnixConn))
	}
}

func (p *peer) serveConn(n int, c *net.UnixConn) {
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	call := seenCall{conn: n}
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			call.pid = cred.Pid
		}
	})
	in := bufio.NewReader(c)
	for {
		text, err := in.ReadBytes(0)
		if err != nil {
			return
		}
		call := call
		if json.Unmarshal(text[:len(text)-1], &call) != nil {
			call.Method = "not JSON: " + string(text)
		}
		p.mu.Lock()
		p.calls = append(p.calls, call)
		p.mu.Unlock()
		answer, goOn := p.serve(call, c)
		if _, err := c.Write([]byte(answer)); err != nil || !goOn {
			return
		}
	}
}

// seen returns the calls since the last time.
func (p *peer) seen() []seenCall {
	p.mu.Lock()
	defer p.mu.Unlock()
	calls := p.calls
	p.calls = nil
	return calls
}

// The calls have what the service must know, whatever is in a name, and go over one connection.
func TestVarlinkCalls(t *testing.T) {
	r, p := startPeer(t, "on_lost = \"libvirt\"\n", right)
	g := r.guest(uuidA, `w"e\b€`)
	path := "/img/a\t\x01\x7f" + `"` + "é"
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 "+path, "1 /img/b", "lease leases k"))
	require.Equal(t, "ok", r.do(g, "release", "0 "+path))
	calls := p.seen()
	require.Len(t, calls, 2)
	owner := fmt.Sprintf("%s/%d/%s", uuidA, g.pid, startTime(t, g.pid))
	wanted := calls[0].Parameters["wanted"].([]any)
	require.Len(t, wanted, 3)
	byLabel := map[string]map[string]any{}
	for _, w := range wanted {
		w := w.(map[string]any)
		byLabel[w["label"].(string)] = w
	}
	label := g.name + ": " + path
	require.Equal(t, hashed(path), "paths "+byLabel[label]["resource"].(string))
	require.Equal(t, "EX", byLabel[label]["mode"])
	require.Equal(t, "PR", byLabel[g.name+": /img/b"]["mode"])
	require.Equal(t, map[string]any{"lockspace": "leases", "resource": "k", "mode": "EX", "label": g.name + ": leases/k"},
		byLabel[g.name+": leases/k"])
	delete(calls[0].Parameters, "wanted")
	require.Equal(t, fmt.Sprint(map[string]any{"owner": owner, "lifetime": "process", "processId": float64(g.pid),
		"processStartTicks": calls[0].Parameters["processStartTicks"], "onLost": "libvirt",
		"onLostData": "default qemu:///system"}), fmt.Sprint(calls[0].Parameters))
	require.Equal(t, startTime(t, g.pid), fmt.Sprintf("%.0f", calls[0].Parameters["processStartTicks"]))

	require.Equal(t, "org.example.DlmLock.ReleaseMany", calls[1].Method)
	require.Equal(t, owner, calls[1].Parameters["owner"])
	require.Equal(t, []any{label}, calls[1].Parameters["labels"])
	require.Equal(t, []any{map[string]any{"lockspace": "libvirt", "resource": byLabel[label]["resource"]}},
		calls[1].Parameters["resources"])
	require.Equal(t, calls[0].conn, calls[1].conn, "the connection is kept")

	answer := r.do(g, "acquire 0", "0 /img/\xff")
	require.True(t, strings.HasPrefix(answer, failed), answer)
	require.Contains(t, answer, "is not UTF-8")
	require.Empty(t, p.seen())
}

// A child that is forked does not use its parent's connection, and what it does with its own one does
// not touch the parent's.
func TestVarlinkFork(t *testing.T) {
	r, p := startPeer(t, "", right)
	g := r.guest(uuidA, "web")
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a"))
	require.Equal(t, "ok", r.do(g, "fork 3", "0 /img/a"))
	require.Equal(t, "ok", r.do(g, "fork 0", "0 /img/b"))
	require.Equal(t, "ok", r.do(g, "fork 0", "0 /img/b"))
	require.Equal(t, "ok", r.do(g, "release", "0 /img/a"))
	calls := p.seen()
	require.Len(t, calls, 4, "a child that only registers makes no call")
	parent := int32(r.driver.Process.Pid)
	for i, own := range []bool{true, false, false, true} {
		require.Equal(t, own, calls[i].pid == parent, "call %d", i)
		require.Equal(t, own, calls[i].conn == calls[0].conn, "call %d", i)
	}
}

// A call whose answer is lost is made again: on the kept connection of a daemon that has ended, and
// on a new one.
func TestVarlinkAnswerLost(t *testing.T) {
	lose := 0
	r, p := startPeer(t, "timeout = 10\n", func(call seenCall, c net.Conn) (string, bool) {
		if lose--; lose >= 0 {
			return oneGranted[:lose%2*9], false // nothing, or half an answer
		}
		return right(call, c)
	})
	g := r.guest(uuidA, "web")
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a"))
	p.seen()
	for _, n := range []int{1, 2, 3} {
		for _, verb := range []string{"acquire 0", "release"} {
			lose = n
			began := time.Now()
			require.Equal(t, "ok", r.do(g, verb, "0 /img/a"))
			calls := p.seen()
			require.Len(t, calls, n+1)
			for _, c := range calls {
				require.Equal(t, calls[0].Parameters, c.Parameters)
			}
			if n == 1 {
				t.Logf("%s: asked again, and answered after %v", verb, time.Since(began).Round(100*time.Microsecond))
			}
		}
	}
}

// What is not an answer of the service, or is one that nobody expects, refuses the guest, closes the
// connection, and says what is wrong.
func TestVarlinkBadAnswers(t *testing.T) {
	var answer string
	r, p := startPeer(t, "on_service_missing = \"allow\"\ntimeout = 20\n", func(call seenCall, c net.Conn) (string, bool) {
		if answer != "" {
			return answer, true
		}
		return right(call, c)
	})
	g := r.guest(uuidA, "web")
	conn := -1
	for text, want := range map[string]string{
		"\x00": "is not one of Varlink", "{}\x00": "lacks what was asked for", oneGranted + "{": "is not one of Varlink",
		oneGranted + oneGranted: "is not one of Varlink", twoGranted: "lacks what was asked for",
		`{"parameters":{"granted":[{}]},"continues":true}` + "\x00":           "is not one of Varlink",
		`{"error":"org.varlink.service.MethodNotFound"}` + "\x00":             "org.varlink.service.MethodNotFound",
		`{"error":"x.y.Z","parameters":{"message":"says why"}}` + "\x00":      ": says why",
		strings.Repeat("x", 9<<20):                                            "is not one of Varlink",
		`{"parameters":{"x":"` + strings.Repeat("x", 9<<20) + "\"}}\x00":      "is not one of Varlink",
		`{"error":"org.example.DlmLock.WouldBlock","parameters":{}}` + "\x00": "it is in use",
	} {
		answer = text
		got := r.do(g, "acquire 0", "0 /img/a")
		answer = ""
		require.Regexp(t, "^error (9|87) ", got)
		require.Contains(t, got, want)
		for _, c := range p.seen() {
			conn = max(conn, c.conn)
		}
		require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a"))
		next := p.seen()[0].conn
		answered := strings.HasPrefix(text, `{"error":`)
		require.Equal(t, answered, next == conn, "only a connection that had an answer is kept: %.60s", text)
		conn = next
	}
}

// A service that says that it ends is missing, if it does not come back in time.
func TestVarlinkServiceEnds(t *testing.T) {
	ending := false
	r, p := startPeer(t, "", func(call seenCall, c net.Conn) (string, bool) {
		if ending {
			return `{"error":"org.example.DlmLock.ShuttingDown"}` + "\x00", true
		}
		return right(call, c)
	})
	r.impatient()
	g := r.guest(uuidA, "web")
	ending = true
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a"), "which is allowed here")
	calls := p.seen()
	ending = false
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a"))
	require.NotEqual(t, calls[len(calls)-1].conn, p.seen()[0].conn, "the connection is not kept")
}

// impatient has the driver give up after a second, from now on, and take a service that is
// missing for one that allows. A service that answers may need longer on a busy machine.
func (r *rig) impatient() {
	r.t.Helper()
	r.ok("init %s", r.write("qemu-dlmlock.conf",
		r.reach(overVarlink)+"on_service_missing = \"allow\"\ntimeout = 1\n"))
}

// An answer that comes byte by byte is one. A service that does not read, does not answer, answers too
// slowly, or does not accept holds up nobody longer than the timeout, and the call is withdrawn.
func TestVarlinkHangs(t *testing.T) {
	withdrawn := make(chan struct{}, 10)
	mode := "answer"
	r, p := startPeer(t, "on_service_missing = \"allow\"\ntimeout = 20\n", func(call seenCall, c net.Conn) (string, bool) {
		pause := time.Duration(0)
		switch mode {
		case "never":
			_, _ = c.Read(make([]byte, 1))
			withdrawn <- struct{}{}
			return "", false
		case "slowly":
			pause = 100 * time.Millisecond
		}
		text, _ := right(call, c)
		for i := range len(text) - 1 {
			time.Sleep(pause) // so slow that all of it takes longer than the timeout
			if _, err := c.Write([]byte{text[i]}); err != nil {
				withdrawn <- struct{}{}
				return "", false
			}
		}
		return text[len(text)-1:], true
	})
	g := r.guest(uuidA, "web")
	many := []string{}
	for i := range 60 {
		many = append(many, fmt.Sprintf("0 /img/%d/%s", i, strings.Repeat("d/", 1990)))
	}
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a"))
	require.Equal(t, "ok", r.do(g, "acquire 0", many...), "more than a socket holds")
	r.impatient()
	silent := func(resources ...string) {
		t.Helper()
		began := time.Now()
		answer := r.do(g, "acquire 0", resources...)
		t.Logf("given up after %v", time.Since(began).Round(time.Millisecond))
		require.True(t, strings.HasPrefix(answer, failed), answer)
		require.Contains(t, answer, "dlmlockd has not answered for 1 s")
	}
	for _, mode = range []string{"never", "slowly"} {
		silent("0 /img/a")
		select {
		case <-withdrawn:
		case <-time.After(patience):
			t.Fatal("the call is not withdrawn")
		}
	}
	require.NoError(t, p.listen.Close())
	p.listenWithoutAccepting(r.socket())
	silent(many...)
	for fill(t, r.socket()) {
	}
	silent("0 /img/a")
}

// listenWithoutAccepting replaces the peer by a socket whose queue holds two connections.
func (p *peer) listenWithoutAccepting(path string) {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { _ = unix.Close(s) })
	require.NoError(p.t, unix.Bind(s, &unix.SockaddrUnix{Name: path}))
	require.NoError(p.t, unix.Listen(s, 1))
}

// fill makes a connection that stays, and reports false where there is no room for it.
func fill(t *testing.T, path string) bool {
	c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(c) })
	err = unix.Connect(c, &unix.SockaddrUnix{Name: path})
	if err != unix.EAGAIN {
		require.NoError(t, err)
	}
	return err == nil
}

// With "auto" the driver goes over Varlink where somebody listens, and over D-Bus where nobody does;
// locks that were acquired one way are released the other way.
func TestAuto(t *testing.T) {
	bus := testbus.Start(t, testbus.Daemon)
	r := &rig{t: t, bus: bus, dir: t.TempDir()}
	r.connect()
	r.startDriver(bus.Address)
	r.ok("init %s", r.write("qemu-dlmlock.conf", r.reach("auto")+"timeout = 10\n"))
	g := r.guest(uuidA, "web")
	require.False(t, r.loaded("libsystemd"), "not before it is needed")
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a"))
	require.False(t, r.loaded("libsystemd"), "not where it is not needed")
	require.Len(t, r.locks(), 1)

	r.killWithVarlink(false)
	require.FileExists(t, r.socket(), "a daemon that was killed leaves its socket, where nobody listens then")
	require.Equal(t, "ok", r.do(g, "release", "0 /img/a"), "the kept connection has ended")
	require.True(t, r.loaded("libsystemd"))
	require.Empty(t, r.locks())
	require.NoError(t, os.Remove(r.socket()))
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a"), "no socket")
	require.Len(t, r.locks(), 1)

	r.killWithVarlink(true)
	require.Equal(t, "ok", r.do(g, "release", "0 /img/a"))
	require.Empty(t, r.locks())

	r.stopDaemon()
	r.ok("init %s", r.write("qemu-dlmlock.conf", r.reach("auto")+"timeout = 1\n"))
	answer := r.do(g, "acquire 0", "0 /img/a")
	require.True(t, strings.HasPrefix(answer, failed), answer)
	for _, part := range []string{"dlmlockd can't be reached on the system bus: ", "systemctl status dlmlockd",
		"over Varlink: dlmlockd can't be reached at " + r.socket() + ": Connection refused"} {
		require.Contains(t, answer, part)
	}
}

// A libsystemd that can't be loaded is one error of the calls over D-Bus, and none of those over Varlink.
func TestWithoutLibsystemd(t *testing.T) {
	r := &rig{t: t, bus: testbus.Start(t, testbus.Daemon), dir: t.TempDir()}
	r.connect()
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, "libsystemd.so.0"), nil, 0o644))
	t.Setenv("LD_LIBRARY_PATH", r.dir)
	r.startDriver(r.bus.Address)
	g := r.guest(uuidA, "web")
	for way, want := range map[string]string{overVarlink: "ok", "auto": "ok",
		overDBus: "error 9 the disks of domain 'web' can't be locked: the system bus can't be used: "} {
		r.ok("init %s", r.write("qemu-dlmlock.conf", r.reach(way)+"on_service_missing = \"allow\"\n"))
		require.Contains(t, r.do(g, "acquire 0", "0 /img/a"), want)
	}
	require.Len(t, r.locks(), 1)
	r.stopDaemon()
	r.ok("init %s", r.write("qemu-dlmlock.conf", r.reach("auto")+"timeout = 1\non_service_missing = \"allow\"\n"))
	require.Contains(t, r.do(g, "acquire 0", "0 /img/b"), "the system bus can't be used: ",
		"whether the service is missing can't be told")
}

// killWithVarlink kills the daemon and starts it again, with its socket or without.
func (r *rig) killWithVarlink(with bool) {
	require.NoError(r.t, r.daemon.Process.Signal(syscall.SIGKILL))
	r.stopDaemon()
	r.noVarlink = !with
	r.startDaemon()
}

// loaded reports whether the driver's process has a library.
func (r *rig) loaded(library string) bool {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", r.driver.Process.Pid))
	require.NoError(r.t, err)
	return strings.Contains(string(maps), library)
}
