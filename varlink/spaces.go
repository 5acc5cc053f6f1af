package varlink

import (
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// listLockspaces is ListLockspaces.
type listLockspaces struct {
	silent
	m frontend.ListLockspaces
}

func (l *listLockspaces) method(*wire.Call) (frontend.Method, error) { return &l.m, nil }

func (l *listLockspaces) run(c *call) {
	l.m.Run(&c.Call, func(spaces []api.LockspaceInfo, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		writeList(c, spaces, func(s *api.LockspaceInfo) any { return listLockspacesOut{lockspaceOf(s)} },
			missing(l.m.Op(), api.NoSuchLockspace, "this node is in no lockspace; join one with JoinLockspace"))
	})
}

// join is JoinLockspace.
type join struct {
	joinIn
	m frontend.Join
}

func (j *join) method(*wire.Call) (frontend.Method, error) {
	j.m.Lockspace = j.Lockspace
	return &j.m, nil
}

func (j *join) run(c *call) { j.m.Run(&c.Call, c.plain) }

// leave is LeaveLockspace.
type leave struct {
	leaveIn
	m frontend.Leave
}

func (l *leave) method(*wire.Call) (frontend.Method, error) {
	l.m = frontend.Leave{Lockspace: l.Lockspace}
	s := setter[frontend.Leave]{table: frontend.LeaveOptions, into: &l.m}
	given(&s, api.ArgForce, l.Force)
	given(&s, api.ArgReason, l.Reason)
	return s.done(l.m.Op())
}

func (l *leave) run(c *call) { l.m.Run(&c.Call, c.plain) }

// listOrphans is ListOrphans.
type listOrphans struct {
	listOrphansIn
	silent
	m frontend.ListOrphans
}

func (l *listOrphans) method(*wire.Call) (frontend.Method, error) {
	l.m.Lockspace = l.Lockspace
	return &l.m, nil
}

func (l *listOrphans) run(c *call) {
	l.m.Run(&c.Call, func(orphans []api.Orphan, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		writeList(c, orphans, func(o *api.Orphan) any { return listOrphansOut{orphanOf(o)} },
			missing(l.m.Op(), noSuchLock, "there is no orphan that the service knows nothing of"))
	})
}

// adopt is AdoptOrphan.
type adopt struct {
	adoptIn
	m frontend.AdoptOrphan
}

func (a *adopt) method(*wire.Call) (frontend.Method, error) {
	a.m.Lockspace, a.m.LockID = a.Lockspace, dlm.LockID(a.LockID)
	s := setter[frontend.AdoptOrphan]{table: frontend.AdoptOptions, into: &a.m}
	given(&s, api.ArgOwner, a.Owner)
	given(&s, api.ArgLabel, a.Label)
	given(&s, api.ArgUID, a.UserID)
	given(&s, api.ArgResource, a.Resource)
	given(&s, api.ArgMode, a.Mode)
	return s.done("adopt")
}

func (a *adopt) run(c *call) {
	a.m.Run(&c.Call, func(g api.Grant, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		c.reply(adoptOut{g.Token, lockName(g.Ref)})
	})
}

// purge is Purge.
type purge struct {
	purgeIn
	m frontend.Purge
}

func (p *purge) method(*wire.Call) (frontend.Method, error) {
	p.m = frontend.Purge{Lockspace: p.Lockspace}
	// What the caller has seen, not what is there: an orphan that nobody has looked at is
	// never removed.
	for _, id := range p.LockIDs {
		p.m.Expect = append(p.m.Expect, dlm.LockID(id))
	}
	s := setter[frontend.Purge]{table: frontend.PurgeOptions, into: &p.m}
	given(&s, api.ArgSome, p.Some)
	given(&s, api.ArgReason, p.Reason)
	return s.done(p.m.Op())
}

func (p *purge) run(c *call) {
	p.m.Run(&c.Call, func(purged uint32, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		c.reply(purgeOut{purged})
	})
}
