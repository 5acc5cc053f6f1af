package local

import (
	"slices"
	"sync"
	"syscall"

	"github.com/dlmlock/dlmlockd/dlm"
)

// handle is one open lockspace of one Engine: a dlm.Lockspace.
type handle struct {
	engine *Engine
	member *member
	name   string
	sink   dlm.Sink

	// Guarded by Cluster.mu.
	locks   map[dlm.Cookie]*lock // from the request on; not those that a stopped lockspace keeps
	pending []dlm.Event          // created but not yet delivered
	closed  bool                 // operations do nothing, and there are no more events

	// deliver is held while the sink is called, so that events stay in order
	// and Close can wait for the last one. It is taken before Cluster.mu. A sink
	// that called into this package would wait for itself.
	deliver sync.Mutex
	spare   []dlm.Event // guarded by deliver: the buffer for the next pending events
}

var _ dlm.Lockspace = (*handle)(nil)

// opCancel is the only operation of a handle that has no event of its own.
const opCancel dlm.Op = 0xff

// operation is one call of a handle, as data, so a stopped lockspace can keep it for later.
type operation struct {
	handle   *handle // set only while it is kept
	op       dlm.Op
	cookie   dlm.Cookie
	resource string
	mode     dlm.Mode
	flags    dlm.Flags
	hasValue bool
	value    dlm.Value
}

func (o *operation) valuePtr() *dlm.Value {
	if !o.hasValue {
		return nil
	}
	return &o.value
}

func (h *handle) Name() string { return h.name }

func (h *handle) Lock(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) {
	h.submit(operation{op: dlm.OpLock, cookie: c, resource: resource, mode: m, flags: f})
}

func (h *handle) Convert(c dlm.Cookie, m dlm.Mode, f dlm.Flags, value *dlm.Value) {
	o := operation{op: dlm.OpConvert, cookie: c, mode: m, flags: f}
	if value != nil {
		o.value, o.hasValue = *value, true
	}
	h.submit(o)
}

func (h *handle) Unlock(c dlm.Cookie, value *dlm.Value) {
	o := operation{op: dlm.OpUnlock, cookie: c}
	if value != nil {
		o.value, o.hasValue = *value, true
	}
	h.submit(o)
}

func (h *handle) Cancel(c dlm.Cookie) { h.submit(operation{op: opCancel, cookie: c}) }

func (h *handle) Adopt(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) {
	h.submit(operation{op: dlm.OpAdopt, cookie: c, resource: resource, mode: m, flags: f})
}

func (h *handle) Purge() { h.submit(operation{op: dlm.OpPurge}) }

// submit carries out an operation and delivers the resulting events to every handle that they
// concern.
func (h *handle) submit(o operation) {
	c := h.engine.node.cluster
	c.mu.Lock()
	s := h.member.space
	switch {
	case h.closed:
	case o.op == dlm.OpAdopt || !s.stopped():
		// The kernel adopts even in a stopped lockspace (docs/dlm-notes.md): the orphan is on this
		// node, and no other node is asked.
		h.perform(&o)
	case o.op != opCancel && o.op != dlm.OpPurge && s.holds(h, o.cookie):
		h.busy(&o)
	default:
		o.handle = h
		s.held = append(s.held, o)
	}
	c.unlockAndDeliver()
}

// busy refuses an operation on a lock that has another one under way.
func (h *handle) busy(o *operation) {
	if l := h.locks[o.cookie]; l != nil && o.op != dlm.OpLock && o.op != dlm.OpAdopt {
		h.keep(o.op, l, dlm.StatusBusy)
	} else {
		h.end(o, dlm.StatusBusy)
	}
}

// perform carries out an operation, in a lockspace that is not stopped, or an adoption.
func (h *handle) perform(o *operation) {
	switch o.op {
	case dlm.OpLock:
		h.lock(o)
	case dlm.OpConvert:
		h.convert(o)
	case dlm.OpUnlock:
		h.unlock(o)
	case opCancel:
		h.cancel(o)
	case dlm.OpAdopt:
		h.adopt(o)
	case dlm.OpPurge:
		h.purge()
	}
}

// end reports the end of an operation on a lock that is not granted.
func (h *handle) end(o *operation, s dlm.Status) {
	h.emit(dlm.Event{Kind: dlm.Completed, Op: o.op, Cookie: o.cookie, Status: s, Mode: dlm.None})
}

// keep reports the end of an operation on l that left its mode as it was.
func (h *handle) keep(op dlm.Op, l *lock, s dlm.Status) {
	h.emit(dlm.Event{Kind: dlm.Completed, Op: op, Cookie: l.cookie, Status: s, LockID: l.id, Mode: l.granted})
}

// granted reports that l was granted the mode that it wanted; from is its mode before that.
func (h *handle) granted(l *lock, from dlm.Mode) {
	ev := dlm.Event{Kind: dlm.Completed, Op: dlm.OpConvert, Cookie: l.cookie, LockID: l.id, Mode: l.granted}
	if from == dlm.None {
		ev.Op = dlm.OpLock
	}
	if l.flags&dlm.ValueBlock != 0 && dlm.TransferOf(from, l.granted) == dlm.Reads {
		ev.HasValue = true
		if l.res.written {
			ev.Value, ev.ValueInvalid = *l.res.value, l.res.invalid
		}
	}
	h.emit(ev)
}

