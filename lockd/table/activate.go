package table

import (
	"log/slog"
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

// Activate takes the contents of the state file and begins to match them with the locks
// that the lock manager has. Records of another boot are history, because a DLM lock does
// not outlive its node. The service is ready when each lockspace is, or has failed.
func (t *Table) Activate(c state.Contents, sameBoot bool, join []string) {
	t.locks.last = max(t.locks.last, api.Ref(max(c.NextID, 1))-1)
	if sameBoot {
		for _, s := range c.Spaces {
			sp := t.space(s.Name)
			sp.recorded, sp.anchor.id = s.Phase, s.AnchorID
			sp.leave.force = s.Phase == state.Leaving // what could be lost was looked at
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
			t.log(slog.LevelWarn, msgBootedSince.String(), slog.Int("locks", len(homeless)))
		}
	}
	t.voidEach(homeless, why)
	for _, name := range join {
		t.space(name).configured = true
	}
	for _, sp := range t.spaces.byName {
		if sp.recorded == 0 && sp.locks == 0 && !sp.configured {
			sp.erase()
		}
	}
	t.ready = len(t.spaces.byName) == 0
	for _, sp := range t.spaces.byName {
		t.spaces.settling[sp] = struct{}{}
	}
	for _, name := range t.LockspaceNames() {
		t.spaces.byName[name].join()
	}
}

// load makes the entry of a record.
func (t *Table) load(r state.Lock) *lock {
	l := &lock{
		ref: api.Ref(r.ID), sp: t.space(r.Lockspace), resource: r.Resource, lockid: r.LockID, mode: r.Mode, wanted: dlm.None,
		blocked: dlm.None, state: lockRecorded, phase: r.Phase, token: r.Token, since: r.Since.UnixMicro(),
		client: client{owner: r.Owner, hasOwner: r.HasOwner, label: r.Label, lifetime: r.Lifetime, uid: r.UID, pid: r.PID,
			session: api.RecordedSession(r.Session, r.SessionBus)},
	}
	l.told = l.phase != state.Granted
	if r.OnLost != "" {
		l.onLost = &api.OnLost{Helper: r.OnLost, Data: r.OnLostData}
	}
	l.sp.highToken = max(l.sp.highToken, l.token)
	t.clock.see(l.token)
	t.locks.add(l)
	l.bind(process.ID{PID: r.PID, Start: r.PIDStart})
	if l.lifetime == state.Connection && !t.mayLive(l.session) {
		l.bound.dead = true
	}
	return l
}

// mayLive reports whether a session that an earlier process has recorded may still
// be there. One of a front end that is not served any more, of another bus, or of
// a bus that was restarted since, has ended, unless it was kept.
func (t *Table) mayLive(s api.Session) bool {
	if _, kept := t.conf.Kept[s]; kept {
		return true
	}
	return slices.ContainsFunc(t.conf.Sessions, func(space api.Session) bool {
		_, ok := s.In(space)
		return ok
	})
}

// adopting is the adoption of the recorded locks of a lockspace.
type adopting struct {
	sp        *lockspace
	adoptions map[dlm.Cookie]*adoption // one at a time for each resource
	failed    *api.Error               // why a record could not be adopted this time
	// stronger are the locks that were adopted in a mode that gives them a new token,
	// which they do not have yet.
	stronger []*lock
}

// adoption joins the records of one resource with the orphans of its name.
type adoption struct {
	sp       *lockspace
	resource string
	left     []*lock    // records without their lock yet
	modes    []dlm.Mode // still to try, the one being tried first
}

// adoptAll adopts every record of the lockspace.
func (x *adopting) adoptAll() {
	sp := x.sp
	sp.state = spaceAdopting
	for oldest := range sp.t.locks.all {
		if oldest.sp != sp || oldest.nextRes != nil {
			continue // not here, or not the oldest of its resource
		}
		a := &adoption{sp: sp, resource: oldest.resource}
		for l := oldest; l != nil; l = l.prevRes {
			if l.state == lockRecorded { // one with a call under way ended with an earlier handle
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
		a.next()
	}
	if len(x.adoptions) == 0 {
		x.end()
	}
}

// end ends an adoption of all records.
func (x *adopting) end() {
	if e := x.failed; e != nil {
		x.failed = nil
		x.sp.unusable(e, true)
		return
	}
	x.sp.becomeReady()
	x.sp.finishCalls()
}

// next asks for one more orphan of the resource.
func (a *adoption) next() {
	t := a.sp.t
	ck := dlm.Cookie(a.left[0].ref)
	if t.locks.alias[ck] != nil {
		ck = dlm.Cookie(t.locks.nextRef())
	}
	a.sp.records.adoptions[ck] = a
	t.do(AdoptAction{Lockspace: a.sp.id, Cookie: ck, Resource: a.resource, Mode: a.modes[0]})
}

// adopted takes the answer of one adoption.
func (sp *lockspace) adopted(ev dlm.Event) {
	if to := sp.orphans.adoptions[ev.Cookie]; to != nil {
		delete(sp.orphans.adoptions, ev.Cookie)
		to.orphanAdopted(ev)
		return
	}
	a := sp.records.adoptions[ev.Cookie]
	if a == nil {
		return
	}
	delete(sp.records.adoptions, ev.Cookie)
	if a.answered(ev); len(a.left) > 0 {
		a.next()
		return
	}
	if len(sp.records.adoptions) == 0 {
		sp.records.end()
	}
}

// answered takes what the lock manager says to one adoption. The resource is done when
// no record is left without its lock.
func (a *adoption) answered(ev dlm.Event) {
	sp, t := a.sp, a.sp.t
	switch {
	case ev.Status.OK():
		a.match(ev)
	case ev.Status == dlm.StatusAgain && len(a.modes) > 1:
		a.modes = a.modes[1:]
	case ev.Status == dlm.StatusAgain, ev.Status == dlm.StatusNotFound:
		left := a.left
		a.left = nil
		t.voidEach(left, "the lock manager has no such lock")
	default:
		t.log(slog.LevelError, "adoption failed", slog.String("lockspace", sp.name),
			slog.String("resource", api.Printable(a.resource)), slog.String("err", ev.Status.String()))
		// The others go on: the handle stays open, because closing it would take
		// as long as the kernel likes, and only then could they be adopted anew.
		a.left = nil
		sp.records.failed = &api.Error{Op: "join", Lockspace: sp.name, Kind: api.KernelError, Errno: ev.Status.Errno(),
			Text: "a recorded lock could not be adopted: " + ev.Status.String()}
	}
}

// match gives an adopted orphan to the record with its lockid. One that no
// record explains is kept (see unknownOrphan).
func (a *adoption) match(ev dlm.Event) {
	sp, t := a.sp, a.sp.t
	i := slices.IndexFunc(a.left, func(l *lock) bool { return l.lockid == ev.LockID })
	if i < 0 {
		l := sp.orphans.keep(ev.Cookie, a.resource, ev.LockID, a.modes[0])
		t.logLock(slog.LevelWarn, "orphan that no record explains", l)
		return
	}
	l := a.left[i]
	a.left = slices.Delete(a.left, i, i+1)
	t.locks.setCookie(l, ev.Cookie)
	if l.state = lockHeld; l.phase != state.Held {
		l.state = lockReleasing // as soon as all are adopted
	}
	if l.mode != a.modes[0] {
		old := renewsToken(l.mode, a.modes[0]) && !sp.raw && l.phase == state.Held
		t.logLock(slog.LevelWarn, "adopted in another mode than recorded: a conversion was under way", l,
			slog.String("granted", a.modes[0].String()))
		l.mode = a.modes[0]
		if old { // finishCalls writes both
			sp.records.stronger = append(sp.records.stronger, l)
		} else {
			t.append(true, []state.Change{state.Mark{ID: uint64(l.ref), Mode: l.mode, HasMode: true, Token: l.token}}, nil)
		}
	}
	t.logLock(slog.LevelDebug, "adopted", l)
}

// finishCalls ends what a crash has cut short: it finishes releases, and undoes acquires
// that were not marked held. No client has received the grant of one of those, and of an
// acquire of several locks only some may be there. It also releases the locks whose session
// or process has ended meanwhile, and gives new tokens to those whose conversion upward was
// cut short.
func (sp *lockspace) finishCalls() {
	t := sp.t
	stronger := sp.records.stronger
	sp.records.stronger = nil
	for _, l := range stronger {
		if t.locks.byRef[l.ref] == l && l.busy == nil {
			l.renew()
		}
	}
	sp.finishEnded()
	var rest []*lock
	for l := range t.locks.all {
		if l.sp == sp && l.busy == nil && l.phase != state.Held {
			rest = append(rest, l)
		}
	}
	for _, l := range rest {
		what := "finishing an unfinished release"
		if l.phase == state.Granted {
			what = "undoing an unfinished acquire"
		}
		t.logLock(slog.LevelInfo, what, l)
	}
	t.releaseAll(rest, releaseOp{})
}

// finishEnded releases the locks whose session or process has ended while their
// lockspace could not be used.
func (sp *lockspace) finishEnded() {
	var ended []*lock
	for l := range sp.t.locks.all {
		switch {
		case l.sp != sp || l.bound == nil || !l.bound.dead:
		case l.busy != nil:
			l.endOf().follow(l.busy, l)
		case l.phase == state.Held:
			ended = append(ended, l)
		}
	}
	sp.t.releaseEnded(ended, "the connection or process has ended while the lockspace could not be used")
}

// voidAll ends every record of a lockspace in which this instance has no locks any more.
func (sp *lockspace) voidAll(why string) {
	var in []*lock
	for _, head := range sp.byResource {
		for l := head; l != nil; l = l.nextRes {
			if l.busy == nil {
				in = append(in, l)
			}
		}
	}
	slices.SortFunc(in, byRef)
	sp.t.voidEach(in, why)
}

// voidEach ends records whose lock does not exist. A record that was never marked held, or
// is marked releasing, belongs to an unfinished call and is dropped. Any other lock is lost,
// and is reported as such.
func (t *Table) voidEach(in []*lock, why string) {
	var lost []*lock
	for _, l := range in {
		if l.phase == state.Held {
			lost = append(lost, l)
			continue
		}
		t.logLock(slog.LevelInfo, "record of an unfinished call dropped", l)
		t.append(true, []state.Change{state.Mark{ID: uint64(l.ref), Phase: state.Gone}}, nil)
		l.remove()
	}
	t.loseAll(lost, why)
}
