package wire

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Call is one call that is being served. Exactly one of Reply, Fail and Drop ends it;
// Continue and Stage may come before, any number of times, where More is set. For
// a oneway call they do nothing. They return how many bytes they have written,
// and wait while the client does not read.
type Call struct {
	Method     string
	Parameters []byte // for Decode
	More       bool   // the caller takes any number of replies
	Oneway     bool   // the caller takes none
	Upgrade    bool   // the caller wants to speak another protocol afterwards
	Resumed    Mark   // not 0: no new call, but what an earlier process was at (Server.Restore)
	Conn       *Conn

	size     int    // of the message
	answered bool   // Reply or Fail was called
	open     bool   // GoOn was
	dropped  bool   // Drop was
	written  int    // bytes of replies
	staged   []byte // replies of Stage that are not written yet
	failed   error  // a reply could not be written
}

// Size is how many bytes the message had.
func (c *Call) Size() int { return c.size }

// Written is how many bytes of replies were written so far; err is why the rest of
// them was not.
func (c *Call) Written() (n int, err error) { return c.written, c.failed }

// GoOn says before a reply with Continue that the call goes on from then on, for as
// long as the client likes: a kept connection keeps it.
func (c *Call) GoOn() { c.open = true }

// Wait is to be called before the call waits for anything: the goroutine that serves it
// may be the one that reads the connection, and another one has to go on with that.
func (c *Call) Wait() { c.Conn.relieve() }

// Drop ends the call without an answer, since the client is gone or the service
// ends.
func (c *Call) Drop() { c.dropped = true }

// Reply ends the call with parameters, which json.Marshal makes an object of.
func (c *Call) Reply(parameters any) (n int, err error) {
	c.answered = true
	return c.send(reply{Parameters: parameters}, nil)
}

// ReplyFile is Reply with a descriptor beside the message, which the caller gets
// a copy of.
func (c *Call) ReplyFile(parameters any, f *os.File) (n int, err error) {
	c.answered = true
	return c.send(reply{Parameters: parameters}, f)
}

// Fail ends the call with an error. parameters may be nil.
func (c *Call) Fail(name string, parameters any) (n int, err error) {
	c.answered = true
	return c.send(reply{Error: name, Parameters: parameters}, nil)
}

// Continue sends one of several replies.
func (c *Call) Continue(parameters any) (n int, err error) {
	if !c.More {
		return 0, errNotMore
	}
	return c.send(reply{Parameters: parameters, Continues: true}, nil)
}

var errNotMore = errors.New("the caller has not said more")

// stageBytes is how many bytes of replies Stage gathers.
const stageBytes = 16 << 10

// Stage is Continue for one of very many replies: it may wait for the next ones,
// or for the last one, to be written together with them.
func (c *Call) Stage(parameters any) (n int, err error) {
	if !c.More {
		return 0, errNotMore
	}
	text, err := c.encode(reply{Parameters: parameters, Continues: true})
	if err != nil || c.Oneway {
		return 0, err
	}
	if c.staged = append(c.staged, text...); len(c.staged) < stageBytes {
		return 0, nil
	}
	return c.write(nil, nil)
}

// encode makes the message of a reply. After an error nothing more is written: the
// client could not tell where the next reply begins.
func (c *Call) encode(r reply) ([]byte, error) {
	if c.failed != nil || c.Oneway {
		return nil, c.failed
	}
	text, err := encodeReply(r)
	if err != nil {
		c.failed = fmt.Errorf("encode the reply of %s: %w", c.Method, err)
		c.Conn.srv.log.Error("a reply can't be encoded", "method", c.Method, "err", err)
	}
	return text, c.failed
}

// send writes a reply now, behind what is staged. f is the descriptor to go with it, or nil.
func (c *Call) send(r reply, f *os.File) (n int, err error) {
	text, err := c.encode(r)
	if err != nil || c.Oneway {
		return 0, err
	}
	return c.write(text, f)
}

// write writes what is staged, and text with f. The bytes count as the user's
// while the client does not read them.
func (c *Call) write(text []byte, f *os.File) (n int, err error) {
	if len(c.staged) > 0 {
		text = append(c.staged, text...)
		c.staged = c.staged[:0]
	}
	if !c.Conn.srv.charge(c.Conn, len(text)) {
		c.failed = errors.New("the replies that this user does not read take up too much memory")
		return 0, c.failed
	}
	defer c.Conn.srv.charge(c.Conn, -len(text))
	n, c.failed = c.Conn.transmit(text, f, c)
	c.written += n
	return n, c.failed
}

// sendFile writes the message, or the beginning of it, with the descriptor. The kernel
// ties SCM_RIGHTS to the first byte (unix(7)), so the client has it before the reply ends.
func (c *Conn) sendFile(text []byte, f *os.File) (n int, err error) {
	raw, err := f.SyscallConn() // Fd would make it blocking
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) { n, _, err = c.sock.WriteMsgUnix(text, unix.UnixRights(int(fd)), nil) })
	return n, errors.Join(cerr, err)
}
