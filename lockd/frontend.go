package lockd

import (
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// begin takes a new call; start is nil for those that submit knows.
func (t *table) begin(c *call, start func(*call)) {
	switch {
	case start == nil:
		t.submit(c)
	case t.stopping:
		t.refuseStopping(c)
	default:
		c.heapIdx = -1
		t.arm(c, t.opTime)
		start(c)
	}
}

func (t *table) refuseStopping(c *call) {
	c.stage = stageDone
	c.fail(&api.Error{Op: c.op, Kind: api.ShuttingDown, Text: "the service is stopping; it keeps its locks, ask again when it is back"})
	t.reply(c)
}

// tell has fn answer a call that the table knows nothing of, on the owner
// goroutine like all answers, or at once when the service has stopped.
func (s *Service) tell(fn func()) {
	if !s.post(fn) {
		fn()
	}
}

// submit hands a call to the owner goroutine, or answers it at once when the
// service has stopped.
func (s *Service) submit(c *call, start func(*call)) {
	if !s.post(func() { s.t.begin(c, start) }) {
		s.answer(replyAction{c: c, err: &api.Error{Op: c.op, Kind: api.ShuttingDown, Text: "the service has stopped; ask again when it is back"}})
	}
}

// answer gives the result of a call to the front end.
func (s *Service) answer(a replyAction) {
	c := a.c
	s.dropProcess(c)
	switch done := c.done.(type) {
	case func([]api.Grant, error):
		done(c.grants, a.err)
	case func(api.Grant, error):
		var g api.Grant
		if a.err == nil && len(c.grants) == 1 {
			g = c.grants[0]
		}
		done(g, a.err)
	case func(error):
		done(a.err)
	case func(uint32, error):
		done(c.released, a.err)
	case func(api.Inspection, error):
		var in api.Inspection
		if a.err == nil {
			in = *c.inspection
		}
		done(in, a.err)
	case *request:
		done.end(c, a.err)
	}
}

// Acquire takes all the locks or none.
func (s *Service) Acquire(c api.Caller, want []api.Want, o api.AcquireOptions, done func([]api.Grant, error)) {
	proc, err := s.findProcess(c, &o)
	if err != nil {
		s.tell(func() { done(nil, err) })
		return
	}
	s.submit(&call{kind: callAcquire, op: "acquire", caller: c, want: want, opts: o, wait: o.Wait, value: o.Value, proc: proc, hold: proc, done: done}, nil)
}

// Convert changes the mode of a lock in place.
func (s *Service) Convert(c api.Caller, w api.Want, sel api.Selector, o api.ConvertOptions, done func(api.Grant, error)) {
	s.submit(&call{kind: callConvert, op: "convert", caller: c, want: []api.Want{w}, sel: sel, wait: o.Wait, value: o.Value, done: done}, nil)
}

// Release lets go of one lock.
func (s *Service) Release(c api.Caller, lockspace, resource string, sel api.Selector, done func(error)) {
	s.submit(&call{kind: callRelease, op: "release", caller: c, space: lockspace, resource: resource, sel: sel, done: done}, nil)
}

// ReleaseOwner lets go of everything of one owner.
func (s *Service) ReleaseOwner(c api.Caller, lockspace, owner string, done func(uint32, error)) {
	s.submit(&call{kind: callRelease, op: "release-owner", caller: c, space: lockspace, owner: owner, all: true, done: done}, nil)
}

// ReleaseMany lets go of what one owner holds of some resources, and with some
// labels.
func (s *Service) ReleaseMany(c api.Caller, resources []api.Want, owner string, labels []string, done func(uint32, error)) {
	if resources == nil {
		resources = []api.Want{}
	}
	s.submit(&call{kind: callRelease, op: "release", caller: c, want: resources, owner: owner,
		opts: api.AcquireOptions{Labels: labels}, all: true, done: done}, nil)
}

// Inspect tells all that is known of one resource.
func (s *Service) Inspect(lockspace, resource string, done func(api.Inspection, error)) {
	s.submit(&call{kind: callInspect, op: "inspect", space: lockspace, resource: resource, done: done}, s.t.inspect)
}

// Lockspaces lists the lockspaces of this instance by name.
func (s *Service) Lockspaces(done func([]api.LockspaceInfo, error)) {
	if !s.post(func() { done(s.t.lockspaces(), nil) }) {
		done(nil, &api.Error{Op: "list-lockspaces", Kind: api.ShuttingDown, Text: "the service has stopped"})
	}
}

// Join joins a lockspace; one that is joined already is fine.
func (s *Service) Join(c api.Caller, lockspace string, done func(error)) {
	cl := &call{kind: callSpace, op: "join", caller: c, space: lockspace, done: done}
	s.submit(cl, func(c *call) { s.t.rearm(c, spaceTimeout/3); s.t.join(c) })
}

// Leave leaves a lockspace.
func (s *Service) Leave(c api.Caller, lockspace string, force bool, done func(error)) {
	cl := &call{kind: callSpace, op: "leave", caller: c, space: lockspace, done: done}
	s.submit(cl, func(c *call) { s.t.rearm(c, spaceTimeout/3); s.t.leave(c, force) })
}

// Purge removes the orphans named in expect, if they still are all there are, or,
// with some, these and no others.
func (s *Service) Purge(c api.Caller, lockspace string, expect []dlm.LockID, some bool, done func(uint32, error)) {
	cl := &call{kind: callSpace, op: "purge", caller: c, space: lockspace, done: done}
	s.submit(cl, func(c *call) { s.t.purge(c, expect, some) })
}

// SessionGone cancels the unanswered calls of a session that has ended, and releases the locks that hang on it.
func (s *Service) SessionGone(gone api.Session) { s.post(func() { s.t.sessionGone(gone) }) }
