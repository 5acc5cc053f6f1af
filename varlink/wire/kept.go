package wire

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// A kept connection outlives the process: the Handler has put a copy of its socket
// somewhere else, where the next start of the service finds it. That start needs to
// know where the conversation was, since whatever was read, or was being written,
// is gone with the process. So a kept connection has a Mark, on the socket itself: as
// its priority (SO_PRIORITY), which means nothing for unix sockets, which the client
// can't change, and which stays however the process ends.
//
// A mark is only ever more cautious than the truth. It says Unclear before bytes are
// taken from the socket, or written to it, and something more exact once all of them
// are accounted for. If the process dies
//
//	before the Mark Unclear                the bytes are in the socket, and are read later
//	between it and the read                Unclear, though nothing is lost
//	after the read, before the whole call  Unclear: the beginning of a message is lost
//	while a call is served                 Calling: it may or may not have been carried out
//	between the first and the last byte    Unclear: part of a reply may have been written
//	after the reply, before the next Mark  Unclear, though nothing is lost
//
// so a call is never answered twice, or carried out twice, and never left without an
// answer on a connection that goes on.

// Mark is where the conversation of a kept connection is.
type Mark int

// The marks. Other values are no marks, as on a socket that was never kept.
const (
	Between Mark = 1 // all that was read is answered
	Calling Mark = 2 // one call was read, and nothing of its last reply was written
	Open    Mark = 3 // a call that goes on has had whole replies, and nothing else was read
	Unclear Mark = 4 // anything else: the connection can't go on
)

// ReadMark returns the mark of a socket that may have been kept.
func ReadMark(sock syscall.RawConn) (m Mark, err error) {
	cerr := sock.Control(func(fd uintptr) {
		var n int
		n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY)
		m = Mark(n)
	})
	if err = errors.Join(cerr, err); err == nil && (m < Between || m > Unclear) {
		err = errors.New("it has no mark")
	}
	return m, err
}

// keeping is what a Conn knows for its mark. It is guarded by Conn.mu.
type keeping struct {
	on      bool // the connection is kept
	mark    Mark // of the socket, if on
	reading bool // bytes may have been taken from the socket that were not looked at
	partial bool // the beginning of a message was read
	calling bool // a call is being served that is owed a reply
	open    bool // that call is one that goes on, and has had a reply
	writing bool // part of a reply may have been written
	left    bool // the last call was dropped, and the next start may go on with it. Only for serve
}

// where is the mark of a conversation with so many calls waiting.
func (k *keeping) where(queued int) Mark {
	switch {
	case k.reading || k.partial || k.writing || queued > 0:
		return Unclear
	case !k.calling:
		return Between
	case k.open:
		return Open
	}
	return Calling
}

// remark brings the mark up to date. c.mu is held.
func (c *Conn) remark() {
	if !c.keeping.on {
		return
	}
	if m := c.keeping.where(len(c.queue)); m != c.keeping.mark {
		c.setMark(m)
	}
}

// setMark is for remark and Keep. c.mu is held.
func (c *Conn) setMark(m Mark) (err error) {
	cerr := c.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY, int(m))
	})
	c.keeping.mark = m
	return errors.Join(cerr, err)
}

// Keep begins to mark the socket, and then has store put a copy of it away. It is
// called while a call of the connection is being served, by the goroutine that
// serves it, and may be called again. An error is that of store.
func (c *Conn) Keep(store func(fd uintptr) error) error {
	c.mu.Lock()
	if !c.keeping.on {
		if err := c.setMark(c.keeping.where(len(c.queue))); err != nil {
			c.mu.Unlock()
			return err
		}
		c.keeping.on = true
	}
	c.mu.Unlock()
	var err error
	return errors.Join(c.raw.Control(func(fd uintptr) { err = store(fd) }), err)
}

// Unkeep ends what Keep began, if the copy could not be put away.
func (c *Conn) Unkeep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keeping.on = false
}

// readSome is Read of the socket, with the mark set meanwhile. Taking the bytes and
// setting the mark can't be one step, so a kept connection is marked Unclear first, and
// only where bytes are certain to come: a mark that is Unclear all the time while the
// client is silent would lose its locks at each kill.
func (c *Conn) readSome(buf []byte) (n int, err error) {
	cerr := c.raw.Read(func(fd uintptr) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.keeping.on && (c.closing || !readable(fd)) {
			return false // the next start reads what comes after the end of the service
		}
		c.keeping.reading = true
		c.remark()
		for n, err = syscall.Read(int(fd), buf); errors.Is(err, unix.EINTR); {
			n, err = syscall.Read(int(fd), buf)
		}
		if !errors.Is(err, unix.EAGAIN) {
			return true
		}
		c.keeping.reading = false
		c.remark()
		return false
	})
	return n, errors.Join(cerr, err)
}

// readable reports whether a read would not wait. An error of poll counts as that: the
// read then says what is wrong.
func readable(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
	n, err := unix.Poll(p, 0)
	return err != nil || n > 0
}

// looked ends what readSome began: the calls are in the queue, and partial is
// whether there is the beginning of another one.
func (c *Conn) looked(partial bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keeping.reading, c.keeping.partial = false, partial
	c.remark()
}

// begun notes that a call is being served. c.mu is held.
func (c *Conn) begun(call *Call) {
	c.keeping.calling, c.keeping.open = !call.Oneway, call.Resumed == Open
	c.remark()
}

// Restore serves a kept connection of an earlier process, which Handler finds in
// Conn.Restored. A call that was under way has Call.Resumed, and the Handler has to
// say what has become of it. It takes the socket over.
func (s *Server) Restore(sock *net.UnixConn, m Mark, restored any) error {
	if m == Unclear {
		return errors.New("a call was half read, or its reply half written")
	}
	c, err := newConn(s, sock)
	if err != nil {
		return err
	}
	c.Restored = restored
	c.keeping.on, c.keeping.mark = true, m
	if m != Between {
		c.queue = append(c.queue, &Call{Resumed: m, More: true, Conn: c})
	}
	if err := s.admit(c); err != nil {
		return err
	}
	s.start(c)
	return nil
}

// start has an admitted connection served. Open comes first, so the Handler knows the
// connection before its first call and its end.
func (s *Server) start(c *Conn) {
	s.cfg.Handler.Open(c)
	go c.read(&messageReader{conn: c})
	go c.serve()
}

// HungUp reports whether the other end of a socket or a pipe is gone.
func HungUp(raw syscall.RawConn) (gone bool) {
	err := raw.Control(func(fd uintptr) { gone = hungUp(fd) })
	return gone || err != nil
}

// hangUpKept tells the client of a kept connection that it has ended, though the copy
// stays open for a moment. When the service ends, it says nothing.
func (c *Conn) hangUpKept() {
	c.mu.Lock()
	kept := c.keeping.on && !c.keeping.left && !c.closing
	c.mu.Unlock()
	if kept {
		_ = c.raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	}
}

// End closes a connection that can't go on, whoever else has a copy of the socket.
func End(sock *net.UnixConn) {
	if raw, err := sock.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	}
	_ = sock.Close()
}
