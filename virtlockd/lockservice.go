package virtlockd

import (
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// lockService has sessions call the service.
type lockService struct {
	api  api.Service
	door *Door
}

// Start gives the door the service, which is ready.
func (d *Door) Start(s api.Service) {
	d.service = &lockService{api: s, door: d}
	close(d.ready)
}

func (s *lockService) node() uint32 { return s.api.Status().Node.ID }

func (s *lockService) open(c *connection) session {
	name := s.door.sessionName()
	return &lockSession{api: s.api, caller: api.Caller{UID: 0, PID: c.pid, Seen: c.seen, Session: name}}
}

type lockSession struct {
	api    api.Service
	caller api.Caller
}

func (s *lockSession) acquire(want []api.Want, o api.AcquireOptions, done func([]api.Grant, error)) {
	s.api.Acquire(s.caller, want, o, done)
}

func (s *lockSession) release(resources []api.Want, owner string, labels []string, done func(uint32, error)) {
	s.api.ReleaseMany(s.caller, resources, owner, labels, done)
}

func (s *lockSession) list(f api.Filter, done func(api.Page, error)) { s.api.List(f, done) }

func (s *lockSession) inspect(lockspace, resource string, done func(api.Inspection, error)) {
	s.api.Inspect(lockspace, resource, done)
}

func (s *lockSession) close() { s.api.SessionGone(s.caller.Session) }
