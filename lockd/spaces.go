package lockd

import (
	"cmp"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
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
	spaceAdopting // the records
	spaceRemoving
)

// space is one lockspace of this instance.
type space struct {
	name       string
	handle     dlm.Lockspace // only the driver touches it
	closing    chan struct{} // closed when an earlier handle is; only the driver touches it
	state      SpaceState
	step       spaceStep
	open       bool   // there is a handle
	gen        int    // counts the attempts to join that have failed
	unadopted  *Error // why a record could not be adopted this time
	raw        bool   // the value blocks are the clients'
	configured bool   // named in the configuration, and not left since
	stillborn  bool   // closed before the opening was known to have ended
	err        *Error
	byResource map[string]*lock // head of the resource's locks
	locks      int
	recorded   state.SpacePhase // what the state file says; 0: nothing
	anchor     dlm.LockID
	anchorName string
	anchorCk   dlm.Cookie
	health     dlm.Health
	hasHealth  bool
	adoptions  map[dlm.Cookie]*adoption
	purges     map[dlm.Cookie]func(dlm.Event) // adoptions for a Purge
	strays     map[dlm.LockID]*lock           // orphans that no record explains, adopted by accident
	orphans    int                            // that no record explains; -1 unknown
	settling   bool                           // counts in table.settle
	highToken  uint64                         // the highest that this instance has seen here
	contended  []contention                   // of whom it is being found out who waits for them
	retryAt    time.Time
	backoff    time.Duration
	waiting    []*call // joins and leaves to answer
}

func (sp *space) stopped() bool { return sp.hasHealth && sp.health.Stopped }

func (sp *space) record() state.Lockspace {
	return state.Lockspace{Name: sp.name, Phase: sp.recorded, AnchorID: sp.anchor}
}

// space returns the lockspace's entry, made if need be.
func (t *table) space(name string) *space {
	sp := t.spaces[name]
	if sp == nil {
		sp = &space{name: name, byResource: map[string]*lock{}, adoptions: map[dlm.Cookie]*adoption{}, purges: map[dlm.Cookie]func(dlm.Event){},
			strays:     map[dlm.LockID]*lock{},
			anchorName: ReservedPrefix + "anchor." + t.inst, orphans: -1, raw: slices.Contains(t.raw, name)}
		t.spaces[name] = sp
	}
	return sp
}

// recordSpace writes down how far the membership has got. then is not called
// if the attempt to join has failed meanwhile.
func (t *table) recordSpace(sp *space, must bool, then func(error)) {
	gen := sp.gen
	t.append(must, []state.Change{sp.record()}, func(err error) {
		if sp.gen == gen {
			then(err)
		}
	})
}

