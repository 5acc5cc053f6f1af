package wire

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// firstBuffer is what a connection reads into at first.
	firstBuffer = 2 << 10
	// maxQueue and maxQueueBytes are how many calls, and how many bytes of them,
	// are read ahead while one is being served. The rest waits in the socket, where it
	// holds up its sender.
	maxQueue      = 32
	maxQueueBytes = 64 << 10
)

// Conn is one connection. Two goroutines belong to it, read and serve; read may serve a
// call itself while nothing else is to be done (takeOver), which saves a hand-over for
// each call of a client that calls, waits and calls again.
type Conn struct {
	ID   uint64 // its number; never reused
	Peer Peer
	// Data is the Handler's own.
	Data any
	// Restored is what Restore was given; nil: the connection is a new one.
	Restored any

	srv  *Server
	user *user           // set by admit
	sock *net.UnixConn   // its deadlines are used to interrupt, not to limit
	raw  syscall.RawConn // of sock

	ctx    context.Context // ends when the client is gone
	cancel context.CancelFunc
	ended  chan struct{} // closed by read

	mu sync.Mutex // guards the rest
	callQueue
	closing bool // the service ends
	closed  bool // serve has come to its end
	// The reader that serves a call itself, until it is relieved.
	inline  *messageReader
	gone    bool // the Handler knows that the client is gone
	sending sending
	keeping keeping
}

// callQueue is what read has read ahead and serve has yet to serve, in the order in which it came.
// Both goroutines of a connection wait at it: serve for calls, read for room.
type callQueue struct {
	wake   sync.Cond // of serve: queue, eof or closing has changed
	room   sync.Cond // of read, when the client is gone: there is room in the queue
	queue  []*Call
	queued int   // bytes of them
	paused bool  // read waits for room in the queue
	eof    bool  // nothing comes any more
	broken error // why: what came is not Varlink
	// A call is being served, by either of them.
	serving bool
	over    bool // a call that read has served is the last one
}

// newConn makes a Conn that is not yet counted (admit) and has no goroutines (start).
func newConn(s *Server, sock *net.UnixConn) (*Conn, error) {
	c := &Conn{srv: s, sock: sock, ended: make(chan struct{})}
	c.wake.L, c.room.L = &c.mu, &c.mu
	var err error
	if c.raw, err = sock.SyscallConn(); err != nil {
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	c.Peer, err = readPeer(c.raw)
	return c, err
}

// Done is closed when the client is gone.
func (c *Conn) Done() <-chan struct{} { return c.ctx.Done() }

// read takes calls off the socket until nothing comes any more, and then waits
// for the end of the connection. A call that nothing is in front of, and nothing behind,
// it serves itself; if that call has to wait, another goroutine reads on.
func (c *Conn) read(r *messageReader) {
	err := r.run()
	if errors.Is(err, errRelieved) {
		return
	}
	defer close(c.ended)
	r.release()
	c.stopReading(err)
	// A client that has only shut down its own side gets its answers.
	if !c.isGone() && c.awaitHangup() {
		c.hangUp()
	}
}

// hangUp ends the calls of a client that is gone.
func (c *Conn) hangUp() {
	c.mu.Lock()
	c.gone = true
	c.mu.Unlock()
	c.srv.cfg.Handler.HungUp(c)
	c.cancel()
}

// noticeHangup reports whether the client is gone, for serve, which has to notice it
// before read does: then what is left of the queue is seen to, and no ordinary
// call is served any more.
func (c *Conn) noticeHangup() (gone bool) {
	_ = c.raw.Control(func(fd uintptr) { gone = hungUp(fd) })
	if gone {
		c.cancel()
	}
	return gone
}

func (c *Conn) isGone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

// stopReading has serve come to an end when the queue is empty. A broken message is the
// last thing that is read: where the next one begins can't be relied on.
func (c *Conn) stopReading(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.eof, c.broken = true, err
	c.wake.Signal()
}

// hungUp reports whether the client is gone: both directions are shut. A unix socket
// reports POLLHUP then (unix_poll, net/unix/af_unix.c), and POLLERR after a reset.
func hungUp(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	_, err := unix.Poll(p, 0)
	return err == nil && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}

// awaitHangup waits until the client is gone; false: the service has closed the
// connection, or there may be room in the queue again. It reads nothing: the runtime's
// poller calls hungUp whenever something about the socket has changed.
func (c *Conn) awaitHangup() bool {
	return c.raw.Read(hungUp) == nil
}

// push puts a call into the queue and waits until there is room for another;
// false: the connection is closed. The wait is one for a hang-up, so that the death of a
// client that has sent many calls is noticed, too; a deadline in the past ends it (resume).
func (c *Conn) push(call *Call) bool {
	c.mu.Lock()
	c.queue = append(c.queue, call)
	c.queued += call.size
	c.remark()
	c.wake.Signal()
	for c.full() && !c.closed {
		c.paused = true
		c.mu.Unlock()
		switch {
		case c.isGone(): // what it has sent before is read all the same
			c.awaitRoom()
		case c.awaitHangup():
			c.hangUp()
		}
		c.mu.Lock()
		if !c.paused {
			_ = c.sock.SetReadDeadline(time.Time{})
		}
	}
	c.paused = false
	ok := !c.closed
	c.mu.Unlock()
	return ok
}

// errRelieved ends a read that another goroutine goes on with.
var errRelieved = errors.New("another goroutine reads")

// takeOver has the reader serve a call itself, if it is the only one there is. A client that
// has left already is not to be given a lock, so then the reader goes on and notices that.
func (c *Conn) takeOver(r *messageReader, call *Call) bool {
	gone := true
	_ = c.raw.Control(func(fd uintptr) { gone = hungUp(fd) })
	if gone {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.serving || len(c.queue) > 0 || c.closing || c.closed || c.gone || c.keeping.on {
		return false
	}
	c.serving, c.inline = true, r
	c.keeping.reading, c.keeping.partial = false, false
	c.begun(call)
	return true
}

// relieve has another goroutine read on, if the one that serves the call has read it:
// somebody has to notice that the client is gone while the call waits.
func (c *Conn) relieve() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inline != nil {
		go c.read(c.inline)
		c.inline = nil
	}
}

// serveRead serves a call that takeOver was asked for. If nobody has relieved the reader
// meanwhile, it reads on.
func (c *Conn) serveRead(call *Call) (goOn bool, err error) {
	goOn = true
	if c.ctx.Err() == nil || call.Oneway {
		goOn = c.serveOne(call)
	}
	c.srv.charge(c, -call.size)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inline == nil {
		err = errRelieved
	}
	c.serving, c.inline = false, nil
	if c.over = !goOn; !c.idle() {
		c.wake.Signal()
	}
	return goOn, err
}

// awaitRoom waits as push does, where there is no hang-up to be noticed.
func (c *Conn) awaitRoom() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.full() && !c.closed {
		c.room.Wait()
	}
}

