package table

import (
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"time"
	"unicode/utf8"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// The order of events of an acquire, and what a crash between two lines leaves:
//
//	startAcquire  Lock without PERSISTENT       the kernel drops the lock
//	lockDone      all granted: append "granted" no lock, a record: void, dropped
//	recorded      Convert with PERSISTENT       record and orphan, or a void record
//	persisted     append "held"                 the same
//	marked        reply                         record and orphan: joined again
//
// A record that is not marked held belongs to a call that nobody had an answer
// of: the next start adopts what there is of it and lets go of it. So the one
// append of all the marks is what makes an acquire of several locks all or
// nothing. A refusal, a failed write, a deadline or a vanished caller at any point ends
// in undoAcquire, which unlocks what was granted and takes back the record.

// startAcquire checks the call and asks for its locks.
func (t *Table) startAcquire(c *call) {
	if e := t.checkAcquire(c); e != nil {
		t.refuse(c, e)
		return
	}
	c.locks = make([]*lock, len(c.want))
	if l := t.ownRelease(c); l != nil {
		t.park(c, l)
		return
	}
	if parked, e := t.findOwn(c); parked {
		return
	} else if e != nil {
		t.refuse(c, e)
		return
	}
	if e := t.checkRoom(c); e != nil {
		t.refuse(c, e)
		return
	}
	if e := t.makeLocks(c); e != nil {
		for _, l := range c.fresh {
			t.remove(l)
		}
		t.refuse(c, e)
		return
	}
	t.goOnAcquire(c)
}

// goOnAcquire asks for the locks that are to be made, or answers where all are
// there already.
func (t *Table) goOnAcquire(c *call) {
	again, hangs := t.rebind(c)
	if len(c.fresh) == 0 && hangs {
		t.append(true, again, func(err error) {
			if err != nil {
				c.fail(c.writeError("", "", "the lock is held, but its move to this connection can't be recorded: ", err))
			}
			t.marked(c)
		})
		return
	}
	if len(again) > 0 {
		t.append(true, again, nil)
	}
	switch {
	case len(c.fresh) > 0:
		t.askAll(c)
	case c.value != nil:
		t.rewrite(c)
	default:
		t.granted(c)
	}
}

// askAll asks for the locks that are to be made, in one fixed order. Those that
// are not to queue are asked for at once. Where the call waits, each is asked for
// when the one before is granted: the requests of two nodes to two masters would
// overtake each other, and two callers who want the same locks would each wait
// with one of them in hand.
func (t *Table) askAll(c *call) {
	sort.SliceStable(c.fresh, func(i, j int) bool {
		a, b := c.fresh[i], c.fresh[j]
		if a.sp != b.sp {
			return a.sp.name < b.sp.name
		}
		return a.resource < b.resource
	})
	c.stage = stageLocking
	if c.wait > 0 {
		t.askNext(c, dlm.ValueBlock)
		return
	}
	for range c.fresh {
		t.askNext(c, dlm.ValueBlock|dlm.NoQueue)
	}
}

// askNext asks for the next lock of the call.
func (t *Table) askNext(c *call, flags dlm.Flags) {
	l := c.fresh[c.asked]
	c.asked++
	c.pending++
	if c.wait > 0 {
		t.usage(c.caller.UID).waiting++
		l.sp.waiters++
	}
	l.flying = true
	t.do(LockAction{Lockspace: l.sp.id, Cookie: l.cookie, Resource: l.resource, Mode: l.wanted, Flags: flags})
}

// refuse answers a call that has done nothing yet.
func (t *Table) refuse(c *call, e *api.Error) {
	c.locks = nil
	c.fail(e)
	c.stage = stageDone
	t.logRefused(c)
	t.reply(c)
}

func (t *Table) logRefused(c *call) {
	if c.err != nil {
		t.logWait(c)
	}
	if !t.debug || c.err == nil {
		return
	}
	t.log(slog.LevelDebug, c.op+" refused", slog.String("lockspace", c.err.Lockspace), slog.String("resource", api.Printable(c.err.Resource)),
		slog.Uint64("uid", uint64(c.caller.UID)), slog.String("session", string(c.caller.Session)), slog.String("err", c.err.Error()))
}

// checkAcquire looks at everything that does not depend on locks held.
func (t *Table) checkAcquire(c *call) *api.Error {
	if e := t.checkOptions(c); e != nil {
		return e
	}
	for _, w := range c.want {
		if _, e := t.checkWant(c, w); e != nil {
			return e
		}
	}
	if c.value == nil {
		return nil
	}
	if len(c.want) != 1 {
		return c.error(api.InvalidArgs, "", "", dlm.None, "value goes with one lock only")
	}
	return t.checkValue(c, c.want[0].Mode)
}

func (t *Table) checkOptions(c *call) *api.Error {
	bad := func(k api.Kind, format string, a ...any) *api.Error {
		return c.error(k, "", "", dlm.None, fmt.Sprintf(format, a...))
	}
	o := c.opts
	switch {
	case len(c.want) > t.limits.BatchLocks:
		return bad(api.LimitExceeded, "%d locks in one call, at most %d are allowed; use several calls", len(c.want), t.limits.BatchLocks)
	case len(o.Owner) > t.limits.OwnerBytes:
		return bad(api.LimitExceeded, "the owner has %d bytes, at most %d are allowed", len(o.Owner), t.limits.OwnerBytes)
	case len(o.Label) > t.limits.LabelBytes:
		return bad(api.LimitExceeded, "the label has %d bytes, at most %d are allowed", len(o.Label), t.limits.LabelBytes)
	case o.HasOwner && o.Owner == "":
		return bad(api.InvalidArgs, "the owner is empty; leave it out for a lock without owner")
	case !utf8.ValidString(o.Owner) || !utf8.ValidString(o.Label):
		return bad(api.InvalidArgs, "owner and label must be UTF-8")
	case o.Labels != nil && o.Label != "":
		return bad(api.InvalidArgs, "label and labels can't be given together")
	case o.Labels != nil && len(o.Labels) != len(c.want):
		return bad(api.InvalidArgs, "%d labels for %d locks; give one for each, or label for all", len(o.Labels), len(c.want))
	case c.wait < 0 || c.wait > api.MaxWait && c.request == 0:
		return bad(api.InvalidArgs, "the wait is longer than %s", api.MaxWait)
	}
	for _, label := range o.Labels {
		switch {
		case len(label) > t.limits.LabelBytes:
			return bad(api.LimitExceeded, "a label has %d bytes, at most %d are allowed", len(label), t.limits.LabelBytes)
		case !utf8.ValidString(label):
			return bad(api.InvalidArgs, "labels must be UTF-8")
		}
	}
	if e := t.checkOnLost(c); e != nil {
		return e
	}
	return t.checkLifetime(c)
}

// checkWant checks the names and the mode of one lock, and that its lockspace
// can grant.
func (t *Table) checkWant(c *call, w api.Want) (*space, *api.Error) {
	if !w.Mode.Valid() {
		return nil, c.error(api.InvalidMode, w.Lockspace, w.Resource, dlm.None, "the mode is not one of NL, CR, CW, PR (shared), PW, EX (exclusive)")
	}
	if e := c.checkName(w.Lockspace, w.Resource); e != nil {
		return nil, e
	}
	return t.usable(c, w.Lockspace, w.Resource)
}

// checkName checks the name of a lockspace and of a resource in it.
func (c *call) checkName(lockspace, resource string) *api.Error {
	if e := c.checkSpaceName(lockspace); e != nil {
		return e
	}
	if err := dlm.CheckResource(resource); err != nil {
		return c.error(api.InvalidName, lockspace, resource, dlm.None, adviceOf(err))
	}
	if len(resource) >= len(api.ReservedPrefix) && resource[:len(api.ReservedPrefix)] == api.ReservedPrefix {
		return c.error(api.InvalidName, lockspace, resource, dlm.None, "names that begin with "+api.ReservedPrefix+" are the service's own")
	}
	return nil
}

func (c *call) checkSpaceName(lockspace string) *api.Error {
	if err := dlm.CheckLockspace(lockspace); err != nil {
		return c.error(api.InvalidName, lockspace, "", dlm.None, adviceOf(err))
	}
	return nil
}

// usable returns the lockspace if it can take requests now.
func (t *Table) usable(c *call, lockspace, resource string) (*space, *api.Error) {
	sp := t.spaces[lockspace]
	switch {
	case sp == nil:
		return nil, c.error(api.NoSuchLockspace, lockspace, resource, dlm.None,
			"the lockspace is not joined here").WithHint(api.HintJoin)
	case sp.state == api.SpaceReady && sp.stopped() && c.wait == 0:
		return nil, c.stoppedError(sp, resource)
	case sp.state == api.SpaceReady:
		return sp, nil
	case sp.state == api.SpaceLeaving:
		return nil, c.error(api.NoSuchLockspace, lockspace, resource, dlm.None, "the lockspace is being left")
	case sp.err != nil:
		return nil, c.error(sp.err.Kind, lockspace, resource, dlm.None, sp.err.Text).WithHint(sp.err.Hint)
	}
	return nil, c.error(api.LockspaceStopped, lockspace, resource, dlm.None, "the lockspace is still being joined; try again in a moment")
}

func (c *call) stoppedError(sp *space, resource string) *api.Error {
	if sp.health.Known && !sp.health.Quorate {
		return c.error(api.NotQuorate, sp.name, resource, dlm.None, "the cluster has no quorum, so nothing is granted; bring enough nodes back")
	}
	why := sp.health.Reason
	if why == "" {
		why = "recovery is under way"
	}
	return c.error(api.LockspaceStopped, sp.name, resource, dlm.None, "the lockspace is stopped ("+why+"); try again when it is not")
}

// findOwn fills in the locks that the owner has already. parked tells that one
// of them is busy and the call will be started again.
func (t *Table) findOwn(c *call) (parked bool, e *api.Error) {
	if !c.opts.HasOwner {
		return false, nil
	}
	for i, w := range c.want {
		l := t.findOwned(t.spaces[w.Lockspace], w.Resource, c.caller.UID, c.opts.Owner)
		switch {
		case l == nil:
			continue
		case l.busy != nil:
			t.park(c, l)
			return true, nil
		case l.mode != w.Mode:
			return false, c.error(api.AlreadyHeld, w.Lockspace, w.Resource, w.Mode,
				fmt.Sprintf("owner %q holds it in mode %s already", c.opts.Owner, l.mode)).WithHint(api.HintConvert)
		case l.lifetime != c.opts.Lifetime:
			return false, c.error(api.AlreadyHeld, w.Lockspace, w.Resource, w.Mode,
				fmt.Sprintf("owner %q holds it with another lifetime; release it first", c.opts.Owner))
		case l.lifetime == state.Process && l.bound.proc != c.proc:
			return false, c.error(api.AlreadyHeld, w.Lockspace, w.Resource, w.Mode,
				fmt.Sprintf("owner %q holds it for process %d; release it first, or use another owner", c.opts.Owner, l.pid))
		}
		c.locks[i] = l
	}
	return false, nil
}

// checkRoom checks that the locks to be made can be written down, and the
// caller's limits.
func (t *Table) checkRoom(c *call) *api.Error {
	n := 0
	for _, l := range c.locks {
		if l == nil {
			n++
		}
	}
	if n > 0 && t.degraded != "" {
		return c.error(api.StateWriteFailed, "", "", dlm.None, t.degraded)
	}
	var u usage
	if p := t.perUID[c.caller.UID]; p != nil {
		u = *p
	}
	if u.locks+n > t.limits.LocksPerUID {
		return c.error(api.LimitExceeded, "", "", dlm.None, fmt.Sprintf(
			"uid %d has %d locks and may have %d (limits.locks-per-uid); release some", c.caller.UID, u.locks, t.limits.LocksPerUID))
	}
	if c.wait > 0 && u.waiting+n > t.limits.WaitingPerUID {
		return c.error(api.LimitExceeded, "", "", dlm.None, fmt.Sprintf(
			"uid %d has %d requests waiting and may have %d (limits.waiting-per-uid)", c.caller.UID, u.waiting, t.limits.WaitingPerUID))
	}
	return nil
}

// makeLocks makes the locks that the owner does not have yet. One that is
// wanted twice by one owner is one lock.
func (t *Table) makeLocks(c *call) *api.Error {
	for i, w := range c.want {
		if c.locks[i] != nil {
			continue
		}
		sp := t.spaces[w.Lockspace]
		if c.opts.HasOwner {
			if l := t.findOwned(sp, w.Resource, c.caller.UID, c.opts.Owner); l != nil {
				if l.wanted != w.Mode {
					return c.error(api.AlreadyHeld, w.Lockspace, w.Resource, w.Mode, "one owner wants the resource in two modes in one call")
				}
				c.locks[i] = l
				continue
			}
		}
		l := &lock{
			ref: t.ref(), sp: sp, resource: w.Resource, mode: dlm.None, wanted: w.Mode, state: api.Acquiring, busy: c,
			owner: c.opts.Owner, hasOwner: c.opts.HasOwner, label: c.opts.LabelAt(i), lifetime: c.opts.Lifetime,
			uid: c.caller.UID, pid: c.caller.PID, session: c.caller.Session, asked: c.seq, onLost: c.opts.OnLost,
		}
		if l.lifetime == state.Process {
			l.pid = c.proc.PID
		}
		t.add(l)
		t.bind(l, c.proc)
		c.locks[i] = l
		c.fresh = append(c.fresh, l)
	}
	return nil
}

// lockDone takes the end of one Lock.
func (t *Table) lockDone(c *call, l *lock, ev dlm.Event) {
	if c.wait > 0 {
		t.usage(l.uid).waiting--
		l.sp.waiters--
	}
	c.pending--
	if ev.Status.OK() {
		l.lockid, l.mode, l.since = ev.LockID, ev.Mode, t.now.UnixMicro()
		l.token = t.token(l.sp, l.mode, ev)
		l.noteValue(ev)
	} else if c.err == nil {
		c.fail(c.statusError(l, l.wanted, ev.Status))
		t.cancelFlying(c)
	}
	switch {
	case c.pending > 0:
		return
	case c.err == nil && c.asked < len(c.fresh):
		next := c.fresh[c.asked]
		_, e := t.usable(c, next.sp.name, next.resource)
		if e == nil {
			t.askNext(c, dlm.ValueBlock)
			return
		}
		c.fail(e) // the lockspace was left, or went away, while the call waited
	}
	t.checkPresent(c)
	if c.err != nil {
		t.undoAcquire(c)
		return
	}
	t.extend(c)
	t.recordAcquire(c)
}

// settleTime is what a call gets at least, once its waiting has ended, to write
// down what it was granted. With MaxWait it stays below the patience of clients.
const settleTime = 3 * time.Second

// extend makes sure that a grant in the last moment is not given back for want
// of the time to write it down.
func (t *Table) extend(c *call) {
	switch {
	case c.answered:
	case c.request != 0:
		t.rearm(c, t.opTime)
	case c.deadline.Sub(t.now) < settleTime:
		t.rearm(c, settleTime)
	}
}

func (t *Table) recordAcquire(c *call) {
	c.stage = stageRecording
	changes := make([]state.Change, len(c.fresh))
	for i, l := range c.fresh {
		l.phase = state.Granted
		r := l.record(state.Granted)
		changes[i] = r
	}
	t.append(false, changes, func(err error) {
		if err != nil {
			for _, l := range c.fresh {
				l.phase = 0
			}
			t.writeFailed(c, err)
		} else {
			c.recorded = true
		}
		t.afterRecord(c)
	})
}

func (t *Table) afterRecord(c *call) {
	if c.err != nil {
		t.undoAcquire(c)
		return
	}
	t.checkPresent(c)
	if c.err != nil {
		t.undoAcquire(c)
		return
	}
	c.stage, c.pending = stagePersisting, len(c.fresh)
	for _, l := range c.fresh {
		l.flying = true
		flags, value := t.publishing(c, l, l.mode)
		t.do(ConvertAction{Lockspace: l.sp.id, Cookie: l.cookie, Mode: l.mode, Flags: dlm.Persistent | flags, Value: value})
	}
}

// checkPresent fails the call if one of its locks has ended between two
// operations.
func (t *Table) checkPresent(c *call) {
	for _, l := range c.fresh {
		if l.mode == dlm.None {
			c.fail(c.error(api.NotHeld, l.sp.name, l.resource, l.wanted, "another process removed the lock, or the lockspace, while it was being taken"))
		}
	}
}

// holder is what the value block says while l is held in mode.
func (t *Table) holder(l *lock, mode dlm.Mode) api.Holder {
	h := api.Holder{Mode: dlm.None, Token: l.token}
	if mode >= dlm.PW {
		h.Mode, h.Node, h.Owner, h.Who = mode, t.node.ID, api.OwnerHash(l.uid, l.owner), l.label
		if h.Who == "" {
			h.Who = l.owner
		}
	}
	return h
}

func (t *Table) persistDone(c *call, l *lock, ev dlm.Event) {
	c.pending--
	if !ev.Status.OK() {
		l.noteMode(ev)
		c.fail(c.statusError(l, l.wanted, ev.Status))
	}
	if c.pending > 0 {
		return
	}
	t.checkPresent(c)
	if c.err != nil {
		t.undoAcquire(c)
		return
	}
	c.stage = stageMarking
	t.append(false, c.marks(c.fresh, state.Held), func(err error) {
		if err != nil {
			t.writeFailed(c, err)
			t.takeBackMarks(c)
			return
		}
		t.marked(c)
	})
}

// takeBackMarks undoes an acquire that is marked held, or of which that is not
// certain: unlocking it before the marks are taken back would leave records of
// held locks without their locks, which the next start reports as lost. Until
// they can be taken back the locks stay, and the call waits for its deadline: an
// earlier answer would not be true if the process died.
func (t *Table) takeBackMarks(c *call) {
	c.stage = stageMarking
	t.append(false, c.marks(c.fresh, state.Releasing), func(err error) {
		if err != nil {
			t.unmarked[c] = struct{}{}
			return
		}
		t.undoAcquire(c)
	})
}

// marks returns a mark of every lock.
func (c *call) marks(locks []*lock, p state.Phase) []state.Change {
	changes := make([]state.Change, len(locks))
	for i, l := range locks {
		changes[i] = state.Mark{ID: uint64(l.ref), Phase: p}
	}
	return changes
}

// marked ends an acquire whose locks are marked held, unless something has come
// in between. Then the marks are taken back first, so that the next start does
// not take the locks for granted ones.
func (t *Table) marked(c *call) {
	for i, l := range c.locks {
		if t.locks[l.ref] != l || l.mode != c.want[i].Mode {
			c.fail(c.error(api.NotHeld, l.sp.name, l.resource, c.want[i].Mode, "the lock was released, converted or lost while the call was under way; ask again"))
		}
	}
	switch {
	case c.err == nil && len(c.fresh) == 0 && c.value != nil:
		t.rewrite(c)
		return
	case c.err == nil:
		t.granted(c)
		return
	}
	if len(c.fresh) == 0 {
		t.undoAcquire(c)
		return
	}
	t.takeBackMarks(c)
}

// noteMode takes the mode that an event says the lock has after a failure.
func (l *lock) noteMode(ev dlm.Event) {
	if ev.Status == dlm.StatusGone || ev.Status == dlm.StatusNotFound {
		l.mode = dlm.None
	}
}

// granted ends an acquire well.
func (t *Table) granted(c *call) {
	c.stage = stageDone
	c.grants = make([]api.Grant, len(c.locks))
	for i, l := range c.locks {
		c.grants[i] = l.grant()
		c.grants[i].New = l.phase != state.Held
	}
	for _, l := range c.fresh {
		l.phase = state.Held
		t.counters.Granted++
		t.logHistory("acquired", l, slog.String("label", l.label), slog.String("session", string(l.session)),
			slog.Duration("waited", t.now.Sub(c.begun)))
	}
	t.reply(c)
	for _, l := range c.fresh {
		t.idle(l)
	}
}

func (l *lock) grant() api.Grant {
	return api.Grant{Ref: l.ref, Lockspace: l.sp.name, Resource: l.resource, LockID: l.lockid, Token: l.token}
}

// adviceOf returns the advice of an engine's error, or its text.
func adviceOf(err error) string {
	if e, ok := errors.AsType[*dlm.Error](err); ok && e.Advice != "" {
		return e.Advice
	}
	return err.Error()
}
