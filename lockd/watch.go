package lockd

import "github.com/dlmlock/dlmlockd/lockd/api"

// Notices about single locks cost a description of the lock each, and most of
// the time nobody listens. So they are given only between Watch(true) and
// Watch(false), and several changes in one turn are one notice.

// Watch says whether LockAdded, LockChanged and LockRemoved are wanted.
func (s *Service) Watch(on bool) { s.post(func() { s.t.watched = on }) }

// Snapshot gives what watchers have to know to begin with.
func (s *Service) Snapshot(limit int, done func([]api.LockspaceInfo, []api.LockInfo)) {
	ok := s.post(func() {
		page, _ := s.t.list(api.Filter{Granted: true, Limit: limit})
		done(s.t.lockspaces(), page)
	})
	if !ok {
		done(nil, nil)
	}
}

// tell notes that l has another state. Held for the first time, it is new.
func (t *table) tell(l *lock) {
	switch {
	case !l.granted && l.state == api.Held:
		l.granted = true
		if t.watched {
			t.do(notifyAction{api.LockAdded{LockInfo: l.info()}})
		}
	case l.granted && t.watched && !l.touched:
		l.touched = true
		t.touched = append(t.touched, l)
	}
}

// tellGone says that l, which is about to be removed, is gone.
func (t *table) tellGone(l *lock) {
	if l.granted && t.watched {
		t.do(notifyAction{api.LockRemoved{LockInfo: l.info()}})
	}
}

// tellTouched ends a turn: it says what tell has gathered.
func (t *table) tellTouched() {
	for i, l := range t.touched {
		t.touched[i] = nil
		l.touched = false
		if t.watched && t.locks[l.ref] == l {
			t.do(notifyAction{api.LockChanged{LockInfo: l.info()}})
		}
	}
	t.touched = t.touched[:0]
}
