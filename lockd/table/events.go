package table

import "github.com/dlmlock/dlmlockd/dlm"

// Event takes one event of a lockspace.
func (t *Table) Event(id LockspaceID, ev dlm.Event) {
	sp := t.spaces.byID[id]
	switch {
	case sp == nil:
		return
	case ev.Kind == dlm.Closed:
		sp.closed()
		return
	case !sp.open():
		return // of a handle that is closed
	case ev.Cookie == clockCookie:
		sp.clock.event(ev)
		return
	case ev.Cookie == sp.anchor.cookie && ev.Kind != dlm.Blocking:
		sp.anchor.event(ev)
		return
	case ev.Kind == dlm.Completed && ev.Op == dlm.OpAdopt:
		sp.adopted(ev)
		return
	}
	l := t.locks.byCookie(ev.Cookie)
	if l == nil {
		return // a blocking notification may come after the end
	}
	switch ev.Kind {
	case dlm.Blocking:
		l.blocking(ev.Mode)
	case dlm.Ended:
		l.ended()
	case dlm.Completed:
		if l.inFlight() {
			l.completed(ev)
		}
	}
}

// completed takes the end of the operation of l that was in flight.
func (l *lock) completed(ev dlm.Event) {
	l.state = l.state.landed()
	delete(l.sp.t.retries.cancels, l)
	if l.kind != clientLock {
		l.probeEvent(ev)
		return
	}
	l.busy.op.completed(l, ev)
}

// endedAs ends the operation of l that is in flight as if the lock manager had said
// so.
func (l *lock) endedAs(st dlm.Status) {
	l.completed(dlm.Event{Kind: dlm.Completed, Cookie: l.cookie(), Status: st, Mode: dlm.None})
}

// ended takes the news that somebody else removed the lock.
func (l *lock) ended() {
	switch {
	case l.inFlight():
		l.endedAs(dlm.StatusNotFound)
	case l.kind != clientLock:
		l.remove()
	case l.busy != nil:
		l.vanish()
	default:
		l.lose("another process on this node unlocked it")
	}
}

// vanish notes that a lock is gone while its call is between two operations of
// the DLM. The call finds out at its next step.
func (l *lock) vanish() {
	if _, ok := l.sp.t.retries.unlocks[l]; ok {
		delete(l.sp.t.retries.unlocks, l)
		l.endedAs(dlm.StatusNotFound)
		return
	}
	l.mode = dlm.None
}
