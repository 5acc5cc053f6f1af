package wire

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func asNetError(err error, into *net.Error) bool { return errors.As(err, into) }

const hello = `{"method":"test.Echo","parameters":{"text":"hello"}}`

func TestCallsAndReplies(t *testing.T) {
	r := newRig(t)
	c := r.dial(t)
	c.send(hello)
	require.Equal(t, `{"parameters":{"text":"hello"}}`, c.receive())
	c.send(`{"method":"test.Count","parameters":{"count":2},"more":true}`)
	require.Equal(t, `{"parameters":{"n":0},"continues":true}`, c.receive())
	require.Equal(t, `{"parameters":{"n":1},"continues":true}`, c.receive())
	require.Equal(t, `{"parameters":{"n":2}}`, c.receive())
	c.send(`{"method":"test.Count","parameters":{"count":2}}`)
	require.Equal(t, `{"parameters":{"n":2}}`, c.receive(), "a caller that has not said more gets one reply")
	c.send(`{"method":"test.Fail"}`)
	require.Equal(t, `{"error":"test.Failed"}`, c.receive())
	c.send(`{"method":"test.Echo","parameters":{"text":"<&>\u2028"}}`)
	require.Equal(t, `{"parameters":{"text":"<&>\u2028"}}`, c.receive())
}

// Replies come in the order of the calls, however many come in one write, and
// oneway calls get none.
func TestPipelining(t *testing.T) {
	r := newRig(t)
	c := r.dial(t)
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, `{"method":"test.Echo","parameters":{"text":"%d"},"oneway":%v}`+"\x00", i, i%5 == 4)
	}
	go func() { _, _ = c.Write([]byte(b.String())) }()
	for i := range 5000 {
		if i%5 != 4 {
			require.Equal(t, fmt.Sprintf(`{"parameters":{"text":"%d"}}`, i), c.receive())
		}
	}
	c.send(hello)
	require.Contains(t, c.receive(), "hello")
	require.Len(t, r.h.list(), 5001)
}

// While a call waits, the death of the client is noticed at once, also behind
// more calls than are read ahead, and in the middle of a message.
func TestHangUp(t *testing.T) {
	for name, behind := range map[string]string{
		"nothing": "", "a call": hello + "\x00", "half a call": hello[:20],
		"many calls": strings.Repeat(hello+"\x00", 500),
		"long calls": strings.Repeat(`{"method":"test.Echo","parameters":{"text":"`+
			strings.Repeat("x", 30000)+`"}}`+"\x00", 6),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			c := r.dial(t)
			c.send(`{"method":"test.Wait"}`)
			r.h.await(t, "test.Wait")
			_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			_, _ = c.Write([]byte(behind)) // as much of it as there is room for
			require.NoError(t, c.Close())
			r.h.await(t, "hung up")
			r.h.await(t, "close")
			require.Equal(t, []string{"test.Wait "}, r.h.list(), "what waited behind it was dropped")
		})
	}
}

