package table

import "github.com/dlmlock/dlmlockd/lockd/api"

// Notices about single locks cost a description of the lock each, and most of
// the time nobody listens. So they are given only between Watch(true) and
// Watch(false), and several changes in one turn are one notice.

// Watch says whether LockAdded, LockChanged and LockRemoved are wanted.
func (t *turn) Watch(on bool) { t.watched = on }

// Snapshot gives what watchers have to know to begin with. place, which is good for
// this turn, is Position; it is cheap for those asked for in the order of their
// numbers.
func (t *Table) Snapshot(limit int) (spaces []api.LockspaceInfo, locks []api.LockInfo, place func(api.Ref) int) {
	page, _ := t.list(api.Filter{Granted: true, Limit: limit})
	known := map[*lock]int{}
	return t.Lockspaces(), page, func(ref api.Ref) int { return t.calls.place(ref, known) }
}

// tell notes that l has another state. Held for the first time, it is new.
func (l *lock) tell() {
	t := l.sp.t
	switch {
	case !l.told && l.public() == api.Held:
		l.told = true
		if t.watched {
			t.do(NotifyAction{api.LockAdded{LockInfo: l.info()}})
		}
	case l.told && t.watched && !l.dirty:
		l.dirty = true
		t.dirty = append(t.dirty, l)
	}
}

// tellGone says that l, which is about to be removed, is gone.
func (l *lock) tellGone() {
	if l.told && l.sp.t.watched {
		l.sp.t.do(NotifyAction{api.LockRemoved{LockInfo: l.info()}})
	}
}

// tellDirty ends a turn: it says what tell has gathered.
func (t *Table) tellDirty() {
	for i, l := range t.dirty {
		t.dirty[i] = nil
		l.dirty = false
		if t.watched && t.locks.has(l) {
			t.do(NotifyAction{api.LockChanged{LockInfo: l.info()}})
		}
	}
	t.dirty = t.dirty[:0]
}
