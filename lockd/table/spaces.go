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

// spaceStep is how far joining or activating a lockspace has got.
type spaceStep uint8

const (
	spaceIdle spaceStep = iota
	spaceOpening
	spaceCreating
	spaceAdoptingAnchor   // is the lockspace still the one that we joined?
	spaceMakingAnchor     // Lock of the anchor, without PERSISTENT
	spacePersistingAnchor // the conversion in place
	spaceRecordingAnchor
	spaceTakingOver // the anchor of an instance whose state file is lost
	spaceAdopting   // the records
	spaceLooking    // who else is in it, and what else
	spaceRemoving
)

// space is one lockspace of this instance.
type space struct {
	name            string
	id              LockspaceID
	state           api.SpaceState
	step            spaceStep
	open            bool           // there is a handle
	proven          bool           // it is ours: made through the handle, or the handle holds the anchor
	gone            bool           // while it is left: the handle has ended
	mapLost         bool           // taken over: orphans are this service's, and no record explains them
	leaveForce      bool           // the leave under way may lose locks
	leaveFrom       api.SpaceState // what it was when the leave under way began; 0: not open
	leaveConfigured bool           // configured, then
	gen             int            // counts the attempts to join that have failed
	unadopted       *api.Error     // why a record could not be adopted this time
	raw             bool           // the value blocks are the clients'
	configured      bool           // named in the configuration, and not left since
	stillborn       bool           // closed before the opening was known to have ended
	err             *api.Error
	byResource      map[string]*lock // head of the resource's locks
	locks           int
	recorded        state.SpacePhase // what the state file says; 0: nothing
	anchor          dlm.LockID
	anchorName      string
	anchorCk        dlm.Cookie
	oldAnchors      []dlm.Cookie // anchors of earlier instances that are held now
	health          dlm.Health
	hasHealth       bool
	adoptions       map[dlm.Cookie]*adoption
	purges          map[dlm.Cookie]func(dlm.Event) // adoptions for a Purge
	strays          map[dlm.LockID]*lock           // orphans that no record explains, adopted by accident
	orphans         int                            // that no record explains; -1 unknown
	settling        bool                           // counts in table.settle
	clock           spaceClock
	highToken       uint64       // the highest that this instance has seen here
	contended       []contention // of whom it is being found out who waits for them
	retryAt         time.Time
	backoff         time.Duration
	waiting         []*call // joins and leaves to answer
	waiters         int     // requests for locks that wait in the lock manager's queues
}

func (sp *space) stopped() bool { return sp.hasHealth && sp.health.Stopped }

func (sp *space) record() state.Lockspace {
	return state.Lockspace{Name: sp.name, Phase: sp.recorded, AnchorID: sp.anchor}
}

// space returns the lockspace's entry, made if need be.
func (t *Table) space(name string) *space {
	sp := t.spaces[name]
	if sp == nil {
		sp = &space{name: name, byResource: map[string]*lock{}, adoptions: map[dlm.Cookie]*adoption{}, purges: map[dlm.Cookie]func(dlm.Event){},
			strays:     map[dlm.LockID]*lock{},
			anchorName: api.ReservedPrefix + "anchor." + t.inst, orphans: -1, raw: slices.Contains(t.raw, name)}
		t.nextSpace++
		sp.id = t.nextSpace
		t.spaces[name], t.byID[sp.id] = sp, sp
	}
	return sp
}

// recordSpace writes down how far the membership has got. then is not called
// if the attempt to join has failed meanwhile.
func (t *Table) recordSpace(sp *space, must bool, then func(error)) {
	gen := sp.gen
	t.append(must, []state.Change{sp.record()}, func(err error) {
		if sp.gen == gen {
			then(err)
		}
	})
}

