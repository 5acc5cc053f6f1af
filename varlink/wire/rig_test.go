package wire

import (
	"bufio"
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// echo is a Handler: test.Echo answers its text, test.Wait waits until the
// client is gone, or until hold is closed, test.Count sends as many replies as asked for, test.Mute does not
// answer, test.Drop drops the call when the client is gone, test.Long answers very much, test.Fail fails.
type echo struct {
	hold chan struct{}

	mu     sync.Mutex
	served []string
	opened int
	hungUp int
	closed int
	events chan string
}

func newEcho() *echo { return &echo{hold: make(chan struct{}), events: make(chan string, 1000)} }

func (h *echo) Open(*Conn) { h.count(&h.opened, "open") }

func (h *echo) HungUp(*Conn) { h.count(&h.hungUp, "hung up") }

func (h *echo) Close(*Conn) { h.count(&h.closed, "close") }

func (h *echo) count(n *int, event string) {
	h.mu.Lock()
	*n++
	h.mu.Unlock()
	h.tell(event)
}

func (h *echo) tell(event string) {
	select {
	case h.events <- event:
	default:
	}
}

func (h *echo) Serve(ctx context.Context, c *Call) {
	var in struct {
		Text  *string `json:"text"`
		Count *int64  `json:"count"`
	}
	if err := Decode(c.Parameters, &in); err != nil {
		_, _ = c.Fail("test.Invalid", map[string]string{"message": err.Error()})
		return
	}
	text := ""
	if in.Text != nil {
		text = *in.Text
	}
	h.mu.Lock()
	h.served = append(h.served, c.Method+" "+text)
	h.mu.Unlock()
	h.tell(c.Method)
	switch c.Method {
	case "test.Wait":
		c.Wait()
		select {
		case <-ctx.Done():
		case <-h.hold:
		}
		_, _ = c.Reply(map[string]string{"text": text})
	case "test.Count":
		for i := range *in.Count {
			if i%2 == 0 {
				_, _ = c.Stage(map[string]int64{"n": i})
			} else {
				_, _ = c.Continue(map[string]int64{"n": i})
			}
		}
		_, _ = c.Reply(map[string]int64{"n": *in.Count})
	case "test.Long":
		_, _ = c.Reply(map[string]string{"text": string(bytes.Repeat([]byte("x"), int(*in.Count)))})
	case "test.Mute":
	case "test.Drop":
		c.Wait()
		<-ctx.Done()
		c.Drop()
	case "test.Fail":
		_, _ = c.Fail("test.Failed", nil)
	default:
		_, _ = c.Reply(map[string]string{"text": text})
	}
}

// list returns what was served, in order.
func (h *echo) list() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.served...)
}

// await reads events until one is want.
func (h *echo) await(t testing.TB, want string) {
	t.Helper()
	for end := time.After(time.Minute); ; {
		select {
		case e := <-h.events:
			if e == want {
				return
			}
		case <-end:
			t.Fatalf("no %q", want)
		}
	}
}

// rig is a server on a socket.
type rig struct {
	*Server
	h    *echo
	path string
	log  *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newRig(t testing.TB, change ...func(*Config)) *rig {
	r := &rig{h: newEcho(), path: filepath.Join(t.TempDir(), "s"), log: new(syncBuffer)}
	cfg := Config{Handler: r.h, Log: slog.New(slog.NewTextHandler(r.log, nil))}
	for _, c := range change {
		c(&cfg)
	}
	r.Server = New(cfg)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.path, Net: "unix"})
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- r.Server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = r.Shutdown(ctx)
		require.NoError(t, <-done)
		require.Zero(t, r.Connections())
		for _, u := range r.users {
			require.Zero(t, u.conns)
			require.Zero(t, u.bytes.Load())
		}
	})
	return r
}

// client is the other end.
type client struct {
	*net.UnixConn
	t testing.TB
	r *bufio.Reader
}

func (r *rig) dial(t testing.TB) *client {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: r.path, Net: "unix"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return &client{c, t, bufio.NewReader(c)}
}

func (c *client) send(messages ...string) {
	c.t.Helper()
	for _, m := range messages {
		_, err := c.Write(append([]byte(m), 0))
		require.NoError(c.t, err)
	}
}

// receive returns a message, or "EOF".
func (c *client) receive() string {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	m, err := c.r.ReadString(0)
	if err != nil {
		var ne net.Error
		if ok := asNetError(err, &ne); ok && ne.Timeout() {
			c.t.Fatal("no message")
		}
		require.Empty(c.t, m)
		return "EOF"
	}
	return m[:len(m)-1]
}