// refused ends an operation that takes a lock if it can't begin, and reports whether it did.
func (h *handle) refused(what string, o *operation) bool {
	switch {
	case h.locks[o.cookie] != nil:
		h.busy(o)
		return true
	case o.cookie == 0, dlm.CheckResource(o.resource) != nil, !dlm.LockAllowed(o.mode, o.flags):
		h.end(o, dlm.StatusInvalid)
		return true
	}
	if errno := h.failure(what, o.resource, o.mode); errno != 0 {
		h.end(o, dlm.Status(errno))
		return true
	}
	return false
}

func (h *handle) lock(o *operation) {
	m := h.member
	if h.refused("lock", o) {
		return
	}
	id, ok := m.ids.take()
	if !ok {
		h.end(o, dlm.Status(syscall.ENOMEM))
		return
	}
	// A request on a new resource is never refused, so no empty one stays behind.
	r := m.space.resource(o.resource, m.node.id)
	l := r.newLock()
	l.member, l.owner, l.cookie, l.id, l.flags, l.wanted = m, h, o.cookie, id, o.flags, o.mode
	switch r.request(l, h.effects()) {
	case granted:
		h.locks[o.cookie] = l
		h.granted(l, dlm.None)
	case queued:
		h.locks[o.cookie] = l
	case refused:
		m.ids.release(id)
		h.end(o, dlm.StatusAgain)
	}
	h.engine.node.cluster.apply()
}

func (h *handle) convert(o *operation) {
	l := h.locks[o.cookie]
	switch {
	case l == nil:
		h.end(o, dlm.StatusNotFound)
		return
	case !dlm.ConvertAllowed(l.granted, o.mode, o.flags):
		h.keep(dlm.OpConvert, l, dlm.StatusInvalid)
		return
	case l.place != inGranted:
		h.busy(o)
		return
	}
	if errno := h.failure("convert", l.res.name, o.mode); errno != 0 {
		h.keep(dlm.OpConvert, l, dlm.Status(errno))
		return
	}
	from := l.granted
	switch l.res.convert(l, o.mode, o.flags, o.valuePtr(), h.effects()) {
	case granted:
		h.granted(l, from)
	case refused:
		h.keep(dlm.OpConvert, l, dlm.StatusAgain)
	case deadlock:
		h.keep(dlm.OpConvert, l, dlm.StatusDeadlock)
	}
	h.engine.node.cluster.apply()
}

func (h *handle) unlock(o *operation) {
	l := h.locks[o.cookie]
	switch {
	case l == nil:
		h.end(o, dlm.StatusNotFound)
		return
	case l.place == inConverting:
		h.busy(o)
		return
	}
	if errno := h.failure("unlock", l.res.name, dlm.None); errno != 0 {
		h.keep(dlm.OpUnlock, l, dlm.Status(errno))
		return
	}
	// The unlock of a request that waits ends both operations, and both complete.
	if l.place == inWaiting {
		h.emit(dlm.Event{Kind: dlm.Completed, Op: dlm.OpLock, Cookie: l.cookie, Status: dlm.StatusCanceled,
			Mode: dlm.None})
	} else if o.hasValue && l.granted >= dlm.PW {
		l.res.write(&o.value)
	}
	h.member.end(l)
	h.emit(dlm.Event{Kind: dlm.Completed, Op: dlm.OpUnlock, Cookie: o.cookie, Status: dlm.StatusUnlocked, LockID: l.id,
		Mode: dlm.None})
	h.member.space.settle(l.res)
}

// cancel ends a request or conversion that waits. It has no completion of its own: the canceled
// operation completes. What was granted before the cancel stays granted.
func (h *handle) cancel(o *operation) {
	l := h.locks[o.cookie]
	switch {
	case l == nil || l.place == inGranted:
		return
	case l.place == inConverting:
		l.res.revert(l)
		h.keep(dlm.OpConvert, l, dlm.StatusCanceled)
	default:
		h.member.end(l)
		h.emit(dlm.Event{Kind: dlm.Completed, Op: dlm.OpLock, Cookie: o.cookie, Status: dlm.StatusCanceled,
			Mode: dlm.None})
	}
	h.member.space.settle(l.res)
}

// adopt takes over an orphan (dlm_user_adopt_orphan in fs/dlm/lock.c).
func (h *handle) adopt(o *operation) {
	m := h.member
	if h.refused("adopt", o) {
		return
	}
	l, other := m.orphanOf(o.resource, o.mode)
	switch {
	case l != nil:
	case other:
		h.end(o, dlm.StatusAgain)
		return
	default:
		h.end(o, dlm.StatusNotFound)
		return
	}
	m.orphans--
	l.owner, l.cookie, l.flags = h, o.cookie, o.flags
	h.locks[o.cookie] = l
	// It moves to the end of the queue, so the next adoption on a resource with many holders finds
	// an orphan at the front.
	l.res.move(l, inGranted)
	h.keep(dlm.OpAdopt, l, dlm.StatusOK)
}

