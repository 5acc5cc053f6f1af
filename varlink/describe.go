package varlink

import (
	"sync/atomic"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// describe is Describe.
type describe struct{ silent }

func (*describe) method(*wire.Call) (frontend.Method, error) { return nil, nil }

// run answers, or with more goes on until the client or the service ends. It runs on
// the goroutine of the session, so that a client without the right to inspect is refused
// there.
func (*describe) run(c *call) {
	if err := c.Authorize(api.ActInspect, frontend.About{Op: "describe"}); err != nil {
		c.Fail(err)
		return
	}
	if !c.wire.More {
		c.reply(c.status())
		return
	}
	w := new(watch)
	c.door.mu.Lock()
	c.door.watches[c] = w
	if c.Answered() { // its client has gone meanwhile, and leave has found nothing to end
		delete(c.door.watches, c)
	}
	c.door.mu.Unlock()
	w.tell(c)
}

func (c *call) status() any {
	st := c.door.cfg.Core.Service().Status()
	return c.door.describe(&st)
}

// leave implements leaver.
func (*describe) leave(c *call, why error) {
	c.Fail(why) // first: run looks for it behind its entry
	c.door.mu.Lock()
	delete(c.door.watches, c)
	c.door.mu.Unlock()
}

// watch is a caller who wants to hear of each change. Changes that come while the
// caller has not read the last one are told as one.
type watch struct {
	due atomic.Bool // a reply is in the queue, and has yet to be made
}

func (w *watch) tell(c *call) {
	if w.due.CompareAndSwap(false, true) {
		c.tellLater(func() any {
			// In this order: a change after status is told with one more reply.
			w.due.Store(false)
			return c.status()
		})
	}
}

// serviceChanged runs where the service's notices come from.
func (d *Door) serviceChanged() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c, w := range d.watches {
		w.tell(c)
	}
}
