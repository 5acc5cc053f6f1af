package table

import (
	"log/slog"
	"slices"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

// Activate takes what the state file said and begins to join it again with
// what the lock manager has. Records of another boot are history: a DLM lock
// does not outlive its node.
func (t *Table) Activate(c state.Contents, sameBoot bool, join []string) {
	t.nextRef = max(t.nextRef, api.Ref(c.NextID), 1)
	if sameBoot {
		for _, s := range c.Spaces {
			sp := t.space(s.Name)
			sp.recorded, sp.anchor = s.Phase, s.AnchorID
			sp.leaveForce = s.Phase == state.Leaving // what could be lost was looked at
		}
	}
	var homeless []*lock
	for _, r := range c.Locks {
		if r.Phase == state.Lost {
			t.loseAgain(r, sameBoot)
			continue
		}
		l := t.load(r)
		if l.sp.recorded == 0 {
			homeless = append(homeless, l)
		}
	}
	why := "no lockspace is recorded for it"
	if !sameBoot {
		why = "the node was booted since the lock was taken"
		if len(homeless) > 0 {
			t.log(slog.LevelWarn, "the state file is from before the last boot, its locks are gone", slog.Int("locks", len(homeless)))
		}
	}
	t.voidEach(homeless, why)
	for _, name := range join {
		t.space(name).configured = true
	}
	for _, sp := range t.spaces {
		if sp.recorded == 0 && sp.locks == 0 && !sp.configured {
			t.deleteSpace(sp)
		}
	}
	t.settle = len(t.spaces)
	t.ready = t.settle == 0
	for _, name := range t.LockspaceNames() {
		sp := t.spaces[name]
		sp.settling = true
		t.open(sp)
	}
}

// load makes the entry of a record.
func (t *Table) load(r state.Lock) *lock {
	l := &lock{
		ref: api.Ref(r.ID), sp: t.space(r.Lockspace), resource: r.Resource, lockid: r.LockID, mode: r.Mode, wanted: dlm.None,
		state: api.Held, phase: r.Phase, token: r.Token, owner: r.Owner, hasOwner: r.HasOwner, label: r.Label,
		lifetime: r.Lifetime, uid: r.UID, pid: r.PID, session: api.RecordedSession(r.Sender, r.BusID), since: r.Since.UnixMicro(),
	}
	if l.phase != state.Held {
		l.state = api.Releasing // to be let go of when it is adopted
	}
	l.granted = l.phase != state.Granted
	if r.OnLost != "" {
		l.onLost = &api.OnLost{Helper: r.OnLost, Data: r.OnLostData}
	}
	l.sp.highToken = max(l.sp.highToken, l.token)
	t.see(l.token)
	t.add(l)
	t.bind(l, process.ID{PID: r.PID, Start: r.PIDStart})
	if l.lifetime == state.Connection && !t.mayLive(l.session) {
		l.bound.dead = true
	}
	return l
}

// mayLive reports whether a session that an earlier process has recorded may still
// be there. One of a front end that is not served any more, of another bus, or of
// a bus that was restarted since, has ended.
func (t *Table) mayLive(s api.Session) bool {
	return slices.ContainsFunc(t.served, func(space api.Session) bool {
		_, ok := s.In(space)
		return ok
	})
}

// adoption joins the records of one resource with the orphans of its name.
type adoption struct {
	sp       *space
	resource string
	left     []*lock    // records without their lock yet
	modes    []dlm.Mode // still to try, the one being tried first
}

// adoptAll adopts every record of the lockspace.
func (t *Table) adoptAll(sp *space) {
	sp.step = spaceAdopting
	for _, o := range t.order {
		if o.l == nil || o.l.sp != sp || o.l.nextRes != nil {
			continue // not here, or not the oldest of its resource
		}
		a := &adoption{sp: sp, resource: o.l.resource}
		for l := o.l; l != nil; l = l.prevRes {
			if l.busy == nil && !l.adopted { // a busy one ended with an earlier handle
				a.left = append(a.left, l)
			}
		}
		if len(a.left) == 0 {
			continue
		}
		a.modes = append(a.modes, a.left[0].mode)
		for _, m := range []dlm.Mode{dlm.EX, dlm.PW, dlm.PR, dlm.CW, dlm.CR, dlm.NL} {
			if m != a.modes[0] {
				a.modes = append(a.modes, m)
			}
		}
		t.adoptNext(a)
	}
	if len(sp.adoptions) == 0 {
		t.adoptedAll(sp)
	}
}

// adoptedAll ends an adoption of all records.
func (t *Table) adoptedAll(sp *space) {
	if e := sp.unadopted; e != nil {
		sp.unadopted = nil
		t.unusable(sp, e, true)
		return
	}
	t.spaceReady(sp)
	t.finishCalls(sp)
}

// adoptNext asks for one more orphan of the resource.
func (t *Table) adoptNext(a *adoption) {
	ck := dlm.Cookie(a.left[0].ref)
	if t.alias[ck] != nil {
		ck = dlm.Cookie(t.ref())
	}
	a.sp.adoptions[ck] = a
	t.do(AdoptAction{Lockspace: a.sp.id, Cookie: ck, Resource: a.resource, Mode: a.modes[0]})
}

// adopted takes the answer of one adoption.
func (t *Table) adopted(sp *space, ev dlm.Event) {
	if then := sp.purges[ev.Cookie]; then != nil {
		delete(sp.purges, ev.Cookie)
		then(ev)
		return
	}
	a := sp.adoptions[ev.Cookie]
	if a == nil {
		return
	}
	delete(sp.adoptions, ev.Cookie)
	switch {
	case ev.Status.OK():
		t.match(a, ev)
	case ev.Status == dlm.StatusAgain && len(a.modes) > 1:
		a.modes = a.modes[1:]
	case ev.Status == dlm.StatusAgain, ev.Status == dlm.StatusNotFound:
		left := a.left
		a.left = nil
		t.voidEach(left, "the lock manager has no such lock")
	default:
		t.log(slog.LevelError, "adoption failed", slog.String("lockspace", sp.name), slog.String("resource", api.Printable(a.resource)), slog.String("err", ev.Status.String()))
		// The others go on: the handle stays open, because closing it would take
		// as long as the kernel likes, and only then could they be adopted anew.
		a.left = nil
		sp.unadopted = &api.Error{Op: "join", Lockspace: sp.name, Kind: api.KernelError, Errno: ev.Status.Errno(),
			Text: "a recorded lock could not be adopted: " + ev.Status.String()}
	}
	if len(a.left) > 0 {
		t.adoptNext(a)
		return
	}
	if len(sp.adoptions) == 0 {
		t.adoptedAll(sp)
	}
}

// match gives an adopted orphan to the record with its lockid. One that no
// record explains is kept as a stray: there is no way to give it back, and as
// a persistent lock it is an orphan again when the process ends.
func (t *Table) match(a *adoption, ev dlm.Event) {
	i := slices.IndexFunc(a.left, func(l *lock) bool { return l.lockid == ev.LockID })
	if i < 0 {
		l := &lock{ref: t.ref(), cookie: ev.Cookie, sp: a.sp, resource: a.resource, lockid: ev.LockID,
			mode: a.modes[0], wanted: dlm.None, state: api.Held, stray: true, probe: true}
		t.add(l)
		a.sp.strays[l.lockid] = l
		t.logLock(slog.LevelWarn, "orphan that no record explains", l)
		return
	}
	l := a.left[i]
	a.left = slices.Delete(a.left, i, i+1)
	t.setCookie(l, ev.Cookie)
	l.adopted = true
	if l.mode != a.modes[0] {
		l.unpublished = renewsToken(l.mode, a.modes[0]) && !a.sp.raw && l.phase == state.Held
		t.logLock(slog.LevelWarn, "adopted in another mode than recorded: a conversion was under way", l, slog.String("granted", a.modes[0].String()))
		l.mode = a.modes[0]
		if !l.unpublished { // else republish writes both
			t.append(true, []state.Change{state.Mark{ID: uint64(l.ref), Mode: l.mode, HasMode: true, Token: l.token}}, nil)
		}
	}
	t.logLock(slog.LevelDebug, "adopted", l)
}

// finishCalls ends what a crash has cut short: releases, and acquires that were
// not marked held. Nobody was told that they have one of those, and of an acquire
// of several locks there may be only some. It also ends the locks whose
// connection or process ended meanwhile.
func (t *Table) finishCalls(sp *space) {
	var rest []*lock
	t.republish(sp)
	t.finishEnded(sp)
	for _, o := range t.order {
		if l := o.l; l != nil && l.sp == sp && l.busy == nil && l.phase != state.Held {
			rest = append(rest, l)
		}
	}
	if len(rest) > 0 {
		for _, l := range rest {
			what := "finishing an unfinished release"
			if l.phase == state.Granted {
				what = "undoing an unfinished acquire"
			}
			t.logLock(slog.LevelInfo, what, l)
		}
		t.release(&call{kind: callRelease, op: "release", heapIdx: -1, answered: true}, rest)
	}
}

// finishEnded ends the locks whose connection or process has ended while their
// lockspace could not be used.
func (t *Table) finishEnded(sp *space) {
	var ended []*lock
	for _, o := range t.order {
		switch l := o.l; {
		case l == nil || l.sp != sp || l.bound == nil || !l.bound.dead:
		case l.busy != nil:
			t.park(t.endCall(l), l)
		case l.phase == state.Held:
			ended = append(ended, l)
		}
	}
	t.releaseEnded(ended, "the connection or process has ended while the lockspace could not be used")
}

// republish gives the locks whose conversion upward a crash has cut short a new
// token: the old one may be smaller than what others were given since. In an
// exclusive mode it would go into the value block when the lock is let go of; in a
// shared one storage would refuse the reader.
func (t *Table) republish(sp *space) {
	for _, o := range t.order {
		l := o.l
		if l == nil || l.sp != sp || !l.unpublished {
			continue
		}
		l.unpublished = false
		if l.busy != nil {
			continue
		}
		c := &call{kind: callConvert, op: "convert", heapIdx: -1, answered: true, want: []api.Want{{Lockspace: sp.name, Resource: l.resource, Mode: l.mode}}, locks: []*lock{l},
			from: l.mode, written: l.mode, token: l.token, stage: stageProbing}
		l.busy, l.state, l.wanted = c, api.Converting, l.mode
		t.readValue(sp, l.resource, func(ev dlm.Event) {
			if l.mode == dlm.None {
				t.endConvert(c, l)
				return
			}
			if l.mode < dlm.PW {
				l.token = max(l.token, t.token(sp, l.mode, ev))
				t.recordMode(c, l)
				return
			}
			l.token = t.token(sp, l.mode, ev)
			t.publish(c, l)
		})
	}
}

// voidAll ends every record of a lockspace that turned out to have no locks.
func (t *Table) voidAll(sp *space, why string) {
	var in []*lock
	for _, head := range sp.byResource {
		for l := head; l != nil; l = l.nextRes {
			if l.busy == nil {
				in = append(in, l)
			}
		}
	}
	slices.SortFunc(in, byRef)
	t.voidEach(in, why)
}

// voidEach ends records without a lock. One that was never marked held, or was
// marked releasing, belongs to an unfinished call and is dropped; any other
// was lost, which is said aloud.
func (t *Table) voidEach(in []*lock, why string) {
	var lost []*lock
	for _, l := range in {
		if l.phase == state.Held {
			lost = append(lost, l)
			continue
		}
		t.logLock(slog.LevelInfo, "record of an unfinished call dropped", l)
		t.append(true, []state.Change{state.Mark{ID: uint64(l.ref), Phase: state.Gone}}, nil)
		t.remove(l)
	}
	t.loseAll(lost, why)
}

// lostKept is how many lost locks at least Inspect can still tell of.
const lostKept = 1000

// lose ends a lock that is not there any more, and says so.
func (t *Table) lose(l *lock, why string) { t.loseAll([]*lock{l}, why) }

func (t *Table) loseAll(in []*lock, why string) {
	if len(in) == 0 {
		return
	}
	changes := make([]state.Change, len(in))
	for i, l := range in {
		changes[i] = t.lostChange(l, why)
	}
	t.append(true, changes, nil)
	for _, l := range in {
		lost := api.Lost{LockInfo: l.info(), Reason: why, At: t.now}
		t.logLock(slog.LevelError, "lock lost", l, slog.String("err", why))
		t.tellLost(lost)
		t.runLost(l, lost)
		t.remove(l)
	}
}

func (l *lock) info() api.LockInfo {
	return api.LockInfo{
		Ref: l.ref, Lockspace: l.sp.name, Resource: l.resource, LockID: l.lockid, Mode: l.mode, Wanted: l.wanted,
		State: l.state, Token: l.token, Owner: l.owner, HasOwner: l.hasOwner, Label: l.label, Lifetime: l.lifetime,
		UID: l.uid, PID: l.pid, Session: l.session, Since: time.UnixMicro(l.since), OnLost: l.onLost.Name(),
	}
}
