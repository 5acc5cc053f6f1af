package varlink

import (
	"reflect"
	"time"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// progressEvery is how often a wait is looked at whose caller wants to know how it
// is doing.
const progressEvery = time.Second

// report tells the caller of a wait how it is doing, until it has ended. It has a
// goroutine of its own, since each look asks the service twice; the caller has asked for
// that cost, and tell ends the call of one who does not read.
func (a *acquire) report(c *call, number uint64) {
	defer c.Contain()
	// Who holds the lock is shown to whoever may inspect the resource.
	about := frontend.About{Op: "acquire", Lockspace: a.Lockspace, Resource: a.Resource}
	seen := c.Authorize(api.ActInspect, about) == nil
	every := time.NewTicker(progressEvery)
	defer every.Stop()
	var told *waiting
	for {
		now, ok := a.look(c, number, seen)
		if !ok {
			return
		}
		if !reflect.DeepEqual(now, told) {
			c.tell(acquireOut{Waiting: now})
			told = now
		}
		select {
		case <-every.C:
		case <-a.ended:
			return
		}
	}
}

// look finds out how the wait is doing; false: it has ended.
func (a *acquire) look(c *call, number uint64, holder bool) (*waiting, bool) {
	core, w := c.door.cfg.Core, new(waiting)
	position := make(chan int, 1)
	core.Requests().Position(number, func(n int) { position <- n })
	select {
	case n := <-position:
		w.Position = unless0(n)
	case <-a.ended:
		return nil, false
	}
	if !holder {
		return w, true
	}
	found := make(chan api.Inspection, 1)
	core.Service().Inspect(a.Lockspace, a.Resource, func(in api.Inspection, _ error) { found <- in })
	select {
	case in := <-found:
		if in.HasHolder && in.Holder.Node != 0 {
			w.Holder = holderOf(&in.Holder)
		}
	case <-a.ended:
		return nil, false
	}
	return w, true
}
