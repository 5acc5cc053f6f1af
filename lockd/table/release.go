package table

import (
	"log/slog"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// releaseOp releases locks: those that a caller means (see select.go), and those
// whose lifetime is over or whose call a crash has cut short.
//
// The order of events of a release, and what a crash after each line leaves. Before
// the first, the record is "held", and so is the lock.
//
//	start   append "releasing"  record "releasing" and orphan: released at the next start
//	unlock  Unlock              record "releasing", no lock: dropped, not lost
//	forget  append "gone"       nothing
//	end     reply               nothing
//
// The room for both marks is set aside when the lock is written down, so they are
// written also when the file system is full. If "releasing" can't be written all
// the same (the disk fails, the directory is read-only), the lock is not unlocked:
// without its mark the next start would report it lost and run its helper, or hold
// it again. The answer says that the lock is still held. If nobody waits for
// an answer, because the lifetime is over, it is tried again until it succeeds.
// Once "releasing" is written the release is durable: "gone" is tried again, and
// the answer does not wait for that.
//
// A release is never canceled, and takes nothing back: if its time is over or its
// session is gone, it is answered and goes on.
type releaseOp struct {
	call
	// Which locks; what it picks depends on the moment, so start picks again each time the
	// call has followed another one.
	means selection
	// What has to come next.
	stage releaseStage
	// What is being released; from here on nothing is added.
	locks []*lock
	// marked are those of locks that "releasing" is written for; the others are in
	// a phase that ends at the next start anyway.
	marked  []*lock
	pending int // unlocks in flight
	// How many are released, for the answer.
	count uint32

	// Nobody has asked for the release: what the locks hang on has ended. One that can't
	// be written down is tried again until it can.
	lifetimeOver bool
	again        bool // with lifetimeOver: it could not be written down before, and that was said
}

type releaseStage uint8

const (
	releaseSelecting  releaseStage = iota // nothing is done yet
	releaseMarking                        // "releasing" is being written
	releaseUnlocking                      // Unlock is in flight
	releaseForgetting                     // "gone" is being written
	releaseDone
)

func (o *releaseOp) ordered() bool                    { return o.id != 0 }
func (o *releaseOp) involved() []*lock                { return o.locks }
func (o *releaseOp) result() Reply                    { return ReleasedReply{o.count} }
func (o *releaseOp) resources() ([]resourceKey, bool) { return o.means.resources() }

// start selects the locks and begins to release them.
func (o *releaseOp) start() {
	locks, e := o.means.pick(o)
	switch {
	case o.postponed():
	case e != nil:
		o.refuse(e)
	default:
		o.release(locks)
	}
}

// release releases locks that nothing is under way with.
func (o *releaseOp) release(locks []*lock) {
	t := o.t
	o.locks = locks
	if len(locks) == 0 {
		o.stage = releaseDone
		o.reply()
		return
	}
	o.stage = releaseMarking
	if o.id != 0 {
		t.calls.enterLines(&o.call, keysOf(locks), false)
	}
	for _, l := range locks {
		l.busy, l.state = &o.call, lockReleasing
		l.tell()
		if l.phase == state.Held {
			o.marked = append(o.marked, l)
		}
	}
	if len(o.marked) == 0 {
		o.unlock()
		return
	}
	t.append(false, marks(o.marked, state.Releasing), o)
}

// written takes the end of writing "releasing", then of writing "gone".
func (o *releaseOp) written(err error) {
	switch {
	case o.stage == releaseForgetting:
		o.end(err)
	case err != nil:
		o.keep(err)
	default:
		for _, l := range o.marked {
			l.phase = state.Releasing
		}
		o.unlock()
	}
}

// keep ends a release that could not be written down: the locks are still held.
func (o *releaseOp) keep(err error) {
	t := o.t
	o.stage = releaseDone
	text := "the lock is still held, because its release can't be recorded: "
	if len(o.locks) > 1 {
		text = "nothing was released, because the release can't be recorded: "
	}
	lockspace, resource := o.means.names()
	o.fail(o.writeError(lockspace, resource, text, err))
	o.reply()
	for _, l := range o.locks {
		if l.mode == dlm.None { // meanwhile
			l.lose("it was removed by somebody else before it could be released")
			continue
		}
		if o.lifetimeOver && l.bound != nil && l.bound.dead {
			if !o.again {
				t.logLock(slog.LevelError,
					"the lifetime of the lock is over, but its release can't be recorded; it is held until it can",
					l, slog.String("err", err.Error()))
			}
			t.retries.overdue[l] = struct{}{}
		}
		l.idle()
	}
}

// unlock asks the lock manager to end the locks.
func (o *releaseOp) unlock() {
	o.stage = releaseUnlocking
	if o.pending = unlockGranted(o.locks); o.pending == 0 {
		o.forget()
	}
}

// unlockGranted asks the lock manager to end those of the locks that are granted, and returns their
// number.
func unlockGranted(locks []*lock) (pending int) {
	for _, l := range locks {
		if l.mode != dlm.None {
			pending++
			l.unlock()
		}
	}
	return pending
}

// completed takes the end of an Unlock.
func (o *releaseOp) completed(l *lock, ev dlm.Event) {
	switch {
	case unlocked(ev.Status):
		l.mode = dlm.None
	case o.answered || o.id == 0:
		l.unlockLater(ev.Status)
		return
	default:
		o.fail(o.statusError(l, dlm.None, ev.Status))
		o.t.logLock(slog.LevelError, "release failed", l, slog.String("err", ev.Status.String()))
	}
	if o.pending--; o.pending == 0 {
		o.forget()
	}
}

// forget writes down that the locks are gone; one that could not be unlocked is
// held again.
func (o *releaseOp) forget() {
	o.stage = releaseForgetting
	changes := marks(o.locks, state.Gone)
	for i, l := range o.locks {
		if l.mode != dlm.None {
			changes[i] = state.Mark{ID: uint64(l.ref), Phase: state.Held}
		}
	}
	o.t.append(true, changes, o)
}

// end answers, once "gone" is written or kept to be written.
func (o *releaseOp) end(err error) {
	t := o.t
	o.stage = releaseDone
	for _, l := range o.locks {
		if l.mode == dlm.None {
			o.count++
			t.counters.Released++
			t.logHistory(msgReleased.String(), l, slog.String("session", string(o.caller.Session)))
		}
	}
	o.reply()
	var left []*lock
	for _, l := range o.locks {
		switch {
		case l.mode == dlm.None:
			l.remove()
		case err != nil:
			left = append(left, l)
		default:
			l.phase = state.Held
			l.idle()
		}
	}
	o.unlockAgain(left)
}

// unlockAgain goes on with locks that could not be unlocked, and of which it can't
// be written down that they are held again: the next start would release them, so
// this one does.
func (o *releaseOp) unlockAgain(left []*lock) {
	if len(left) == 0 {
		return
	}
	o.stage, o.locks, o.pending = releaseUnlocking, left, len(left)
	for _, l := range left {
		o.t.retries.unlocks[l] = struct{}{}
	}
}

// waitsFor tells what comes of the release if its time is over.
func (o *releaseOp) waitsFor() obstacle {
	lockspace, resource := o.means.names()
	w := o.t.obstacleOf(o.locks, lockspace, resource, dlm.None)
	w.recording = o.stage == releaseMarking || o.stage == releaseForgetting
	behind := o.place.behind
	switch {
	case o.stage == releaseMarking:
		w.noted = "; the lock is released if that can still be recorded, and stays held otherwise"
	case o.stage != releaseSelecting:
		w.noted = "; the release is recorded and will be finished as soon as possible"
	case behind != nil && behind.public() == api.Releasing:
		w.noted = "; an earlier release of the lock is recorded and will be finished as soon as possible"
	}
	return w
}

// unlock asks the lock manager to end l. What is in the state file may have put our
// name into the value block, so that is taken out.
func (l *lock) unlock() {
	l.state = lockUnlocking
	var value *dlm.Value
	if l.mode >= dlm.PW && l.phase != 0 && !l.sp.raw {
		v := l.holder(dlm.None).Encode()
		value = &v
	}
	l.sp.t.do(UnlockAction{Lockspace: l.sp.id, Cookie: l.cookie(), Value: value})
}

// releaseAll releases locks for the table itself, in one call.
func (t *Table) releaseAll(in []*lock, o releaseOp) {
	if len(in) == 0 {
		return
	}
	o.call = t.ownCall("release")
	o.call.op, o.answered = &o, true
	o.means = theseLocks{}
	o.release(in)
}

// endOf is a release of exactly l, whose lifetime is over, for when nothing is
// under way with it any more. It is begun as a client's call is that has followed another one, so
// it is not answered before.
func (l *lock) endOf() *call {
	o := &releaseOp{lifetimeOver: true, means: oneLock{l.sp.name, l.resource, api.Selector{Ref: l.ref}}}
	o.call = l.sp.t.ownCall("release")
	o.call.op, o.caller = o, api.Caller{UID: l.uid, Privileged: true}
	return &o.call
}
