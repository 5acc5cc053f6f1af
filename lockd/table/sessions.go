package table

import (
	"cmp"
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// The order of one session's calls. A client need not wait for an answer before
// its next call: each call comes to what it would have come to if it had been made
// after the answers to those before it. The calls of different sessions are in no
// order.
//
// For each resource a session has a line: the calls, in the order in which they
// came in, that later calls about that resource may have to follow. These are
//
//	calls that have not begun       any later call follows them
//	releases that are under way     acquires follow them: a client must not be
//	                                refused because of its own lock
//	acquires that also name locks   releases and conversions of those locks follow
//	which the owner has already     them
//
// A call that concerns whatever resource (ReleaseOwner, ReleaseMany) stands in the
// line that all calls of the session look at. A call follows another one until
// that begins, ends, or is done with one of its locks; then it looks again. In the
// same way it follows a call of another session that has an operation under way
// with a lock that both mean.
//
// Most calls never stand in a line: an acquire of a lock that does not exist yet
// is in nobody's way, and what waits in a queue of the lock manager is for the lock
// manager to order.

// resourceKey names a resource.
type resourceKey struct{ lockspace, resource string }

// place is where a call stands among the calls of its session.
type place struct {
	older, newer *call // unanswered calls of the session

	follows   *call         // the call that it follows before it begins; nil: none
	behind    *lock         // because of this lock; may be nil, and is kept until the call begins
	followers []*call       // those that follow it
	lines     []resourceKey // the lines that it stands in
	all       bool          // and the one that all calls look at
	started   bool          // it has begun
}

// session is what the table keeps of a session that has unanswered calls.
type session struct {
	// The newest unanswered call, and the newest Request: there may be very many
	// Requests of one session, and few of all others.
	calls, requests *call
	lines           map[resourceKey][]*call
	all             []*call // the calls that concern whatever resource
	inLine          []*call // every call that stands in a line
	places          int     // the lines that they stand in, together
	following       int     // calls that follow another one
}

// maxFollowers is how many calls may follow one call, how many of one session may
// follow others, and maxPlaces in how many lines these may stand.
const (
	maxFollowers = 1000
	maxPlaces    = 65536
)

// start begins a call, or begins it again, unless it has to follow another one.
func (b *calls) start(c *call) {
	if p := b.predecessor(c); p != nil {
		c.follow(p, p.anyLock())
		return
	}
	c.op.start()
	if c.place.follows == nil {
		c.place.started, c.place.behind = true, nil
		b.wakeFollowers(c)
	}
}

// anyLock is a lock that a call waits for or is about, for messages.
func (c *call) anyLock() *lock {
	if c.place.behind != nil {
		return c.place.behind
	}
	for _, l := range c.op.involved() {
		if l != nil {
			return l
		}
	}
	return nil
}

// predecessor returns a call of the same session that c has to follow before it
// begins, whatever locks it turns out to mean, or nil.
func (b *calls) predecessor(c *call) *call {
	s := b.of(c)
	if s == nil || len(s.inLine) == 0 {
		return nil
	}
	keys, all := c.op.resources()
	if all {
		return newest(s.inLine, c, func(p *call) bool { return !p.place.started })
	}
	_, acquires := c.op.(*acquireOp)
	first := func(p *call) bool {
		_, releases := p.op.(*releaseOp)
		return !p.place.started || acquires && releases
	}
	if p := newest(s.all, c, func(p *call) bool { return !p.place.started }); p != nil {
		return p
	}
	for _, k := range keys {
		if p := newest(s.lines[k], c, first); p != nil {
			return p
		}
	}
	return nil
}

// newest returns the newest call of a line before c that c has to follow.
func newest(line []*call, c *call, follow func(*call) bool) *call {
	for _, p := range slices.Backward(line) {
		if p.seq < c.seq && follow(p) {
			return p
		}
	}
	return nil
}

// occupant returns the call that has to be done with l before c can begin with it:
// one that has an operation under way with it, or an earlier acquire of the same
// session that names it beside locks which it still takes. nil if there is none.
func (b *calls) occupant(c *call, l *lock) *call {
	if l.busy != nil {
		return l.busy
	}
	s := b.of(c)
	if s == nil || len(s.inLine) == 0 {
		return nil
	}
	return newest(s.lines[l.key()], c, func(p *call) bool {
		o, acquires := p.op.(*acquireOp)
		return acquires && slices.Contains(o.locks, l)
	})
}

// follow has c wait until p begins, ends, or is done with one of its locks.
func (c *call) follow(p *call, because *lock) {
	t := c.t
	s := t.calls.of(c)
	keys, all := c.op.resources()
	if c.id != 0 && (len(p.place.followers) >= maxFollowers ||
		s != nil && (s.following >= maxFollowers || s.places+len(keys) > maxPlaces)) {
		e := c.errorOf(api.LimitExceeded, "", "", dlm.None,
			"too many calls wait for what is under way with this lock; try again")
		if because != nil {
			e.Lockspace, e.Resource = because.sp.name, because.resource
		}
		c.refuse(e)
		return
	}
	c.place.follows, c.place.behind = p, because
	p.place.followers = append(p.place.followers, c)
	t.calls.following++
	if s != nil {
		s.following++
		t.calls.enterLines(c, keys, all)
	}
}

// postponed reports whether the search for the locks of a call has found another call that comes
// first. Then c follows that one, and start is called again; or c is refused already, because too
// many follow. What the search has returned does not count.
func (c *call) postponed() bool { return c.place.follows != nil || c.answered }

// enterLines has a call stand in lines.
func (b *calls) enterLines(c *call, keys []resourceKey, all bool) {
	s := b.of(c)
	if s == nil || c.answered || len(keys) == 0 && !all {
		return
	}
	b.leaveLines(c)
	if c.place.all = all; all {
		s.all = inOrder(s.all, c)
	}
	for _, k := range keys {
		if s.lines == nil {
			s.lines = map[resourceKey][]*call{}
		}
		s.lines[k] = inOrder(s.lines[k], c)
	}
	s.inLine = inOrder(s.inLine, c)
	s.places += len(keys)
	c.place.lines = keys
}

// inOrder puts a call into a line, by its number.
func inOrder(line []*call, c *call) []*call {
	i, _ := slices.BinarySearchFunc(line, c, bySeq)
	return slices.Insert(line, i, c)
}

func bySeq(a, b *call) int { return cmp.Compare(a.seq, b.seq) }

// leaveLines has a call stand in no line.
func (b *calls) leaveLines(c *call) {
	s := b.of(c)
	if s == nil || len(c.place.lines) == 0 && !c.place.all {
		return
	}
	is := func(p *call) bool { return p == c }
	if c.place.all {
		s.all = slices.DeleteFunc(s.all, is)
	}
	for _, k := range c.place.lines {
		if s.lines[k] = slices.DeleteFunc(s.lines[k], is); len(s.lines[k]) == 0 {
			delete(s.lines, k)
		}
	}
	s.inLine = slices.DeleteFunc(s.inLine, is)
	s.places -= len(c.place.lines)
	c.place.lines, c.place.all = nil, false
	b.forget(c.caller.Session, s)
}

// moveOn notes that a call follows no other one any more.
func (b *calls) moveOn(c *call) {
	c.place.follows = nil
	b.following--
	if s := b.of(c); s != nil {
		s.following--
	}
	b.leaveLines(c)
}

// unfollow ends the waiting of a call that follows another one.
func (b *calls) unfollow(c *call) {
	if p := c.place.follows; p != nil {
		p.place.followers = slices.DeleteFunc(p.place.followers, func(f *call) bool { return f == c })
		b.moveOn(c)
	}
}

// wakeFollowers has the calls that follow p started anew at the end of the turn.
// What they find may be busy again; then they follow again.
func (b *calls) wakeFollowers(p *call) {
	for _, c := range p.place.followers {
		b.moveOn(c)
		b.awake = inOrder(b.awake, c)
	}
	p.place.followers = nil
}

// startAwake starts the calls that follow no other one any more, in the order in
// which they came in.
func (b *calls) startAwake() {
	for len(b.awake) > 0 {
		c := b.awake[0]
		b.awake[0] = nil
		b.awake = b.awake[1:]
		if !c.answered && c.err != gone {
			b.start(c)
		}
	}
}
