package virtlockd

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// connection is one client: libvirtd in one operation, or a guest's QEMU. One goroutine at a time
// has it: the one that runs its loop, or one that has handed the loop over (relieve).
type connection struct {
	door *Door
	loop *loop         // nil in tests
	fd   int           // of the socket, which never blocks
	pid  uint32        // of the process that has made it
	seen time.Duration // since boot, when it was made

	domain     *registration // nil: nobody has registered
	restricted bool
	guest      uint32 // whose start time is kept until this connection ends; 0: nobody's

	in     messageReader
	unsent []byte // answers that the client has no room for yet; until it has, nothing is read
	unread []byte // what was read, but is answered only after unsent is sent

	session session    // nil: no call has needed one yet, or the last one was closed
	taken   []api.Want // what this connection has taken for it, that it did not hold before

	// relieved says that a goroutine which does not run the loop has the connection. It changes only
	// under the door's mutex.
	relieved bool
	events   uint32 // that the loop waits for; 0: it is not in the epoll set

	// Guarded by the door's mutex.
	late    *time.Timer // nil: no message has begun
	tooLate bool        // it has not come to its end in time
}

// ended logs an end that is not in order.
func (c *connection) ended(err error) {
	if !errors.Is(err, io.EOF) && !c.door.isClosing() {
		c.relieve()
		c.door.log.Warn("a connection of libvirt has ended", "pid", c.pid, "err", err)
	}
}

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

// procedureOf finds a call by its number. The names are those of the functions in libvirt that serve
// the calls, as libvirt's errors name them.
func procedureOf(number uint32) (p procedure, ok bool) {
	switch number {
	case procRegister:
		p = procedure{"Register", (*connection).callRegister}
	case procRestrict:
		p = procedure{"Restrict", (*connection).callRestrict}
	case procNew:
		p = procedure{"New", (*connection).callNew}
	case procCreateResource:
		p = procedure{"CreateResource", (*connection).callResource}
	case procDeleteResource:
		p = procedure{"DeleteResource", (*connection).callResource}
	case procAcquireResource:
		p = procedure{"AcquireResource", (*connection).callAcquire}
	case procReleaseResource:
		p = procedure{"ReleaseResource", (*connection).callRelease}
	case procCreateLockspace:
		p = procedure{"CreateLockSpace", (*connection).callLockspace}
	}
	return p, p.serve != nil
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
	p, ok := procedureOf(m.Procedure)
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
		c.noteDirectory(path)
	}
	return err
}