// join answers a Join.
func (t *table) join(c *call) {
	if e := c.checkSpaceName(c.space); e != nil {
		t.refuse(c, e)
		return
	}
	sp := t.spaces[c.space]
	switch {
	case sp != nil && sp.state == SpaceReady:
		c.stage = stageDone
		t.reply(c)
		return
	case sp != nil && sp.state == SpaceLeaving:
		t.refuse(c, c.error(LockspaceInUse, c.space, "", dlm.None, "the lockspace is being left; try again in a moment"))
		return
	case t.degraded != "":
		t.refuse(c, c.error(StateWriteFailed, c.space, "", dlm.None, t.degraded))
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
func (t *table) open(sp *space) {
	if sp.open && sp.recorded == state.Leaving {
		t.finishLeave(sp)
		return
	}
	if sp.open { // some records could not be adopted
		sp.state, sp.err, sp.retryAt = SpaceJoining, nil, time.Time{}
		t.adoptAll(sp)
		return
	}
	sp.state, sp.step, sp.err, sp.retryAt = SpaceJoining, spaceOpening, nil, time.Time{}
	t.do(openAction{sp})
}

// opened takes the end of openAction or createAction.
func (t *table) opened(sp *space, err error) {
	sp.open = err == nil
	if sp.stillborn && sp.open {
		sp.stillborn = false
		t.failSpace(sp, goneError(sp), true)
		return
	}
	switch {
	case err == nil && sp.step == spaceCreating:
		t.makeAnchor(sp)
	case err == nil:
		sp.step = spaceAdoptingAnchor
		sp.anchorCk = dlm.Cookie(t.ref())
		t.do(adoptAction{sp: sp, cookie: sp.anchorCk, resource: sp.anchorName, mode: dlm.NL})
	case sp.step == spaceOpening && errors.Is(err, dlm.ErrNoLockspace):
		if sp.recorded == state.Leaving {
			t.left(sp)
			return
		}
		t.voidAll(sp, "this node has left the lockspace since the lock was taken")
		t.create(sp)
	case sp.step == spaceCreating && errors.Is(err, dlm.ErrLockspaceExists):
		t.foreign(sp)
	default:
		t.failSpace(sp, spaceError(sp, err), true)
	}
}

// create writes down that what is made now is ours, then makes it.
func (t *table) create(sp *space) {
	sp.step = spaceCreating
	sp.recorded, sp.anchor = state.Creating, 0
	t.recordSpace(sp, false, func(err error) {
		if err != nil {
			if !sp.configured {
				sp.recorded = 0
			}
			t.append(true, []state.Change{state.Lockspace{Name: sp.name, Phase: state.Left}}, nil)
			t.failSpace(sp, &Error{Op: "join", Lockspace: sp.name, Kind: StateWriteFailed, Err: err,
				Text: "the lockspace is not joined, because the state file can't be written: " + err.Error()}, true)
			return
		}
		t.do(createAction{sp})
	})
}

// foreign refuses a lockspace that exists and is not ours: any process that
// can open a lockspace can unlock everything in it, so sharing one with lvm or
// a file system is never right.
func (t *table) foreign(sp *space) {
	e := &Error{Op: "join", Lockspace: sp.name, Kind: LockspaceForeign,
		Text: "the lockspace exists on this node and was not made by this service, so it is left alone; choose another name, or leave it with dlm_tool leave if nobody uses it"}
	if sp.recorded != 0 {
		sp.recorded, sp.anchor = state.Left, 0
		t.append(true, []state.Change{sp.record()}, nil)
		sp.recorded = 0
	}
	t.failSpace(sp, e, false)
}

// makeAnchor takes the lock by which a later start knows that the lockspace is
// still the same: in two steps, as every persistent lock.
func (t *table) makeAnchor(sp *space) {
	sp.step = spaceMakingAnchor
	sp.anchorCk = dlm.Cookie(t.ref())
	t.do(lockAction{sp: sp, cookie: sp.anchorCk, resource: sp.anchorName, mode: dlm.NL, flags: dlm.NoQueue})
}

// anchorEvent takes the events of the anchor.
func (t *table) anchorEvent(sp *space, ev dlm.Event) {
	switch {
	case ev.Op == dlm.OpUnlock: // of one that could not be made persistent
	case ev.Kind == dlm.Ended:
		t.anchorEnded(sp)
	case sp.step == spaceAdoptingAnchor:
		t.anchorAdopted(sp, ev)
	case !ev.Status.OK() && sp.state == SpaceReady:
		t.log(slog.LevelError, "the anchor of the lockspace could not be taken again", slog.String("lockspace", sp.name), slog.String("err", ev.Status.String()))
		if sp.step == spacePersistingAnchor {
			t.do(unlockAction{sp: sp, cookie: sp.anchorCk})
		}
		sp.step, sp.anchor, sp.retryAt = spaceIdle, 0, t.now.Add(retryMax)
	case !ev.Status.OK():
		t.failSpace(sp, &Error{Op: "join", Lockspace: sp.name, Kind: KernelError, Errno: ev.Status.Errno(),
			Text: "the anchor lock of the lockspace could not be taken: " + ev.Status.String()}, true)
	case sp.step == spaceMakingAnchor:
		sp.step, sp.anchor = spacePersistingAnchor, ev.LockID
		t.do(convertAction{sp: sp, cookie: sp.anchorCk, mode: dlm.NL, flags: dlm.Persistent})
	case sp.step == spacePersistingAnchor:
		t.recordAnchor(sp)
	}
}

// anchorEnded takes the news that another process removed the anchor. The locks
// are as good as before, but the next start would take them for void, so
// another one is made as soon as nothing else is under way.
func (t *table) anchorEnded(sp *space) {
	if sp.step == spaceMakingAnchor || sp.step == spacePersistingAnchor {
		return // the operation under way ends badly
	}
	t.log(slog.LevelError, "somebody else removed the anchor of the lockspace", slog.String("lockspace", sp.name))
	sp.anchor = 0
	if sp.state == SpaceReady && sp.step == spaceIdle {
		t.makeAnchor(sp)
	}
}

func (t *table) recordAnchor(sp *space) {
	sp.step, sp.recorded = spaceRecordingAnchor, state.Joined
	t.recordSpace(sp, true, func(error) {
		switch {
		case sp.anchor == 0:
			t.makeAnchor(sp)
		case sp.state == SpaceReady:
			sp.step = spaceIdle
		default:
			t.adoptAll(sp)
		}
	})
}

// anchorAdopted decides whether the lockspace is still the one of the records.
func (t *table) anchorAdopted(sp *space, ev dlm.Event) {
	switch {
	case ev.Status.OK() && sp.recorded == state.Leaving:
		t.finishLeave(sp)
	case ev.Status.OK() && sp.recorded == state.Joined:
		if ev.LockID != sp.anchor {
			t.log(slog.LevelWarn, "anchor has another lockid than recorded", slog.String("lockspace", sp.name), slog.Uint64("lkid", uint64(ev.LockID)))
		}
		t.adoptAll(sp)
	case ev.Status.OK(): // made, and not yet written down
		sp.anchor = ev.LockID
		t.recordAnchor(sp)
	case ev.Status != dlm.StatusNotFound && ev.Status != dlm.StatusAgain:
		t.failSpace(sp, &Error{Op: "join", Lockspace: sp.name, Kind: KernelError, Errno: ev.Status.Errno(),
			Text: "the anchor lock could not be adopted: " + ev.Status.String()}, true)
	case sp.recorded == 0:
		t.foreign(sp)
	case sp.recorded == state.Leaving:
		t.finishLeave(sp)
	default:
		if sp.recorded == state.Joined {
			t.log(slog.LevelWarn, "lockspace was left and joined again, recorded locks in it are void", slog.String("lockspace", sp.name), slog.Int("locks", sp.locks))
		}
		t.voidAll(sp, "the lockspace was left and joined again since the lock was taken")
		sp.recorded, sp.anchor = state.Creating, 0
		t.recordSpace(sp, true, func(error) { t.makeAnchor(sp) })
	}
}

// spaceReady ends joining or activation well.
func (t *table) spaceReady(sp *space) {
	sp.state, sp.step, sp.err, sp.backoff = SpaceReady, spaceIdle, nil, 0
	t.log(slog.LevelInfo, "lockspace ready", slog.String("lockspace", sp.name), slog.Int("locks", sp.locks))
	t.countOrphans(sp)
	t.settled(sp)
	t.do(notifyAction{LockspaceChanged{LockspaceInfo: t.spaceInfo(sp)}})
	t.answerSpace(sp, nil)
	if sp.anchor == 0 { // removed while the records were adopted
		t.makeAnchor(sp)
	}
}

func (t *table) answerSpace(sp *space, e *Error) {
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
func (t *table) countOrphans(sp *space) {
	t.do(lookAction{sp: sp, then: func(k looked) {
		if !k.hasOrphans {
			sp.orphans = -1
			return
		}
		sp.orphans = len(t.unknown(sp, k.orphans))
		if sp.orphans > 0 {
			t.log(slog.LevelWarn, "orphans that no record explains; see ListOrphans and Purge", slog.String("lockspace", sp.name), slog.Int("orphans", sp.orphans))
		}
	}})
}

// unknown returns the orphans that are not locks of this instance, and the
// strays that it has adopted by accident.
func (t *table) unknown(sp *space, orphans []dlm.Orphan) []dlm.Orphan {
	var out []dlm.Orphan
	for _, o := range orphans {
		known := o.LockID == sp.anchor && o.Resource == sp.anchorName
		for l := sp.byResource[o.Resource]; l != nil && !known; l = l.nextRes {
			known = l.lockid == o.LockID
		}
		if !known && sp.strays[o.LockID] == nil {
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
func (t *table) failSpace(sp *space, e *Error, retry bool) {
	t.shut(sp)
	t.unusable(sp, e, retry)
}

// shut closes the handle and forgets what was asked for through it.
func (t *table) shut(sp *space) {
	sp.gen++
	if sp.open {
		sp.open = false
		t.do(closeAction{sp})
	}
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
func (t *table) unusable(sp *space, e *Error, retry bool) {
	t.log(slog.LevelError, "lockspace not usable", slog.String("lockspace", sp.name), slog.String("err", e.Text))
	t.settled(sp)
	sp.state, sp.step, sp.err = SpaceFailed, spaceIdle, e
	if retry && (sp.configured || sp.recorded != 0) {
		sp.backoff = min(max(2*sp.backoff, retryFirst), retryMax)
		sp.retryAt = t.now.Add(sp.backoff)
	}
	t.do(notifyAction{LockspaceChanged{LockspaceInfo: t.spaceInfo(sp)}})
	t.answerSpace(sp, e)
	t.forgetSpace(sp)
}

// settled counts a lockspace whose activation has ended.
func (t *table) settled(sp *space) {
	if !sp.settling {
		return
	}
	sp.settling = false
	t.settle--
	if t.settle == 0 {
		t.ready = true
	}
}

func (t *table) retrySpaces() {
	for _, name := range t.spaceNames() {
		sp := t.spaces[name]
		if sp.retryAt.IsZero() || sp.retryAt.After(t.now) {
			continue
		}
		sp.retryAt = time.Time{}
		switch {
		case sp.step != spaceIdle:
		case sp.state == SpaceReady:
			t.makeAnchor(sp)
		default:
			t.open(sp)
		}
	}
}

func (t *table) nextRetry() (at time.Time, ok bool) {
	for _, sp := range t.spaces {
		if !sp.retryAt.IsZero() && (!ok || sp.retryAt.Before(at)) {
			at, ok = sp.retryAt, true
		}
	}
	return at, ok
}

// leave answers a Leave. The locks in it end with the membership, so a forced
// one reports each of them lost.
func (t *table) leave(c *call, force bool) {
	sp := t.spaces[c.space]
	switch {
	case sp == nil:
		t.refuse(c, c.error(NoSuchLockspace, c.space, "", dlm.None, "the lockspace is not joined here"))
		return
	case sp.step != spaceIdle:
		t.refuse(c, c.error(LockspaceInUse, c.space, "", dlm.None, "the lockspace is being joined or left; try again in a moment"))
		return
	case sp.locks > 0 && !force:
		t.refuse(c, c.error(LockspaceInUse, c.space, "", dlm.None, "locks are held in the lockspace; release them, or leave with force and lose them"))
		return
	}
	sp.waiting = append(sp.waiting, c)
	sp.state, sp.step, sp.retryAt = SpaceLeaving, spaceRemoving, time.Time{}
	sp.configured = false
	sp.recorded = state.Leaving
	t.recordSpace(sp, true, func(error) { t.finishLeave(sp) })
}

func (t *table) finishLeave(sp *space) {
	sp.state, sp.step = SpaceLeaving, spaceRemoving
	t.do(removeAction{sp})
}

// removed takes the end of removeAction. Where it failed, the handle stays as
// it is, and removing is tried again.
func (t *table) removed(sp *space, err error) {
	if err != nil && !errors.Is(err, dlm.ErrNoLockspace) {
		t.unusable(sp, spaceError(sp, err), true)
		return
	}
	t.left(sp)
}

// left ends the membership and every lock that was in it.
func (t *table) left(sp *space) {
	t.shut(sp)
	t.closeLocks(sp, "this node left the lockspace")
	sp.recorded, sp.anchor = state.Left, 0
	t.recordSpace(sp, true, func(error) {
		sp.step, sp.recorded = spaceIdle, 0
		t.log(slog.LevelInfo, "lockspace left", slog.String("lockspace", sp.name))
		if sp.configured || slices.ContainsFunc(sp.waiting, func(c *call) bool { return c.op == "join" }) {
			t.open(sp) // the leave was from before the last start
			return
		}
		t.settled(sp)
		t.do(notifyAction{LockspaceChanged{LockspaceInfo: t.spaceInfo(sp), Gone: true}})
		t.answerSpace(sp, nil)
		sp.state, sp.err = SpaceFailed, &Error{Op: "leave", Lockspace: sp.name, Kind: NoSuchLockspace, Text: "the lockspace was left"}
		t.forgetSpace(sp)
	})
}

// forgetSpace drops the entry of a lockspace that nothing is known of any more.
func (t *table) forgetSpace(sp *space) {
	if !sp.configured && sp.recorded == 0 && sp.step == spaceIdle && sp.state == SpaceFailed && sp.locks == 0 {
		delete(t.spaces, sp.name)
	}
}

// closed takes the news that the lockspace went away underneath us.
func (t *table) closed(sp *space) {
	switch {
	case sp.state == SpaceLeaving:
		return // removed will tell
	case sp.step == spaceOpening, sp.step == spaceCreating:
		sp.stillborn = true
		return
	}
	t.shut(sp)
	t.closeLocks(sp, "the lockspace was removed by somebody else")
	t.failSpace(sp, goneError(sp), true)
}

func goneError(sp *space) *Error {
	return &Error{Op: "join", Lockspace: sp.name, Kind: NoSuchLockspace,
		Text: "somebody else removed the lockspace from this node; it is joined again in a moment"}
}

// closeLocks ends every lock of a lockspace that is gone. What is under way
// ends as if the DLM had said so.
func (t *table) closeLocks(sp *space, why string) {
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
func spaceError(sp *space, err error) *Error {
	e := &Error{Op: "join", Lockspace: sp.name, Kind: KernelError, Err: err, Text: err.Error()}
	if errors.Is(err, dlm.ErrClusterUnavailable) || errors.Is(err, dlm.ErrUnsupported) {
		e.Kind = ClusterUnavailable
	}
	if d, ok := errors.AsType[*dlm.Error](err); ok {
		e.Errno = d.Errno
	}
	return e
}

func (t *table) spaceInfo(sp *space) LockspaceInfo {
	i := LockspaceInfo{Name: sp.name, State: sp.state, Locks: sp.locks, Orphans: sp.orphans, Health: sp.health, HasHealth: sp.hasHealth, RawValues: sp.raw}
	if sp.err != nil {
		i.Error = sp.err.Text
	}
	return i
}

// setHealth takes what the health watcher saw.
func (t *table) setHealth(sp *space, h dlm.Health, ok bool) {
	same := sp.hasHealth == ok && sp.health.Stopped == h.Stopped && sp.health.Quorate == h.Quorate &&
		sp.health.Known == h.Known && sp.health.Reason == h.Reason && slices.Equal(sp.health.Members, h.Members)
	sp.health, sp.hasHealth = h, ok
	if same {
		return
	}
	if sp.stopped() {
		t.log(slog.LevelWarn, "lockspace stopped", slog.String("lockspace", sp.name), slog.String("err", h.Reason))
	}
	t.do(notifyAction{LockspaceChanged{LockspaceInfo: t.spaceInfo(sp)}})
}
