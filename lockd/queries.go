package lockd

import "github.com/dlmlock/dlmlockd/lockd/api"

// What the table can tell at once is no call of it: nothing waits for anything.

// CancelRequest withdraws a request that still waits. Only its own uid or a
// privileged caller may.
func (s *Service) CancelRequest(c api.Caller, ref api.Ref, done func(error)) {
	if !s.post(func() { done(s.t.CancelRequest(c, ref)) }) {
		done(&api.Error{Op: "cancel", Kind: api.ShuttingDown, Text: "the service has stopped"})
	}
}

// Position tells a Request's place among those of this instance that wait for
// its resource.
func (s *Service) Position(ref api.Ref, done func(int)) {
	if !s.post(func() { done(s.t.Position(ref)) }) {
		done(0)
	}
}

// Sessions returns those that locks of lifetime connection hang on.
func (s *Service) Sessions(done func([]api.Session)) {
	if !s.post(func() { done(s.t.Sessions()) }) {
		done(nil)
	}
}

// Lock describes one lock of this instance by its number.
func (s *Service) Lock(ref api.Ref, done func(api.LockInfo, error)) {
	ok := s.post(func() {
		if l, there := s.t.Lock(ref); there {
			done(l, nil)
			return
		}
		done(api.LockInfo{}, &api.Error{Op: "lock", Kind: api.NotHeld, Text: "there is no such lock any more"})
	})
	if !ok {
		done(api.LockInfo{}, &api.Error{Op: "lock", Kind: api.ShuttingDown, Text: "the service has stopped"})
	}
}

// Lost lists the locks that were lately lost and match the filter.
func (s *Service) Lost(f api.Filter, done func([]api.Lost, error)) {
	if !s.post(func() { done(s.t.Lost(f), nil) }) {
		done(nil, &api.Error{Op: "list-lost", Kind: api.ShuttingDown, Text: "the service has stopped"})
	}
}

// Lockspaces lists the lockspaces of this instance by name.
func (s *Service) Lockspaces(done func([]api.LockspaceInfo, error)) {
	if !s.post(func() { done(s.t.Lockspaces(), nil) }) {
		done(nil, &api.Error{Op: "list-lockspaces", Kind: api.ShuttingDown, Text: "the service has stopped"})
	}
}

// Watch says whether LockAdded, LockChanged and LockRemoved are wanted.
func (s *Service) Watch(on bool) { s.post(func() { s.t.Watch(on) }) }

// Snapshot gives what watchers have to know to begin with.
func (s *Service) Snapshot(limit int, done func([]api.LockspaceInfo, []api.LockInfo, func(api.Ref) int)) {
	if !s.post(func() { done(s.t.Snapshot(limit)) }) {
		done(nil, nil, func(api.Ref) int { return 0 })
	}
}

// Idle tells why the service is needed while nobody calls it, or "" if it is
// not: then a daemon that is started by the next call would do as well.
func (s *Service) Idle(done func(needed string)) {
	if !s.post(func() { done(s.t.Needed()) }) {
		done("")
	}
}
