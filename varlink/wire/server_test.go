package wire

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The kernel says who has connected.
func TestPeer(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test needs root")
	}
	peers := make(chan *Conn, 1)
	r := newRig(t, func(c *Config) { c.Handler = openHook{c.Handler.(*echo), peers} })
	require.NoError(t, os.Chmod(filepath.Dir(r.path), 0o755))
	require.NoError(t, os.Chmod(filepath.Dir(filepath.Dir(r.path)), 0o755))
	require.NoError(t, os.Chmod(r.path, 0o666))
	cmd := exec.Command("/usr/bin/perl", "-MIO::Socket::UNIX", "-e",
		`$s = IO::Socket::UNIX->new($ARGV[0]) or die; <STDIN>`, r.path)
	nobody := &syscall.Credential{Uid: 65534, Gid: 65533, Groups: []uint32{7, 8, 9}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: nobody}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &(<-peers).Peer
	require.Equal(t, uint32(65534), p.UID)
	require.Equal(t, uint32(65533), p.GID)
	require.Equal(t, []uint32{7, 8, 9}, p.GIDs)
	require.Equal(t, uint32(cmd.Process.Pid), p.PID)
	require.Positive(t, p.Seen)
	start, err := p.Start()
	require.NoError(t, err, "SO_PEERPIDFD needs Linux 6.5")
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	require.NoError(t, err)
	want, err := strconv.ParseUint(strings.Fields(string(stat))[21], 10, 64)
	require.NoError(t, err)
	require.Equal(t, want, start)

	// Of a process that has ended nothing is told, whoever has its pid.
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	require.NoError(t, err)
	defer unix.Close(pidfd)
	require.NoError(t, cmd.Process.Kill())
	ended := func() bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		return n == 1
	}
	require.Eventually(t, ended, time.Minute, time.Millisecond)
	_, err = p.Start()
	require.Error(t, err)
	_ = stdin.Close()
	_ = cmd.Wait()
}

// Signals, which the runtime sends itself, and of which others are the service's own, do
// not make a peer one that has ended.
func TestPeerAmongSignals(t *testing.T) {
	peers := make(chan *Conn, 1)
	r := newRig(t, func(c *Config) { c.Handler = openHook{c.Handler.(*echo), peers} })
	r.dial(t)
	p := &(<-peers).Peer
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithCancel(t.Context())
	var signals sync.WaitGroup
	thread := unix.Gettid()
	signals.Go(func() {
		for ctx.Err() == nil {
			_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG)
		}
	})
	defer signals.Wait()
	defer cancel()
	for range 20_000 {
		_, err := p.Start()
		require.NoError(t, err)
	}
}

type openHook struct {
	*echo
	opened chan *Conn
}

func (h openHook) Open(c *Conn) { h.echo.Open(c); h.opened <- c }

func TestStartTime(t *testing.T) {
	program := filepath.Join(t.TempDir(), ") (1 2) 3")
	text, err := os.ReadFile("/bin/sleep")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(program, text, 0o755))
	cmd := exec.Command(program, "1000")
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	require.NoError(t, err)
	require.Contains(t, string(stat), ") (1 2) 3")
	got, err := startTime(uint32(cmd.Process.Pid))
	require.NoError(t, err)
	require.Equal(t, strings.Fields(string(stat)[strings.LastIndex(string(stat), ")"):])[20], fmt.Sprint(got))
}

