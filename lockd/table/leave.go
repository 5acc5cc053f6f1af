package table

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// leaveOp leaves a lockspace.
//
// The order of events, and what a crash after each line leaves:
//
//	look: who else is in it, which orphans   nothing
//	append "leaving"                         anchor and record: looked at and left at the next start
//	look again                               the same
//	Remove                                   a record alone: dropped at the next start
//	append "left"                            nothing
//	reply                                    nothing
//
// Removing a lockspace ends every lock of this node in it, whoever has it
// (dlm_release_lockspace with force; without force the kernel also refuses because
// of locks of which this node only keeps the queues). Therefore a lockspace is removed
// only if it is proven to be ours (see anchor.go), if no other process has it open or has
// locks in it, and if it has no orphan that no record explains. With force the locks of
// the service are lost, and nothing else. If a look fails, the leave is refused. The second
// look is made immediately before the removal; only a process that opens the device
// between these two system calls can still be missed.
//
// If "leaving" can't be written the lockspace is not left: the next start would join
// it again, and call its locks lost. A lockspace that is not open, because it failed,
// is opened first: its anchor has to be adopted. If the time of the call is over,
// leaving goes on.
type leaveOp struct {
	call
	lockspace string
	// The locks of the service in the lockspace may be lost by it, and nothing else may.
	force bool
}

const (
	whyLeft    = "this node left the lockspace"
	whyRemoved = "the lockspace was removed by somebody else"
)

func (o *leaveOp) patience() time.Duration { return joinTimeout }

// waitsFor says that leaving goes on when the call has been answered.
func (o *leaveOp) waitsFor() obstacle {
	w := o.t.obstacleOf(nil, o.lockspace, "", dlm.None)
	w.text = "the lockspace is not left yet"
	return w
}

// leaving is the leave under way, or the last one.
type leaving struct {
	force bool // it may lose locks
	// from is the state in which it found the lockspace: spaceReady or spaceStalled;
	// spaceNew if the handle was opened for it.
	from       spaceState
	recorded   state.SpacePhase // what the state file said then
	configured bool             // the configuration named the lockspace then
	why        string           // why the locks end that are in the lockspace then
}

// start begins to leave. The locks in the lockspace end with the membership, so a
// forced leave reports each of them lost.
func (o *leaveOp) start() {
	sp := o.t.spaces.byName[o.lockspace]
	inUse := func(text string, h api.Hint) {
		o.refuse(o.errorOf(api.LockspaceInUse, o.lockspace, "", dlm.None, text).WithHint(h))
	}
	switch {
	case sp == nil:
		o.refuse(o.errorOf(api.NoSuchLockspace, o.lockspace, "", dlm.None, "the lockspace is not joined here"))
		return
	case !sp.state.idle():
		inUse("the lockspace is being joined or left; try again in a moment", "")
		return
	case sp.locks > 0 && !o.force:
		inUse(heldText, api.HintForce)
		return
	case sp.recorded == 0:
		o.forgetForeign(sp)
		return
	}
	sp.waiting = append(sp.waiting, &o.call)
	sp.leave = leaving{force: o.force, from: sp.state, recorded: sp.recorded, configured: sp.configured}
	sp.retryAt = time.Time{}
	if !sp.open() {
		sp.leaveUnopened()
		return
	}
	sp.state = spaceChecking
	sp.lookInto()
}

// checked writes down that the lockspace is being left, if the look says that it may be.
func (sp *lockspace) checked(k Looked) {
	if e := sp.cantLeave(k); e != nil {
		sp.stay(e)
		return
	}
	sp.state, sp.configured, sp.recorded = spaceLeaving, false, state.Leaving
	sp.writePhase(false)
}

// leavingWritten removes the lockspace once "leaving" is written.
func (sp *lockspace) leavingWritten(err error) {
	if err != nil {
		sp.stayUnwritten(err)
		return
	}
	sp.remove()
}

