package virtlockd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// messageTime is how long a client may take to send a message that it has begun. Between two
// messages it may be silent for as long as a guest runs: QEMU inherits its connection.
const messageTime = 30 * time.Second

// connection is one client: libvirtd in one operation, or a guest's QEMU.
type connection struct {
	door *Door
	conn *net.UnixConn
	pid  uint32        // of who has made it
	seen time.Duration // since boot, when it was made

	domain     *registration // nil: nobody has registered
	restricted bool
	guest      uint32 // whose start time is kept until this connection ends; 0: nobody's

	writing atomic.Bool // an answer is on its way to the client

	session session    // nil: no call has needed one yet, or the last one was closed
	taken   []api.Want // what this connection has taken for it, that it did not hold before
}

// serve answers the calls of the connection until it ends.
func (c *connection) serve() {
	defer c.end()
	r := newMessageReader(c.conn)
	var out []byte
	for {
		if err := c.await(r); err != nil {
			c.ended(err)
			return
		}
		m, err := c.next(r)
		if err != nil {
			c.ended(err)
			return
		}
		if out = c.answer(out[:0], m); len(out) == 0 {
			continue
		}
		if err = c.write(out); err != nil {
			c.ended(err)
			return
		}
	}
}

// await waits for the next message, without end. From then on it has to come in
// time.
func (c *connection) await(r *messageReader) error {
	if !r.waiting() {
		r.forget()
		if err := r.await(); err != nil {
			return err
		}
	}
	if r.whole() {
		return nil
	}
	err := c.conn.SetReadDeadline(time.Now().Add(messageTime))
	if err == nil && c.door.isClosing() { // Close has set a deadline before or after that
		err = net.ErrClosed
	}
	return err
}

// next reads the next message, and ends its deadline.
func (c *connection) next(r *messageReader) (message, error) {
	limited := !r.whole()
	m, err := r.next()
	if limited && err == nil {
		err = c.conn.SetReadDeadline(time.Time{})
		if err == nil && c.door.isClosing() {
			err = c.conn.SetReadDeadline(time.Unix(1, 0)) // this message is answered, and no other
		}
	}
	return m, err
}

// ended logs an end that is not in order.
func (c *connection) ended(err error) {
	if !errors.Is(err, io.EOF) && !c.door.isClosing() {
		c.door.log.Warn("a connection of libvirt has ended", "pid", c.pid, "err", err)
	}
}

// end forgets the connection. Locks stay: they are the guest's. The session needs no
// end: nothing hangs on it, and an ACQUIRE that was not answered in time has closed it.
func (c *connection) end() {
	c.forgetGuest()
	_ = c.conn.Close()
}

// lastWrite is how long a client gets to read an answer once the door closes. What is
// not read by then is in nobody's way: an answer fits into the socket's buffer.
const lastWrite = 100 * time.Millisecond

// write sends an answer. The client decides how long that takes, but for when the door
// closes: then either this or Close sees the other one, and limits it.
func (c *connection) write(answer []byte) error {
	c.writing.Store(true)
	defer c.writing.Store(false)
	if c.door.isClosing() {
		c.limitWrite()
	}
	_, err := c.conn.Write(answer)
	return err
}

// limitWrite ends a write that the client does not take.
func (c *connection) limitWrite() { _ = c.conn.SetWriteDeadline(time.Now().Add(lastWrite)) }

// answer appends the answer of a message to out, if it has one.
func (c *connection) answer(out []byte, m message) []byte {
	if m.Program == programKeepalive && m.Version == protocolVersion && m.Kind == kindMessage {
		if m.Procedure != keepalivePing {
			return out
		}
		return appendMessage(out, header{Program: m.Program, Version: m.Version, Procedure: keepalivePong,
			Kind: kindMessage}, nil)
	}
	if m.Kind != kindCall {
		return out
	}
	err := c.call(m)
	if err == nil {
		return appendMessage(out, m.answer(statusOK), nil)
	}
	f, ok := errors.AsType[*fault](err)
	if !ok {
		f = newFault(codeOperationFailed, domainLockspace, err.Error())
	}
	return appendMessage(out, m.answer(statusError), f.append(nil))
}