func (q *callQueue) full() bool { return len(q.queue) >= maxQueue || q.queued >= maxQueueBytes }

// idle reports whether serve has nothing to do. c.mu is held.
func (c *Conn) idle() bool { return len(c.queue) == 0 && !c.eof && !c.closing && !c.over }

// next returns the next call to serve; nil when there is none any more. At the end of the
// service the calls that were read stay unserved, unless the connection is kept: then the
// next start could not read them again, so they are served now.
func (c *Conn) next() *Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.serving || c.idle() {
		c.wake.Wait()
	}
	if c.over || len(c.queue) == 0 || c.closing && !c.keeping.on {
		return nil
	}
	c.serving = true
	call := c.queue[0]
	c.queue[0] = nil
	c.queue = c.queue[1:]
	c.queued -= call.size
	c.begun(call)
	c.resume()
	return call
}

// served ends what next began.
func (c *Conn) served() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serving = false
}

// resume has push look again whether there is room. c.mu is held, as for the methods of
// callQueue.
func (c *Conn) resume() {
	c.room.Signal()
	if c.paused && (c.closed || !c.full()) {
		// awaitHangup returns; push takes the deadline back.
		c.paused = false
		_ = c.sock.SetReadDeadline(time.Unix(1, 0))
	}
}

// finish closes the connection as soon as no call is being served. It does not wait
// long for a client that does not read.
func (c *Conn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	if c.sending.active {
		c.limitWrite()
	}
	c.wake.Signal()
}

// serve has the calls served, in their order, and closes the connection.
func (c *Conn) serve() {
	goOn := true
	for call := c.next(); call != nil && goOn; {
		// The reader may not have come to the end of a client that left after its call.
		if call.Oneway || c.ctx.Err() == nil && !c.noticeHangup() {
			goOn = c.serveOne(call)
		}
		c.srv.charge(c, -call.size)
		c.served()
		if goOn {
			call = c.next()
		}
	}
	broken := c.close()
	if broken != nil {
		c.srv.complain("a Varlink connection was closed, since what came is not a call",
			"uid", c.Peer.UID, "pid", c.Peer.PID, "err", broken)
	}
	c.srv.cfg.Handler.Close(c)
	c.srv.forget(c)
}