// leaveUnopened begins to leave a lockspace that could not be opened so far.
func (sp *lockspace) leaveUnopened() {
	sp.state, sp.configured, sp.recorded = spaceLeavingUnopened, false, state.Leaving
	sp.writePhase(false)
}

// leavingUnopenedWritten opens the lockspace to be left, once "leaving" is written.
func (sp *lockspace) leavingUnopenedWritten(err error) {
	if err != nil {
		sp.stayUnwritten(err)
		return
	}
	sp.leave.from = spaceNew
	sp.join()
}

// stayUnwritten refuses a leave that can't be written down: the next start would
// join the lockspace again, and call every lock lost that was in it.
func (sp *lockspace) stayUnwritten(err error) {
	sp.recorded = sp.leave.recorded
	sp.stay((&call{name: "leave"}).writeError(sp.name, "",
		"the lockspace was not left, because that can't be recorded: ", err))
}

// forgetForeign answers the leave of a lockspace that the service has not made: it is
// removed from the table, and the lockspace itself is not touched.
func (o *leaveOp) forgetForeign(sp *lockspace) {
	o.t.log(slog.LevelInfo, "the lockspace is not the service's, so it is forgotten and left as it is",
		slog.String("lockspace", sp.name))
	sp.configured, sp.retryAt = false, time.Time{}
	sp.tellGone()
	sp.forget()
	o.reply()
}

const heldText = "locks are held in the lockspace"

// cantLeave tells why the lockspace must not be removed now, or nil.
func (sp *lockspace) cantLeave(k Looked) *api.Error {
	e := &api.Error{Op: "leave", Lockspace: sp.name, Kind: api.LockspaceInUse}
	n := len(sp.orphans.among(k.Orphans))
	switch {
	case k.UsersErr != nil || len(k.Users) > 0:
		return inUse(sp.name, k.Users, k.UsersErr)
	case sp.locks > 0 && !sp.leave.force:
		e.Text, e.Hint = heldText, api.HintForce
	case len(sp.orphans.adoptions) > 0: // it may be no orphan any more, and not be known to be adopted
		e.Text = "an orphan of the lockspace is being adopted; try again in a moment"
	case n > 0:
		e.Text = fmt.Sprintf("the lockspace has orphans (%d) that no record explains, and what they protect may be in use", n)
		e.Hint = api.HintClearOrphans
	case !k.HasOrphans && (!sp.leave.force || sp.orphans.mapLost || !errors.Is(k.OrphansErr, errNoTables)):
		e.Text = fmt.Sprintf("the service can't tell whether the lockspace has locks that no record explains (%v); "+
			"mount debugfs at /sys/kernel/debug", k.OrphansErr)
		if !sp.orphans.mapLost {
			e.Text += ", or leave with force"
		}
	default:
		return nil
	}
	return e
}

// inUse is the refusal of a leave because other processes use the lockspace, or because it
// can't be seen whether any do.
func inUse(lockspace string, users []dlm.User, err error) *api.Error {
	e := &api.Error{Op: "leave", Lockspace: lockspace, Kind: api.LockspaceInUse, Err: err}
	if len(users) > 0 {
		e.Text = "the lockspace was not left, because that would end locks of others: " + usersText(users) + "; stop " +
			"what uses it first"
		return e
	}
	e.Text = fmt.Sprintf("the lockspace was not left, because the service can't tell whether another process uses "+
		"it: %v", err)
	return e
}

// stay ends a leave that is refused: the lockspace is in the state again in which the leave
// found it.
func (sp *lockspace) stay(e *api.Error) {
	t := sp.t
	begun := sp.recorded == state.Leaving
	sp.configured = sp.configured || sp.leave.configured
	sp.answerLeaves(e)
	if begun {
		t.log(slog.LevelWarn, msgLeaveAbandoned.String(), slog.String("lockspace", sp.name), slog.String("err", e.Text))
		sp.recorded = state.Joined
		t.append(true, []state.Change{sp.record()}, nil)
	}
	switch sp.leave.from {
	case spaceReady:
		sp.stayReady(begun)
	case spaceStalled, spaceFailed:
		sp.state, sp.retryAt = sp.leave.from, t.now.Add(sp.backoff)
	default: // it was opened for the leave
		if sp.anchor.id == 0 {
			sp.anchor.make()
		} else {
			sp.records.adoptAll()
		}
	}
	if sp.gone { // while it was being left
		sp.closed()
	}
}

