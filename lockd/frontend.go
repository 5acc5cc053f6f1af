package lockd

import (
	"errors"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/lockd/table"
)

// Acquire takes all the locks or none.
func (s *Service) Acquire(c api.Caller, want []api.Want, o api.AcquireOptions, done func([]api.Grant, error)) {
	proc, err := s.findProcess(c, &o)
	if err != nil {
		s.tell(func() { done(nil, err) })
		return
	}
	s.carry(table.Acquire{Caller: c, Want: want, Options: o, Process: proc}, &waitingCall{process: proc,
		done: func(r table.Reply, err error) {
			granted, _ := r.(table.GrantedReply)
			done(granted.Grants, err)
		}})
}

// Request queues for a lock without a deadline. started gets the number by
// which CancelRequest knows it, or why it can't wait; then done gets how it
// ended. It ends as well when the caller leaves the bus.
func (s *Service) Request(c api.Caller, w api.Want, o api.AcquireOptions, started func(api.Ref, error),
	done func(api.Grant, error)) {
	proc, err := s.findProcess(c, &o)
	if err != nil {
		if e, ok := errors.AsType[*api.Error](err); ok {
			e.Op = "request"
		}
		s.tell(func() { started(0, err) })
		return
	}
	s.submit(table.Request{Caller: c, Want: w, Options: o, Process: proc},
		&waitingCall{process: proc, started: started, done: grantTo(done)})
}

// Convert changes the mode of a lock in place.
func (s *Service) Convert(c api.Caller, w api.Want, sel api.Selector, o api.ConvertOptions,
	done func(api.Grant, error)) {
	s.carry(table.Convert{Caller: c, Want: w, Selector: sel, Options: o}, &waitingCall{done: grantTo(done)})
}

// Release releases one lock.
func (s *Service) Release(c api.Caller, lockspace, resource string, sel api.Selector, done func(error)) {
	s.carry(table.Release{Caller: c, Lockspace: lockspace, Resource: resource, Selector: sel},
		&waitingCall{done: errorTo(done)})
}

// ReleaseOwner releases everything of one owner.
func (s *Service) ReleaseOwner(c api.Caller, lockspace, owner string, done func(uint32, error)) {
	s.carry(table.ReleaseOwner{Caller: c, Lockspace: lockspace, Owner: owner}, &waitingCall{done: countTo(done)})
}

// ReleaseMany releases what one owner holds of some resources, and with some
// labels.
func (s *Service) ReleaseMany(c api.Caller, resources []api.Want, owner string, labels []string,
	done func(uint32, error)) {
	s.carry(table.ReleaseMany{Caller: c, Resources: resources, Owner: owner, Labels: labels},
		&waitingCall{done: countTo(done)})
}

// Inspect tells all that is known of one resource.
func (s *Service) Inspect(lockspace, resource string, done func(api.Inspection, error)) {
	s.submit(table.Inspect{Lockspace: lockspace, Resource: resource}, &waitingCall{done: func(r table.Reply, err error) {
		found, _ := r.(table.InspectionReply)
		done(found.Inspection, err)
	}})
}

// List returns a page of locks.
func (s *Service) List(f api.Filter, done func(api.Page, error)) {
	s.submit(table.List{Filter: f}, &waitingCall{done: func(r table.Reply, err error) {
		listed, _ := r.(table.PageReply)
		done(listed.Page, err)
	}})
}

// Waits returns a page of those that wait.
func (s *Service) Waits(f api.Filter, done func(api.WaitsPage, error)) {
	s.submit(table.Waits{Filter: f}, &waitingCall{done: func(r table.Reply, err error) {
		listed, _ := r.(table.WaitsReply)
		done(listed.Page, err)
	}})
}

// Join joins a lockspace; one that is joined already is fine.
func (s *Service) Join(c api.Caller, lockspace string, done func(error)) {
	s.submit(table.Join{Caller: c, Lockspace: lockspace}, &waitingCall{done: errorTo(done)})
}

// Leave leaves a lockspace.
func (s *Service) Leave(c api.Caller, lockspace string, force bool, done func(error)) {
	s.submit(table.Leave{Caller: c, Lockspace: lockspace, Force: force}, &waitingCall{done: errorTo(done)})
}

// Orphans lists the orphans that no record explains.
func (s *Service) Orphans(lockspace string, done func([]api.Orphan, error)) {
	s.submit(table.Orphans{Lockspace: lockspace}, &waitingCall{done: func(r table.Reply, err error) {
		found, _ := r.(table.OrphansReply)
		done(found.Orphans, err)
	}})
}

// AdoptOrphan makes one of the orphans the lock of an owner.
func (s *Service) AdoptOrphan(c api.Caller, lockspace string, id dlm.LockID, o api.AdoptOptions,
	done func(api.Grant, error)) {
	s.submit(table.AdoptOrphan{Caller: c, Lockspace: lockspace, LockID: id, Options: o}, &waitingCall{done: grantTo(done)})
}

// Purge removes the orphans named in expect, if they still are all there are, or,
// with some, these and no others.
func (s *Service) Purge(c api.Caller, lockspace string, expect []dlm.LockID, some bool, done func(uint32, error)) {
	s.submit(table.Purge{Caller: c, Lockspace: lockspace, Expect: expect, Some: some}, &waitingCall{done: countTo(done)})
}

// SessionGone cancels the unanswered calls of a session that has ended, and
// releases the locks that hang on it.
func (s *Service) SessionGone(gone api.Session) { s.post(func() { s.t.SessionGone(gone) }) }
