package wire

import (
	"bufio"
	"net"
	"os"
	"sync"
	"testing"

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
