package virtlockd

import (
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// session is what a connection needs of the lock service. The functions wait for nothing
// but memory; done is called once, with the answer, before they return or from another
// goroutine later.
type session interface {
	acquire(want []api.Want, o api.AcquireOptions, done func([]api.Grant, error))
	release(resources []api.Want, owner string, labels []string, done func(uint32, error))
	// close withdraws the acquires that are not answered.
	close()
}

// service makes sessions.
type service interface {
	open(c *connection) session
	node() uint32 // this node, or 0
}

// await waits for the answer of a call of a session, until the deadline; in is
// false if there is none by then.
func await[T any](c *connection, deadline time.Time, call func(done func(T, error))) (v T, in bool, err error) {
	type answer struct {
		v   T
		err error
	}
	answered := make(chan answer, 1)
	call(func(v T, err error) { answered <- answer{v, err} })
	select {
	case a := <-answered: // mostly: the call was carried through on this goroutine
		return a.v, true, a.err
	default:
	}
	c.relieve()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case a := <-answered:
		return a.v, true, a.err
	case <-timer.C:
		return v, false, nil
	}
}

// open makes sure that the connection has a session, and reports whether the
// service is ready for it by the deadline.
func (c *connection) open(deadline time.Time) bool {
	if c.session != nil {
		return true
	}
	select {
	case <-c.door.ready:
	default:
		if !c.waitReady(deadline) {
			return false
		}
	}
	c.session = c.door.service.open(c)
	return true
}

// waitReady waits for the end of the service's activation, as long as the call may take.
func (c *connection) waitReady(deadline time.Time) bool {
	c.relieve()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-c.door.ready:
		return true
	case <-c.door.closing:
		return false
	case <-timer.C:
		return false
	}
}

// closeSession withdraws what waits. Locks that are held stay: they hang on the guest's process.
func (c *connection) closeSession() {
	if c.session != nil {
		c.session.close()
		c.session = nil
	}
}
