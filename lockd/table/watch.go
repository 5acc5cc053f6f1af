package table

import "github.com/dlmlock/dlmlockd/lockd/api"

// Notices about single locks cost a description of the lock each, and most of
// the time nobody listens. So they are given only between Watch(true) and
// Watch(false), and several changes in one turn are one notice.

// Watch says whether LockAdded, LockChanged and LockRemoved are wanted.
func (t *Table) Watch(on bool) { t.watched = on }

// Snapshot gives what watchers have to know to begin with.
func (t *Table) Snapshot(limit int) ([]api.LockspaceInfo, []api.LockInfo) {
	page, _ := t.list(api.Filter{Granted: true, Limit: limit})
	return t.Lockspaces(), page
}

// tell notes that l has another state. Held for the first time, it is new.
func (t *Table) tell(l *lock) {
	switch {
	case !l.granted && l.state == api.Held:
		l.granted = true
		if t.watched {
			t.do(NotifyAction{api.LockAdded{LockInfo: l.info()}})
		}
	case l.granted && t.watched && !l.touched:
		l.touched = true
		t.touched = append(t.touched, l)
	}
}

// tellGone says that l, which is about to be removed, is gone.
func (t *Table) tellGone(l *lock) {
	if l.granted && t.watched {
		t.do(NotifyAction{api.LockRemoved{LockInfo: l.info()}})
	}
}

// tellTouched ends a turn: it says what tell has gathered.
func (t *Table) tellTouched() {
	for i, l := range t.touched {
		t.touched[i] = nil
		l.touched = false
		if t.watched && t.locks[l.ref] == l {
			t.do(NotifyAction{api.LockChanged{LockInfo: l.info()}})
		}
	}
	t.touched = t.touched[:0]
}