// close closes the socket, waits for read, and drops what was not served. It
// returns what was wrong with the last message. Once read has ended nobody else uses the
// queue, so no lock is needed for it.
func (c *Conn) close() error {
	c.mu.Lock()
	c.closed = true
	c.resume()
	c.mu.Unlock()
	c.hangUpKept()
	_ = c.sock.Close()
	<-c.ended
	c.cancel()
	for _, call := range c.queue {
		c.srv.charge(c, -call.size)
	}
	return c.broken
}

// serveOne has a call served, and reports whether the connection can go on. It can't
// after a reply that could not be written, or a call without one: the client would take
// the next reply for that of this call. If it is the client that is gone, the queue is
// worked off for the sake of its oneway calls.
func (c *Conn) serveOne(call *Call) bool {
	ctx := c.ctx
	if call.Oneway {
		ctx = c.srv.ctx
	}
	c.srv.cfg.Handler.Serve(ctx, call)
	switch {
	case call.failed != nil, call.dropped:
		c.keeping.left = call.dropped
		return c.noticeHangup()
	case !call.Oneway && !call.answered:
		// A mistake in the Handler.
		c.srv.log.Error("a Varlink call was not answered", "method", call.Method)
		return false
	}
	return true
}

// messageReader finds the messages in what comes. One goroutine at a time uses it; it is
// handed over as a whole when the reader is relieved.
type messageReader struct {
	conn    *Conn
	buf     []byte // what was read and is no whole message yet
	charged int    // bytes that the user is charged for
}

var (
	errTooLong = errors.New("a message is longer than 8 MiB")
	errNoRoom  = errors.New("the unfinished messages of this user take up too much memory")
)

// run reads until nothing comes (nil) or what comes can't be read. An error of the socket
// counts as nothing: it means that the client, or this end, has closed.
func (r *messageReader) run() error {
	for seen := 0; ; {
		if err := r.grow(); err != nil {
			return err
		}
		n, err := r.conn.readSome(r.buf[len(r.buf):cap(r.buf)])
		if err != nil || n == 0 {
			return nil
		}
		r.buf = r.buf[:len(r.buf)+n]
		goOn, err := r.split(seen)
		if err != nil || !goOn {
			return err
		}
		seen = len(r.buf)
		r.conn.looked(seen > 0)
	}
}

// grow sees to it that there is room to read into. Buffers double, and the user is
// charged for them before a message is whole, since its length is not known before its
// end.
func (r *messageReader) grow() error {
	switch {
	case len(r.buf) < cap(r.buf):
		return nil
	case len(r.buf) > MaxMessage:
		return errTooLong
	}
	size := max(firstBuffer, min(2*cap(r.buf), MaxMessage+1))
	if !r.conn.srv.charge(r.conn, size-r.charged) {
		return errNoRoom
	}
	r.charged = size
	r.buf = append(make([]byte, 0, size), r.buf...)
	return nil
}

// split takes the whole messages out of what was read. The first seen bytes have
// no end of one.
func (r *messageReader) split(seen int) (goOn bool, err error) {
	rest := r.buf
	for {
		end := bytes.IndexByte(rest[seen:], 0)
		if end < 0 {
			break
		}
		end += seen
		if end > MaxMessage {
			return false, errTooLong
		}
		call, err := r.conn.newCall(rest[:end])
		if err != nil {
			return false, err
		}
		rest, seen = rest[end+1:], 0
		// A client that sends the next call before it has the reply of this one
		// needs the reader.
		if len(rest) == 0 && r.conn.takeOver(r, call) {
			r.empty()
			return r.conn.serveRead(call)
		}
		if !r.conn.push(call) {
			return false, nil
		}
	}
	if len(rest) == 0 {
		r.empty()
		return true, nil
	}
	r.buf = r.buf[:copy(r.buf, rest)]
	return true, nil
}

// empty makes room for the next message where all that was read is taken.
func (r *messageReader) empty() {
	if cap(r.buf) > maxQueueBytes {
		r.release()
		return
	}
	r.buf = r.buf[:0]
}

// release gives the memory back.
func (r *messageReader) release() {
	r.conn.srv.charge(r.conn, -r.charged)
	r.buf, r.charged = nil, 0
}

// newCall reads the envelope and keeps what the call needs of the text, in memory of its
// own: the reader's buffer is used again for the next message.
func (c *Conn) newCall(text []byte) (*Call, error) {
	e, err := parseCall(text)
	if err != nil {
		return nil, err
	}
	call := &Call{Method: e.method, Parameters: bytes.Clone(e.parameters), More: e.more, Oneway: e.oneway,
		Upgrade: e.upgrade, Conn: c, size: len(text)}
	if !c.srv.charge(c, call.size) {
		return nil, errNoRoom
	}
	return call, nil
}
