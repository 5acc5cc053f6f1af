package table

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
	"sort"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// The order of events of a release, and what a crash between two lines leaves:
//
//	startRelease  append "releasing"  record "held" and orphan: held, nobody was told otherwise
//	releasing     Unlock              record "releasing" and orphan: released at the next start
//	unlocked      append "gone"       record "releasing", no lock: dropped, not lost
//	gone          reply               nothing
//
// The room for both marks is set aside when the lock is written down, so they
// are written also when the file system is full. If "releasing" can't be written
// all the same (the disk fails, the directory is read-only), the lock is not
// unlocked: without its mark it would be reported as lost at the next start, and
// its helper run, or it would be held again. The call is told that the lock is
// still held; where nobody waits for an answer, because the lifetime is over, it
// is tried again until it succeeds. Once "releasing" is written the release is
// durable: "gone" is tried again, and the answer does not wait for that.

// startRelease finds the locks meant and begins to let go of them.
func (t *Table) startRelease(c *call) {
	switch {
	case c.want != nil:
		t.startReleaseMany(c)
		return
	case c.all:
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

// startReleaseOwner collects everything of one owner. None is fine. Where a
// lockspace can't be used now, what is in the others is released all the same,
// and the call fails.
func (t *Table) startReleaseOwner(c *call) {
	if c.space != "" {
		if e := c.checkSpaceName(c.space); e != nil {
			t.refuse(c, e)
			return
		}
	}
	if c.space != "" && t.spaces[c.space] == nil {
		t.refuse(c, c.error(api.NoSuchLockspace, c.space, "", dlm.None, "the lockspace is not joined here").WithHint(api.HintListLockspaces))
		return
	}
	if c.owner == "" {
		t.refuse(c, c.error(api.InvalidArgs, c.space, "", dlm.None, "the owner is empty").WithHint(api.HintReleaseOne))
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
			switch {
			case c.space != "" && l.sp.name != c.space:
			case l.asked > c.seq, l.state == api.Acquiring && !t.sameCaller(l, c):
				// Asked for later, or at the same time by somebody else.
			case l.sp.state != api.SpaceReady:
				_, e := t.usable(c, l.sp.name, l.resource)
				c.fail(e)
			case t.before(c, l) != nil:
				c.err = nil // it will be looked at again
				t.park(c, t.before(c, l))
				return
			default:
				locks = append(locks, l)
			}
		}
	}
	t.release(c, locks)
}

// startReleaseMany collects what the owner holds of some resources, and of any
// resource with some labels. What the owner does not hold is no error.
func (t *Table) startReleaseMany(c *call) {
	if c.owner == "" {
		t.refuse(c, c.error(api.InvalidArgs, "", "", dlm.None, "the owner is empty").WithHint(api.HintReleaseOne))
		return
	}
	var locks []*lock
	for _, w := range c.want {
		if e := c.checkName(w.Lockspace, w.Resource); e != nil {
			t.refuse(c, e)
			return
		}
		sp := t.spaces[w.Lockspace]
		if sp == nil || sp.state != api.SpaceReady {
			_, e := t.usable(c, w.Lockspace, w.Resource)
			c.fail(e)
			continue
		}
		if l := t.findOwned(sp, w.Resource, c.caller.UID, c.owner); l != nil {
			locks = append(locks, l)
		}
	}
	locks = append(locks, t.labelled(c)...)
	var there []*lock
	seen := make(map[*lock]bool, len(locks))
	for _, l := range locks {
		switch {
		case l.asked > c.seq, l.state == api.Acquiring && !t.sameCaller(l, c), seen[l]:
		case t.before(c, l) != nil:
			c.err = nil // it will be looked at again
			t.park(c, t.before(c, l))
			return
		default:
			there, seen[l] = append(there, l), true
		}
	}
	t.release(c, there)
}

// labelled are the locks of the call's owner that have one of its labels.
func (t *Table) labelled(c *call) (locks []*lock) {
	if len(c.opts.Labels) == 0 {
		return nil
	}
	labels := make(map[string]bool, len(c.opts.Labels))
	for _, label := range c.opts.Labels {
		labels[label] = true
	}
	for l := t.owners[ownerKey{c.caller.UID, c.owner}]; l != nil; l = l.nextOwner {
		if labels[l.label] && l.sp.state == api.SpaceReady {
			locks = append(locks, l)
		}
	}
	return locks
}

// findLock finds the one lock that a convert or release means, among those that
// were there when the call came in. The caller's own locks come first; those of
// others only where there is none.
func (t *Table) findLock(c *call, lockspace, resource string) (found *lock, parked bool, e *api.Error) {
	mode := dlm.None
	if c.kind == callConvert {
		mode = c.want[0].Mode
	}
	sp := t.spaces[lockspace]
	if sp == nil || sp.state != api.SpaceReady {
		_, e := t.usable(c, lockspace, resource)
		return nil, false, e
	}
	if l := t.exact(c, sp, resource); l != nil {
		return t.unlessBusy(c, l)
	}
	var own, others []*lock
	var unsettled *lock // by an earlier call of the same connection
	for l := sp.byResource[resource]; l != nil; l = l.nextRes {
		switch {
		case !l.selected(c.sel) || l.asked > c.seq:
		case (l.state == api.Acquiring || l.state == api.Releasing) && t.sameCaller(l, c):
			unsettled = l
		case l.state == api.Acquiring:
		case l.uid == c.caller.UID:
			own = append(own, l)
		default:
			others = append(others, l)
		}
	}
	if unsettled != nil {
		t.park(c, unsettled)
		return nil, true, nil
	}
	if len(own) == 0 && c.caller.Privileged {
		own, others = others, nil
	}
	switch {
	case len(own) == 1:
		return t.unlessBusy(c, own[0])
	case len(own) > 1:
		e := c.error(api.Ambiguous, lockspace, resource, mode, "several locks match").WithHint(api.HintOwnerOrLockID)
		slices.SortFunc(own, byRef)
		e.Candidates = infos(own[:min(len(own), maxCandidates)])
		return nil, false, e
	case len(others) > 0:
		return nil, false, c.error(api.AccessDenied, lockspace, resource, mode, "the lock belongs to another user")
	}
	return nil, false, c.error(api.NotHeld, lockspace, resource, mode, "no lock here matches").WithHint(api.HintListLocks)
}

// maxCandidates is how many locks an Ambiguous error names.
const maxCandidates = 32

// exact returns the lock that a selector with a number or an owner means, so
// that the cost of most calls does not grow with the number of holders.
func (t *Table) exact(c *call, sp *space, resource string) *lock {
	var l *lock
	switch {
	case c.sel.Ref != 0:
		l = t.locks[c.sel.Ref]
	case c.sel.HasOwner:
		l = t.findOwned(sp, resource, c.caller.UID, c.sel.Owner)
	}
	if l == nil || l.sp != sp || l.resource != resource || l.probe || l.state == api.Acquiring || !l.selected(c.sel) || l.asked > c.seq ||
		l.uid != c.caller.UID && !c.caller.Privileged {
		return nil
	}
	return l
}

// unlessBusy returns l, or parks the call until nothing is under way with it.
func (t *Table) unlessBusy(c *call, l *lock) (found *lock, parked bool, e *api.Error) {
	if b := t.before(c, l); b != nil {
		t.park(c, b)
		return nil, true, nil
	}
	return l, false, nil
}

// selected reports whether the selector means l.
func (l *lock) selected(s api.Selector) bool {
	return (!s.HasOwner || l.hasOwner && l.owner == s.Owner) &&
		(s.LockID == 0 || l.lockid == s.LockID) &&
		(s.Token == 0 || l.token == s.Token) &&
		(s.Ref == 0 || l.ref == s.Ref)
}

// release lets go of locks that nothing is under way with.
func (t *Table) release(c *call, locks []*lock) {
	c.locks = locks
	if len(locks) == 0 {
		c.stage = stageDone
		t.reply(c)
		return
	}
	c.stage = stageReleasing
	var marked []*lock // the others are in a phase that ends at the next start anyway
	for _, l := range locks {
		l.busy, l.state = c, api.Releasing
		t.tell(l)
		if l.phase == state.Held {
			marked = append(marked, l)
		}
	}
	if len(marked) == 0 {
		t.unlockAll(c)
		return
	}
	t.append(false, c.marks(marked, state.Releasing), func(err error) {
		if err != nil {
			t.keep(c, err)
			return
		}
		for _, l := range marked {
			l.phase = state.Releasing
		}
		t.unlockAll(c)
	})
}

// keep ends a release that could not be written down: the locks are still held.
func (t *Table) keep(c *call, err error) {
	c.stage = stageDone
	text := "the lock is still held, because its release can't be recorded: "
	if len(c.locks) > 1 {
		text = "nothing was released, because the release can't be recorded: "
	}
	c.fail(c.writeError(c.space, c.resource, text, err))
	t.reply(c)
	for _, l := range c.locks {
		if l.mode == dlm.None { // meanwhile
			t.lose(l, "it was removed by somebody else before it could be released")
			continue
		}
		if c.lifetime && l.bound != nil && l.bound.dead {
			if !c.again {
				t.logLock(slog.LevelError, "the lifetime of the lock is over, but its release can't be recorded; it is held until it can", l, slog.String("err", err.Error()))
			}
			t.overdue[l] = struct{}{}
		}
		t.idle(l)
	}
}

// writeAgain tries again what could not be written down.
func (t *Table) writeAgain() {
	calls := slices.SortedFunc(maps.Keys(t.unmarked), func(a, b *call) int { return cmp.Compare(a.fresh[0].ref, b.fresh[0].ref) })
	for _, c := range calls {
		delete(t.unmarked, c)
		t.takeBackMarks(c)
	}
	var in []*lock
	for _, l := range slices.SortedFunc(maps.Keys(t.overdue), byRef) {
		switch {
		case l.bound == nil || !l.bound.dead, l.sp.state != api.SpaceReady:
			delete(t.overdue, l) // it has another life now, or is let go of when the lockspace is back
		case l.busy == nil:
			delete(t.overdue, l)
			in = append(in, l)
		}
	}
	t.releaseAll(in, true)
}

// releaseAll releases locks whose lifetime is over, perhaps not for the first time.
func (t *Table) releaseAll(in []*lock, again bool) {
	if len(in) > 0 {
		t.release(&call{kind: callRelease, op: "release", heapIdx: -1, answered: true, lifetime: true, again: again}, in)
	}
}

func (t *Table) unlockAll(c *call) {
	c.stage, c.pending = stageUnlocking, 0
	for _, l := range c.locks {
		if l.mode != dlm.None {
			c.pending++
		}
	}
	for _, l := range c.locks {
		if l.mode != dlm.None {
			t.unlock(l)
		}
	}
	if c.pending == 0 {
		t.forget(c)
	}
}

// unlock asks the DLM to end l. What is in the state file may have put our name
// into the value block, so that is taken out.
func (t *Table) unlock(l *lock) {
	l.flying, l.state = true, api.Releasing
	var value *dlm.Value
	if l.mode >= dlm.PW && l.phase != 0 && !l.sp.raw {
		v := t.holder(l, dlm.None).Encode()
		value = &v
	}
	t.do(UnlockAction{Lockspace: l.sp.id, Cookie: l.cookie, Value: value})
}

// ended reports whether an unlock with this outcome leaves no lock behind.
func ended(st dlm.Status) bool {
	return st.OK() || st == dlm.StatusNotFound || st == dlm.StatusGone
}

// unlockLater has an unlock that failed tried again, for as long as it takes:
// nobody else knows of the lock, or its holder was told that it is released.
func (t *Table) unlockLater(l *lock, st dlm.Status) {
	t.logLock(slog.LevelError, "unlock failed, it is tried again", l, slog.String("err", st.String()))
	t.stuck[l] = struct{}{}
}

func (t *Table) unlockDone(c *call, l *lock, ev dlm.Event) {
	switch {
	case ended(ev.Status):
		l.mode = dlm.None
	case c.answered || c.id == 0:
		t.unlockLater(l, ev.Status)
		return
	default:
		c.fail(c.statusError(l, dlm.None, ev.Status))
		t.logLock(slog.LevelError, "release failed", l, slog.String("err", ev.Status.String()))
	}
	c.pending--
	if c.pending == 0 {
		t.forget(c)
	}
}

// forget writes down that the locks are gone; one that could not be unlocked
// is held again.
func (t *Table) forget(c *call) {
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
		c.stage = stageDone
		for _, l := range c.locks {
			if l.mode == dlm.None {
				c.released++
				t.counters.Released++
				t.logHistory("released", l, slog.String("session", string(c.caller.Session)))
			}
		}
		t.reply(c)
		var left []*lock
		for _, l := range c.locks {
			switch {
			case l.mode == dlm.None:
				t.remove(l)
			case err != nil:
				left = append(left, l)
			default:
				l.phase = state.Held
				t.idle(l)
			}
		}
		t.unlockAgain(c, left)
	})
}

// unlockAgain goes on with locks that could not be unlocked, and of which it
// can't be written down that they are held again: the next start would let go of
// them, so this one does.
func (t *Table) unlockAgain(c *call, left []*lock) {
	if len(left) == 0 {
		return
	}
	c.stage, c.locks, c.pending = stageUnlocking, left, len(left)
	for _, l := range left {
		t.stuck[l] = struct{}{}
	}
}
