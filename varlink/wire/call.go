package wire

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Call is one call that is being served. Exactly one of Reply and Fail ends it;
// Continue may come before, any number of times, where More is set. For a oneway
// call they do nothing.
type Call struct {
	Method     string
	Parameters []byte // for Decode
	More       bool   // the caller takes any number of replies
	Oneway     bool   // the caller takes none
	Upgrade    bool   // the caller wants to speak another protocol afterwards
	Conn       *Conn

	size     int // of the message
	answered bool
	failed   error // a reply could not be written
}

// Reply ends the call with parameters, which json.Marshal makes an object of.
func (c *Call) Reply(parameters any) error {
	c.answered = true
	return c.send(reply{Parameters: parameters}, nil)
}

// ReplyFile is Reply with a descriptor beside the message, which the caller gets
// a copy of.
func (c *Call) ReplyFile(parameters any, f *os.File) error {
	c.answered = true
	return c.send(reply{Parameters: parameters}, f)
}

// Fail ends the call with an error. parameters may be nil.
func (c *Call) Fail(name string, parameters any) error {
	c.answered = true
	return c.send(reply{Error: name, Parameters: parameters}, nil)
}

// Answered reports whether the call has ended.
func (c *Call) Answered() bool { return c.answered }

// Continue sends one of several replies. The call has More.
func (c *Call) Continue(parameters any) error {
	if !c.More {
		return errors.New("the caller has not said more")
	}
	return c.send(reply{Parameters: parameters, Continues: true}, nil)
}

// send writes a message. It waits while the client does not read; the bytes
// count as the user's meanwhile.
func (c *Call) send(r reply, f *os.File) error {
	if c.Oneway || c.failed != nil {
		return c.failed
	}
	text, err := encodeReply(r)
	if err != nil {
		c.failed = fmt.Errorf("encode the reply of %s: %w", c.Method, err)
		c.Conn.srv.log.Error("a reply can't be encoded", "method", c.Method, "err", err)
		return c.failed
	}
	if !c.Conn.srv.charge(c.Conn, len(text)) {
		c.failed = errors.New("the replies that this user does not read take up too much memory")
		return c.failed
	}
	defer c.Conn.srv.charge(c.Conn, -len(text))
	if f == nil {
		_, c.failed = c.Conn.sock.Write(text)
		return c.failed
	}
	c.failed = c.Conn.sendFile(text, f)
	return c.failed
}

// sendFile writes the message, the descriptor with its first byte.
func (c *Conn) sendFile(text []byte, f *os.File) error {
	raw, err := f.SyscallConn() // Fd would make it blocking
	if err != nil {
		return err
	}
	n := 0
	cerr := raw.Control(func(fd uintptr) { n, _, err = c.sock.WriteMsgUnix(text, unix.UnixRights(int(fd)), nil) })
	if err = errors.Join(cerr, err); err == nil && n < len(text) {
		_, err = c.sock.Write(text[n:])
	}
	return err
}