// join answers a Join.
func (t *Table) join(c *call) {
	if e := c.checkSpaceName(c.space); e != nil {
		t.refuse(c, e)
		return
	}
	sp := t.spaces[c.space]
	switch {
	case sp != nil && sp.state == api.SpaceReady:
		c.stage = stageDone
		t.reply(c)
		return
	case sp != nil && sp.state == api.SpaceLeaving:
		t.refuse(c, c.error(api.LockspaceInUse, c.space, "", dlm.None, "the lockspace is being left; try again in a moment"))
		return
	case t.degraded != "":
		t.refuse(c, c.error(api.StateWriteFailed, c.space, "", dlm.None, t.degraded))
		return
	}
	sp = t.space(c.space)
	sp.waiting = append(sp.waiting, c)
	if sp.step == spaceIdle {
		t.open(sp)
	}
}

// open begins to join or to activate: an existing device first, because
// opening has no side effects.
func (t *Table) open(sp *space) {
	if sp.open && sp.recorded == state.Leaving {
		t.finishLeave(sp)
		return
	}
	if sp.open { // some records could not be adopted
		sp.state, sp.err, sp.retryAt = api.SpaceJoining, nil, time.Time{}
		t.adoptAll(sp)
		return
	}
	sp.state, sp.step, sp.err, sp.retryAt = api.SpaceJoining, spaceOpening, nil, time.Time{}
	t.do(OpenAction{sp.id, sp.name})
}

// Opened takes the end of OpenAction or CreateAction. unsettled says of a create
// that failed that this node may be in the lockspace, or come to be in it, all the
// same.
func (t *Table) Opened(id LockspaceID, err error, unsettled bool) {
	sp := t.byID[id]
	sp.open = err == nil
	if sp.stillborn && sp.open {
		sp.stillborn = false
		t.failSpace(sp, goneError(sp), true)
		return
	}
	sp.stillborn = false
	switch {
	case err == nil && sp.step == spaceCreating:
		sp.proven = true // it was made now, by us and by nobody else (DLM_LSFL_NEWEXCL)
		t.makeAnchor(sp)
	case err == nil:
		sp.step = spaceAdoptingAnchor
		sp.anchorCk = dlm.Cookie(t.ref())
		t.do(AdoptAction{Lockspace: sp.id, Cookie: sp.anchorCk, Resource: sp.anchorName, Mode: dlm.NL})
	case sp.step == spaceOpening && errors.Is(err, dlm.ErrNoLockspace):
		t.absent(sp)
	case sp.step == spaceCreating && errors.Is(err, dlm.ErrLockspaceExists):
		t.foreign(sp, Looked{})
	case sp.step == spaceCreating && !unsettled:
		t.notMade(sp)
		t.failSpace(sp, spaceError(sp, err), true)
	default:
		t.failSpace(sp, spaceError(sp, err), true)
	}
}

// absent goes on with a lockspace that this node is not in. It is joined where
// somebody wants it: the configuration, a caller who waits, or one who has an
// answer.
func (t *Table) absent(sp *space) {
	switch {
	case sp.recorded == state.Leaving:
		t.left(sp, whyLeft)
	case sp.recorded == state.Creating && !sp.configured && !sp.awaited("join"):
		t.left(sp, whyLeft) // nobody was told that it is joined
	default:
		t.voidAll(sp, "this node has left the lockspace since the lock was taken")
		t.create(sp)
	}
}

// awaited tells whether a call of that kind waits for the lockspace.
func (sp *space) awaited(op string) bool {
	return slices.ContainsFunc(sp.waiting, func(c *call) bool { return c.op == op && !c.answered })
}

// notMade takes back that a lockspace is being made: it was not. Otherwise one
// that somebody else makes before the next attempt would be taken for ours, and
// a caller who was refused would find it joined later.
func (t *Table) notMade(sp *space) {
	sp.recorded = state.Left
	t.append(true, []state.Change{sp.record()}, nil)
	sp.recorded = 0
}

// create writes down that what is made now is ours, then makes it.
func (t *Table) create(sp *space) {
	sp.step = spaceCreating
	sp.recorded, sp.anchor = state.Creating, 0
	t.recordSpace(sp, false, func(err error) {
		if err != nil {
			t.notMade(sp)
			t.failSpace(sp, &api.Error{Op: "join", Lockspace: sp.name, Kind: api.StateWriteFailed, Err: err,
				Text: "the lockspace is not joined, because the state file can't be written: " + err.Error()}, true)
			return
		}
		t.do(CreateAction{sp.id, sp.name})
	})
}

