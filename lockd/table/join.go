package table

import (
	"cmp"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// joinOp joins a lockspace. The head of anchor.go says what becomes of one that is
// there already. For one that is not, the order of events, and what a crash after
// each line leaves:
//
//	append "creating"           a record: dropped at the next start, or made, if the
//	                            configuration wants the lockspace
//	Create                      record and lockspace: ours if nothing else is in it
//	Lock, Convert PERSISTENT    record and anchor: ours
//	append "joined"             the same
//	reply                       the same
//
// If its time is over, or the call is canceled, joining goes on.
type joinOp struct {
	call
	lockspace string
}

// joinTimeout is how long joining and leaving a lockspace may take before the call
// is answered; both go on after that.
const joinTimeout = 20 * time.Second

func (o *joinOp) patience() time.Duration { return joinTimeout }

func (o *joinOp) waitsFor() obstacle {
	w := o.t.obstacleOf(nil, o.lockspace, "", dlm.None)
	w.text = "the lockspace is not joined yet; joining goes on"
	return w
}

func (o *joinOp) start() {
	t := o.t
	if e := o.checkLockspaceName(o.lockspace); e != nil {
		o.refuse(e)
		return
	}
	sp := t.spaces[o.lockspace]
	switch {
	case sp != nil && sp.state == api.SpaceReady:
		o.reply()
		return
	case sp != nil && sp.state == api.SpaceLeaving:
		o.refuse(o.errorOf(api.LockspaceInUse, o.lockspace, "", dlm.None,
			"the lockspace is being left; try again in a moment"))
		return
	case t.degraded != "":
		o.refuse(o.errorOf(api.StateWriteFailed, o.lockspace, "", dlm.None, t.degraded))
		return
	}
	sp = t.space(o.lockspace)
	sp.waiting = append(sp.waiting, &o.call)
	if sp.step == spaceIdle {
		sp.join()
	}
}

// join begins to join or to activate: an existing device first, because
// opening has no side effects.
func (sp *lockspace) join() {
	if sp.open && sp.recorded == state.Leaving {
		sp.finishLeave()
		return
	}
	if sp.open { // some records could not be adopted
		sp.state, sp.err, sp.retryAt = api.SpaceJoining, nil, time.Time{}
		sp.adoptAll()
		return
	}
	sp.state, sp.step, sp.err, sp.retryAt = api.SpaceJoining, spaceOpening, nil, time.Time{}
	sp.t.do(OpenAction{sp.id, sp.name})
}

// Opened takes the end of OpenAction or CreateAction. unsettled says of a create
// that failed that this node may be in the lockspace, or come to be in it, all the
// same.
func (t *Table) Opened(id LockspaceID, err error, unsettled bool) {
	sp := t.byID[id]
	sp.open = err == nil
	if sp.stillborn && sp.open {
		sp.stillborn = false
		sp.fail(goneError(sp), true)
		return
	}
	sp.stillborn = false
	switch {
	case err == nil && sp.step == spaceCreating:
		sp.proven = true // it was made now, by us and by nobody else (DLM_LSFL_NEWEXCL)
		sp.makeAnchor()
	case err == nil:
		sp.step = spaceAdoptingAnchor
		sp.anchor.cookie = dlm.Cookie(t.locks.nextRef())
		t.do(AdoptAction{Lockspace: sp.id, Cookie: sp.anchor.cookie, Resource: sp.anchor.name, Mode: dlm.NL})
	case sp.step == spaceOpening && errors.Is(err, dlm.ErrNoLockspace):
		sp.absent()
	case sp.step == spaceCreating && errors.Is(err, dlm.ErrLockspaceExists):
		sp.foreign(Looked{})
	case sp.step == spaceCreating && !unsettled:
		sp.notMade()
		sp.fail(spaceError(sp, err), true)
	default:
		sp.fail(spaceError(sp, err), true)
	}
}

// absent goes on with a lockspace that this node is not in. It is joined where
// somebody wants it: the configuration, a caller who waits, or one who has an
// answer.
func (sp *lockspace) absent() {
	switch {
	case sp.recorded == state.Leaving:
		sp.left(whyLeft)
	case sp.recorded == state.Creating && !sp.configured && !sp.awaited():
		sp.left(whyLeft) // nobody was told that it is joined
	default:
		sp.voidAll("this node has left the lockspace since the lock was taken")
		sp.create()
	}
}

// awaited tells whether a Join waits for the lockspace.
func (sp *lockspace) awaited() bool {
	return slices.ContainsFunc(sp.waiting, func(c *call) bool { return c.joins() && !c.answered })
}

// joins tells whether the call is a Join.
func (c *call) joins() bool {
	_, joins := c.op.(*joinOp)
	return joins
}

// notMade takes back that a lockspace is being made: it was not. Otherwise one
// that somebody else makes before the next attempt would be taken for ours, and
// a caller who was refused would find it joined later.
func (sp *lockspace) notMade() {
	sp.recorded = state.Left
	sp.t.append(true, []state.Change{sp.record()}, nil)
	sp.recorded = 0
}

// create writes down that what is made now is ours, then makes it.
func (sp *lockspace) create() {
	sp.step = spaceCreating
	sp.recorded, sp.anchor.id = state.Creating, 0
	sp.writePhase(false, func(err error) {
		if err != nil {
			sp.notMade()
			sp.fail(&api.Error{Op: "join", Lockspace: sp.name, Kind: api.StateWriteFailed, Err: err,
				Text: "the lockspace is not joined, because the state file can't be written: " + err.Error()}, true)
			return
		}
		sp.t.do(CreateAction{sp.id, sp.name})
	})
}

// becomeReady ends joining or activation well.
func (sp *lockspace) becomeReady() {
	sp.state, sp.step, sp.err, sp.backoff = api.SpaceReady, spaceIdle, nil, 0
	sp.t.log(slog.LevelInfo, "lockspace ready", slog.String("lockspace", sp.name), slog.Int("locks", sp.locks))
	sp.countOrphans()
	sp.settle()
	sp.t.do(NotifyAction{api.LockspaceChanged{LockspaceInfo: sp.info()}})
	sp.answer(nil)
	if sp.anchor.id == 0 { // removed while the records were adopted
		sp.makeAnchor()
	}
}

func (sp *lockspace) answer(e *api.Error) {
	waiting := sp.waiting
	sp.waiting = nil
	for _, c := range waiting {
		if e != nil {
			c.fail(e)
		}
		c.reply()
	}
}

// countOrphans looks for persistent locks that no record explains. They are
// listed and never touched unasked.
func (sp *lockspace) countOrphans() {
	sp.t.look(sp, Question{}, lookerFunc(func(k Looked) {
		if !k.HasOrphans {
			sp.orphans = -1
			return
		}
		sp.orphans = len(sp.unexplained(k.Orphans))
		if sp.orphans > 0 {
			sp.t.log(slog.LevelWarn, msgOrphansFound.String(), slog.String("lockspace", sp.name),
				slog.Int("orphans", sp.orphans))
		}
	}))
}

// unexplained returns the orphans that are not locks of this instance, and the
// unknown ones that it has adopted.
func (sp *lockspace) unexplained(orphans []dlm.Orphan) []dlm.Orphan {
	var out []dlm.Orphan
	for _, o := range orphans {
		known := o.LockID == sp.anchor.id && o.Resource == sp.anchor.name
		for l := sp.byResource[o.Resource]; l != nil && !known; l = l.nextRes {
			known = l.lockid == o.LockID
		}
		if !known && sp.unknown[o.LockID] == nil && !isAnchor(o.Resource) {
			out = append(out, o)
		}
	}
	for _, l := range sp.unknown {
		out = append(out, dlm.Orphan{LockID: l.lockid, Resource: l.resource, Mode: l.mode})
	}
	slices.SortFunc(out, func(a, b dlm.Orphan) int { return cmp.Compare(a.LockID, b.LockID) })
	return out
}

// Delays between attempts to join a lockspace that failed.
const (
	retryFirst = time.Second
	retryMax   = 30 * time.Second
)

// fail ends joining or activation badly; with retry it is tried again, with
// another handle.
func (sp *lockspace) fail(e *api.Error, retry bool) {
	sp.shut()
	sp.unusable(e, retry)
}

// shut closes the handle and forgets what was asked for through it.
func (sp *lockspace) shut() {
	sp.attempt++
	sp.proven, sp.gone, sp.anchor.old = false, false, nil
	if sp.open {
		sp.open = false
		sp.t.do(CloseAction{sp.id})
	}
	sp.clock = spaceClock{}
	clear(sp.adoptions)
	for _, l := range sp.unknown {
		l.remove()
	}
	for ck, then := range sp.others {
		delete(sp.others, ck)
		then(dlm.Event{Kind: dlm.Completed, Op: dlm.OpAdopt, Cookie: ck, Status: dlm.StatusGone, Mode: dlm.None})
	}
	for _, head := range sp.byResource {
		for l := head; l != nil; l = l.nextRes {
			sp.t.locks.setCookie(l, dlm.Cookie(l.ref))
			if l.busy == nil {
				l.state = lockRecorded
			}
		}
	}
}

// unusable notes why the lockspace can't be used now.
func (sp *lockspace) unusable(e *api.Error, retry bool) {
	t := sp.t
	t.log(slog.LevelError, msgLockspaceNotUsable.String(), slog.String("lockspace", sp.name), slog.String("err", e.Text))
	sp.settle()
	sp.state, sp.step, sp.err = api.SpaceFailed, spaceIdle, e
	if retry && (sp.configured || sp.recorded != 0) {
		sp.backoff = min(max(2*sp.backoff, retryFirst), retryMax)
		sp.retryAt = t.now.Add(sp.backoff)
	}
	t.do(NotifyAction{api.LockspaceChanged{LockspaceInfo: sp.info()}})
	told := *e
	if !sp.retryAt.IsZero() {
		told.Text += "; the service tries again by itself"
	}
	sp.answer(&told)
	sp.drop()
}

// settle counts a lockspace whose activation has ended.
func (sp *lockspace) settle() {
	t := sp.t
	if !sp.settling {
		return
	}
	sp.settling = false
	t.settling--
	if t.settling == 0 {
		t.ready = true
	}
}

func (t *Table) retrySpaces() {
	for _, name := range t.LockspaceNames() {
		sp := t.spaces[name]
		if sp.retryAt.IsZero() || sp.retryAt.After(t.now) {
			continue
		}
		sp.retryAt = time.Time{}
		switch {
		case sp.step != spaceIdle:
		case sp.state == api.SpaceReady:
			sp.makeAnchor()
		default:
			sp.join()
		}
	}
}

// forget drops the entry of a lockspace that nothing is known of any more.
func (sp *lockspace) forget() {
	if !sp.configured && sp.recorded == 0 && sp.step == spaceIdle && sp.state == api.SpaceFailed && sp.locks == 0 {
		sp.erase()
	}
}

func (sp *lockspace) erase() {
	t := sp.t
	delete(t.spaces, sp.name)
	delete(t.byID, sp.id)
	t.do(ForgetAction{sp.id})
}

// drop is forget of a lockspace that front ends know of and were not told
// to forget.
func (sp *lockspace) drop() {
	if sp.forget(); sp.t.spaces[sp.name] != sp {
		sp.t.do(NotifyAction{api.LockspaceChanged{LockspaceInfo: sp.info(), Gone: true}})
	}
}

// closed takes the news that the lockspace went away underneath us.
func (sp *lockspace) closed() {
	switch {
	case sp.step == spaceRemoving:
		sp.gone = true // removed will tell
		return
	case sp.step == spaceOpening, sp.step == spaceCreating:
		sp.stillborn = true
		return
	}
	sp.shut()
	sp.closeLocks(whyRemoved)
	sp.fail(goneError(sp), true)
}

func goneError(sp *lockspace) *api.Error {
	if sp.recorded == state.Leaving {
		return &api.Error{Op: "leave", Lockspace: sp.name, Kind: api.NoSuchLockspace,
			Text: "somebody else removed the lockspace from this node"}
	}
	return &api.Error{Op: "join", Lockspace: sp.name, Kind: api.NoSuchLockspace,
		Text: "somebody else removed the lockspace from this node; it is joined again in a moment"}
}

// closeLocks ends every lock of a lockspace that is gone. What is under way
// ends as if the DLM had said so.
func (sp *lockspace) closeLocks(why string) {
	t := sp.t
	var in []*lock
	for _, l := range t.locks.byRef {
		if l.sp == sp {
			in = append(in, l)
		}
	}
	slices.SortFunc(in, byRef)
	var idle []*lock
	for _, l := range in {
		switch {
		case t.locks.byRef[l.ref] != l: // its call has ended with another of its locks
		case l.inFlight():
			l.endedAs(dlm.StatusGone)
		case l.busy != nil:
			l.vanish()
		case l.kind != clientLock:
			l.remove()
		default:
			idle = append(idle, l)
		}
	}
	t.voidEach(idle, why)
}

// spaceError turns an engine's error about a whole lockspace into ours.
func spaceError(sp *lockspace, err error) *api.Error {
	e := &api.Error{Op: "join", Lockspace: sp.name, Kind: api.KernelError, Err: err, Text: err.Error()}
	if errors.Is(err, dlm.ErrClusterUnavailable) || errors.Is(err, dlm.ErrUnsupported) {
		e.Kind = api.ClusterUnavailable
	}
	if d, ok := errors.AsType[*dlm.Error](err); ok {
		e.Errno = d.Errno
	}
	return e
}

func (sp *lockspace) info() api.LockspaceInfo {
	i := api.LockspaceInfo{Name: sp.name, State: sp.state, Locks: sp.locks, Orphans: sp.orphans, Waiting: sp.waiters,
		Health: sp.health, HasHealth: sp.hasHealth, RawValues: sp.raw}
	if sp.err != nil {
		i.Error = sp.err.Text
	}
	return i
}

// SetHealth takes what was seen of a lockspace; ok is false where it could not be
// looked at.
func (t *Table) SetHealth(name string, h dlm.Health, ok bool) {
	sp := t.spaces[name]
	if sp == nil || sp.state != api.SpaceReady {
		return
	}
	same := sp.hasHealth == ok && sp.health.Stopped == h.Stopped && sp.health.Quorate == h.Quorate &&
		sp.health.Known == h.Known && sp.health.Reason == h.Reason && slices.Equal(sp.health.Members, h.Members)
	if !slices.Equal(sp.health.Members, h.Members) {
		sp.clock.newMembers()
	}
	sp.health, sp.hasHealth = h, ok
	sp.syncClock()
	if same {
		return
	}
	if sp.stopped() {
		t.log(slog.LevelWarn, msgLockspaceStopped.String(), slog.String("lockspace", sp.name), slog.String("err", h.Reason))
	}
	t.do(NotifyAction{api.LockspaceChanged{LockspaceInfo: sp.info()}})
}
