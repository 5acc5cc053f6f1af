package table

import (
	"container/heap"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

// stage is how far a call has got. One call drives all its locks through a
// stage before the next begins.
type stage uint8

const (
	stageNew        stage = iota // nothing done yet, or parked behind another call
	stageLocking                 // Lock asked, not all answered
	stageRecording               // the records are being written
	stagePersisting              // converting in place with PERSISTENT
	stageMarking                 // "held" (or the new mode) is being written
	stageConverting              // Convert asked
	stagePublishing              // converting in place to write the value block
	stageReleasing               // "releasing" is being written
	stageUnlocking               // Unlock asked
	stageForgetting              // "gone" is being written
	stageRewriting               // acquire of what is held: converting in place to write the value
	stageProbing                 // reading the value block with a null lock
	stageDone
)

var stageNames = [...]string{"new", "locking", "recording", "persisting", "marking", "converting",
	"publishing", "releasing", "unlocking", "forgetting", "rewriting", "probing", "done"}

func (s stage) String() string { return stageNames[s] }

// callKind tells what a call wants.
type callKind uint8

const (
	callAcquire callKind = iota
	callConvert
	callRelease
	callInspect
	callSpace
	callOrphans
	callList
)

// call is one request of a front end on its way.
type call struct {
	id     CallID // 0: nobody waits for the answer
	kind   callKind
	op     string // for errors and logs
	caller api.Caller

	want  []api.Want         // acquire: what; convert: want[0]; release-many: which resources
	opts  api.AcquireOptions // acquire
	sel   api.Selector       // convert, release
	owner string             // release-owner, release-many
	all   bool               // release: every match, not exactly one
	wait  time.Duration
	value *dlm.Value // acquire, convert: what the client wants to be written into the value block

	space, resource string // release, inspect

	request   api.Ref // a Request: waits without deadline, known by this number
	isRequest bool
	announced bool // the front end knows the number

	lifetime bool // release: of locks whose lifetime is over
	again    bool // with lifetime: it could not be written down before, and that was said

	stage    stage
	locks    []*lock    // acquire: parallel to want; convert, release: the locks meant
	fresh    []*lock    // acquire: those of locks that this call makes
	asked    int        // acquire: how many of fresh the DLM was asked for
	pending  int        // operations or appends that the stage waits for
	err      *api.Error // why it fails; the rest of the call is undoing
	answered bool
	recorded bool  // acquire: the records are in the file
	parkedAt *lock // the lock whose operation the call waits for

	from    dlm.Mode   // convert: the mode that the client knows of
	token   uint64     // convert: the token that goes with it
	written dlm.Mode   // convert: the mode in the state file
	late    *api.Error // convert: why it was withdrawn, if the DLM heard that in time

	begun    time.Time // when the service had it
	deadline time.Time
	heapIdx  int // in table.deadlines, -1 if not there

	seq          uint64 // calls are numbered as they come in
	older, newer *call  // others that the same session has no answer of yet

	// Results.
	grants     []api.Grant
	released   uint32
	inspection *api.Inspection
	orphans    []api.Orphan
	page       api.Page

	proc process.ID // acquire: the process that opts.PID meant when the call came in
}

// fail notes why the call fails; the first reason stays.
func (c *call) fail(e *api.Error) {
	if c.err == nil {
		c.err = e
	}
}

// errorf makes the call's typed error about one resource.
func (c *call) error(kind api.Kind, lockspace, resource string, mode dlm.Mode, text string) *api.Error {
	return &api.Error{Op: c.op, Lockspace: lockspace, Resource: resource, Mode: mode, Kind: kind, Text: text}
}

// statusError turns the outcome of an operation of l into the call's error.
func (c *call) statusError(l *lock, mode dlm.Mode, st dlm.Status) *api.Error {
	e := c.error(api.KernelError, l.sp.name, l.resource, mode, "")
	switch st {
	case dlm.StatusAgain:
		e.Kind, e.Text, e.Hint = api.WouldBlock, "another lock is in the way", api.HintWait
	case dlm.StatusDeadlock:
		e.Kind, e.Text = api.Deadlock, "two holders wait for each other to convert; the lock keeps its mode, release it or try again"
	case dlm.StatusCanceled:
		e.Kind, e.Text = api.Canceled, "the request was canceled"
	case dlm.StatusNotFound:
		e.Kind, e.Text = api.NotHeld, "the lock manager does not know the lock any more"
	case dlm.StatusGone:
		e.Kind, e.Text = api.NoSuchLockspace, "the lockspace was left while the request was under way; join it again"
	case dlm.StatusUnheard:
		e.Text = "the kernel reports nothing of this lock any more, because the service was killed in the middle of an operation; release it and acquire it again"
	default:
		e.Errno = st.Errno()
		e.Text = "the lock manager refused the operation with " + st.String()
	}
	return e
}

// deadlineHeap orders calls by deadline.
type deadlineHeap []*call

func (h deadlineHeap) Len() int           { return len(h) }
func (h deadlineHeap) Less(i, j int) bool { return h[i].deadline.Before(h[j].deadline) }
func (h deadlineHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapIdx, h[j].heapIdx = i, j
}
func (h *deadlineHeap) Push(x any) {
	c := x.(*call)
	c.heapIdx = len(*h)
	*h = append(*h, c)
}
func (h *deadlineHeap) Pop() any {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	c.heapIdx = -1
	return c
}

// arm gives the call a deadline.
func (t *Table) arm(c *call, d time.Duration) {
	c.deadline = t.now.Add(d)
	heap.Push(&t.deadlines, c)
}

// rearm gives the call another deadline.
func (t *Table) rearm(c *call, d time.Duration) {
	t.disarm(c)
	delete(t.requests, c.request)
	t.arm(c, d)
}

// disarm takes the call's deadline away.
func (t *Table) disarm(c *call) {
	if c.heapIdx >= 0 && c.heapIdx < len(t.deadlines) && t.deadlines[c.heapIdx] == c {
		heap.Remove(&t.deadlines, c.heapIdx)
	}
}

// reply answers the call once.
func (t *Table) reply(c *call) {
	if c.answered {
		return
	}
	c.answered = true
	t.disarm(c)
	t.unlist(c)
	delete(t.requests, c.request)
	if c.id == 0 {
		return
	}
	t.count(c)
	if c.isRequest && (c.err == nil || c.stage != stageDone || len(c.fresh) > 0) {
		t.announce(c)
	}
	t.do(ReplyAction{c.id, c.result(), c.answer()})
}

// answer is the error that the call ends with, or nil. It names this call's
// operation: one about a lockspace may have failed because of another call.
func (c *call) answer() error {
	if c.err == nil {
		return nil
	}
	e := *c.err
	e.Op = c.op
	return &e
}

// record returns the state file's record of l.
func (l *lock) record(p state.Phase) state.Lock {
	r := state.Lock{
		ID: uint64(l.ref), Lockspace: l.sp.name, Resource: l.resource, LockID: l.lockid, Mode: l.mode,
		Phase: p, Token: l.token, Owner: l.owner, HasOwner: l.hasOwner, Label: l.label,
		Lifetime: l.lifetime, UID: l.uid, PID: l.pid, Since: time.UnixMicro(l.since),
		PIDStart: l.procStart(),
	}
	r.Sender, r.BusID = l.session.Recorded()
	if l.onLost != nil {
		r.OnLost, r.OnLostData = l.onLost.Helper, l.onLost.Data
	}
	return r
}

// procStart is the start time of the process that ends l, or 0.
func (l *lock) procStart() uint64 {
	if l.bound == nil {
		return 0
	}
	return l.bound.proc.Start
}
