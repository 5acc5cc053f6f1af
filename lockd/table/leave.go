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

// The order of events of a leave, and what a crash between two lines leaves:
//
//	leave      look: who else is in it, which orphans   nothing
//	leaving    append "leaving"                         anchor and record: looked at and left at the next start
//	remove     look again, then Remove                  anchor and record, or a record alone: the same
//	left       append "left"                            a record alone: dropped at the next start
//	           reply
//
// Removing a lockspace ends every lock of this node in it, no matter whose
// (dlm_release_lockspace with force; without force the kernel also refuses because
// of locks of which this node only keeps the queues). So it is removed only if
// it is proven to be ours (see anchor.go), if no other process has it open or has
// locks in it, and if no orphan is there that no record explains; force loses the
// locks of the service and nothing else. A look that fails is a refusal. The second
// look stands immediately before the removal; what remains is a process that opens
// the device between the two system calls.
//
// If "leaving" can't be written the lockspace is not left: the next start would join
// it again, and call its locks lost.
//
// A lockspace that is not open, because it failed, is opened first: its anchor has
// to be adopted.

const (
	whyLeft    = "this node left the lockspace"
	whyRemoved = "the lockspace was removed by somebody else"
)

// leave answers a Leave. The locks in it end with the membership, so a forced
// one reports each of them lost.
func (t *Table) leave(c *call, force bool) {
	sp := t.spaces[c.space]
	switch {
	case sp == nil:
		t.refuse(c, c.error(api.NoSuchLockspace, c.space, "", dlm.None, "the lockspace is not joined here"))
		return
	case sp.step != spaceIdle:
		t.refuse(c, c.error(api.LockspaceInUse, c.space, "", dlm.None, "the lockspace is being joined or left; try again in a moment"))
		return
	case sp.locks > 0 && !force:
		t.refuse(c, c.error(api.LockspaceInUse, c.space, "", dlm.None, heldText).WithHint(api.HintForce))
		return
	case sp.recorded == 0 && !sp.proven:
		t.forgetForeign(c, sp)
		return
	}
	sp.waiting = append(sp.waiting, c)
	sp.leaveForce, sp.leaveConfigured = force, sp.configured
	if !sp.open {
		t.leaveUnopened(sp)
		return
	}
	sp.leaveFrom, sp.retryAt = sp.state, time.Time{}
	t.lookInto(sp, func(k Looked) {
		if e := t.cantLeave(sp, k); e != nil {
			t.stay(sp, e)
			return
		}
		was := sp.recorded
		sp.state, sp.step = api.SpaceLeaving, spaceRemoving
		sp.configured, sp.recorded = false, state.Leaving
		t.recordSpace(sp, false, func(err error) {
			if err != nil {
				t.stayUnwritten(sp, was, err)
				return
			}
			t.removeSpace(sp)
		})
	})
}

// leaveUnopened begins to leave a lockspace that could not be opened so far.
func (t *Table) leaveUnopened(sp *space) {
	was := sp.recorded
	sp.leaveFrom, sp.retryAt = 0, time.Time{}
	sp.state, sp.step = api.SpaceLeaving, spaceOpening
	sp.configured, sp.recorded = false, state.Leaving
	t.recordSpace(sp, false, func(err error) {
		if err != nil {
			sp.leaveFrom = api.SpaceFailed
			t.stayUnwritten(sp, was, err)
			return
		}
		t.open(sp)
	})
}

// stayUnwritten refuses a leave that can't be written down: the next start would
// join the lockspace again, and call every lock lost that was in it.
func (t *Table) stayUnwritten(sp *space, was state.SpacePhase, err error) {
	sp.recorded = was
	t.stay(sp, (&call{op: "leave"}).writeError(sp.name, "", "the lockspace was not left, because that can't be recorded: ", err))
}

// forgetForeign answers the leave of a lockspace that is not ours: it is not ours
// to leave.
func (t *Table) forgetForeign(c *call, sp *space) {
	t.log(slog.LevelInfo, "the lockspace is not the service's, so it is forgotten and left as it is", slog.String("lockspace", sp.name))
	sp.configured, sp.retryAt = false, time.Time{}
	t.do(NotifyAction{api.LockspaceChanged{LockspaceInfo: t.spaceInfo(sp), Gone: true}})
	t.forgetSpace(sp)
	c.stage = stageDone
	t.reply(c)
}

const heldText = "locks are held in the lockspace"

// cantLeave tells why the lockspace must not be removed now, or nil.
func (t *Table) cantLeave(sp *space, k Looked) *api.Error {
	e := &api.Error{Op: "leave", Lockspace: sp.name, Kind: api.LockspaceInUse}
	n := len(t.unknown(sp, k.Orphans))
	switch {
	case k.UsersErr != nil || len(k.Users) > 0:
		return inUse(sp.name, k.Users, k.UsersErr)
	case sp.locks > 0 && !sp.leaveForce:
		e.Text, e.Hint = heldText, api.HintForce
	case len(sp.purges) > 0: // it may be no orphan any more, and not be known to be adopted
		e.Text = "an orphan of the lockspace is being adopted; try again in a moment"
	case n > 0:
		e.Text = fmt.Sprintf("the lockspace has orphans (%d) that no record explains, and what they protect may be in use", n)
		e.Hint = api.HintClearOrphans
	case !k.HasOrphans && (!sp.leaveForce || sp.mapLost || !errors.Is(k.OrphansErr, errNoTables)):
		e.Text = fmt.Sprintf("the service can't tell whether the lockspace has locks that no record explains (%v); "+
			"mount debugfs at /sys/kernel/debug", k.OrphansErr)
		if !sp.mapLost {
			e.Text += ", or leave with force"
		}
	default:
		return nil
	}
	return e
}