// spaceReady ends joining or activation well.
func (t *Table) spaceReady(sp *space) {
	sp.state, sp.step, sp.err, sp.backoff = api.SpaceReady, spaceIdle, nil, 0
	t.log(slog.LevelInfo, "lockspace ready", slog.String("lockspace", sp.name), slog.Int("locks", sp.locks))
	t.countOrphans(sp)
	t.settled(sp)
	t.do(NotifyAction{api.LockspaceChanged{LockspaceInfo: t.spaceInfo(sp)}})
	t.answerSpace(sp, nil)
	if sp.anchor == 0 { // removed while the records were adopted
		t.makeAnchor(sp)
	}
}

func (t *Table) answerSpace(sp *space, e *api.Error) {
	waiting := sp.waiting
	sp.waiting = nil
	for _, c := range waiting {
		if e != nil {
			c.fail(e)
		}
		c.stage = stageDone
		t.reply(c)
	}
}

// countOrphans looks for persistent locks that no record explains. They are
// listed and never touched unasked.
func (t *Table) countOrphans(sp *space) {
	t.look(sp, Question{}, func(k Looked) {
		if !k.HasOrphans {
			sp.orphans = -1
			return
		}
		sp.orphans = len(t.unknown(sp, k.Orphans))
		if sp.orphans > 0 {
			t.log(slog.LevelWarn, "orphans that no record explains; list them, and adopt or remove each", slog.String("lockspace", sp.name), slog.Int("orphans", sp.orphans))
		}
	})
}

