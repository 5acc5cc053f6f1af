package wire

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A client that does not read holds up itself alone (the goroutine of its connection waits
// in write(2), and what it may leave unread is charged to its user), except when the service
// ends: then its connection is closed when it has taken nothing of a reply for the time
// unreadTime of the Server, or when its replies together have waited for its maxUnreadTime.
const (
	defaultUnreadTime    = 500 * time.Millisecond
	defaultMaxUnreadTime = 2 * time.Second
)

// sending is how a Conn writes. It is guarded by Conn.mu.
type sending struct {
	active  bool
	limited time.Time     // when limitWrite set the deadline; zero: there is none
	unread  int           // bytes at that time, as the kernel counts them
	waited  time.Duration // for the client to read, since the service ends
}

// transmit writes replies of a call, and with the first byte the descriptor f, if it is
// not nil.
func (c *Conn) transmit(text []byte, f *os.File, of *Call) (n int, err error) {
	c.beginWrite()
	defer func() { c.endWrite(of, err) }()
	for {
		var some int
		if f == nil {
			some, err = c.sock.Write(text)
		} else if some, err = c.sendFile(text, f); some > 0 {
			f = nil
		}
		n, text = n+some, text[some:]
		switch {
		case err == nil && len(text) > 0: // sendFile writes what there is room for
		case !errors.Is(err, os.ErrDeadlineExceeded) || !c.mayGoOn(some > 0):
			return n, err
		}
	}
}

// beginWrite and endWrite enclose the writing of one or several replies. In between the mark
// says Unclear. A write that has failed leaves it so, as part of a reply may have gone out.
func (c *Conn) beginWrite() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sending.active, c.keeping.writing = true, true
	c.remark()
	if c.closing {
		c.limitWrite()
	}
}

func (c *Conn) endWrite(of *Call, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sending.active = false
	c.countWaited()
	if err == nil {
		c.keeping.writing, c.keeping.calling, c.keeping.open = false, !of.answered, of.open
		c.remark()
	}
}

// limitWrite has what is being written time out. c.mu is held. The runtime allows a
// deadline to be set while another goroutine is in Write (net.Conn).
func (c *Conn) limitWrite() {
	s := &c.sending
	s.limited, s.unread = time.Now(), c.unread()
	_ = c.sock.SetWriteDeadline(s.limited.Add(min(c.srv.unreadTime, c.srv.maxUnreadTime-s.waited)))
}

// countWaited ends what limitWrite began. c.mu is held.
func (c *Conn) countWaited() {
	if s := &c.sending; !s.limited.IsZero() {
		s.waited += time.Since(s.limited)
		s.limited = time.Time{}
	}
}

// mayGoOn reports whether a write that has timed out is to be tried again, since the
// client reads.
func (c *Conn) mayGoOn(progress bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	progress = progress || c.unread() < c.sending.unread
	c.countWaited()
	if !progress || c.sending.waited >= c.srv.maxUnreadTime {
		return false
	}
	c.limitWrite()
	return true
}

// unread is how much memory the kernel has for what the client has not read
// (SIOCOUTQ, unix(7)); 0 if it can't be told.
func (c *Conn) unread() (bytes int) {
	_ = c.raw.Control(func(fd uintptr) { bytes, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	return bytes
}
