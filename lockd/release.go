package lockd

import (
	"log/slog"
	"sort"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/state"
)

// The order of events of a release, and what a crash between two lines leaves:
//
//	startRelease  append "releasing"  record and orphan: released at the next start
//	releasing     Unlock              record, or record and orphan: the same
//	unlocked      append "gone"       a record without lock: dropped, not lost
//	gone          reply
//
// A record that can't be written does not stop a release.

// startRelease finds the locks meant and begins to let go of them.
func (t *table) startRelease(c *call) {
	if c.all {
		t.startReleaseOwner(c)
		return
	}
	if e := c.checkName(c.space, c.resource); e != nil {
		t.refuse(c, e)
		return
	}
	l, parked, e := t.findLock(c, c.space, c.resource)
	switch {
	case parked:
		return
	case e != nil:
		t.refuse(c, e)
		return
	}
	t.release(c, []*lock{l})
}

// startReleaseOwner collects everything of one owner. None is fine.
func (t *table) startReleaseOwner(c *call) {
	if c.space != "" {
		if e := c.checkSpaceName(c.space); e != nil {
			t.refuse(c, e)
			return
		}
	}
	if c.owner == "" {
		t.refuse(c, c.error(InvalidArgs, c.space, "", dlm.None, "the owner is empty; locks without owner are released by name"))
		return
	}
	uids := []uint32{c.caller.UID}
	if c.caller.Privileged {
		uids = uids[:0]
		for uid := range t.perUID {
			uids = append(uids, uid)
		}
		sort.Slice(uids, func(i, j int) bool { return uids[i] < uids[j] })
	}
	var locks []*lock
	for _, uid := range uids {
		for l := t.owners[ownerKey{uid, c.owner}]; l != nil; l = l.nextOwner {
			if c.space != "" && l.sp.name != c.space {
				continue
			}
			if l.busy != nil {
				t.park(c, l)
				return
			}
			if l.sp.state == SpaceReady {
				locks = append(locks, l)
			}
		}
	}
	t.release(c, locks)
}

// findLock finds the one lock that a convert or release means. The caller's
// own locks come first; those of others only where there is none.
func (t *table) findLock(c *call, lockspace, resource string) (found *lock, parked bool, e *Error) {
	sp := t.spaces[lockspace]
	if sp == nil || sp.state != SpaceReady {
		if _, e := t.usable(c, lockspace, resource); e != nil && !(c.kind == callRelease && sp != nil && sp.state == SpaceReady) {
			return nil, false, e
		}
	}
	var own, others, starting []*lock
	for l := sp.byResource[resource]; l != nil; l = l.nextRes {
		switch {
		case !c.sel.match(l):
		case l.state == Acquiring:
			if l.busy != nil && l.busy.caller.Sender == c.caller.Sender && l.uid == c.caller.UID {
				starting = append(starting, l)
			}
		case l.uid == c.caller.UID:
			own = append(own, l)
		default:
			others = append(others, l)
		}
	}
	if len(own) == 0 && len(starting) > 0 {
		t.park(c, starting[0])
		return nil, true, nil
	}
	if len(own) == 0 && c.caller.Privileged {
		own, others = others, nil
	}
	switch {
	case len(own) == 1 && own[0].busy != nil:
		t.park(c, own[0])
		return nil, true, nil
	case len(own) == 1:
		return own[0], false, nil
	case len(own) > 1:
		e := c.error(Ambiguous, lockspace, resource, dlm.None, "several locks match; say which with owner or lockid")
		e.Candidates = infos(own)
		return nil, false, e
	case len(others) > 0:
		return nil, false, c.error(AccessDenied, lockspace, resource, dlm.None, "the lock belongs to another user")
	}
	return nil, false, c.error(NotHeld, lockspace, resource, dlm.None, "no lock here matches; see ListLocks")
}

// match reports whether the selector means l.
func (s Selector) match(l *lock) bool {
	return (!s.HasOwner || l.hasOwner && l.owner == s.Owner) &&
		(s.LockID == 0 || l.lockid == s.LockID) &&
		(s.Token == 0 || l.token == s.Token) &&
		(s.Ref == 0 || l.ref == s.Ref)
}

// release lets go of locks that nothing is under way with.
func (t *table) release(c *call, locks []*lock) {
	c.locks = locks
	if len(locks) == 0 {
		c.stage = stageDone
		t.reply(c)
		return
	}
	c.stage = stageReleasing
	changes := make([]state.Change, len(locks))
	for i, l := range locks {
		l.busy, l.state, l.phase = c, Releasing, state.Releasing
		changes[i] = state.Mark{ID: uint64(l.ref), Phase: state.Releasing}
	}
	t.append(true, changes, func(err error) {
		t.noteWrite(err)
		t.unlockAll(c)
	})
}

func (t *table) unlockAll(c *call) {
	c.stage, c.pending = stageUnlocking, 0
	for _, l := range c.locks {
		if l.mode != dlm.None {
			c.pending++
		}
	}
	for _, l := range c.locks {
		if l.mode == dlm.None {
			continue
		}
		l.flying = true
		var value *dlm.Value
		if l.mode >= dlm.PW {
			v := t.holder(l, dlm.None).encode()
			value = &v
		}
		t.do(unlockAction{sp: l.sp, cookie: l.cookie, value: value})
	}
	if c.pending == 0 {
		t.forget(c)
	}
}

func (t *table) unlockDone(c *call, l *lock, ev dlm.Event) {
	c.pending--
	switch {
	case ev.Status.OK(), ev.Status == dlm.StatusNotFound, ev.Status == dlm.StatusGone:
		l.mode = dlm.None
	default:
		c.fail(c.statusError(l, dlm.None, ev.Status))
		t.logLock(slog.LevelError, "release failed", l, slog.String("err", ev.Status.String()))
	}
	if c.pending == 0 {
		t.forget(c)
	}
}

// forget writes down that the locks are gone; one that could not be unlocked
// is held again.
func (t *table) forget(c *call) {
	c.stage = stageForgetting
	changes := make([]state.Change, len(c.locks))
	for i, l := range c.locks {
		m := state.Mark{ID: uint64(l.ref), Phase: state.Gone}
		if l.mode != dlm.None {
			m.Phase = state.Held
		}
		changes[i] = m
	}
	t.append(true, changes, func(err error) {
		t.noteWrite(err)
		c.stage = stageDone
		for _, l := range c.locks {
			if l.mode == dlm.None {
				c.released++
				t.counters.Released++
				t.logLock(slog.LevelDebug, "released", l, slog.String("sender", c.caller.Sender))
			}
		}
		t.reply(c)
		for _, l := range c.locks {
			if l.mode != dlm.None {
				l.phase = state.Held
				t.idle(l)
			} else {
				t.remove(l)
			}
		}
	})
}