// unknown returns the orphans that are not locks of this instance, and the
// strays that it has adopted by accident.
func (t *Table) unknown(sp *space, orphans []dlm.Orphan) []dlm.Orphan {
	var out []dlm.Orphan
	for _, o := range orphans {
		known := o.LockID == sp.anchor && o.Resource == sp.anchorName
		for l := sp.byResource[o.Resource]; l != nil && !known; l = l.nextRes {
			known = l.lockid == o.LockID
		}
		if !known && sp.strays[o.LockID] == nil && !isAnchor(o.Resource) {
			out = append(out, o)
		}
	}
	for _, l := range sp.strays {
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

// failSpace ends joining or activation badly; with retry it is tried again, with
// another handle.
func (t *Table) failSpace(sp *space, e *api.Error, retry bool) {
	t.shut(sp)
	t.unusable(sp, e, retry)
}

// shut closes the handle and forgets what was asked for through it.
func (t *Table) shut(sp *space) {
	sp.gen++
	sp.proven, sp.gone, sp.oldAnchors = false, false, nil
	if sp.open {
		sp.open = false
		t.do(CloseAction{sp.id})
	}
	sp.clock = spaceClock{}
	clear(sp.adoptions)
	for _, l := range sp.strays {
		t.remove(l)
	}
	for ck, then := range sp.purges {
		delete(sp.purges, ck)
		then(dlm.Event{Kind: dlm.Completed, Op: dlm.OpAdopt, Cookie: ck, Status: dlm.StatusGone, Mode: dlm.None})
	}
	for _, head := range sp.byResource {
		for l := head; l != nil; l = l.nextRes {
			t.setCookie(l, dlm.Cookie(l.ref))
			l.adopted = false
		}
	}
}

// unusable notes why the lockspace can't be used now.
func (t *Table) unusable(sp *space, e *api.Error, retry bool) {
	t.log(slog.LevelError, "lockspace not usable", slog.String("lockspace", sp.name), slog.String("err", e.Text))
	t.settled(sp)
	sp.state, sp.step, sp.err = api.SpaceFailed, spaceIdle, e
	if retry && (sp.configured || sp.recorded != 0) {
		sp.backoff = min(max(2*sp.backoff, retryFirst), retryMax)
		sp.retryAt = t.now.Add(sp.backoff)
	}
	t.do(NotifyAction{api.LockspaceChanged{LockspaceInfo: t.spaceInfo(sp)}})
	told := *e
	if !sp.retryAt.IsZero() {
		told.Text += "; the service tries again by itself"
	}
	t.answerSpace(sp, &told)
	t.dropSpace(sp)
}

// settled counts a lockspace whose activation has ended.
func (t *Table) settled(sp *space) {
	if !sp.settling {
		return
	}
	sp.settling = false
	t.settle--
	if t.settle == 0 {
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
			t.makeAnchor(sp)
		default:
			t.open(sp)
		}
	}
}

func (t *Table) nextRetry() (at time.Time, ok bool) {
	for _, sp := range t.spaces {
		if !sp.retryAt.IsZero() && (!ok || sp.retryAt.Before(at)) {
			at, ok = sp.retryAt, true
		}
	}
	return at, ok
}

// forgetSpace drops the entry of a lockspace that nothing is known of any more.
func (t *Table) forgetSpace(sp *space) {
	if !sp.configured && sp.recorded == 0 && sp.step == spaceIdle && sp.state == api.SpaceFailed && sp.locks == 0 {
		t.deleteSpace(sp)
	}
}

func (t *Table) deleteSpace(sp *space) {
	delete(t.spaces, sp.name)
	delete(t.byID, sp.id)
	t.do(ForgetAction{sp.id})
}

// dropSpace is forgetSpace of a lockspace that front ends know of and were not told
// to forget.
func (t *Table) dropSpace(sp *space) {
	if t.forgetSpace(sp); t.spaces[sp.name] != sp {
		t.do(NotifyAction{api.LockspaceChanged{LockspaceInfo: t.spaceInfo(sp), Gone: true}})
	}
}

// closed takes the news that the lockspace went away underneath us.
func (t *Table) closed(sp *space) {
	switch {
	case sp.step == spaceRemoving:
		sp.gone = true // removed will tell
		return
	case sp.step == spaceOpening, sp.step == spaceCreating:
		sp.stillborn = true
		return
	}
	t.shut(sp)
	t.closeLocks(sp, whyRemoved)
	t.failSpace(sp, goneError(sp), true)
}

func goneError(sp *space) *api.Error {
	if sp.recorded == state.Leaving {
		return &api.Error{Op: "leave", Lockspace: sp.name, Kind: api.NoSuchLockspace, Text: "somebody else removed the lockspace from this node"}
	}
	return &api.Error{Op: "join", Lockspace: sp.name, Kind: api.NoSuchLockspace,
		Text: "somebody else removed the lockspace from this node; it is joined again in a moment"}
}

// closeLocks ends every lock of a lockspace that is gone. What is under way
// ends as if the DLM had said so.
func (t *Table) closeLocks(sp *space, why string) {
	var in []*lock
	for _, l := range t.locks {
		if l.sp == sp {
			in = append(in, l)
		}
	}
	slices.SortFunc(in, byRef)
	var idle []*lock
	for _, l := range in {
		switch {
		case t.locks[l.ref] != l: // its call has ended with another of its locks
		case l.flying:
			t.lockEvent(l, dlm.Event{Kind: dlm.Completed, Cookie: l.cookie, Status: dlm.StatusGone, Mode: dlm.None})
		case l.busy != nil:
			t.vanish(l)
		case l.probe:
			t.remove(l)
		default:
			idle = append(idle, l)
		}
	}
	t.voidEach(idle, why)
}

// spaceError turns an engine's error about a whole lockspace into ours.
func spaceError(sp *space, err error) *api.Error {
	e := &api.Error{Op: "join", Lockspace: sp.name, Kind: api.KernelError, Err: err, Text: err.Error()}
	if errors.Is(err, dlm.ErrClusterUnavailable) || errors.Is(err, dlm.ErrUnsupported) {
		e.Kind = api.ClusterUnavailable
	}
	if d, ok := errors.AsType[*dlm.Error](err); ok {
		e.Errno = d.Errno
	}
	return e
}

func (t *Table) spaceInfo(sp *space) api.LockspaceInfo {
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
	t.syncClock(sp)
	if same {
		return
	}
	if sp.stopped() {
		t.log(slog.LevelWarn, "lockspace stopped", slog.String("lockspace", sp.name), slog.String("err", h.Reason))
	}
	t.do(NotifyAction{api.LockspaceChanged{LockspaceInfo: t.spaceInfo(sp)}})
}