// A process that is killed hangs up as well.
func TestKilledClient(t *testing.T) {
	r := newRig(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	cmd := exec.Command("sh", "-c", `printf '{"method":"test.Wait"}\000' >&3; exec sleep 1000`)
	cmd.ExtraFiles = []*os.File{theirs}
	require.NoError(t, cmd.Start())
	require.NoError(t, theirs.Close())
	conn, err := net.FileConn(ours)
	require.NoError(t, err)
	require.NoError(t, ours.Close())
	r.Adopt(conn.(*net.UnixConn))
	r.h.await(t, "test.Wait")
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	r.h.await(t, "hung up")
	r.h.await(t, "close")
}

// oneway calls are served though the client has not waited, in their order, and
// the others are dropped.
func TestOnewayAndGone(t *testing.T) {
	r := newRig(t)
	c := r.dial(t)
	oneway := func(i int) string {
		return fmt.Sprintf(`{"method":"test.Echo","oneway":true,"parameters":{"text":"%d"}}`, i)
	}
	c.send(`{"method":"test.Wait"}`)
	r.h.await(t, "test.Wait")
	want := []string{"test.Wait "}
	var b strings.Builder
	for i := range 200 {
		b.WriteString(hello + "\x00" + oneway(i) + "\x00")
		want = append(want, fmt.Sprintf("test.Echo %d", i))
	}
	_, err := c.Write([]byte(b.String()))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	r.h.await(t, "close")
	require.Equal(t, strings.Join(want, ", "), strings.Join(r.h.list(), ", "))
}

// A call is dropped if its client was gone before the service came to it, and a oneway
// call is not.
func TestGoneBeforeItsCall(t *testing.T) {
	const oneway = `{"method":"test.Echo","parameters":{"text":"oneway"},"oneway":true}`
	r := newRig(t)
	for range 200 {
		ours, theirs := pair(t)
		_, err := ours.Write([]byte(hello + "\x00" + oneway + "\x00"))
		require.NoError(t, err)
		require.NoError(t, ours.Close())
		r.Adopt(theirs)
		r.h.await(t, "close")
	}
	require.Equal(t, slices.Repeat([]string{"test.Echo oneway"}, 200), r.h.list())
	for range 200 {
		ours, theirs := pair(t)
		_, err := ours.Write([]byte(hello + "\x00"))
		require.NoError(t, err)
		require.NoError(t, ours.Close())
		r.Adopt(theirs)
		r.h.await(t, "close")
	}
	require.Len(t, r.h.list(), 200)
}

// pair makes two sockets that are connected.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		conns[i] = conn.(*net.UnixConn)
	}
	return conns[0], conns[1]
}

// A client that has only shut down its own side gets its answers, and then the
// end; if it is gone before, that is noticed.
func TestHalfClosed(t *testing.T) {
	r := newRig(t)
	c := r.dial(t)
	c.send(hello, `{"method":"test.Wait"}`, hello)
	require.NoError(t, c.CloseWrite())
	require.Contains(t, c.receive(), "hello")
	r.h.await(t, "test.Wait")
	close(r.h.hold)
	require.Contains(t, c.receive(), `"text":""`)
	require.Contains(t, c.receive(), "hello")
	require.Equal(t, "EOF", c.receive())
	r.h.await(t, "close")
	require.Zero(t, r.h.hungUp)

	r2 := newRig(t)
	c = r2.dial(t)
	c.send(`{"method":"test.Wait"}`)
	require.NoError(t, c.CloseWrite())
	r2.h.await(t, "test.Wait")
	require.NoError(t, c.Close())
	r2.h.await(t, "hung up")
	r2.h.await(t, "close")
}

// Cut at every byte, a conversation ends without harm, and the calls before the
// cut are answered.
func TestCutAtEveryByte(t *testing.T) {
	r := newRig(t)
	talk := hello + "\x00" + `{"method":"test.Count","parameters":{"count":1},"more":true}` + "\x00" + hello + "\x00"
	for cut := range len(talk) + 1 {
		c := r.dial(t)
		_, err := c.Write([]byte(talk[:cut]))
		require.NoError(t, err)
		require.NoError(t, c.CloseWrite())
		answers := 0
		for m := c.receive(); m != "EOF"; m = c.receive() {
			answers++
		}
		want := []int{0, 1, 3, 4}[strings.Count(talk[:cut], "\x00")]
		require.Equal(t, want, answers, "cut at %d", cut)
		_ = c.Close()
	}
	for range len(talk) + 1 {
		r.h.await(t, "close")
	}
}

// A slow sender gets its answer, and holds up nobody.
func TestSlowSender(t *testing.T) {
	r := newRig(t)
	slow, quick := r.dial(t), r.dial(t)
	for i := range len(hello) {
		_, err := slow.Write([]byte{hello[i]})
		require.NoError(t, err)
		quick.send(hello)
		require.Contains(t, quick.receive(), "hello")
	}
	slow.send("")
	require.Contains(t, slow.receive(), "hello")
}

