package table

import (
	"container/heap"
	"slices"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// calls are the unanswered calls, by session and by deadline.
type calls struct {
	t *Table
	// The number of the youngest call. Numbers order the calls of all sessions by the
	// moment in which they came in.
	lastSeq uint64
	// Those that have unanswered calls, and no others: a session leaves with its last
	// call.
	sessions map[api.Session]*session
	requests map[api.Ref]*acquireOp // those without a deadline: Requests that wait
	// The calls that have a deadline, the earliest first.
	deadlines deadlineHeap
	following int     // calls that follow another one
	awake     []*call // that did and need not any more, by seq
}

// enlist numbers a call and puts it among those that its session waits for.
func (b *calls) enlist(c *call) {
	b.lastSeq++
	c.seq = b.lastSeq
	if c.caller.Session == "" || !c.op.ordered() {
		return
	}
	s := b.sessions[c.caller.Session]
	if s == nil {
		s = &session{}
		b.sessions[c.caller.Session] = s
	}
	head := s.newestLike(c)
	if *head != nil {
		c.place.older, (*head).place.newer = *head, c
	}
	*head = c
}

// of returns the session whose order a call is part of; nil if it is part of none.
func (b *calls) of(c *call) *session {
	if c.id == 0 || !c.op.ordered() {
		return nil
	}
	return b.sessions[c.caller.Session]
}

// newestLike returns the head of the list that a call belongs to.
func (s *session) newestLike(c *call) **call {
	if c.request != 0 {
		return &s.requests
	}
	return &s.calls
}

// unlist takes an answered call out again.
func (b *calls) unlist(c *call) {
	if c.request != 0 {
		delete(b.requests, c.request)
	}
	s := b.of(c)
	if s == nil {
		return
	}
	at := &c.place
	if at.older != nil {
		at.older.place.newer = at.newer
	}
	if at.newer != nil {
		at.newer.place.older = at.older
	} else if head := s.newestLike(c); *head == c {
		*head = at.older
	}
	at.older, at.newer = nil, nil
	b.forget(c.caller.Session, s)
}

// forget drops a session that has no unanswered call.
func (b *calls) forget(name api.Session, s *session) {
	if s.calls == nil && s.requests == nil && len(s.inLine) == 0 {
		delete(b.sessions, name)
	}
}

// deadlineHeap orders calls by deadline.
type deadlineHeap []*call

func (h deadlineHeap) Len() int           { return len(h) }
func (h deadlineHeap) Less(i, j int) bool { return h[i].deadline.Before(h[j].deadline) }
func (h deadlineHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapIdx, h[j].heapIdx = i, j
}
func (h *deadlineHeap) Push(x any) {
	c := x.(*call)
	c.heapIdx = len(*h)
	*h = append(*h, c)
}
func (h *deadlineHeap) Pop() any {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	c.heapIdx = -1
	return c
}

// arm gives a call a deadline, or another one.
func (b *calls) arm(c *call, at time.Time) {
	b.disarm(c)
	if c.request != 0 {
		delete(b.requests, c.request)
	}
	c.deadline = at
	heap.Push(&b.deadlines, c)
}

// disarm takes the call's deadline away.
func (b *calls) disarm(c *call) {
	if c.heapIdx >= 0 && c.heapIdx < len(b.deadlines) && b.deadlines[c.heapIdx] == c {
		heap.Remove(&b.deadlines, c.heapIdx)
	}
}

// waiting returns the calls that somebody waits for.
func (b *calls) waiting() []*call {
	out := slices.Clone([]*call(b.deadlines))
	for _, o := range b.requests {
		if o.heapIdx < 0 {
			out = append(out, &o.call)
		}
	}
	return slices.DeleteFunc(out, func(c *call) bool { return c.answered })
}

// Submit takes a new call. Its answer is a ReplyAction with that id.
func (b *calls) Submit(id CallID, o Operation) { b.enter(id, o) }

// enter is the one way in.
func (b *calls) enter(id CallID, o Operation) *call {
	t := b.t
	op := o.operation(call{t: t, id: id, name: o.Name(), begun: t.now, heapIdx: -1})
	c := op.base()
	c.op = op
	if _, lists := op.(*listOp); t.stopping && !lists { // which takes nothing on
		c.fail(&api.Error{Op: c.name, Kind: api.ShuttingDown,
			Text: "the service is stopping; it keeps its locks, ask again when it is back"})
		c.reply()
		return c
	}
	b.enlist(c)
	if limit := op.patience(); limit > 0 {
		b.arm(c, t.now.Add(limit))
	}
	if acquire, ok := op.(*acquireOp); ok && c.request != 0 {
		b.requests[c.request] = acquire
	}
	b.start(c)
	if c.request != 0 && !c.answered {
		b.announce(c)
	}
	return c
}

// announce says that a Request is under way.
func (b *calls) announce(c *call) {
	t := b.t
	if o, ok := c.op.(*acquireOp); ok && !o.announced {
		o.announced = true
		t.do(StartedAction{c.id, c.request})
	}
}

// SessionGone cancels what a session that has ended still waits for, in its order,
// and ends the locks that hang on it.
func (b *calls) SessionGone(name api.Session) {
	t := b.t
	var waiting []*call
	if s := b.sessions[name]; s != nil {
		for _, head := range []*call{s.calls, s.requests} {
			for c := head; c != nil; c = c.place.older {
				if _, releases := c.op.(*releaseOp); !releases { // which goes on to its end; the answer reaches nobody
					waiting = append(waiting, c)
				}
			}
		}
	}
	slices.SortFunc(waiting, bySeq)
	t.slices(len(waiting), func(i int) {
		c := waiting[i]
		if waiting[i] = nil; c.err == gone {
			c.err = nil
		}
		w := c.op.waitsFor()
		c.stopWaiting(c.errorOf(api.Canceled, w.lockspace, w.resource, w.mode, goneText))
	}, func() { t.endBinding(bindKey{session: name}, "the connection has ended") })
	// Those whose turn is yet to come must not begin anything, and what the lock
	// manager grants meanwhile is released.
	for _, c := range waiting {
		if c == nil || c.err != nil {
			continue
		}
		if _, acquires := c.op.(*acquireOp); acquires {
			c.err = gone
		}
	}
}

const goneText = "the caller has left the bus"

// gone is why calls fail whose session is gone, until each is given up.
var gone = &api.Error{Op: "acquire", Kind: api.Canceled, Mode: dlm.None, Text: goneText}

// passDeadlines answers the calls whose time is over.
func (b *calls) passDeadlines() {
	t := b.t
	for len(b.deadlines) > 0 && !b.deadlines[0].deadline.After(t.now) {
		c := b.deadlines[0]
		b.disarm(c)
		if convert, ok := c.op.(*convertOp); ok && convert.withdraw() {
			continue
		}
		c.stopWaiting(c.op.late())
	}
}
