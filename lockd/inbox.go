package lockd

import (
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/table"
)

// message is one thing for the table: a function, or an event of a lockspace.
//
// Their queue, Service.inbox, has no limit: whoever adds never blocks, so that an
// engine's dispatcher or a bus reader is never held up by a turn. What bounds it is
// outside: calls per session, and one event per operation.
type message struct {
	fn        func()
	ev        dlm.Event
	lockspace table.LockspaceID
}

// post has fn run as a turn, later and on another goroutine, unless one is under way
// whose owner takes it, too; false if the service has stopped. It is for whoever may
// not carry out the turn: because it holds a mutex that an action may want, or must
// return at once.
func (s *Service) post(fn func()) bool { return message{fn: fn}.post(s) }

func (m message) post(s *Service) bool {
	if !s.inbox.Put(m) {
		return false
	}
	if s.role.TryLock() {
		s.role.Unlock()
		s.inbox.Nudge()
	}
	return true
}

// bring is post for a goroutine that carries the turn through, and what comes of it:
// it holds no mutex, and functions of front ends may be called on it, for this call
// and for others.
func (s *Service) bring(fn func()) bool {
	if s.handOver {
		return s.post(fn)
	}
	if !s.inbox.Put(message{fn: fn}) {
		return false
	}
	s.drive()
	return true
}
