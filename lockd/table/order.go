package table

import (
	"cmp"
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// The order of one connection's calls. A client need not wait for an answer
// before its next call: each call comes to what it would have come to if it had
// been made after the answers to those before it. Calls that concern the same
// locks are kept in order here; the DLM sees to the rest. The calls of different
// connections are in no order.

// start begins a call, or begins it again after it was parked. Calls of one
// connection that concern the same resource keep their order.
func (t *Table) start(c *call) {
	if l := t.ahead(c); l != nil {
		t.park(c, l)
		return
	}
	switch c.kind {
	case callAcquire:
		t.startAcquire(c)
	case callConvert:
		t.startConvert(c)
	case callRelease:
		t.startRelease(c)
	}
}

// maxParked is how many calls may wait for one lock, since all of them look
// again whenever something has ended, and how many of one sender may wait,
// since each of that sender's calls looks at all of them.
const maxParked = 1000

// park lets c wait until the operation of l that is under way has ended.
func (t *Table) park(c *call, l *lock) {
	of := t.waiters[c.caller.Session]
	if c.id != 0 && (len(l.parked) >= maxParked || len(of) >= maxParked) {
		t.refuse(c, c.error(api.LimitExceeded, l.sp.name, l.resource, dlm.None, "too many calls wait for what is under way with this lock; try again"))
		return
	}
	c.parkedAt = l
	l.parked = append(l.parked, c)
	t.parked++
	if c.id != 0 {
		t.waiters[c.caller.Session] = append(of, c)
	}
}

// moveOn notes that a call of a sender is parked no more.
func (t *Table) moveOn(c *call) {
	c.parkedAt = nil
	t.parked--
	if c.id == 0 {
		return
	}
	of := t.waiters[c.caller.Session]
	of = slices.DeleteFunc(of, func(p *call) bool { return p == c })
	if len(of) == 0 {
		delete(t.waiters, c.caller.Session)
		return
	}
	t.waiters[c.caller.Session] = of
}

// leaveQueue ends the waiting of a parked call.
func (t *Table) leaveQueue(c *call) {
	if l := c.parkedAt; l != nil {
		l.parked = slices.DeleteFunc(l.parked, func(p *call) bool { return p == c })
		t.moveOn(c)
	}
}

// unpark has the calls that waited for l started anew at the end of the turn.
// What they find may be busy again; then they wait again.
func (t *Table) unpark(l *lock) {
	for _, c := range l.parked {
		t.moveOn(c)
		i, _ := slices.BinarySearchFunc(t.awake, c, func(a, b *call) int { return cmp.Compare(a.seq, b.seq) })
		t.awake = slices.Insert(t.awake, i, c)
	}
	l.parked = nil
}

// endTurn starts the calls that need not wait any more, in the order in which
// they came in, and tells what has changed.
func (t *Table) endTurn() {
	for len(t.awake) > 0 {
		c := t.awake[0]
		t.awake[0] = nil
		t.awake = t.awake[1:]
		if !c.answered && c.err != gone {
			t.start(c)
		}
	}
	t.tellTouched()
}

// ahead returns the lock at which an earlier call of the same connection waits
// that concerns the same resource, or nil.
func (t *Table) ahead(c *call) *lock {
	var last *call
	for _, p := range t.waiters[c.caller.Session] {
		if p.seq < c.seq && (last == nil || last.seq < p.seq) && overlap(p, c) {
			last = p
		}
	}
	if last == nil {
		return nil
	}
	return last.parkedAt
}

// maxCompared bounds how many pairs of resources overlap compares.
const maxCompared = 256

// overlap reports whether two calls may concern the same lock.
func overlap(a, b *call) bool {
	if a.all || b.all {
		return true // a release of everything of one owner
	}
	if a.kind == callRelease {
		a, b = b, a
	}
	if a.kind == callRelease {
		return a.space == b.space && a.resource == b.resource
	}
	if len(a.want)*max(len(b.want), 1) > maxCompared {
		return true // waiting costs less than to find out
	}
	for _, w := range a.want {
		if b.kind == callRelease && b.space == w.Lockspace && b.resource == w.Resource {
			return true
		}
		if slices.ContainsFunc(b.want, func(o api.Want) bool { return o.Lockspace == w.Lockspace && o.Resource == w.Resource }) {
			return true
		}
	}
	return false
}

// ownRelease finds a wanted resource's lock that the same connection has asked
// to release before: a client that does not wait for that answer must not be
// refused because of its own lock.
func (t *Table) ownRelease(c *call) *lock {
	for p := t.calls[c.caller.Session]; p != nil; p = p.older {
		if p.kind != callRelease || p.seq > c.seq {
			continue
		}
		for _, l := range p.locks {
			if l.busy == p && c.wants(l) {
				return l
			}
		}
	}
	return nil
}

func (c *call) wants(l *lock) bool {
	return slices.ContainsFunc(c.want, func(w api.Want) bool { return w.Lockspace == l.sp.name && w.Resource == l.resource })
}

// before returns the lock that c has to wait for before it can begin with l, or
// nil: l itself, if something is under way with it, or one that an earlier
// acquire of the same connection takes together with l.
func (t *Table) before(c *call, l *lock) *lock {
	if l.busy != nil {
		return l
	}
	for p := t.calls[c.caller.Session]; p != nil; p = p.older {
		if p.kind == callAcquire && p.seq < c.seq && len(p.fresh) > 0 && len(p.fresh) < len(p.locks) && slices.Contains(p.locks, l) {
			return p.fresh[0]
		}
	}
	return nil
}

// sameCaller reports whether something is under way with the lock that the
// caller of c asked for, and did not wait for the answer before going on.
func (t *Table) sameCaller(l *lock, c *call) bool {
	return l.busy != nil && l.busy.caller.Session == c.caller.Session && l.uid == c.caller.UID
}
