package lockd

import (
	"errors"
	"math"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// request is the front end's side of a Request: told once that it waits, or
// why not, and once how it ended.
type request struct {
	started func(api.Ref, error)
	done    func(api.Grant, error)
	told    bool
}

// startedAction tells that a Request is under way.
type startedAction struct{ c *call }

func (startedAction) action() {}

func (r *request) start(ref api.Ref, err error) {
	if r.told {
		return
	}
	r.told = true
	r.started(ref, err)
}

// end is the answer of the call. A request that is refused before it waited
// was never started.
func (r *request) end(c *call, err error) {
	if err != nil && !r.told && c.stage == stageDone && len(c.fresh) == 0 {
		r.start(0, err)
		return
	}
	r.start(c.request, nil)
	var g api.Grant
	if err == nil && len(c.grants) == 1 {
		g = c.grants[0]
	}
	r.done(g, err)
}

// Request queues for a lock without a deadline. started gets the number by
// which CancelRequest knows it, or why it can't wait; then done gets how it
// ended. It ends as well when the caller leaves the bus.
func (s *Service) Request(c api.Caller, w api.Want, o api.AcquireOptions, started func(api.Ref, error), done func(api.Grant, error)) {
	proc, err := s.findProcess(c, &o)
	if err != nil {
		if e, ok := errors.AsType[*api.Error](err); ok {
			e.Op = "request"
		}
		s.tell(func() { started(0, err) })
		return
	}
	r := &request{started: started, done: done}
	cl := &call{kind: callAcquire, op: "request", caller: c, want: []api.Want{w}, opts: o, wait: math.MaxInt64, value: o.Value, proc: proc, hold: proc, done: r}
	ok := s.post(func() {
		cl.request = s.t.ref()
		s.t.submit(cl)
		s.t.do(startedAction{cl})
	})
	if !ok {
		s.dropProcess(cl)
		r.start(0, &api.Error{Op: cl.op, Kind: api.ShuttingDown, Text: "the service has stopped; ask again when it is back"})
	}
}

// CancelRequest withdraws a request that still waits. Only its own uid or a
// privileged caller may.
func (s *Service) CancelRequest(c api.Caller, ref api.Ref, done func(error)) {
	if !s.post(func() { done(s.t.cancelRequest(c, ref)) }) {
		done(&api.Error{Op: "cancel", Kind: api.ShuttingDown, Text: "the service has stopped"})
	}
}

func (t *table) cancelRequest(who api.Caller, ref api.Ref) error {
	c := t.requests[ref]
	if c == nil {
		return &api.Error{Op: "cancel", Kind: api.NotHeld, Text: "the request does not wait any more"}
	}
	if c.caller.UID != who.UID && !who.Privileged {
		return &api.Error{Op: "cancel", Kind: api.AccessDenied, Lockspace: c.want[0].Lockspace, Resource: c.want[0].Resource, Mode: c.want[0].Mode,
			Text: "the request belongs to another user"}
	}
	w := c.want[0]
	t.giveUp(c, c.error(api.Canceled, w.Lockspace, w.Resource, w.Mode, "the request was canceled"))
	return nil
}

// Position tells a Request's place among those of this instance that wait for
// its resource.
func (s *Service) Position(ref api.Ref, done func(int)) {
	if !s.post(func() { done(s.t.position(ref)) }) {
		done(0)
	}
}

// positionLimit is how many locks are looked at to find a place, so that the
// cost does not grow with the queue.
const positionLimit = 1000

// position counts the older ones in the chain of the resource, which begins
// with the youngest.
func (t *table) position(ref api.Ref) int {
	c := t.requests[ref]
	if c == nil || c.stage != stageLocking || len(c.fresh) != 1 {
		return 0
	}
	place, seen := 1, 0
	for l := c.fresh[0].nextRes; l != nil; l = l.nextRes {
		if seen++; seen > positionLimit {
			return 0
		}
		if l.flying && l.busy.stage == stageLocking && l.busy.wait > 0 {
			place++
		}
	}
	return place
}

// Sessions returns those that locks of lifetime connection hang on.
func (s *Service) Sessions(done func([]api.Session)) {
	if !s.post(func() { done(s.t.sessions()) }) {
		done(nil)
	}
}

// Lock describes one lock of this instance by its number.
func (s *Service) Lock(ref api.Ref, done func(api.LockInfo, error)) {
	ok := s.post(func() {
		if l := s.t.locks[ref]; l != nil && !l.probe {
			done(l.info(), nil)
			return
		}
		done(api.LockInfo{}, &api.Error{Op: "lock", Kind: api.NotHeld, Text: "there is no such lock any more"})
	})
	if !ok {
		done(api.LockInfo{}, &api.Error{Op: "lock", Kind: api.ShuttingDown, Text: "the service has stopped"})
	}
}