// inUse refuses a leave for the sake of other processes, or because they can't be
// seen.
func inUse(lockspace string, users []dlm.User, err error) *api.Error {
	e := &api.Error{Op: "leave", Lockspace: lockspace, Kind: api.LockspaceInUse, Err: err}
	if len(users) > 0 {
		e.Text = "the lockspace was not left, because that would end locks of others: " + usersText(users) + "; stop what uses it first"
		return e
	}
	e.Text = fmt.Sprintf("the lockspace was not left, because the service can't tell whether another process uses it: %v", err)
	return e
}

// stay ends a leave that is refused: the lockspace is again what it was.
func (t *Table) stay(sp *space, e *api.Error) {
	begun := sp.recorded == state.Leaving
	from := sp.leaveFrom
	sp.configured = sp.configured || sp.leaveConfigured
	waiting := sp.waiting
	sp.waiting = nil
	for _, c := range waiting {
		if c.op == "join" {
			sp.waiting = append(sp.waiting, c)
			continue
		}
		c.fail(e)
		c.stage = stageDone
		t.reply(c)
	}
	if begun {
		t.log(slog.LevelWarn, "leaving the lockspace was abandoned; it stays joined", slog.String("lockspace", sp.name), slog.String("err", e.Text))
		sp.recorded = state.Joined
		t.append(true, []state.Change{sp.record()}, nil)
	}
	switch from {
	case api.SpaceReady:
		sp.state, sp.step = api.SpaceReady, spaceIdle
		if begun {
			t.do(NotifyAction{api.LockspaceChanged{LockspaceInfo: t.spaceInfo(sp)}})
		}
		t.answerSpace(sp, nil)
		t.finishEnded(sp)
		if sp.anchor == 0 { // removed meanwhile
			t.makeAnchor(sp)
		}
	case api.SpaceFailed: // some records could not be adopted
		sp.state, sp.step = api.SpaceFailed, spaceIdle
		sp.retryAt = t.now.Add(sp.backoff)
	default:
		sp.state = api.SpaceJoining
		if sp.anchor == 0 {
			t.makeAnchor(sp)
		} else {
			t.adoptAll(sp)
		}
	}
	if sp.gone { // while it was being left
		t.closed(sp)
	}
}

// finishLeave goes on with a leave that is written down, of a lockspace that is
// open and ours.
func (t *Table) finishLeave(sp *space) {
	sp.state = api.SpaceLeaving
	t.lookInto(sp, func(k Looked) {
		if e := t.cantLeave(sp, k); e != nil {
			t.stay(sp, e)
			return
		}
		t.removeSpace(sp)
	})
}

// removeSpace has the lockspace removed, if it is proven to be ours.
func (t *Table) removeSpace(sp *space) {
	switch {
	case sp.gone: // somebody else has removed it, and there may be another one of that name
		t.shut(sp)
		t.closeLocks(sp, whyRemoved)
		sp.leaveFrom = 0
		t.open(sp)
		return
	case !sp.proven:
		t.failSpace(sp, goneError(sp), true) // and whose it is, is found out anew
		return
	}
	sp.state, sp.step = api.SpaceLeaving, spaceRemoving
	t.do(RemoveAction{sp.id, sp.name})
}

// Removed takes the end of RemoveAction. Where it failed, removing is tried again:
// through the same handle, or, where that has ended, through another one that has
// to have the anchor.
func (t *Table) Removed(id LockspaceID, err error) {
	sp := t.byID[id]
	if e, ok := errors.AsType[*api.Error](err); ok { // the look before it
		t.stay(sp, e)
		return
	}
	if err != nil && !errors.Is(err, dlm.ErrNoLockspace) {
		if sp.gone {
			t.shut(sp)
		}
		t.unusable(sp, spaceError(sp, err), true)
		return
	}
	t.left(sp, whyLeft)
}

// left ends the membership, or the claim to it, and every lock that was in it.
func (t *Table) left(sp *space, why string) {
	t.shut(sp)
	t.closeLocks(sp, why)
	sp.recorded, sp.anchor, sp.mapLost = state.Left, 0, false
	t.recordSpace(sp, true, func(error) {
		sp.step, sp.recorded = spaceIdle, 0
		if why == whyLeft {
			t.log(slog.LevelInfo, "lockspace left", slog.String("lockspace", sp.name))
		}
		if sp.configured || slices.ContainsFunc(sp.waiting, func(c *call) bool { return c.op == "join" }) {
			t.open(sp) // the leave was from before the last start
			return
		}
		t.settled(sp)
		t.do(NotifyAction{api.LockspaceChanged{LockspaceInfo: t.spaceInfo(sp), Gone: true}})
		t.answerSpace(sp, nil)
		sp.state, sp.err = api.SpaceFailed, &api.Error{Op: "leave", Lockspace: sp.name, Kind: api.NoSuchLockspace, Text: "the lockspace was left"}
		t.forgetSpace(sp)
	})
}
