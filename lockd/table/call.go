package table

import (
	"math"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// operation is what a call wants, and how far it has got. Each of the types that
// implement it says at its head in which order things happen, and what a crash
// leaves between any two of them.
//
// An operation embeds its call, which implements what it does not need.
type operation interface {
	base() *call
	// start begins the operation, also again after the call has followed another
	// one. Where the search for its locks has postponed the call, it does nothing.
	start()
	// completed, written, valueRead and looked take the outcome of what the
	// operation has asked for: of the lock manager for one of its locks, of the
	// state file, of a null lock that read a value block, and of the engine's
	// tables.
	completed(l *lock, ev dlm.Event)
	written(err error)
	valueRead(ev dlm.Event)
	looked(k Looked)
	// giveUp withdraws what can be withdrawn; the call is answered after it.
	giveUp()
	// late is the answer if the time of the call is over.
	late() *api.Error
	// waitsFor tells what the operation waits for.
	waitsFor() obstacle
	// result is what the call is answered with.
	result() Reply
	// patience is how long the call may take; 0: as long as it likes.
	patience() time.Duration
	// ordered tells whether the order of the session's calls matters, and
	// resources which resources the call may concern; all is for whatever ones.
	ordered() bool
	resources() (in []resourceKey, all bool)
	// involved are the locks of the operation.
	involved() []*lock
}

// call is what the table keeps of every call: who made it, its place among the
// calls of its session, how long it may take, and its answer.
type call struct {
	t *Table
	// The operation that this call is part of. Both point to each other, so that lists of
	// calls need not know the operations.
	op   operation
	id   CallID // 0: nobody waits for the answer
	name string // of the operation, in errors and logs
	// Who asks; the zero caller where the table does something of its own accord.
	caller api.Caller
	// wait is how long the call may stand in a queue of the lock manager; 0: it
	// is refused instead.
	wait time.Duration
	err  *api.Error // why it fails; what is left of the operation is undoing
	// The answer was given; or the table itself has begun the operation, and nobody waits for
	// one. The operation may go on for a long time after that, to undo what it did or to finish
	// what can't be undone.
	answered bool

	seq     uint64  // calls are numbered as they come in
	request api.Ref // a Request: it has no deadline, and is known by this number
	place   place   // among the calls of its session

	begun time.Time // when the service had it
	// When passDeadlines answers it; it counts only while the call is in the heap.
	deadline time.Time
	heapIdx  int // in deadlines; -1: it has no deadline
}

// ownCall makes a call of the table itself, which nobody waits for. It counts as younger than
// every call of a client, so no lock is too young for it.
func (t *Table) ownCall(name string) call {
	return call{t: t, name: name, heapIdx: -1, seq: math.MaxUint64}
}

func (c *call) base() *call                      { return c }
func (c *call) completed(*lock, dlm.Event)       {}
func (c *call) written(error)                    {}
func (c *call) valueRead(dlm.Event)              {}
func (c *call) looked(Looked)                    {}
func (c *call) giveUp()                          {}
func (c *call) late() *api.Error                 { return c.lateError(c.op.waitsFor()) }
func (c *call) waitsFor() obstacle               { return obstacle{} }
func (c *call) result() Reply                    { return DoneReply{} }
func (c *call) ordered() bool                    { return false }
func (c *call) resources() ([]resourceKey, bool) { return nil, false }
func (c *call) involved() []*lock                { return nil }

// patience is the time that the caller gave for waiting. A call that does not wait gets the
// time within which the lock manager and the disk should have done it.
func (c *call) patience() time.Duration {
	if c.wait > 0 {
		return c.wait
	}
	return c.t.conf.OpTimeout
}

// fail notes why the call fails; the first reason stays.
func (c *call) fail(e *api.Error) {
	if c.err == nil {
		c.err = e
	}
}

// errorOf makes the call's error about one resource.
func (c *call) errorOf(kind api.Kind, lockspace, resource string, mode dlm.Mode, text string) *api.Error {
	return &api.Error{Op: c.name, Lockspace: lockspace, Resource: resource, Mode: mode, Kind: kind, Text: text}
}

// statusError turns the outcome of an operation of l into the call's error.
func (c *call) statusError(l *lock, mode dlm.Mode, st dlm.Status) *api.Error {
	e := c.errorOf(api.KernelError, l.sp.name, l.resource, mode, "")
	switch st {
	case dlm.StatusAgain:
		e.Kind, e.Text, e.Hint = api.WouldBlock, "another lock is in the way", api.HintWait
	case dlm.StatusDeadlock:
		e.Kind = api.Deadlock
		e.Text = "two holders wait for each other to convert; the lock keeps its mode, release it or try again"
	case dlm.StatusCanceled:
		e.Kind, e.Text = api.Canceled, "the request was canceled"
	case dlm.StatusNotFound:
		e.Kind, e.Text = api.NotHeld, "the lock manager does not know the lock any more"
	case dlm.StatusGone:
		e.Kind = api.NoSuchLockspace
		e.Text = "the lockspace was left while the request was under way; join it again"
	case dlm.StatusCompletionLost:
		e.Text = "the kernel reports nothing of this lock any more, because the service was killed in the middle of an " +
			"operation; release it and acquire it again"
	case dlm.StatusMasterless:
		e.Errno = st.Errno()
		e.Text = "the kernel left this resource without a master when a node failed, and would panic at a request for it; " +
			"lock it on another node once, or try again after a node has joined or left the cluster"
	default:
		e.Errno = st.Errno()
		e.Text = "the lock manager refused the operation with " + st.String()
	}
	return e
}

// writeError says that something could not be written down, and what to do.
func (c *call) writeError(lockspace, resource, text string, err error) *api.Error {
	e := c.errorOf(api.StateWriteFailed, lockspace, resource, dlm.None, text+err.Error()+"; "+state.Advice(err))
	e.Err = err
	return e
}

// stoppedError says that a lockspace grants nothing now.
func (c *call) stoppedError(sp *lockspace, resource string) *api.Error {
	if sp.health.Known && !sp.health.Quorate {
		return c.errorOf(api.NotQuorate, sp.name, resource, dlm.None,
			"the cluster has no quorum, so nothing is granted; bring enough nodes back")
	}
	why := sp.health.Reason
	if why == "" {
		why = "recovery is under way"
	}
	return c.errorOf(api.LockspaceStopped, sp.name, resource, dlm.None,
		"the lockspace is stopped ("+why+"); try again when it is not")
}

// reply answers the call once.
func (c *call) reply() {
	if c.answered {
		return
	}
	c.answered = true
	t := c.t
	t.calls.disarm(c)
	t.calls.unlist(c)
	t.calls.leaveLines(c)
	t.calls.wakeFollowers(c)
	if c.id == 0 {
		return
	}
	t.count(c)
	if c.request != 0 && c.err == nil {
		t.announce(c)
	}
	t.do(ReplyAction{c.id, c.op.result(), c.answer()})
}

// answer is the error that the call ends with, or nil. It names this call's
// operation: one about a lockspace may have failed because of another call.
func (c *call) answer() error {
	if c.err == nil {
		return nil
	}
	e := *c.err
	e.Op = c.name
	return &e
}

// refuse answers a call that has done nothing yet.
func (c *call) refuse(e *api.Error) {
	c.fail(e)
	c.logRefused()
	c.reply()
}

// stopWaiting answers a call before it has ended. An acquire releases what it gets
// after that; a release goes on to its end, because half a release helps nobody.
func (c *call) stopWaiting(e *api.Error) {
	if c.answered {
		return
	}
	c.fail(e)
	c.t.calls.unfollow(c)
	c.op.giveUp()
	c.reply()
}

// cancelWaits withdraws the operations of the lock manager that the call has under
// way.
func (c *call) cancelWaits(in []*lock) {
	for _, l := range in {
		if l != nil && l.inFlight() && l.busy == c {
			c.t.do(CancelAction{Lockspace: l.sp.id, Cookie: l.cookie()})
			c.t.retries.cancels[l] = struct{}{}
		}
	}
}

// marks returns a mark of every lock.
func marks(locks []*lock, p state.Phase) []state.Change {
	changes := make([]state.Change, len(locks))
	for i, l := range locks {
		changes[i] = state.Mark{ID: uint64(l.ref), Phase: p}
	}
	return changes
}
