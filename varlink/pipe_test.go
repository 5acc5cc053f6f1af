package varlink

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// dialFull connects with no room for replies: they are written once the client has
// read as many bytes as dialFull returns.
func (r *rig) dialFull() (c *client, filled int) {
	r.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	require.NoError(r.t, err)
	conns := make([]*net.UnixConn, 2)
	for i := range pair {
		f := os.NewFile(uintptr(pair[i]), "pair")
		conn, err := net.FileConn(f)
		require.NoError(r.t, err)
		conns[i] = conn.(*net.UnixConn)
		defer f.Close()
	}
	for err == nil {
		var n int
		n, err = unix.Write(pair[1], make([]byte, 1000))
		filled += max(n, 0)
	}
	require.ErrorIs(r.t, err, unix.EAGAIN)
	r.door.Adopt(conns[1])
	r.t.Cleanup(func() { _ = conns[0].Close() })
	return &client{conns[0], r.t, nil}, filled
}

// events waits until poll(2) reports something about the descriptor, or the time
// has passed.
func events(t *testing.T, fd int, patience time.Duration) int16 {
	t.Helper()
	poll := []unix.PollFd{{Fd: int32(fd)}}
	for end := time.Now().Add(patience); ; {
		_, err := unix.Poll(poll, int(max(0, time.Until(end)).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue // a signal, as the runtime sends itself (runtime/preempt.go)
		}
		require.NoError(t, err)
		return poll[0].Revents
	}
}

// requireOver checks that a holder sees that the lock is not theirs any more.
func requireOver(t *testing.T, fd int) {
	t.Helper()
	require.NotZero(t, events(t, fd, patience)&unix.POLLERR, "the descriptor says nothing")
	_, err := unix.Write(fd, []byte("x"))
	require.ErrorIs(t, err, unix.EPIPE)
	require.NoError(t, unix.Close(fd))
}

// acquireFile acquires a lock of lifetime descriptor.
func (c *client) acquireFile(t *testing.T, parameters string) int {
	t.Helper()
	c.send("Acquire", parameters, "")
	return c.receiveFile(t)
}

// A lock that is lost after its grant, and before the reply is written: the
// descriptor says so.
func TestDescriptorOfALockLostAtOnce(t *testing.T) {
	r := newRig(t, rigConfig{})
	c, filled := r.dialFull()
	c.send("Acquire", byDescriptor, "")
	require.Eventually(t, func() bool { return r.held("disk1") }, patience, time.Millisecond)
	r.dial().ok("LeaveLockspace", `{"lockspace":"vms","force":true}`)
	_, err := io.ReadFull(c, make([]byte, filled))
	require.NoError(t, err)
	requireOver(t, c.receiveFile(t))
	require.NoError(t, c.Close())
	require.Eventually(t, func() bool { return r.door.piped() == 0 }, patience, time.Millisecond)
}

// piped is how many locks with a descriptor there are.
func (d *Door) piped() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.pipes)
}

// A client that never reads the reply leaves nothing behind.
func TestDescriptorThatIsNotTaken(t *testing.T) {
	r := newRig(t, rigConfig{})
	c, _ := r.dialFull()
	c.send("Acquire", byDescriptor, "")
	require.Eventually(t, func() bool { return r.door.piped() == 1 }, patience, time.Millisecond)
	require.NoError(t, c.Close())
	r.free("disk1")
	require.Eventually(t, func() bool { return r.door.piped() == 0 }, patience, time.Millisecond)
}

// A lock that its owner asks for again hangs on the last descriptor, or the last
// connection, alone.
func TestDescriptorMoves(t *testing.T) {
	r := newRig(t, rigConfig{})
	owned := with(`"lifetime":"descriptor","owner":"o"`)
	first := r.dial().acquireFile(t, owned)
	second := r.dial().acquireFile(t, owned)
	requireOver(t, first)
	require.Zero(t, events(t, second, 0))
	r.dial().fails("WouldBlock", "Acquire", disk)

	plain := r.dial()
	plain.ok("Acquire", with(`"lifetime":"connection","owner":"o"`))
	requireOver(t, second)
	third := r.dial().acquireFile(t, owned)
	many := r.dial()
	many.ok("AcquireMany", `{"wanted":[{"lockspace":"vms","resource":"disk1","mode":"ex"}],
		"lifetime":"connection","owner":"o"}`)
	requireOver(t, third)
	require.NoError(t, plain.Close())
	r.dial().fails("WouldBlock", "Acquire", disk)

	last := r.dial().acquireFile(t, owned)
	require.NoError(t, many.Close())
	require.Zero(t, events(t, last, 0))
	require.NoError(t, unix.Close(last))
	r.free("disk1")
}

// A lock that somebody else releases: the descriptor says so.
func TestDescriptorOfALockReleasedByOthers(t *testing.T) {
	r := newRig(t, rigConfig{})
	fd := r.dial().acquireFile(t, byDescriptor)
	r.dial().ok("Release", `{"lockspace":"vms","resource":"disk1"}`)
	requireOver(t, fd)
}
