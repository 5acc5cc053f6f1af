package virtlockd

import (
	"os"
	"strconv"

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
	return &lockSession{
		api: s.api, door: s.door,
		caller: api.Caller{UID: 0, PID: c.pid, Seen: c.seen, Session: s.door.sessionName()},
	}
}

// pidNamespace is the pid namespace of a process; "" if that can't be told.
func pidNamespace(process string) string {
	name, _ := os.Readlink("/proc/" + process + "/ns/pid")
	return name
}

// inOurs reports whether pids mean the same to a process as to this one.
func (d *Door) inOurs(pid uint32) bool {
	return d.pidNamespace != "" && pidNamespace(strconv.FormatUint(uint64(pid), 10)) == d.pidNamespace
}

type lockSession struct {
	api    api.Service
	door   *Door
	caller api.Caller
	asked  bool // direct is known
	direct bool // the caller's pids are ours
}

func (s *lockSession) acquire(want []api.Want, o api.AcquireOptions, done func([]api.Grant, error)) {
	caller := s.caller
	if !s.asked {
		s.asked, s.direct = true, s.door.inOurs(s.caller.PID)
	}
	if s.direct {
		// As if the guest itself had called: then nobody has to find out what its pid
		// is here. Its start time says that it is the guest.
		caller.PID, caller.Seen, o.PID = o.PID, 0, 0
	}
	s.api.Acquire(caller, want, o, done)
}

func (s *lockSession) release(resources []api.Want, owner string, labels []string, done func(uint32, error)) {
	s.api.ReleaseMany(s.caller, resources, owner, labels, done)
}

func (s *lockSession) close() { s.api.SessionGone(s.caller.Session) }