// stayReady goes on with a lockspace that could be used before the leave.
func (sp *lockspace) stayReady(begun bool) {
	sp.state, sp.err, sp.backoff = spaceReady, nil, 0 // of a removal that failed before
	if begun {
		sp.changed()
	}
	sp.answer(nil)
	sp.finishEnded()
	if sp.anchor.id == 0 { // removed meanwhile
		sp.anchor.make()
	}
}

// answerLeaves refuses the Leaves that wait for the lockspace; the Joins wait on.
func (sp *lockspace) answerLeaves(e *api.Error) {
	waiting := sp.waiting
	sp.waiting = nil
	for _, c := range waiting {
		if c.joins() {
			sp.waiting = append(sp.waiting, c)
			continue
		}
		c.fail(e)
		c.reply()
	}
}

// finishLeave goes on with a leave that is written down, of a lockspace that is
// open and ours.
func (sp *lockspace) finishLeave() {
	sp.state = spaceRechecking
	sp.lookInto()
}

// rechecked removes the lockspace, if the look says that it may be removed.
func (sp *lockspace) rechecked(k Looked) {
	if e := sp.cantLeave(k); e != nil {
		sp.stay(e)
		return
	}
	sp.remove()
}

// remove has the lockspace removed. It comes from states only in which the lockspace is
// proven to be ours (see anchor.go).
func (sp *lockspace) remove() {
	if sp.gone { // somebody else has removed it, and there may be another one of that name
		sp.shut()
		sp.closeLocks(whyRemoved)
		sp.leave.from = spaceNew
		sp.join()
		return
	}
	sp.state = spaceRemoving
	sp.t.do(RemoveAction{sp.id, sp.name})
}

// Removed takes the end of RemoveAction. Where it failed, removing is tried again:
// through the same handle, or, where that has ended, through another one that has
// to have the anchor.
func (t *Table) Removed(id LockspaceID, err error) {
	sp := t.spaces.byID[id]
	if e, ok := errors.AsType[*api.Error](err); ok { // the look before it
		sp.stay(e)
		return
	}
	if err != nil && !errors.Is(err, dlm.ErrNoLockspace) {
		if sp.gone {
			sp.shut()
		}
		sp.unusable(spaceError(sp, err), true)
		return
	}
	sp.left(whyLeft)
}

// left ends the membership and every lock that was in it, and writes that down. It also
// ends a membership that is only recorded.
func (sp *lockspace) left(why string) {
	sp.shut()
	sp.closeLocks(why)
	sp.state, sp.leave.why = spaceLeft, why
	sp.recorded, sp.anchor.id, sp.orphans.mapLost = state.Left, 0, false
	sp.writePhase(true)
}

// hasLeft forgets the lockspace once "left" is written, or kept to be written; or joins
// it again, where somebody wants it.
func (sp *lockspace) hasLeft() {
	sp.recorded = 0
	if sp.leave.why == whyLeft {
		sp.t.log(slog.LevelInfo, "lockspace left", slog.String("lockspace", sp.name))
	}
	if sp.configured || slices.ContainsFunc(sp.waiting, (*call).joins) {
		sp.join() // the leave was from before the last start
		return
	}
	sp.settle()
	sp.tellGone()
	sp.answer(nil)
	sp.state, sp.err = spaceFailed, &api.Error{Op: "leave", Lockspace: sp.name, Kind: api.NoSuchLockspace,
		Text: "the lockspace was left"}
	sp.forget()
}