// orphanOf finds an orphan by name and mode; other says that there is one in a different mode.
func (m *member) orphanOf(name string, mode dlm.Mode) (found *lock, other bool) {
	r := m.space.resources[name]
	if r == nil || m.orphans == 0 {
		return nil, false
	}
	for l := r.granted.head; l != nil; l = l.next {
		if l.member != m || l.owner != nil {
			continue
		}
		if l.granted == mode {
			return l, true
		}
		other = true
	}
	return nil, other
}

// purge removes the orphans of all processes on this node. As in the kernel, nobody learns which
// these were, and the value block becomes invalid if one of them held PW or EX.
func (h *handle) purge() {
	ev := dlm.Event{Kind: dlm.Completed, Op: dlm.OpPurge, Mode: dlm.None}
	if errno := h.failure("purge", "", dlm.None); errno != 0 {
		ev.Status = dlm.Status(errno)
		h.emit(ev)
		return
	}
	for _, l := range h.member.collectOrphans() {
		h.member.lose(l)
		h.member.space.settle(l.res)
		ev.Count++
	}
	h.emit(ev)
}

// Close ends the handle as the kernel does when the device is closed
// (dlm_clear_proc_locks).
func (h *handle) Close() error {
	c := h.engine.node.cluster
	c.mu.Lock()
	h.shut()
	c.unlockAndDeliver()
	h.flush() // waits for a delivery under way
	return nil
}

// shut closes the handle. All its locks end or become orphans at once, before anything is granted
// to others.
func (h *handle) shut() {
	if h.closed {
		return
	}
	h.closed = true
	h.pending = nil // whoever closes a handle gets no more events, not even earlier ones
	m := h.member
	delete(m.handles, h)
	delete(h.engine.handles, h)
	var touched []*resource
	for _, l := range h.sorted() {
		switch {
		case l.place == inWaiting:
			m.end(l)
		case l.flags&dlm.Persistent == 0:
			m.lose(l)
		case l.place == inConverting:
			l.res.revert(l)
			m.orphan(l)
		default:
			m.orphan(l)
			continue
		}
		touched = append(touched, l.res)
	}
	for _, r := range touched {
		if m.space.resources[r.name] == r { // it may be listed several times, and be forgotten by now
			m.space.settle(r)
		}
	}
	h.locks = nil
}

// lost ends a handle whose node has left the lockspace: the operations under way end, and
// dlm.Closed is the last event. The caller removes the locks.
func (h *handle) lost() {
	for _, l := range h.sorted() {
		op := dlm.OpLock
		switch l.place {
		case inGranted:
			continue
		case inConverting:
			op = dlm.OpConvert
		}
		h.emit(dlm.Event{Kind: dlm.Completed, Op: op, Cookie: l.cookie, Status: dlm.StatusGone, Mode: dlm.None})
	}
	for i := range h.member.space.held {
		if o := &h.member.space.held[i]; o.handle == h && o.op != opCancel {
			h.end(o, dlm.StatusGone)
		}
	}
	h.emit(dlm.Event{Kind: dlm.Closed, Mode: dlm.None})
	h.closed = true
	h.locks = nil
	delete(h.engine.handles, h)
}

func (h *handle) sorted() []*lock {
	all := make([]*lock, 0, len(h.locks))
	for _, l := range h.locks {
		all = append(all, l)
	}
	slices.SortFunc(all, byID)
	return all
}

func (h *handle) failure(op, resource string, mode dlm.Mode) syscall.Errno {
	c := h.engine.node.cluster
	if c.fail == nil {
		return 0
	}
	return c.failure(Attempt{Node: h.engine.node.id, Op: op, Lockspace: h.name, Resource: resource, Mode: mode})
}

func (h *handle) effects() *[]effect { return &h.engine.node.cluster.effects }

// emit adds an event for delivery after the mutex is released. A nil handle is that of an orphan:
// nobody receives its events.
func (h *handle) emit(ev dlm.Event) {
	if h == nil || h.closed {
		return
	}
	if len(h.pending) == 0 {
		c := h.engine.node.cluster
		c.dirty = append(c.dirty, h)
	}
	h.pending = append(h.pending, ev)
}

// maxEvents bounds the buffer that a handle keeps after a burst of events.
const maxEvents = 256

// flush delivers the pending events. The caller that made the first of them calls it, so if it
// finds none, another caller has overtaken it, and flush waits for that one.
func (h *handle) flush() {
	c := h.engine.node.cluster
	h.deliver.Lock()
	defer h.deliver.Unlock()
	c.mu.Lock()
	events := h.pending
	h.pending, h.spare = h.spare[:0], nil // a buffer is never used for both
	c.mu.Unlock()
	for i := range events {
		h.sink(events[i])
	}
	if cap(events) <= maxEvents {
		h.spare = events
	}
}