// Descriptors never arrive, and nothing leaks of them.
func TestDescriptorsRefused(t *testing.T) {
	r := newRig(t)
	c := r.dial(t)
	c.send(hello)
	require.Contains(t, c.receive(), "hello")
	before := openFiles(t)
	refused := 0
	for range 100 {
		f, err := os.Open("/dev/null")
		require.NoError(t, err)
		rights := unix.UnixRights(int(f.Fd()), int(f.Fd()))
		_, _, err = c.WriteMsgUnix([]byte(hello+"\x00"), rights, nil)
		_ = f.Close()
		if err != nil { // Linux 6.16
			require.ErrorIs(t, err, unix.EPERM)
			refused++
			continue
		}
		require.Contains(t, c.receive(), "hello")
	}
	require.Contains(t, []int{0, 100}, refused)
	require.LessOrEqual(t, openFiles(t), before)
	c.send(hello)
	require.Contains(t, c.receive(), "hello", "the connection goes on")
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

// A reply can have a descriptor, and the service's end of a pipe tells how long
// somebody has it.
func TestReplyFile(t *testing.T) {
	pr, pw, err := os.Pipe()
	require.NoError(t, err)
	defer pr.Close()
	r := newRig(t, func(c *Config) { c.Handler = fileHandler{c.Handler.(*echo), pw} })
	c := r.dial(t)
	c.send(hello)
	text, oob := make([]byte, 1000), make([]byte, 1000)
	n, m, _, _, err := c.ReadMsgUnix(text, oob)
	require.NoError(t, err)
	require.Equal(t, `{"parameters":{"descriptor":0}}`+"\x00", string(text[:n]))
	messages, err := unix.ParseSocketControlMessage(oob[:m])
	require.NoError(t, err)
	fds, err := unix.ParseUnixRights(&messages[0])
	require.NoError(t, err)
	require.Len(t, fds, 1)
	require.NoError(t, pw.Close())
	require.NoError(t, pr.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = pr.Read(text)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the client has it")
	require.NoError(t, unix.Close(fds[0]))
	require.NoError(t, pr.SetReadDeadline(time.Time{}))
	_, err = pr.Read(text)
	require.Error(t, err)
}

type fileHandler struct {
	*echo
	f *os.File
}

func (h fileHandler) Serve(_ context.Context, c *Call) {
	_, _ = c.ReplyFile(map[string]int{"descriptor": 0}, h.f)
}

// Of each user there are only so many connections; root has room of its own.
func TestConnectionLimits(t *testing.T) {
	s := New(Config{Handler: newEcho(), MaxConnections: 5, MaxPerUser: 3})
	conn := func(uid uint32) *Conn {
		c := &Conn{srv: s, Peer: Peer{UID: uid}}
		c.wake.L = &c.mu
		return c
	}
	var in []*Conn
	try := func(uid uint32, ok bool, says string) {
		t.Helper()
		c := conn(uid)
		err := s.admit(c)
		if !ok {
			require.ErrorContains(t, err, says)
			return
		}
		require.NoError(t, err)
		require.EqualValues(t, len(in)+1, c.ID)
		in = append(in, c)
	}
	for range 3 {
		try(1, true, "")
	}
	try(1, false, "user 1 has 3 connections")
	try(2, true, "")
	try(3, true, "")
	try(4, false, "there are 5 connections")
	for range 5 {
		try(0, true, "")
	}
	try(0, false, "root has 5")
	s.forget(in[0])
	in = in[1:]
	in = append(in, nil)
	require.NoError(t, s.admit(conn(4)))
}

// A user can't open more connections than so many a second, except for root, and
// has no new credit for coming again.
func TestConnectionRate(t *testing.T) {
	s := New(Config{Handler: newEcho()})
	try := func(uid uint32) error {
		c := &Conn{srv: s, Peer: Peer{UID: uid}}
		err := s.admit(c)
		if err == nil {
			s.forget(c)
		}
		return err
	}
	s.mu.Lock()
	u := s.user(1, time.Now())
	u.credit, u.at = 1.5, time.Now().Add(time.Hour)
	s.mu.Unlock()
	require.NoError(t, try(1))
	require.ErrorContains(t, try(1), "user 1 opens more than 500 connections a second")
	require.NoError(t, try(2))
	for range connectionBurst + 1 {
		require.NoError(t, try(0))
	}
	now := time.Now()
	idle := user{at: now}
	idle.grow(now.Add(time.Second))
	require.InDelta(t, connectionsPerSecond, idle.credit, 1)
	idle.grow(now.Add(time.Hour))
	require.EqualValues(t, connectionBurst, idle.credit)
	for uid := range uint32(2 * maxIdleUsers) {
		_ = try(uid)
	}
	require.Contains(t, s.users, uint32(1))
}

// Ten thousand connections that come and go leave nothing behind.
func TestManyConnections(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxConnections = 500 })
	before := openFiles(t)
	other := r.dial(t)
	var held []int
	for i := range 10000 {
		// It blocks while the backlog is full.
		c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Connect(c, &unix.SockaddrUnix{Name: r.path}))
		if held = append(held, c); len(held) == 1000 { // half of them are refused
			for _, c := range held {
				_ = unix.Close(c)
			}
			held = held[:0]
		}
		if i%1000 == 500 {
			other.send(hello)
			require.Contains(t, other.receive(), "hello")
		}
	}
	require.Eventually(t, func() bool { return r.Connections() == 1 }, time.Minute, 5*time.Millisecond)
	_ = other.Close()
	none := func() bool { return r.Connections() == 0 && openFiles(t) <= before }
	require.Eventually(t, none, time.Minute, 5*time.Millisecond)
}

// Shutdown lets the calls end that are being served, and no longer than its
// context.
func TestShutdown(t *testing.T) {
	r := newRig(t)
	idle, busy := r.dial(t), r.dial(t)
	busy.send(`{"method":"test.Wait"}`, hello)
	r.h.await(t, "test.Wait")
	idle.send(hello)
	require.Contains(t, idle.receive(), "hello")
	done := make(chan error)
	go func() { done <- r.Shutdown(t.Context()) }()
	require.Equal(t, "EOF", idle.receive())
	_, err := net.Dial("unix", r.path)
	require.Error(t, err)
	require.Eventually(t, r.allClosing, time.Minute, time.Millisecond)
	close(r.h.hold)
	require.Contains(t, busy.receive(), "text")
	require.Equal(t, "EOF", busy.receive())
	require.NoError(t, <-done)

	r = newRig(t)
	busy = r.dial(t)
	busy.send(`{"method":"test.Wait"}`)
	r.h.await(t, "test.Wait")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, r.Shutdown(ctx), context.Canceled)
	require.Zero(t, r.Connections())
}

