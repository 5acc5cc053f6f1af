package virtlockd

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// loop accepts the connections of one socket and serves their calls. One goroutine at a time runs
// it, and carries out the calls that it reads. Most calls wait for nothing, so a client that calls
// and waits for the answer needs no other goroutine, and none has to be woken. A call that has to
// wait (relieve) keeps the goroutine and its connection, and another goroutine runs the loop from
// then on.
//
// The goroutine blocks in epoll_wait, with a thread of its own. The runtime's poller could wait for
// the epoll descriptor instead, but then each message would cost more: the descriptor is checked
// once more before the goroutine sleeps, a thread that runs a woken goroutine wakes another thread
// to look for work, and a message that arrives while the goroutine is busy wakes a thread for
// nothing.
type loop struct {
	door      *Door
	listener  *net.UnixListener
	accepting syscall.RawConn // of listener
	socket    int             // its descriptor
	epoll     int             // the epoll descriptor, while the door is not closing
	waker     int             // an eventfd in the epoll set, which ends the wait of run
	ended     bool            // epoll and waker are closed; guarded by the door's mutex
	pause     time.Duration   // after the last accept, if it failed for lack of a resource
	over      chan error      // gets why no more connections are accepted; closed at the end

	events [64]unix.EpollEvent // owned by the goroutine that runs the loop
}

// buffers belong to one goroutine.
type buffers struct {
	in  []byte // what was read last; a message in it is valid until the next read
	out []byte
}

// readSize is how much is read at once: enough for what a client of libvirt sends before it waits.
const readSize = 4 << 10

func newLoop(d *Door, l *net.UnixListener) (*loop, error) {
	lp := &loop{door: d, listener: l, over: make(chan error, 1)}
	var err error
	if lp.accepting, err = l.SyscallConn(); err != nil {
		return nil, err
	}
	if err = lp.accepting.Control(func(fd uintptr) { lp.socket = int(fd) }); err != nil {
		return nil, err
	}
	if lp.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if lp.waker, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(lp.epoll)
		return nil, os.NewSyscallError("eventfd", err)
	}
	for _, fd := range []int{lp.waker, lp.socket} {
		if err = lp.control(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN); err != nil {
			lp.close()
			return nil, err
		}
	}
	return lp, nil
}

