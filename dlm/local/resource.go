package local

import "github.com/dlmlock/dlmlockd/dlm"

// place says in which queue a lock is.
type place uint8

const (
	nowhere place = iota
	inGranted
	inConverting
	inWaiting
)

// lock is one lock of a resource. There may be 100,000 of them, so it stays within 64 bytes and
// owns no other memory.
type lock struct {
	next, prev *lock // neighbours in its queue; prev of the first one is the last one
	res        *resource
	member     *member    // the node, in this lockspace, whose lock it is
	owner      *handle    // nil: it is an orphan
	cookie     dlm.Cookie // of owner; 0 for an orphan
	id         dlm.LockID // in the set of its member, so two nodes may use the same number
	flags      dlm.Flags  // of the last request, conversion or adoption
	granted    dlm.Mode   // None while it waits for its first grant
	wanted     dlm.Mode   // None in the granted queue
	highBast   dlm.Mode   // the highest mode notified since the last grant (lkb_highbast)
	lastBast   dlm.Mode   // the mode of the owner's last event if that was a notification, otherwise NL
	place      place
}

// queue is a doubly linked list of locks.
type queue struct{ head *lock }

func (q *queue) push(l *lock) {
	if q.head == nil {
		q.head = l
	} else {
		l.prev = q.head.prev
		l.prev.next = l
	}
	q.head.prev, l.next = l, nil
}

func (q *queue) remove(l *lock) {
	if l == q.head {
		q.head = l.next
	} else {
		l.prev.next = l.next
	}
	if l.next != nil {
		l.next.prev = l.prev
	} else if q.head != nil {
		q.head.prev = l.prev // the last one now
	}
	l.prev, l.next = nil, nil
}

// resource is one name with its three queues and its lock value block. Its methods are the rules of
// fs/dlm/lock.c. What an operation does to other locks is appended to a list of effects. There may be
// 100,000 resources, as with locks, so a resource with its first lock stays within 144 bytes.
type resource struct {
	name string
	// The value block; nil until the first write to any of the resources for which this memory
	// was used.
	value      *dlm.Value
	granted    queue
	converting queue // granted in one mode, waiting for another; they count in held
	waiting    queue
	// held counts the granted modes in the granted and converting queues, so that a conflict
	// shows in six comparisons, however many locks there are.
	held    [len(dlm.Modes)]uint32
	master  uint32 // the node that would be the master in a real cluster
	written bool   // there is a value block; the kernel allocates it with the first write
	invalid bool   // VALNOTVALID
	first   lock   // room for one lock, because most resources have no more
}

// effect is what an operation on one lock does to another lock.
type effect struct {
	lock *lock
	kind dlm.EventKind // Completed: granted; Blocking
	from dlm.Mode      // Completed: the mode held before, None for a new lock
	mode dlm.Mode      // Blocking: the mode that is waiting
}

// outcome is the immediate outcome of a request or a conversion.
type outcome uint8

const (
	granted outcome = iota
	queued
	refused  // NoQueue, and it would have to wait
	deadlock // conversion deadlock
)

// newLock returns a zero lock of r, without adding it to a queue. The next call may return the
// same lock again if it was not put into a queue.
func (r *resource) newLock() *lock {
	l := &r.first
	if l.place != nowhere {
		l = new(lock)
	}
	*l = lock{res: r, granted: dlm.None, wanted: dlm.None}
	return l
}

func (r *resource) empty() bool {
	return r.granted.head == nil && r.converting.head == nil && r.waiting.head == nil
}

func (r *resource) queue(p place) *queue {
	switch p {
	case inGranted:
		return &r.granted
	case inConverting:
		return &r.converting
	default:
		return &r.waiting
	}
}

// move takes l out of its queue and adds it at the end of another one.
func (r *resource) move(l *lock, to place) {
	if l.place != nowhere {
		r.queue(l.place).remove(l)
	}
	l.place = to
	if to != nowhere {
		r.queue(to).push(l)
	}
}

// hold changes the granted mode of l, and the counts of granted modes.
func (r *resource) hold(l *lock, m dlm.Mode) {
	if l.granted != dlm.None {
		r.held[l.granted]--
	}
	if m != dlm.None {
		r.held[m]++
	}
	l.granted = m
}

// request requests the new lock l in the mode l.wanted (do_request and do_request_effects).
func (r *resource) request(l *lock, out *[]effect) outcome {
	if r.grantable(l) {
		r.grant(l, nil)
		return granted
	}
	if l.flags&dlm.NoQueue != 0 {
		if l.flags&dlm.NoQueueBlocking != 0 {
			r.notify(&r.granted, l, out)
			r.notify(&r.converting, l, out)
		}
		return refused
	}
	r.move(l, inWaiting)
	r.notify(&r.granted, l, out)
	return queued
}

// convert changes the mode, the flags, or the value block of the granted lock l (do_convert and
// do_convert_effects). The lock gets the new flags even if the conversion is refused
// (validate_lock_args).
func (r *resource) convert(l *lock, m dlm.Mode, f dlm.Flags, value *dlm.Value, out *[]effect) outcome {
	l.flags, l.wanted = f, m
	switch {
	case r.grantable(l):
		r.grant(l, value)
		r.grantPending(out) // a conversion to a weaker mode makes room
		return granted
	case f&dlm.NoQueue != 0:
		if f&dlm.NoQueueBlocking != 0 {
			r.notify(&r.granted, l, out)
			r.notify(&r.converting, l, out)
		}
		l.wanted = dlm.None
		return refused
	case r.deadlocked(l):
		l.wanted = dlm.None
		return deadlock
	}
	r.move(l, inConverting)
	r.notify(&r.granted, l, out)
	return queued
}

