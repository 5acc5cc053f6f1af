package wire

import (
	"bufio"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A user who opens many connections delays only itself, and root comes before the others.
func TestArrivalsTakeTurns(t *testing.T) {
	a := newArrivals()
	var turns []uint32
	for range 5 {
		a.put(arrival{uid: 1})
	}
	for range 2 {
		a.put(arrival{uid: 2})
	}
	a.put(arrival{uid: 0})
	take := func() {
		c, ok := a.take()
		require.True(t, ok)
		turns = append(turns, c.uid)
	}
	take()
	take()
	a.put(arrival{uid: 0})
	for range 4 {
		take()
	}
	a.put(arrival{uid: 3})
	a.end()
	for range 4 {
		take()
	}
	require.Equal(t, []uint32{0, 1, 0, 2, 1, 2, 1, 3, 1, 1}, turns)
	_, ok := a.take()
	require.False(t, ok)
}

// connectAndWait connects as most programs do: where the kernel's queue is full, it waits.
func connectAndWait(t testing.TB, path string) net.Conn {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Connect(fd, &unix.SockaddrUnix{Name: path}))
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	c, err := net.FileConn(f)
	require.NoError(t, err)
	return c
}

// More clients than fit into the kernel's queue are all served.
func TestManyArriveAtOnce(t *testing.T) {
	r := newRig(t)
	var all sync.WaitGroup
	answers := make(chan string, 2*backlog)
	for range 2 * backlog {
		all.Go(func() {
			c := connectAndWait(t, r.path)
			defer c.Close()
			_, _ = c.Write([]byte(`{"method":"test.Echo","parameters":{"text":"x"}}` + "\x00"))
			answer, _ := bufio.NewReader(c).ReadString(0)
			answers <- answer
		})
	}
	all.Wait()
	for range 2 * backlog {
		require.Equal(t, `{"parameters":{"text":"x"}}`+"\x00", <-answers)
	}
}

// Connections that have arrived when the server ends are closed, and none is left counted in.
func TestArrivalsAtTheEnd(t *testing.T) {
	r := newRig(t)
	a := newArrivals()
	u, err := r.enter(7, false)
	require.NoError(t, err)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(pair[0])
	a.put(arrival{pair[1], 7, u})
	r.mu.Lock()
	r.ending = true
	r.mu.Unlock()
	a.end()
	r.startArrivals(a)
	n, err := unix.Read(pair[0], make([]byte, 1))
	require.NoError(t, err)
	require.Zero(t, n)
	require.Zero(t, u.conns)
}

// A socket that systemd keeps has room for all clients while no service accepts connections, also
// after one that had made its queue shorter.
func TestQueueOutlivesTheServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	kept, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	defer kept.Close()
	waits := func(n int) (err error) { // a connect(2) that does not wait fails where the queue is full
		for range n {
			c, derr := net.Dial("unix", path)
			if derr != nil {
				return derr
			}
			defer c.Close()
		}
		return nil
	}
	drain := func() {
		require.NoError(t, kept.SetDeadline(time.Now()))
		for c, err := kept.Accept(); err == nil; c, err = kept.Accept() {
			_ = c.Close()
		}
	}
	s := New(Config{Handler: newEcho()})
	l := copyOf(t, kept)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	c, err := net.Dial("unix", path)
	require.NoError(t, err)
	_, err = c.Write([]byte(`{"method":"test.Echo","parameters":{"text":"x"}}` + "\x00"))
	require.NoError(t, err)
	_, err = bufio.NewReader(c).ReadString(0)
	require.NoError(t, err)
	_ = c.Close()
	require.NoError(t, s.Shutdown(t.Context()))
	require.NoError(t, <-done)
	require.NoError(t, waits(2*backlog), "after a service that has ended in order")
	drain()
	// One that is killed leaves the short queue behind.
	require.NoError(t, setQueue(kept, backlog))
	require.ErrorIs(t, waits(2*backlog), unix.EAGAIN)
	drain()
	require.NoError(t, LengthenQueue(kept))
	require.NoError(t, waits(2*backlog), "in the next start")
}

// copyOf is the listener that a service has of a socket which stays open elsewhere.
func copyOf(t *testing.T, kept *net.UnixListener) *net.UnixListener {
	f, err := kept.File()
	require.NoError(t, err)
	defer f.Close()
	l, err := net.FileListener(f)
	require.NoError(t, err)
	return l.(*net.UnixListener)
}

// A server that ends just as it begins to serve does so without an error.
func TestServeAtTheEnd(t *testing.T) {
	for range 200 {
		s := New(Config{Handler: newEcho()})
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() { done <- s.Serve(l) }()
		require.NoError(t, s.Shutdown(t.Context()))
		require.NoError(t, <-done)
	}
}
