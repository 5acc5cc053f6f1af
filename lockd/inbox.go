package lockd

import (
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/table"
)

// message is one thing for the owner goroutine: a function, or an event of a
// lockspace.
//
// Their queue, Service.inbox, has no limit: whoever adds never blocks, so that an
// engine's dispatcher or a bus reader is never held up by the owner goroutine.
// What bounds it is outside: calls per session, and one event per operation.
type message struct {
	fn        func()
	ev        dlm.Event
	lockspace table.LockspaceID
}

// post has fn run on the owner goroutine; false if the service has stopped.
func (s *Service) post(fn func()) bool { return s.inbox.Add(message{fn: fn}) }
