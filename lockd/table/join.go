package table

import (
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

// waitsFor says that joining goes on when the call has been answered.
func (o *joinOp) waitsFor() obstacle {
	w := o.t.obstacleOf(nil, o.lockspace, "", dlm.None)
	w.text = "the lockspace is not joined yet; joining goes on"
	return w
}

// start answers at once where the lockspace can be used, and otherwise has the call wait for
// it. A Join that comes while an attempt is under way waits for that one.
func (o *joinOp) start() {
	t := o.t
	if e := o.checkLockspaceName(o.lockspace); e != nil {
		o.refuse(e)
		return
	}
	sp := t.spaces.byName[o.lockspace]
	switch {
	case sp != nil && sp.ready():
		o.reply()
		return
	case sp != nil && sp.public() == api.SpaceLeaving:
		o.refuse(o.errorOf(api.LockspaceInUse, o.lockspace, "", dlm.None,
			"the lockspace is being left; try again in a moment"))
		return
	case t.degraded != "":
		o.refuse(o.errorOf(api.StateWriteFailed, o.lockspace, "", dlm.None, t.degraded))
		return
	}
	sp = t.space(o.lockspace)
	sp.waiting = append(sp.waiting, &o.call)
	if sp.state.idle() {
		sp.join()
	}
}

// join begins to join or to activate: an existing device first, because
// opening has no side effects.
func (sp *lockspace) join() {
	sp.retryAt = time.Time{}
	switch {
	case sp.open() && sp.recorded == state.Leaving: // it could not be removed
		sp.finishLeave()
	case sp.open(): // some records could not be adopted
		sp.err = nil
		sp.records.adoptAll()
	default:
		sp.state, sp.err = spaceOpening, nil
		sp.t.do(OpenAction{sp.id, sp.name})
	}
}

// Opened takes the end of OpenAction or CreateAction. unsettled says of a create
// that failed that this node may be in the lockspace, or come to be in it, all the
// same.
func (t *Table) Opened(id LockspaceID, err error, unsettled bool) {
	sp := t.spaces.byID[id]
	if err == nil {
		sp.opened()
		return
	}
	sp.gone = false
	creating := sp.state == spaceCreating
	switch {
	case !creating && errors.Is(err, dlm.ErrNoLockspace):
		sp.absent()
	case creating && errors.Is(err, dlm.ErrLockspaceExists):
		sp.foreign(Looked{})
	case creating && !unsettled:
		sp.notMade()
		sp.fail(spaceError(sp, err), true)
	default:
		sp.fail(spaceError(sp, err), true)
	}
}

// opened goes on with the handle that an open or a create has given.
func (sp *lockspace) opened() {
	created := sp.state == spaceCreating
	if sp.state = spaceProving; created {
		sp.state = spaceAnchoring // it was made now, by us and by nobody else (DLM_LSFL_NEWEXCL)
	}
	switch {
	case sp.gone: // before it was known to be opened
		sp.fail(goneError(sp), true)
	case created:
		sp.anchor.make()
	default:
		sp.anchor.prove()
	}
}

// absent goes on with a lockspace that this node is not in. It is made if the configuration
// names it, if a Join waits for it, or if it is recorded as joined, because then a client has
// the answer that it is.
func (sp *lockspace) absent() {
	switch {
	case sp.recorded == state.Leaving:
		sp.left(whyLeft)
	case sp.recorded == state.Creating && !sp.configured && !sp.awaited():
		sp.left(whyLeft) // no client has an answer that it is joined
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

// notMade takes the record "creating" back, after the lockspace could not be made.
// Otherwise the next attempt would take one for ours that somebody else has made in the
// meantime, and a caller whose Join was refused would find the lockspace joined later.
func (sp *lockspace) notMade() {
	sp.recorded = state.Left
	sp.t.append(true, []state.Change{sp.record()}, nil)
	sp.recorded = 0
}

// create writes down that what is made now is ours, then makes it.
func (sp *lockspace) create() {
	sp.state, sp.recorded, sp.anchor.id = spaceClaiming, state.Creating, 0
	sp.writePhase(false)
}

// claimed makes the lockspace once "creating" is written.
func (sp *lockspace) claimed(err error) {
	if err != nil {
		sp.notMade()
		sp.fail(&api.Error{Op: "join", Lockspace: sp.name, Kind: api.StateWriteFailed, Err: err,
			Text: "the lockspace is not joined, because the state file can't be written: " + err.Error()}, true)
		return
	}
	sp.state = spaceCreating
	sp.t.do(CreateAction{sp.id, sp.name})
}

// becomeReady ends joining or activation well.
func (sp *lockspace) becomeReady() {
	sp.state, sp.err, sp.backoff = spaceReady, nil, 0
	sp.t.log(slog.LevelInfo, "lockspace ready", slog.String("lockspace", sp.name), slog.Int("locks", sp.locks))
	sp.orphans.look()
	sp.settle()
	sp.changed()
	sp.answer(nil)
	if sp.anchor.id == 0 { // removed while the records were adopted
		sp.anchor.make()
	}
}

// answer answers the Joins and Leaves that wait for the lockspace; e is nil where they
// have what they want.
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

// Delays between attempts to join a lockspace that failed.
const (
	retryFirst = time.Second
	retryMax   = 30 * time.Second
)

// fail ends joining, activation or leaving with an error, and closes the handle. With retry
// it is tried again after a time.
func (sp *lockspace) fail(e *api.Error, retry bool) {
	sp.shut()
	sp.unusable(e, retry)
}

// shut closes the handle, if there is one, and forgets what was asked for through it.
// The caller decides in which state the lockspace is after that.
func (sp *lockspace) shut() {
	open := sp.open()
	sp.attempt++
	sp.state, sp.gone = spaceClosed, false
	if open {
		sp.t.do(CloseAction{sp.id})
	}
	sp.clock.reset()
	sp.anchor.forget()
	clear(sp.records.adoptions)
	sp.records.oldest = nil
	sp.orphans.forget()
	for _, head := range sp.byResource {
		for l := head; l != nil; l = l.nextRes {
			sp.t.locks.setCookie(l, dlm.Cookie(l.ref))
			if l.busy == nil {
				l.state = lockRecorded
			}
		}
	}
}

// unusable notes why the lockspace can't be used now, and answers those who wait for it. A
// lockspace that the configuration does not name and the state file does not mention is
// forgotten.
func (sp *lockspace) unusable(e *api.Error, retry bool) {
	t := sp.t
	t.log(slog.LevelError, msgLockspaceNotUsable.String(), slog.String("lockspace", sp.name), slog.String("err", e.Text))
	sp.settle()
	open := sp.open()
	if sp.state, sp.err = spaceFailed, e; open {
		sp.state = spaceStalled
	}
	if retry && (sp.configured || sp.recorded != 0) {
		sp.backoff = min(max(2*sp.backoff, retryFirst), retryMax)
		sp.retryAt = t.now.Add(sp.backoff)
	}
	sp.changed()
	told := *e
	if !sp.retryAt.IsZero() {
		told.Text += "; the service tries again by itself"
	}
	sp.answer(&told)
	sp.drop()
}

// settle notes that the activation of the lockspace has ended, if it had not before. With
// the last one the service is ready.
func (sp *lockspace) settle() {
	t := sp.t
	if _, was := t.spaces.settling[sp]; !was {
		return
	}
	delete(t.spaces.settling, sp)
	t.ready = t.ready || len(t.spaces.settling) == 0
}

// retrySpaces tries again what has failed, where it is time for that.
func (t *Table) retrySpaces() {
	for _, name := range t.LockspaceNames() {
		sp := t.spaces.byName[name]
		if sp.retryAt.IsZero() || sp.retryAt.After(t.now) {
			continue
		}
		sp.retryAt = time.Time{}
		switch {
		case !sp.state.idle():
		case sp.ready():
			sp.anchor.make()
		default:
			sp.join()
		}
	}
}

// forget drops the entry of a lockspace that nothing is known of any more.
func (sp *lockspace) forget() {
	if sp.state == spaceFailed && !sp.configured && sp.recorded == 0 && sp.locks == 0 {
		sp.erase()
	}
}

// erase takes the entry out of the table. Its number is not used again, so an event that is on
// its way finds nothing.
func (sp *lockspace) erase() {
	t := sp.t
	delete(t.spaces.byName, sp.name)
	delete(t.spaces.byID, sp.id)
	t.do(ForgetAction{sp.id})
}

// drop is forget of a lockspace that front ends still show: they get the notice that it is
// gone.
func (sp *lockspace) drop() {
	if sp.forget(); sp.t.spaces.byName[sp.name] != sp {
		sp.tellGone()
	}
}

// tellGone tells front ends that the lockspace is no longer here.
func (sp *lockspace) tellGone() {
	sp.t.do(NotifyAction{api.LockspaceChanged{LockspaceInfo: sp.info(), Gone: true}})
}

// closed takes the event that the lockspace was removed from this node by somebody else.
func (sp *lockspace) closed() {
	switch sp.state {
	case spaceOpening, spaceClaiming, spaceCreating, spaceLeaving, spaceLeavingUnopened, spaceRemoving:
		sp.gone = true // for what takes the end of the operation under way
		return
	case spaceLeft:
		return // which is why
	}
	sp.shut()
	sp.closeLocks(whyRemoved)
	sp.fail(goneError(sp), true)
}

// goneError is why a lockspace has failed that went away underneath us.
func goneError(sp *lockspace) *api.Error {
	if sp.recorded == state.Leaving {
		return &api.Error{Op: "leave", Lockspace: sp.name, Kind: api.NoSuchLockspace,
			Text: "somebody else removed the lockspace from this node"}
	}
	return &api.Error{Op: "join", Lockspace: sp.name, Kind: api.NoSuchLockspace,
		Text: "somebody else removed the lockspace from this node; it is joined again in a moment"}
}

// closeLocks ends every lock of a lockspace that is gone. Operations in flight end as if
// the lock manager had ended them with StatusGone.
func (sp *lockspace) closeLocks(why string) {
	t := sp.t
	var in []*lock
	for l := range t.locks.each {
		if l.sp == sp {
			in = append(in, l)
		}
	}
	slices.SortFunc(in, byRef)
	var idle []*lock
	for _, l := range in {
		switch {
		case !t.locks.has(l): // its call has ended because of another lock of the call
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
