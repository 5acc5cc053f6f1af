package table

import "github.com/dlmlock/dlmlockd/dlm"

// Event takes one event of a lockspace.
func (t *Table) Event(id LockspaceID, ev dlm.Event) {
	sp := t.byID[id]
	switch {
	case sp == nil:
		return
	case ev.Kind == dlm.Closed:
		sp.closed()
		return
	case !sp.open:
		return // of a handle that is closed
	case ev.Cookie == clockCookie:
		sp.clockEvent(ev)
		return
	case ev.Cookie == sp.anchor.cookie && ev.Kind != dlm.Blocking:
		sp.anchorEvent(ev)
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
		t.blocking(l, ev.Mode)
	case dlm.Ended:
		t.ended(l)
	case dlm.Completed:
		if l.inFlight() {
			t.completed(l, ev)
		}
	}
}

// completed takes the end of the operation of l that was in flight.
func (t *Table) completed(l *lock, ev dlm.Event) {
	l.state = l.state.landed()
	delete(t.retries.cancels, l)
	if l.kind != clientLock {
		t.probeEvent(l, ev)
		return
	}
	l.busy.op.completed(l, ev)
}

// endedAs ends the operation of l that is in flight as if the lock manager had said
// so.
func (t *Table) endedAs(l *lock, st dlm.Status) {
	t.completed(l, dlm.Event{Kind: dlm.Completed, Cookie: l.cookie, Status: st, Mode: dlm.None})
}

// ended takes the news that somebody else removed the lock.
func (t *Table) ended(l *lock) {
	switch {
	case l.inFlight():
		t.endedAs(l, dlm.StatusNotFound)
	case l.kind != clientLock:
		t.remove(l)
	case l.busy != nil:
		t.vanish(l)
	default:
		t.lose(l, "another process on this node unlocked it")
	}
}

// vanish notes that a lock is gone while its call is between two operations of
// the DLM. The call finds out at its next step.
func (t *Table) vanish(l *lock) {
	if _, ok := t.retries.unlocks[l]; ok {
		delete(t.retries.unlocks, l)
		t.endedAs(l, dlm.StatusNotFound)
		return
	}
	l.mode = dlm.None
}