// procedures are the calls that there are, by number, with the names of the
// functions that serve them in libvirt, which its errors tell.
var procedures = map[uint32]procedure{
	procRegister:        {"Register", (*connection).callRegister},
	procRestrict:        {"Restrict", (*connection).callRestrict},
	procNew:             {"New", (*connection).callNew},
	procCreateResource:  {"CreateResource", (*connection).callResource},
	procDeleteResource:  {"DeleteResource", (*connection).callResource},
	procAcquireResource: {"AcquireResource", (*connection).callAcquire},
	procReleaseResource: {"ReleaseResource", (*connection).callRelease},
	procCreateLockspace: {"CreateLockSpace", (*connection).callLockspace},
}

// procedure serves one of the calls.
type procedure struct {
	name  string // as in the error for flags that are not known
	serve func(c *connection, p procedure, body []byte) error
}

// call serves a call. The error is the answer.
func (c *connection) call(m message) error {
	if m.Program != programLock || m.Version != protocolVersion {
		return newFault(codeRPC, domainRPC, fmt.Sprintf("Cannot find program %d version %d", m.Program, m.Version))
	}
	if m.Status != statusOK {
		return newFault(codeRPC, domainRPC, fmt.Sprintf("Unexpected message status %d", m.Status))
	}
	p, ok := procedures[m.Procedure]
	if !ok {
		return newFault(codeRPC, domainRPC, fmt.Sprintf("unknown procedure: %d", int32(m.Procedure)))
	}
	err := p.serve(c, p, m.body)
	if errors.Is(err, errArguments) {
		return newFault(codeRPC, domainRPC, "Unable to decode message payload")
	}
	return err
}

// check refuses flags that are not known, a connection that may do nothing any
// more, and one that nobody has registered on, in virtlockd's order.
func (c *connection) check(p procedure, flags, known uint32) error {
	if err := p.checkFlags(flags, known); err != nil {
		return err
	}
	if err := c.checkRestricted(); err != nil {
		return err
	}
	if c.domain == nil {
		return errNotRegistered()
	}
	return nil
}

func (p procedure) checkFlags(flags, known uint32) error {
	if unknown := flags &^ known; unknown != 0 {
		return flagsFault(unknown, "virLockSpaceProtocolDispatch"+p.name)
	}
	return nil
}

func (c *connection) checkRestricted() error {
	if c.restricted {
		return newFault(codeOperationDenied, domainRPC, "lock manager connection has been restricted")
	}
	return nil
}

func errNotRegistered() error {
	return newFault(codeOperationInvalid, domainRPC, "lock owner details have not been registered")
}

func (c *connection) callRegister(p procedure, body []byte) error {
	r, err := parseRegister(body)
	if err != nil {
		return err
	}
	if err := p.checkFlags(r.Flags, 0); err != nil {
		return err
	}
	if err := c.checkRestricted(); err != nil {
		return err
	}
	if r.ID == 0 {
		return errNotRegistered()
	}
	c.register(r)
	return nil
}

func (c *connection) callRestrict(p procedure, body []byte) error {
	flags, err := parseFlags(body)
	if err == nil {
		err = c.check(p, flags, 0)
	}
	c.restricted = c.restricted || err == nil
	return err
}

// callNew makes a lockspace, as CREATE_LOCKSPACE does.
func (c *connection) callNew(p procedure, body []byte) error {
	path, flags, err := parseNew(body)
	if err == nil {
		err = c.check(p, flags, 0)
	}
	if err == nil && path == "" {
		err = newFault(codeInternal, domainRPC, "the default lockspace already exists")
	}
	return err
}

// callResource is CREATE and DELETE of a resource: the DLM makes and removes them
// by itself.
func (c *connection) callResource(p procedure, body []byte) error {
	r, err := parseResource(body)
	if err == nil {
		err = c.check(p, r.Flags, 0)
	}
	return err
}

func (c *connection) callAcquire(p procedure, body []byte) error {
	r, err := parseResource(body)
	if err == nil {
		err = c.check(p, r.Flags, acquireShared|acquireAutocreate)
	}
	if err == nil {
		err = c.acquire(r)
	}
	return err
}

func (c *connection) callRelease(p procedure, body []byte) error {
	r, err := parseResource(body)
	if err == nil {
		err = c.check(p, r.Flags, 0)
	}
	if err == nil {
		err = c.release(r)
	}
	return err
}

// callLockspace is good whether or not the lockspace is there: libvirtd does not
// start otherwise.
func (c *connection) callLockspace(_ procedure, body []byte) error {
	path, err := parseLockspace(body)
	if err == nil {
		err = c.checkRestricted()
	}
	if err == nil {
		c.door.noteDirectory(path)
	}
	return err
}