// What is no call ends the connection, after the answers to what was one.
func TestNotVarlink(t *testing.T) {
	r := newRig(t)
	began := time.Now()
	for _, bad := range []string{
		"", "GET / HTTP/1.1\r\n\r\n", `{}`,
		`{"method":"a","method":"b"}`, `{"method":"test.Echo","more":true,"oneway":true}`, "\xff",
	} {
		c := r.dial(t)
		c.send(hello + "\x00" + bad + "\x00" + hello)
		require.Contains(t, c.receive(), "hello")
		require.Equal(t, "EOF", c.receive(), bad)
		r.h.await(t, "close")
	}
	require.Contains(t, r.log.String(), "what came is not a call")
	seconds := int(time.Since(began) / time.Second)
	require.LessOrEqual(t, strings.Count(r.log.String(), "\n"), 1+seconds, "one line a second at most: %s", r.log)
}

// A message without an end costs no more than the limit, and no other user
// anything.
func TestMessageWithoutEnd(t *testing.T) {
	r := newRig(t)
	c := r.dial(t)
	part := []byte(strings.Repeat("x", 1<<20))
	sent := 0
	for range 64 {
		n, err := c.Write(part)
		if sent += n; err != nil {
			break
		}
	}
	require.Equal(t, "EOF", c.receive())
	require.Less(t, sent, 10<<20)
	r.h.await(t, "close")
	require.Contains(t, r.log.String(), "longer than 8 MiB")

	long := r.dial(t)
	text := strings.Repeat("x", MaxMessage-100)
	go long.send(`{"method":"test.Echo","parameters":{"text":"` + text + `"}}`)
	require.Len(t, long.receive(), len(text)+len(`{"parameters":{"text":""}}`))
}

// One user can't have more in memory than the limit, by whatever way.
func TestMemoryOfUser(t *testing.T) {
	r := newRig(t)
	ended := 0
	for range 10 {
		c := r.dial(t)
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := c.Write([]byte(strings.Repeat("x", 7<<20))); err != nil {
			ended++
		}
	}
	require.Positive(t, ended)
	r.mu.Lock()
	u := r.users[uint32(os.Getuid())]
	r.mu.Unlock()
	// What is too much is counted for a moment, before it is refused.
	bounded := func() bool { return u.bytes.Load() <= defaultMaxUserBytes }
	require.Eventually(t, bounded, time.Minute, time.Millisecond)
}

// Replies that nobody reads are bounded as well, and go with the client.
func TestRepliesNotRead(t *testing.T) {
	r := newRig(t)
	r.mu.Lock()
	r.maxUserBytes = 3 << 20 // long replies take the race detector long
	r.mu.Unlock()
	var clients []*client
	for range 8 {
		c := r.dial(t)
		c.send(`{"method":"test.Long","parameters":{"count":700000}}`)
		clients = append(clients, c)
	}
	for range 8 - 4 { // four fit
		r.h.await(t, "close")
	}
	for _, c := range clients {
		_ = c.Close()
	}
	for range 4 {
		r.h.await(t, "close")
	}
}

// A reader that reads nothing has its calls wait in its own socket.
func TestBackPressure(t *testing.T) {
	r := newRig(t)
	c := r.dial(t)
	_ = c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	var err error
	for range 100000 {
		if _, err = c.Write([]byte(hello + "\x00")); err != nil {
			break
		}
	}
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Less(t, len(r.h.list()), 20000)
	require.NoError(t, c.Close())
	r.h.await(t, "close")
}

func TestNotAnswered(t *testing.T) {
	r := newRig(t)
	c := r.dial(t)
	c.send(`{"method":"test.Mute"}`)
	require.Equal(t, "EOF", c.receive())
	require.Contains(t, r.log.String(), "was not answered")
}

// A call that is dropped because its client is gone is no fault, and the oneway calls
// behind it are served.
func TestDropped(t *testing.T) {
	r := newRig(t)
	c := r.dial(t)
	c.send(`{"method":"test.Drop"}`, `{"method":"test.Echo","parameters":{"text":"left behind"},"oneway":true}`)
	r.h.await(t, "test.Drop")
	require.NoError(t, c.Close())
	r.h.await(t, "close")
	require.Equal(t, []string{"test.Drop ", "test.Echo left behind"}, r.h.list())
	require.Empty(t, r.log.String())
}