func (l *loop) control(operation, fd int, events uint32) error {
	err := unix.EpollCtl(l.epoll, operation, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
	return os.NewSyscallError("epoll_ctl", err)
}

// run serves until the door closes, or another goroutine has taken over.
func (l *loop) run() {
	defer l.door.work.Done()
	b := &buffers{in: make([]byte, readSize)}
	for {
		n, err := again(func() (int, error) { return unix.EpollWait(l.epoll, l.events[:], -1) })
		if err != nil {
			panic(os.NewSyscallError("epoll_wait", err)) // only a mistake in this file can be the cause
		}
		for _, e := range l.events[:n] {
			if int(e.Fd) == l.waker {
				l.end()
				return
			}
			c := l.connection(int(e.Fd))
			if c != nil && !c.serve(b) {
				return
			}
		}
	}
}

// connection finds the connection with a descriptor, or accepts a new one.
func (l *loop) connection(fd int) *connection {
	if fd == l.socket {
		return l.accept()
	}
	l.door.mu.Lock()
	defer l.door.mu.Unlock()
	return l.door.connections[fd]
}

// accept accepts a connection; nil if there is none, or it is refused.
func (l *loop) accept() *connection {
	fd := -1
	var err error
	if e := l.accepting.Control(func(s uintptr) {
		fd, _, err = unix.Accept4(int(s), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	}); e != nil {
		return nil // the door closes
	}
	switch {
	case err == nil:
		l.pause = 0
		return l.door.enter(l, fd)
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
	case isScarce(err):
		l.rest(err)
	default:
		_ = l.control(unix.EPOLL_CTL_DEL, l.socket, 0)
		select {
		case l.over <- os.NewSyscallError("accept4", err):
		default:
		}
	}
	return nil
}

// isScarce reports whether an accept has failed because something is used up.
func isScarce(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// rest accepts no connection for a while. Meanwhile the clients wait in the kernel's queue.
func (l *loop) rest(why error) {
	d := l.door
	l.pause = min(max(2*l.pause, 5*time.Millisecond), time.Second)
	_ = l.control(unix.EPOLL_CTL_DEL, l.socket, 0)
	go d.log.Error("a connection of libvirt can't be accepted yet", "err", why)
	time.AfterFunc(l.pause, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if !d.isClosing() {
			_ = l.control(unix.EPOLL_CTL_ADD, l.socket, unix.EPOLLIN)
		}
	})
}

// wake ends the wait of run, which then ends the loop. The door's mutex is held.
func (l *loop) wake() {
	if !l.ended {
		_, _ = unix.Write(l.waker, []byte{7: 1}) // it can't fail: nothing else adds to the counter
	}
}

// end ends the connections, except those that another goroutine has.
func (l *loop) end() {
	d := l.door
	d.mu.Lock()
	for _, c := range d.connections {
		if c.loop == l && !c.relieved {
			d.forget(c)
		}
	}
	l.close()
	d.mu.Unlock()
	close(l.over)
}

func (l *loop) close() {
	l.ended = true
	_ = unix.Close(l.epoll)
	_ = unix.Close(l.waker)
}

// serve reads or writes what the connection is ready for, and reports whether this goroutine still
// runs the loop.
func (c *connection) serve(b *buffers) bool {
	err := c.progress(b)
	if err != nil {
		c.ended(err)
	}
	return c.settle(err)
}

// relieve starts another goroutine that runs the loop, if this one does. Code that may wait on the
// goroutine of a call has to call it first.
func (c *connection) relieve() {
	if c.relieved || c.loop == nil {
		return
	}
	d := c.door
	d.mu.Lock()
	defer d.mu.Unlock()
	c.relieved = true
	if c.events != 0 { // epoll would report a closed connection again and again
		_ = c.loop.control(unix.EPOLL_CTL_DEL, c.fd, 0)
		c.events = 0
	}
	d.work.Add(1)
	go c.loop.run()
}

// settle makes the loop wait for what the connection needs next, or ends the connection after an
// error. It reports whether this goroutine still runs the loop; if not, the goroutine must not use
// the connection any more.
func (c *connection) settle(err error) (goOn bool) {
	d := c.door
	d.mu.Lock()
	defer d.mu.Unlock()
	goOn = !c.relieved
	if err != nil || c.relieved && d.isClosing() {
		d.forget(c)
		return goOn
	}
	c.relieved = false
	c.limit()
	events := uint32(unix.EPOLLIN)
	if len(c.unsent) > 0 {
		events = unix.EPOLLOUT
	}
	operation := unix.EPOLL_CTL_MOD
	switch c.events {
	case events:
		return goOn
	case 0:
		operation = unix.EPOLL_CTL_ADD
	}
	c.events = events
	if err = c.loop.control(operation, c.fd, events); err != nil {
		go d.log.Error("a connection of libvirt has ended, because it can't be waited for", "pid", c.pid, "err", err)
		d.forget(c)
	}
	return goOn
}

// messageTime is how long a client may take to send a message that it has begun. Between two
// messages it may be silent for as long as a guest runs: QEMU inherits its connection.
const messageTime = 30 * time.Second

// limit ends the connection if a message that has begun is not complete in time. The door's mutex
// is held.
func (c *connection) limit() {
	if !c.in.begun() {
		c.unlimit()
		return
	}
	if c.late != nil {
		return
	}
	var late *time.Timer
	late = time.AfterFunc(c.door.messageTime, func() {
		c.door.mu.Lock()
		defer c.door.mu.Unlock()
		if c.late == late {
			c.tooLate = true
			_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
		}
	})
	c.late = late
}

func (c *connection) unlimit() {
	if c.late != nil {
		c.late.Stop()
		c.late = nil
	}
}

// progress sends what is left of the answers, or else reads, and then answers the calls that are
// complete. The error is io.EOF if the client has ended the connection between two messages.
func (c *connection) progress(b *buffers) error {
	if len(c.unsent) > 0 {
		if err := c.send(nil); err != nil || len(c.unsent) > 0 {
			return err
		}
		unread := c.unread
		c.unread = nil
		return c.take(unread, b)
	}
	n, err := again(func() (int, error) { return unix.Read(c.fd, b.in) })
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return os.NewSyscallError("read", err)
	case n > 0:
		return c.take(b.in[:n], b)
	case c.isTooLate():
		return os.ErrDeadlineExceeded
	case c.in.begun():
		return io.ErrUnexpectedEOF
	}
	return io.EOF
}

func (c *connection) isTooLate() bool {
	c.door.mu.Lock()
	defer c.door.mu.Unlock()
	return c.tooLate
}

// take answers the messages in data, for as long as the client reads its answers.
func (c *connection) take(data []byte, b *buffers) error {
	for len(c.unsent) == 0 {
		m, rest, whole, err := c.in.next(data)
		if err != nil || !whole {
			return err
		}
		data = rest
		if b.out = c.answer(b.out[:0], m); len(b.out) > 0 {
			if err := c.send(b.out); err != nil {
				return err
			}
		}
	}
	c.unread = append(c.unread, data...)
	return nil
}

// send sends what is left of the answers before, and then the answer, as far as the client has room.
func (c *connection) send(answer []byte) error {
	if len(c.unsent) > 0 {
		c.unsent = append(c.unsent, answer...)
		answer = c.unsent
	}
	n, err := again(func() (int, error) { return unix.SendmsgN(c.fd, answer, nil, nil, unix.MSG_NOSIGNAL) })
	switch {
	case errors.Is(err, unix.EAGAIN):
		n = 0
	case err != nil:
		return os.NewSyscallError("sendmsg", err)
	}
	if n == len(answer) {
		c.unsent = nil
		return nil
	}
	c.unsent = append([]byte(nil), answer[n:]...)
	return nil
}

// again repeats a system call that does not block until no signal interrupts it.
func again(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
