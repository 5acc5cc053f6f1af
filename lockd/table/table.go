package table

import (
	"cmp"
	"hash/maphash"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// lock is one lock of this instance, from the request to the end. The fields
// are ordered for size: a hundred thousand of them are nothing unusual.
type lock struct {
	ref      api.Ref
	cookie   dlm.Cookie // how the engine knows it; ref, but for some adopted ones
	sp       *space
	resource string
	owner    string
	label    string
	session  api.Session
	busy     *call   // the call whose operation is under way
	parked   []*call // calls that wait until it is not
	since    int64   // microseconds since 1970; when it was granted
	token    uint64
	asked    uint64 // seq of the call that made it; 0: an earlier process did

	onLost *api.OnLost // shared by the locks of a call; nil: nothing is run

	value *dlm.Value // in PW or EX, in a lockspace for raw values: what the block holds; nil: not known
	bound *binding   // what its lifetime hangs on; nil for persistent

	nextRes, prevRes     *lock // others of the resource
	nextOwner, prevOwner *lock // others of the owner
	nextHash             *lock // others in table.owned under the same hash

	lockid      dlm.LockID
	uid, pid    uint32
	mode        dlm.Mode // granted in the DLM; None while it has nothing
	wanted      dlm.Mode // what the operation under way asks for; else None
	lifetime    state.Lifetime
	state       api.LockState
	phase       state.Phase // what the state file says of it; 0: nothing
	flying      bool        // an operation of the DLM is under way
	adopted     bool        // from an earlier process, through the handle that is open
	granted     bool        // it was held once: those who watch know of it
	touched     bool        // it is in table.touched
	hasOwner    bool
	blocks      bool     // somebody waits for blocked, and the holder has not been told
	blocked     dlm.Mode // with blocks
	unpublished bool     // adopted in a stronger mode than recorded, so its token is old
	stray       bool     // an orphan that no record explains, adopted by accident
	probe       bool     // a null lock that only reads the value block
}

type ownerKey struct {
	uid   uint32
	owner string
}

// Table is the pure heart of the service. Its methods take an event each and
// append to out what has to be done. Not safe for concurrent use.
type Table struct {
	now    time.Time
	up     time.Duration // since the boot
	epoch  int64         // when the boot began by the clock of the tokens, in microseconds since 1970
	noted  int64         // the epoch that was last given to be noted
	out    []Action
	chores []func() (more bool) // long work under way
	limits api.Limits
	node   dlm.NodeInfo
	quorum api.Quorum // of the node, as it was asked last
	engine string
	served []api.Session // the name spaces of the front ends that are served
	raw    []string      // lockspaces whose value blocks are the clients'
	inst   string        // instance id: part of the anchors' names
	opTime time.Duration
	debug  bool // lines for ordinary decisions are wanted

	history history // what may still be written of it

	nextRef      api.Ref
	nextSpace    LockspaceID
	nextAppend   AppendID
	nextLook     LookID
	appends      map[AppendID]func(error)
	looks        map[LookID]func(Looked)
	nextSeq      uint64
	parked       int     // calls that wait for another one
	awake        []*call // that did and need not any more, by seq
	locks        map[api.Ref]*lock
	alias        map[dlm.Cookie]*lock // locks whose cookie is not their ref
	order        []ordered            // by ref, with holes
	holes        int
	spaces       map[string]*space
	byID         map[LockspaceID]*space
	owners       map[ownerKey]*lock // head of the owner's locks
	owned        map[uint64]*lock   // by hash of lockspace, resource, uid, owner
	hash         func(space, resource string, uid uint32, owner string) uint64
	perUID       map[uint32]*usage
	calls        map[api.Session]*call   // the newest unanswered one of each sender, without Requests
	queued       map[api.Session]*call   // the same of Requests
	waiters      map[api.Session][]*call // those that are parked, of each sender
	bindings     map[bindKey]*binding
	doubts       map[*binding]struct{}     // those with a doubt
	exampleDoubt *binding                  // the one that Degraded tells of
	requests     map[api.Ref]*call         // those without a deadline: Requests that wait
	probes       map[*lock]func(dlm.Event) // null locks that read a value block
	doomed       map[*lock]struct{}        // canceled waits whose end has not come yet
	stuck        map[*lock]struct{}        // whose unlock has failed and is tried again
	overdue      map[*lock]struct{}        // whose lifetime is over, which could not be written down and is tried again
	unmarked     map[*call]struct{}        // acquires whose undoing could not be written down and is tried again
	nextNag      time.Time                 // when what is in these four is asked for again
	// lookAgain is when the processes in doubt are looked at again, and
	// doubtPause how long that is after the last time.
	lookAgain  time.Time
	doubtPause time.Duration
	lost       []api.Lost
	runs       map[api.Ref]struct{} // lost locks whose helper has not ended
	helpers    map[string]api.HelperPolicy
	guarded    int // locks that name a helper
	degraded   string
	watched    bool    // somebody wants to hear of each lock
	touched    []*lock // whose LockChanged is due at the end of the turn

	deadlines deadlineHeap
	counters  api.Counters
	ready     bool
	settle    int // lockspaces whose activation has not ended
	stopping  bool
}

type ordered struct {
	ref api.Ref
	l   *lock
}

type usage struct{ locks, waiting int }

// Config is what a Table is made of.
type Config struct {
	Limits    api.Limits
	OpTimeout time.Duration // how long a call waits for the lock manager that names no time
	Instance  string        // of the state file: part of the anchors' names
	Engine    string        // the engine's name
	Node      dlm.NodeInfo
	Quorum    api.Quorum    // what is known of it
	Sessions  []api.Session // the name spaces of the front ends that are served
	RawValues []string      // lockspaces whose value blocks are the clients'
	Helpers   map[string]api.HelperPolicy
	Epoch     int64 // of the token clock, as it was noted last
	Seed      maphash.Seed
}

// New returns a table that knows nothing yet; Activate comes next.
func New(c Config) *Table {
	return &Table{
		limits: c.Limits, opTime: c.OpTimeout, inst: c.Instance, engine: c.Engine, node: c.Node, quorum: c.Quorum,
		served: c.Sessions, raw: c.RawValues, helpers: c.Helpers, epoch: c.Epoch, noted: c.Epoch, nextRef: 1,
		locks: map[api.Ref]*lock{}, alias: map[dlm.Cookie]*lock{}, spaces: map[string]*space{}, byID: map[LockspaceID]*space{},
		owners: map[ownerKey]*lock{}, owned: map[uint64]*lock{}, hash: ownerHash(c.Seed),
		perUID: map[uint32]*usage{}, calls: map[api.Session]*call{}, queued: map[api.Session]*call{}, waiters: map[api.Session][]*call{}, doomed: map[*lock]struct{}{},
		stuck: map[*lock]struct{}{}, overdue: map[*lock]struct{}{}, unmarked: map[*call]struct{}{},
		probes: map[*lock]func(dlm.Event){}, bindings: map[bindKey]*binding{}, requests: map[api.Ref]*call{},
		runs: map[api.Ref]struct{}{}, doubts: map[*binding]struct{}{},
		appends: map[AppendID]func(error){}, looks: map[LookID]func(Looked){},
	}
}

// EndTurn ends what the driver begins with SetTime: it starts the calls that need
// not wait any more, and appends to out the actions of the turn.
func (t *Table) EndTurn(out []Action) []Action {
	t.endTurn()
	out = append(out, t.out...)
	clear(t.out)
	t.out = t.out[:0]
	return out
}

// SetDebug says whether lines for ordinary decisions are wanted in the log.
func (t *Table) SetDebug(on bool) { t.debug = on }

// SetNode takes what is known of this node.
func (t *Table) SetNode(n dlm.NodeInfo) { t.node = n }

// SetQuorum takes what is known of the cluster's quorum.
func (t *Table) SetQuorum(q api.Quorum) { t.quorum = q }

// Log writes a line that is the driver's, in its place among the table's.
func (t *Table) Log(level slog.Level, msg string, attrs ...slog.Attr) { t.log(level, msg, attrs...) }

func (t *Table) do(a Action) { t.out = append(t.out, a) }

// append asks for changes to be written; then, if not nil, gets the outcome.
func (t *Table) append(must bool, changes []state.Change, then func(error)) {
	t.nextAppend++
	if then != nil {
		t.appends[t.nextAppend] = then
	}
	t.do(AppendAction{t.nextAppend, changes, must})
}

// Appended takes the outcome of an AppendAction.
func (t *Table) Appended(id AppendID, err error) {
	if then := t.appends[id]; then != nil {
		delete(t.appends, id)
		then(err)
	}
}

// look asks the engine's tables; then gets what was found.
func (t *Table) look(sp *space, q Question, then func(Looked)) {
	t.nextLook++
	t.looks[t.nextLook] = then
	t.do(LookAction{t.nextLook, sp.name, q})
}

// Looked takes what a LookAction has found.
func (t *Table) Looked(id LookID, k Looked) {
	if then := t.looks[id]; then != nil {
		delete(t.looks, id)
		then(k)
	}
}

func (t *Table) log(level slog.Level, msg string, attrs ...slog.Attr) {
	if level < slog.LevelInfo && !t.debug {
		return
	}
	t.do(LogAction{level, msg, attrs})
}

// logLock writes the line of one decision about one lock.
func (t *Table) logLock(level slog.Level, msg string, l *lock, more ...slog.Attr) {
	if level < slog.LevelInfo && !t.debug {
		return
	}
	attrs := make([]slog.Attr, 0, 6+len(more))
	attrs = append(attrs, slog.String("lockspace", l.sp.name), slog.String("resource", api.Printable(l.resource)),
		slog.String("mode", l.mode.String()), slog.Uint64("lkid", uint64(l.lockid)),
		slog.String("owner", l.owner), slog.Uint64("uid", uint64(l.uid)))
	t.log(level, msg, append(attrs, more...)...)
}

// ref hands out a number that was never used before.
func (t *Table) ref() api.Ref {
	r := t.nextRef
	t.nextRef++
	return r
}

// idle ends the operation of l: it is held, and parked calls go on.
func (t *Table) idle(l *lock) {
	l.busy, l.wanted, l.state = nil, dlm.None, api.Held
	t.tell(l)
	if l.blocks {
		l.blocks = false
		t.tellBlocking(l, l.blocked)
	}
	t.unpark(l)
}

// submit takes a new call of a front end.
func (t *Table) submit(c *call) {
	c.begun = t.now
	if t.stopping {
		t.refuseStopping(c)
		return
	}
	t.enlist(c)
	switch {
	case c.request != 0:
		t.requests[c.request] = c
	case c.wait > 0:
		t.arm(c, c.wait)
	default:
		t.arm(c, t.opTime)
	}
	t.start(c)
}

// enlist numbers a call and puts it among those that its sender waits for.
func (t *Table) enlist(c *call) {
	t.nextSeq++
	c.seq = t.nextSeq
	if c.caller.Session == "" {
		return
	}
	in := t.unansweredBy(c)
	if head := in[c.caller.Session]; head != nil {
		c.older, head.newer = head, c
	}
	in[c.caller.Session] = c
}

// unansweredBy is the index of calls like c by their sender. There may be very
// many Requests of one, and few of all others, so each has one of its own.
func (t *Table) unansweredBy(c *call) map[api.Session]*call {
	if c.request != 0 {
		return t.queued
	}
	return t.calls
}

// unlist takes it out again.
func (t *Table) unlist(c *call) {
	if c.older != nil {
		c.older.newer = c.newer
	}
	in := t.unansweredBy(c)
	switch {
	case c.newer != nil:
		c.newer.older = c.older
	case in[c.caller.Session] != c:
	case c.older != nil:
		in[c.caller.Session] = c.older
	default:
		delete(in, c.caller.Session)
	}
	c.older, c.newer = nil, nil
}

// SessionGone cancels what a vanished caller still waits for, in its order, and
// ends the locks that hang on its connection.
func (t *Table) SessionGone(session api.Session) {
	var waiting []*call
	for _, in := range []map[api.Session]*call{t.calls, t.queued} {
		for c := in[session]; c != nil; c = c.older {
			if c.kind != callRelease { // which goes on to its end; nobody minds the answer
				waiting = append(waiting, c)
			}
		}
	}
	slices.SortFunc(waiting, func(a, b *call) int { return cmp.Compare(a.seq, b.seq) })
	t.slices(len(waiting), func(i int) {
		c := waiting[i]
		if waiting[i] = nil; c.err == gone {
			c.err = nil
		}
		lockspace, resource, mode, _ := t.waitsFor(c)
		t.giveUp(c, c.error(api.Canceled, lockspace, resource, mode, goneText))
	}, func() { t.endBinding(bindKey{session: session}, "the connection has ended") })
	// Of those whose turn is yet to come none may begin anything, and what the
	// DLM grants meanwhile is let go of.
	for _, c := range waiting {
		if c != nil && c.kind == callAcquire && c.err == nil {
			c.err = gone
		}
	}
}

const goneText = "the caller has left the bus"

// gone is why calls fail whose caller is gone, until each is given up.
var gone = &api.Error{Op: "acquire", Kind: api.Canceled, Mode: dlm.None, Text: goneText}

// giveUp answers a call before it has ended. An acquire lets go of what it
// gets; a release goes on to its end, because half a release helps nobody.
func (t *Table) giveUp(c *call, e *api.Error) {
	if c.answered {
		return
	}
	c.fail(e)
	t.leaveQueue(c)
	switch c.kind {
	case callAcquire:
		t.abandonAcquire(c)
	case callConvert:
		t.cancelFlying(c)
	}
	t.reply(c)
}

// cancelFlying withdraws the DLM operations of a call that may be waiting.
func (t *Table) cancelFlying(c *call) {
	if c.stage != stageLocking && c.stage != stageConverting {
		return
	}
	for _, l := range c.locks {
		if l != nil && l.flying && l.busy == c {
			t.do(CancelAction{Lockspace: l.sp.id, Cookie: l.cookie})
			t.doomed[l] = struct{}{}
		}
	}
}

// nagInterval is how often a cancel is repeated whose end has not come: the
// kernel ignores one that meets an operation in the middle of a message.
// So is an unlock that has failed.
const nagInterval = 2 * time.Second

// Tick passes the time: deadlines and cancels that went unheard.
func (t *Table) Tick() {
	for len(t.deadlines) > 0 && !t.deadlines[0].deadline.After(t.now) {
		c := t.deadlines[0]
		t.disarm(c)
		if !t.withdraw(c) {
			t.giveUp(c, t.lateError(c))
		}
	}
	if t.nags() > 0 && !t.now.Before(t.nextNag) {
		t.nextNag = t.now.Add(nagInterval)
		t.writeAgain()
		for _, l := range slices.SortedFunc(maps.Keys(t.doomed), byRef) {
			t.do(CancelAction{Lockspace: l.sp.id, Cookie: l.cookie})
		}
		for _, l := range slices.SortedFunc(maps.Keys(t.stuck), byRef) {
			delete(t.stuck, l)
			t.unlock(l)
		}
	}
	t.retrySpaces()
	t.resolveDoubts()
}

// nags is how much is asked for again and again.
func (t *Table) nags() int {
	return len(t.doomed) + len(t.stuck) + len(t.overdue) + len(t.unmarked)
}

// Next tells when Tick has to be called; ok is false for never.
func (t *Table) Next() (at time.Time, ok bool) {
	at, ok = t.nextRetry()
	if len(t.deadlines) > 0 && (!ok || t.deadlines[0].deadline.Before(at)) {
		at, ok = t.deadlines[0].deadline, true
	}
	if t.nags() > 0 && (!ok || t.nextNag.Before(at)) {
		at, ok = t.nextNag, true
	}
	if len(t.doubts) > 0 && (!ok || t.lookAgain.Before(at)) {
		at, ok = t.lookAgain, true
	}
	return at, ok
}

// lateError says why a call has got no answer in time.
func (t *Table) lateError(c *call) *api.Error {
	if c.late != nil && c.stage == stageConverting {
		return c.late
	}
	ls, res, mode, sp := t.waitsFor(c)
	if l := c.parkedAt; l != nil && sp == nil {
		ls, res, sp = l.sp.name, l.resource, l.sp
	}
	noted := ""
	switch {
	case c.kind == callRelease && c.stage == stageReleasing:
		noted = "; the lock is released if that can still be recorded, and stays held otherwise"
	case c.kind == callRelease && c.stage != stageNew:
		noted = "; the release is recorded and will be finished as soon as possible"
	case c.kind == callRelease && c.parkedAt != nil && c.parkedAt.state == api.Releasing:
		noted = "; an earlier release of the lock is recorded and will be finished as soon as possible"
	case c.kind == callConvert && c.stage == stageConverting && c.late == nil && sp != nil && sp.stopped() && !dlm.Stronger(mode, c.from):
		noted = "; the conversion may still take effect, see the mode of the lock"
	}
	late := func(k api.Kind, text string) *api.Error { return c.error(k, ls, res, dlm.None, text+noted) }
	switch {
	case sp != nil && sp.stopped():
		e := c.stoppedError(sp, res)
		e.Text += noted
		return e
	case c.wait > 0 && (c.stage == stageLocking || c.stage == stageConverting || c.stage == stageNew):
		e := late(api.Timeout, "not granted in the time given")
		if sp != nil {
			e.Holder = t.localHolder(sp, res, mode, c)
		}
		return e
	case c.op == "join":
		return late(api.LockspaceStopped, "the lockspace is not joined yet; joining goes on").WithHint(api.HintLockspaceState)
	case c.op == "leave":
		return late(api.LockspaceStopped, "the lockspace is not left yet").WithHint(api.HintLockspaceState)
	case c.parkedAt != nil:
		return late(api.Timeout, "another call for the same lock has not ended in time; try again")
	case c.stage == stageRecording, c.stage == stageMarking, c.stage == stageReleasing, c.stage == stageForgetting:
		return late(api.StateWriteFailed, "the state file could not be written in time")
	}
	return late(api.LockspaceStopped, "the lock manager has not answered in time; the lockspace may be recovering").
		WithHint(api.HintLockspaceState)
}

// waitsFor tells which resource and mode a call waits for.
func (t *Table) waitsFor(c *call) (lockspace, resource string, mode dlm.Mode, sp *space) {
	for _, l := range c.locks {
		if l != nil && l.flying {
			return l.sp.name, l.resource, l.wanted, l.sp
		}
	}
	lockspace, resource, mode = c.space, c.resource, dlm.None
	if len(c.want) > 0 {
		lockspace, resource, mode = c.want[0].Lockspace, c.want[0].Resource, c.want[0].Mode
	}
	return lockspace, resource, mode, t.spaces[lockspace]
}
