package lockd

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/table"
)

// lockspace is what the driver has of a lockspace that the table knows.
type lockspace struct {
	name    string
	handle  dlm.Lockspace // a gone handle, or the one that is open
	closing chan struct{} // nil, or closed when an earlier handle is
}

// lockspaces are the handles of the engine, and what is done with whole lockspaces. That
// takes its time, so each operation has a goroutine of its own, which posts the outcome.
type lockspaces struct {
	*Service
	byID map[table.LockspaceID]*lockspace
}

// lockspace returns the entry of a lockspace, which it makes if need be.
func (s *lockspaces) lockspace(id table.LockspaceID, name string) *lockspace {
	sp := s.byID[id]
	if sp == nil {
		sp = &lockspace{name: name, handle: goneHandle{}}
		s.byID[id] = sp
	}
	return sp
}

// handle returns the handle of a lockspace.
func (s *lockspaces) handle(id table.LockspaceID) dlm.Lockspace {
	if sp := s.byID[id]; sp != nil {
		return sp.handle
	}
	return goneHandle{}
}

// carryOut starts an action that is about a whole lockspace; false if it
// is none of them.
func (s *lockspaces) carryOut(a table.Action) bool {
	switch a := a.(type) {
	case table.OpenAction:
		s.open(a.Lockspace, a.Name, s.cfg.Engine.Open)
	case table.CreateAction:
		s.open(a.Lockspace, a.Name, s.cfg.Engine.Create)
	case table.RemoveAction:
		s.remove(a)
	case table.CloseAction:
		s.close(a.Lockspace)
	case table.ForgetAction:
		delete(s.byID, a.Lockspace)
	case table.LookAction:
		s.look(a)
	default:
		return false
	}
	return true
}

// spaceTimeout bounds joining and leaving: libdlm alone waits up to ten
// seconds for a device to appear.
const spaceTimeout = 60 * time.Second

type opener func(context.Context, string, dlm.Sink) (dlm.Lockspace, error)

func (s *lockspaces) open(id table.LockspaceID, name string, open opener) {
	sp := s.lockspace(id, name)
	before := sp.closing
	s.work.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, spaceTimeout)
		defer cancel()
		if before != nil {
			<-before // what it held must be there to be adopted
		}
		if s.cfg.EngineReady != nil {
			<-s.cfg.EngineReady
		}
		// Events may come before the call returns; none does before the first
		// operation, which needs the handle.
		h, err := open(ctx, name, func(ev dlm.Event) { message{lockspace: id, ev: ev}.post(s.Service) })
		ok := s.post(func() {
			if err == nil {
				sp.handle = h
			}
			s.t.Opened(id, err, unsettled(err))
		})
		if !ok && err == nil {
			_ = h.Close() // stopped meanwhile; nothing was asked for through it
		}
	})
}

// unsettled tells of the error of a create whether this node may be in the
// lockspace, or come to be in it, all the same.
func unsettled(err error) bool {
	d, ok := errors.AsType[*dlm.Error](err)
	return ok && d.Unsettled || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

func (s *lockspaces) remove(a table.RemoveAction) {
	s.work.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, spaceTimeout)
		defer cancel()
		err := table.RemoveUnused(s.lookerIn(ctx), a.Name, func(name string) error { return s.cfg.Engine.Remove(ctx, name) })
		s.post(func() { s.t.Removed(a.Lockspace, err) })
	})
}

func (s *lockspaces) close(id table.LockspaceID) {
	sp := s.byID[id]
	if sp == nil {
		return
	}
	h := sp.handle
	sp.handle = goneHandle{}
	sp.closing = make(chan struct{})
	closed := sp.closing
	s.work.Go(func() {
		defer close(closed)
		if err := h.Close(); err != nil {
			s.post(func() {
				s.t.Log(slog.LevelWarn, "closing the lockspace failed", slog.String("lockspace", sp.name),
					slog.String("err", err.Error()))
			})
		}
	})
}

// lookTimeout bounds a look at the engine's tables, briefTimeout one that a
// holder waits for to be told of.
const (
	lookTimeout  = 5 * time.Second
	briefTimeout = 500 * time.Millisecond
)

func (s *lockspaces) look(a table.LookAction) {
	limit := lookTimeout
	if a.Brief {
		limit = briefTimeout
	}
	s.work.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, limit)
		defer cancel()
		k := table.LookAt(s.lookerIn(ctx), a)
		s.post(func() { s.t.Looked(a.ID, k) })
	})
}

// lookerIn returns the engine's looker with a context, or nil if it has none.
func (s *Service) lookerIn(ctx context.Context) table.Looker {
	if s.looker == nil {
		return nil
	}
	return boundLooker{ctx, s.looker}
}

// boundLooker is a dlm.Looker all of whose methods have one context.
type boundLooker struct {
	ctx context.Context
	to  dlm.Looker
}

func (b boundLooker) Queues(lockspace, resource string) (dlm.Queues, error) {
	return b.to.Queues(b.ctx, lockspace, resource)
}

func (b boundLooker) QueuesOf(lockspace string, resources []string) ([]dlm.Queues, error) {
	return b.to.QueuesOf(b.ctx, lockspace, resources)
}

func (b boundLooker) Orphans(lockspace string) ([]dlm.Orphan, error) {
	return b.to.Orphans(b.ctx, lockspace)
}

func (b boundLooker) Users(lockspace string) ([]dlm.User, error) {
	return b.to.Users(b.ctx, lockspace)
}

func (b boundLooker) Health(lockspace string) (dlm.Health, error) {
	return b.to.Health(b.ctx, lockspace)
}

// goneHandle stands in for the handle of a lockspace that is closed. What is
// asked of it is of no consequence, because the table has ended every lock.
type goneHandle struct{}

func (goneHandle) Name() string                                        { return "" }
func (goneHandle) Lock(dlm.Cookie, string, dlm.Mode, dlm.Flags)        {}
func (goneHandle) Convert(dlm.Cookie, dlm.Mode, dlm.Flags, *dlm.Value) {}
func (goneHandle) Unlock(dlm.Cookie, *dlm.Value)                       {}
func (goneHandle) Cancel(dlm.Cookie)                                   {}
func (goneHandle) Adopt(dlm.Cookie, string, dlm.Mode, dlm.Flags)       {}
func (goneHandle) Purge()                                              {}
func (goneHandle) Close() error                                        { return nil }