// drop removes l from its queue; it grants nothing to others. The caller does that (settle) when
// it has dropped all locks that end at the same instant.
func (r *resource) drop(l *lock) {
	r.move(l, nowhere)
	r.hold(l, dlm.None)
}

// revert ends the conversion of l in its granted mode (revert_lock); it grants nothing to others.
func (r *resource) revert(l *lock) {
	l.wanted = dlm.None
	r.move(l, inGranted)
}

// grant grants l its wanted mode, and writes the value block if the matrix says so (grant_lock,
// set_lvb_lock).
func (r *resource) grant(l *lock, value *dlm.Value) {
	if l.flags&dlm.ValueBlock != 0 && dlm.TransferOf(l.granted, l.wanted) == dlm.Writes {
		r.write(value)
	}
	if l.granted != l.wanted {
		r.hold(l, l.wanted)
		r.move(l, inGranted)
	}
	l.wanted = dlm.None
	l.highBast, l.lastBast = dlm.NL, dlm.NL
}

// write sets the value block, nil to zeros, which makes it valid.
func (r *resource) write(value *dlm.Value) {
	if r.value == nil {
		r.value = new(dlm.Value)
	}
	if value == nil {
		*r.value = dlm.Value{}
	} else {
		*r.value = *value
	}
	r.written, r.invalid = true, false
}

// conflict reports whether another lock has a mode that is incompatible with l's wanted mode
// (queue_conflict over the granted and the converting queue).
func (r *resource) conflict(l *lock) bool {
	for m, n := range r.held {
		if dlm.Mode(m) == l.granted {
			n-- // the lock's own mode: a conversion is not in its own way
		}
		if n > 0 && !dlm.Compatible(dlm.Mode(m), l.wanted) {
			return true
		}
	}
	return false
}

// grantable reports whether the request of l can be granted at once (_can_be_granted with now set):
// a new request only if nobody is waiting, a conversion ahead of everybody unless it has
// QueueConvert.
func (r *resource) grantable(l *lock) bool {
	switch {
	case l.flags&dlm.Expedite != 0:
		return true
	case r.conflict(l):
		return false
	case l.granted == dlm.None:
		return r.converting.head == nil && r.waiting.head == nil
	default:
		return l.flags&dlm.QueueConvert == 0 || r.converting.head == nil
	}
}

// deadlocked reports whether the granted mode of l blocks a conversion that would be ahead of l's
// (conversion_deadlock_detect).
func (r *resource) deadlocked(l *lock) bool {
	for c := r.converting.head; c != nil; c = c.next {
		if !dlm.Compatible(l.granted, c.wanted) {
			return true
		}
	}
	return false
}

// grantPending grants what has become possible, in the order of the queues and conversions first,
// and notifies the holders of what is still waiting (grant_pending_locks; _can_be_granted without
// now).
func (r *resource) grantPending(out *[]effect) {
	// A lock that can't be granted holds back those behind it, even if they could be granted, so
	// nobody starves. A waiting lock is granted only when no conversion waits.
	for c := r.converting.head; c != nil && !r.conflict(c); c = r.converting.head {
		r.grantQueued(c, out)
	}
	for w := r.waiting.head; w != nil && r.converting.head == nil && !r.conflict(w); w = r.waiting.head {
		r.grantQueued(w, out)
	}
	high, cw := dlm.None, false
	for _, q := range []*queue{&r.converting, &r.waiting} {
		// No mode is stronger than EX, so in most long queues it is enough to look at the first
		// lock.
		for l := q.head; l != nil && high < dlm.EX; l = l.next {
			high = max(high, l.wanted)
			cw = cw || l.wanted == dlm.CW
		}
	}
	if high == dlm.None {
		return
	}
	for g := r.granted.head; g != nil; g = g.next {
		if !requiresBlocking(g, high, cw) {
			continue
		}
		mode := high
		if cw && high == dlm.PR && g.granted == dlm.PR {
			mode = dlm.CW
		}
		tell(g, mode, out)
		g.highBast = high
	}
}

func (r *resource) grantQueued(l *lock, out *[]effect) {
	from := l.granted
	r.grant(l, nil)
	*out = append(*out, effect{lock: l, kind: dlm.Completed, from: from})
}

// requiresBlocking is lock_requires_bast: CW has the lower number but conflicts with PR, so a
// waiting CW counts no matter which mode is the highest.
func requiresBlocking(g *lock, high dlm.Mode, cw bool) bool {
	if g.granted == dlm.PR && cw {
		return g.highBast < dlm.EX
	}
	return g.highBast < high && !dlm.Compatible(g.granted, high)
}

// notify notifies the locks in q that l is waiting for them (send_bast_queue, modes_require_bast).
func (r *resource) notify(q *queue, l *lock, out *[]effect) {
	for g := q.head; g != nil; g = g.next {
		if g == l {
			continue
		}
		inverted := g.granted == dlm.PR && l.wanted == dlm.CW || g.granted == dlm.CW && l.wanted == dlm.PR
		switch {
		case inverted && g.highBast >= dlm.EX:
			continue
		case !inverted && (g.highBast >= l.wanted || dlm.Compatible(g.granted, l.wanted)):
			continue
		}
		tell(g, l.wanted, out)
		g.highBast = l.wanted
	}
}

// tell adds a blocking notification unless the owner's last event already said so
// (dlm_add_lkb_callback in fs/dlm/ast.c). An orphan has no owner to notify.
func tell(g *lock, m dlm.Mode, out *[]effect) {
	if g.owner == nil || g.lastBast == m || g.lastBast > m && g.lastBast > dlm.PR {
		return
	}
	g.lastBast = m
	*out = append(*out, effect{lock: g, kind: dlm.Blocking, mode: m})
}
