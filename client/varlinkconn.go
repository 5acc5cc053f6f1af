package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// varlinkPool are the connections to a Varlink socket. A connection has one call at a
// time, so there are as many as there are calls at once, and some are kept for the next
// calls. They are made when they are needed, so the pool outlives the service.
type varlinkPool struct {
	path string
	life context.Context // ends with close
	end  context.CancelFunc

	mu   sync.Mutex
	idle []*varlinkConn // the one that was used last comes last
	// sweep closes those that have not been used for idleTime; nil: it is not set.
	sweep *time.Timer
	// keep are connections to which locks are tied, until close.
	keep []*varlinkConn
}

// maxIdle is how many connections without a call are kept, and idleTime how long: the service
// limits how many connections a user has.
const (
	maxIdle  = 4
	idleTime = 5 * time.Second
)

// maxReply is how long a reply may be. The service's are much shorter.
const maxReply = 64 << 20

// varlinkConn is one connection. One goroutine uses it at a time.
type varlinkConn struct {
	sock *net.UnixConn
	r    *bufio.Reader
	used time.Time // when the last call was answered
	// The end of a context has closed the socket, or is about to, though the call was answered.
	cut bool
}

// varlinkReply is a reply as it comes.
type varlinkReply struct {
	Parameters json.RawMessage `json:"parameters"`
	Continues  bool            `json:"continues"`
	Error      string          `json:"error"`
}

// busyPause is how long to wait for a service whose queue of connections is full.
const busyPause = 20 * time.Millisecond

// dial makes a connection. For a unix socket, EAGAIN means that the queue of connections that
// are not accepted yet is full (unix(7)); poll can't wait for that.
func (p *varlinkPool) dial(ctx context.Context) (*varlinkConn, error) {
	for {
		sock, err := new(net.Dialer).DialContext(ctx, "unix", p.path)
		if err == nil {
			return &varlinkConn{sock: sock.(*net.UnixConn), r: bufio.NewReader(sock)}, nil
		}
		if !errors.Is(err, unix.EAGAIN) || ctx.Err() != nil {
			return nil, &dialError{p.path, err}
		}
		select {
		case <-ctx.Done():
		case <-time.After(busyPause):
		}
	}
}

// dialError is the error of a connection that could not be made: no call has begun.
type dialError struct {
	path string
	err  error
}

func (e *dialError) Error() string {
	return fmt.Sprintf("can't connect to the service at %s: %v", e.path, e.err)
}
func (e *dialError) Unwrap() error { return e.err }

// get returns a connection that nobody uses.
func (p *varlinkPool) get(ctx context.Context) (*varlinkConn, error) {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 || p.life.Err() != nil {
			p.mu.Unlock()
			if p.life.Err() != nil {
				return nil, net.ErrClosed
			}
			return p.dial(ctx)
		}
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if c.alive() {
			return c, nil
		}
		_ = c.sock.Close()
	}
}

// alive reports whether nothing has come on a connection without a call, not even its
// end: the service closes connections when it stops. If it does so just after this check, the
// call fails as if the service had died during it.
func (c *varlinkConn) alive() bool {
	raw, err := c.sock.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	cerr := raw.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		quiet = n == 0 && err == nil || errors.Is(err, unix.EINTR) // a signal came, and nothing else
	})
	return cerr == nil && quiet && c.r.Buffered() == 0
}

// put gives a connection back whose call has been answered.
func (p *varlinkPool) put(c *varlinkConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.cut || p.life.Err() != nil || len(p.idle) >= maxIdle {
		_ = c.sock.Close()
		return
	}
	c.used = time.Now()
	p.idle = append(p.idle, c)
	if p.sweep == nil {
		p.sweep = time.AfterFunc(idleTime, p.closeUnused)
	}
}

// closeUnused closes the connections that have not been used for idleTime.
func (p *varlinkPool) closeUnused() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.idle) > 0 && time.Since(p.idle[0].used) >= idleTime {
		_ = p.idle[0].sock.Close()
		p.idle = p.idle[1:]
	}
	if p.sweep = nil; len(p.idle) > 0 {
		p.sweep = time.AfterFunc(idleTime-time.Since(p.idle[0].used), p.closeUnused)
	}
}

// hold keeps a connection open until close.
func (p *varlinkPool) hold(c *varlinkConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life.Err() != nil {
		_ = c.sock.Close()
		return
	}
	p.keep = append(p.keep, c)
}

func (p *varlinkPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
	for _, c := range append(p.idle, p.keep...) {
		_ = c.sock.Close()
	}
	p.idle, p.keep = nil, nil
	if p.sweep != nil {
		p.sweep.Stop()
	}
}

// exchange sends a call and gives each reply to next, until the last one or until next
// returns an error. The end of ctx, or of the pool, closes the connection, which
// withdraws the call.
func (p *varlinkPool) exchange(ctx context.Context, c *varlinkConn, method string, parameters any, more bool,
	next func(*varlinkReply) error) error {
	stop := context.AfterFunc(ctx, func() { _ = c.sock.Close() })
	defer func() { c.cut = !stop() }()
	defer context.AfterFunc(p.life, func() { _ = c.sock.Close() })()
	if err := c.send(method, parameters, more); err != nil {
		return errors.Join(err, ctx.Err())
	}
	for {
		r, err := c.receive()
		if err != nil {
			return errors.Join(err, ctx.Err())
		}
		if err := next(r); err != nil || !r.Continues {
			return err
		}
	}
}

func (c *varlinkConn) send(method string, parameters any, more bool) error {
	text, err := json.Marshal(struct {
		Method     string `json:"method"`
		Parameters any    `json:"parameters,omitempty"`
		More       bool   `json:"more,omitempty"`
	}{method, parameters, more})
	if err != nil {
		return err
	}
	_, err = c.sock.Write(append(text, 0))
	return err
}

// receive reads one reply. A newer service may have more fields than are known here.
func (c *varlinkConn) receive() (*varlinkReply, error) {
	var text []byte
	for {
		part, err := c.r.ReadSlice(0)
		text = append(text, part...)
		switch {
		case err == nil:
			r := new(varlinkReply)
			if err := json.Unmarshal(text[:len(text)-1], r); err != nil {
				return nil, fmt.Errorf("the reply: %w", err)
			}
			return r, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(text) > maxReply:
			return nil, errors.New("the reply is too long")
		}
	}
}

// carriable reports whether a string can go over Varlink as it is: JSON is UTF-8, and
// the service takes no U+0000.
func carriable(s string) bool { return utf8.ValidString(s) && bytes.IndexByte([]byte(s), 0) < 0 }

// isCut reports whether an error means that the connection has ended.
func isCut(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)
}