// allClosing reports whether Shutdown has come to every connection that is left.
func (r *rig) allClosing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.mu.Lock()
		closing := c.closing
		c.mu.Unlock()
		if !closing {
			return false
		}
	}
	return true
}

const long = `{"method":"test.Long","parameters":{"count":2000000}}`

// blocked waits until that many connections wait for their client to read.
func (r *rig) blocked(t *testing.T, want int) {
	t.Helper()
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		n := 0
		for c := range r.conns {
			c.mu.Lock()
			if c.sending.active && c.unread() > 0 {
				n++
			}
			c.mu.Unlock()
		}
		return n == want
	}, time.Minute, time.Millisecond)
}

// Shutdown does not wait for clients that do not read, or hardly.
func TestShutdownUnread(t *testing.T) {
	r := newRig(t)
	mute, slow := r.dial(t), r.dial(t)
	mute.send(long)
	slow.send(long)
	r.blocked(t, 2)
	took := make(chan time.Duration)
	go func() {
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		assert.NoError(t, r.Shutdown(ctx))
		took <- time.Since(began)
	}()
	ended := make(chan struct{})
	go func() { // it takes less than a reply in all the time that it has
		defer close(ended)
		for {
			time.Sleep(defaultUnreadTime / 4)
			if _, err := io.ReadFull(slow, make([]byte, 50_000)); err != nil {
				return
			}
		}
	}()
	t.Logf("it took %v", <-took)
	<-ended
}

// Shutdown waits for a client that reads its reply.
func TestShutdownWhileOneReads(t *testing.T) {
	r := newRig(t)
	r.mu.Lock()
	r.unreadTime, r.maxUnreadTime = time.Minute, time.Minute // however seldom this process runs
	r.mu.Unlock()
	reader := r.dial(t)
	reader.send(long)
	r.blocked(t, 1)
	done := make(chan error)
	go func() { done <- r.Shutdown(context.Background()) }()
	require.Eventually(t, r.allClosing, time.Minute, time.Millisecond)
	require.Len(t, reader.receive(), 2_000_000+len(`{"parameters":{"text":""}}`))
	require.Equal(t, "EOF", reader.receive())
	require.NoError(t, <-done)
}

// Where descriptors run out, the server waits for some and goes on.
func TestScarcity(t *testing.T) {
	require.True(t, IsScarcity(&net.OpError{Err: os.NewSyscallError("accept4", unix.EMFILE)}))
	require.False(t, IsScarcity(&net.OpError{Err: os.NewSyscallError("accept4", unix.EINVAL)}))
}

// Whatever comes, in however many pieces, the server answers what are calls in
// their order, and ends.
func FuzzConversation(f *testing.F) {
	f.Add([]byte(hello+"\x00"+hello+"\x00"), uint16(7))
	f.Add([]byte(`{"method":"test.Count","parameters":{"count":3},"more":true}`+"\x00"+
		`{"method":"test.Echo","oneway":true}`+"\x00"), uint16(1))
	f.Add([]byte("\x00\x00\x00"), uint16(1))
	f.Add([]byte(`{"method":"test.Echo","parameters":{"count":null,"text":"\u0041"}}`+"\x00{"), uint16(30))
	r := newRig(f)
	f.Fuzz(func(t *testing.T, talk []byte, piece uint16) {
		if strings.Contains(string(talk), "count") && len(talk) > 200 {
			return // very many replies
		}
		want := expected(talk)
		if want >= tooMuch {
			return
		}
		c := r.dial(t)
		go func() {
			for rest := talk; len(rest) > 0; {
				n := min(len(rest), int(piece)%len(rest)+1)
				if _, err := c.Write(rest[:n]); err != nil {
					break
				}
				rest = rest[n:]
			}
			_ = c.CloseWrite()
		}()
		got := 0
		for m := c.receive(); m != "EOF"; m = c.receive() {
			got++
		}
		require.Equal(t, want, got)
	})
}

// tooMuch is expected where a call has no end, or is too much for a test.
const tooMuch = 10_000

// expected is how many messages come back.
func expected(talk []byte) (n int) {
	parts := strings.Split(string(talk), "\x00")
	for _, text := range parts[:len(parts)-1] {
		e, err := parseCall([]byte(text))
		if err != nil {
			return n
		}
		var in struct {
			Text  *string `json:"text"`
			Count *int64  `json:"count"`
		}
		err = Decode(e.parameters, &in)
		// A name may be written with escapes, so the parsed name counts.
		endless := slices.Contains([]string{"test.Wait", "test.Drop", "test.Long"}, e.method)
		uncounted := e.method == "test.Count" && (in.Count == nil || *in.Count > 1000)
		switch {
		case err == nil && (endless || uncounted):
			return tooMuch
		case e.oneway:
		case err == nil && e.method == "test.Mute":
			return n
		case err == nil && e.method == "test.Count":
			if n++; e.more {
				n += int(max(*in.Count, 0))
			}
		default:
			n++
		}
	}
	return n
}
