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
	t.reserve(c.Locks)
	var homeless []*lock
	sessions := recordedSessions{}
	for i := range c.Locks {
		r := &c.Locks[i]
		if r.Phase == state.Lost {
			t.loseAgain(*r, sameBoot)
			continue
		}
		l := t.load(r, sessions.of(r))
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

// reserve makes room for the locks of so many records. To grow step by step would copy them
// many times.
func (t *Table) reserve(records []state.Lock) {
	in := map[string]int{}
	owners, last := 0, ""
	for i := range records {
		r := &records[i]
		if r.Phase == state.Lost {
			continue // it is no lock any more
		}
		in[r.Lockspace]++
		if r.HasOwner && (r.Owner != last || owners == 0) {
			owners, last = owners+1, r.Owner
		}
	}
	for name, n := range in {
		if sp := t.space(name); len(sp.byResource) == 0 {
			sp.byResource = make(map[string]*lock, n)
		}
	}
	t.locks.reserve(len(records), owners)
}

// recordedSessions has the names of the sessions of records. With it the locks of a session share
// the memory of its name.
type recordedSessions map[recordedSession]api.Session

type recordedSession struct{ sender, busID string }

// of returns the session of a record.
func (x recordedSessions) of(r *state.Lock) api.Session {
	if r.SessionBus == "" {
		return api.RecordedSession(r.Session, "") // needs no memory of its own
	}
	k := recordedSession{r.Session, r.SessionBus}
	s, ok := x[k]
	if !ok {
		s = api.RecordedSession(r.Session, r.SessionBus)
		x[k] = s
	}
	return s
}

// load makes the entry of a record, which is of the given session.
func (t *Table) load(r *state.Lock, session api.Session) *lock {
	l := &lock{
		ref: api.Ref(r.ID), sp: t.space(r.Lockspace), resource: r.Resource, lockid: r.LockID, mode: r.Mode, wanted: dlm.None,
		blocked: dlm.None, state: lockRecorded, phase: r.Phase, token: r.Token, since: r.Since.UnixMicro(),
		client: client{owner: r.Owner, hasOwner: r.HasOwner, label: r.Label, lifetime: r.Lifetime, uid: r.UID, pid: r.PID,
			session: session},
	}
	l.told = l.phase != state.Granted
	if r.OnLost != "" {
		l.more().onLost = &api.OnLost{Helper: r.OnLost, Data: r.OnLostData}
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
	adoptions map[dlm.Cookie]*adoption // in flight, one at a time for each resource
	// The oldest lock of each resource whose adoption is still to begin. The pointer saves the
	// search for the resource.
	oldest []*lock
	failed *api.Error // why a record could not be adopted this time
	// stronger are the locks that were adopted in a mode that gives them a new token,
	// which they do not have yet.
	stronger []*lock
}

// maxAdoptions is how many adoptions of a lockspace are in flight at a time. All of them at
// once would take hundreds of bytes for each lock, in actions and events, for as long as
// the activation lasts; so many keep an engine busy.
const maxAdoptions = 512

// adoption joins the records of one resource with the orphans of its name.
type adoption struct {
	sp       *lockspace
	resource string
	left     []*lock  // records without their lock yet
	mode     dlm.Mode // what is being tried
	tried    modeSet  // with mode
}

// modeSet has a bit for each mode.
type modeSet uint8

func (s *modeSet) add(m dlm.Mode)     { *s |= 1 << m }
func (s modeSet) has(m dlm.Mode) bool { return s&(1<<m) != 0 }

// adoptAll begins to adopt every record of the lockspace, beginning with the oldest.
func (x *adopting) adoptAll() {
	sp := x.sp
	sp.state = spaceAdopting
	x.oldest = make([]*lock, 0, len(sp.byResource))
	for l := range sp.t.locks.all {
		if l.sp == sp && l.nextRes == nil {
			x.oldest = append(x.oldest, l)
		}
	}
	x.goOn()
}

// goOn adopts the records of further resources, as many as may be in flight. The adoption
// ends when nothing is left to do.
func (x *adopting) goOn() {
	n := 0
	for ; n < len(x.oldest) && len(x.adoptions) < maxAdoptions; n++ {
		x.adopt(x.oldest[n])
	}
	if x.oldest = x.oldest[n:]; len(x.adoptions) == 0 {
		x.oldest = nil
		x.end()
	}
}

// adopt begins to adopt the records of a resource, whose oldest lock was l when the adoption of the
// lockspace began.
func (x *adopting) adopt(l *lock) {
	a := &adoption{sp: x.sp, resource: l.resource}
	if !x.sp.t.locks.has(l) { // its call has ended in the meantime
		l = x.sp.byResource[a.resource]
		for l != nil && l.nextRes != nil {
			l = l.nextRes
		}
	}
	for ; l != nil; l = l.prevRes {
		if l.state == lockRecorded { // one with a call under way ended with an earlier handle
			a.left = append(a.left, l)
		}
	}
	if len(a.left) > 0 {
		a.try(a.left[0].mode)
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

// try asks for one more orphan of the resource, in a mode.
func (a *adoption) try(m dlm.Mode) {
	t := a.sp.t
	a.mode = m
	a.tried.add(m)
	ck := dlm.Cookie(a.left[0].ref)
	if t.locks.alias[ck] != nil {
		ck = dlm.Cookie(t.locks.nextRef())
	}
	a.sp.records.adoptions[ck] = a
	t.do(AdoptAction{Lockspace: a.sp.id, Cookie: ck, Resource: a.resource, Mode: m})
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
		a.try(a.mode)
		return
	}
	// Going on in steps costs less than finding the place again for each resource.
	if len(sp.records.adoptions) <= maxAdoptions/2 {
		sp.records.goOn()
	}
}

// chooseMode chooses the next mode to try: what was recorded comes first, then the strongest.
// It returns false if every mode was tried.
func (a *adoption) chooseMode() bool {
	for _, m := range [...]dlm.Mode{dlm.EX, dlm.PW, dlm.PR, dlm.CW, dlm.CR, dlm.NL} {
		if !a.tried.has(m) {
			a.mode = m
			return true
		}
	}
	return false
}

// answered takes what the lock manager says to one adoption. The resource is done when
// no record is left without its lock.
func (a *adoption) answered(ev dlm.Event) {
	sp, t := a.sp, a.sp.t
	switch {
	case ev.Status.OK():
		a.match(ev)
	case ev.Status == dlm.StatusAgain && a.chooseMode():
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
		l := sp.orphans.keep(ev.Cookie, a.resource, ev.LockID, a.mode)
		t.logLock(slog.LevelWarn, "orphan that no record explains", l)
		return
	}
	l := a.left[i]
	a.left = slices.Delete(a.left, i, i+1)
	t.locks.setCookie(l, ev.Cookie)
	if l.state = lockHeld; l.phase != state.Held {
		l.state = lockReleasing // as soon as all are adopted
	}
	if l.mode != a.mode {
		old := renewsToken(l.mode, a.mode) && !sp.raw && l.phase == state.Held
		t.logLock(slog.LevelWarn, "adopted in another mode than recorded: a conversion was under way", l,
			slog.String("granted", a.mode.String()))
		l.mode = a.mode
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
		if t.locks.has(l) && l.busy == nil {
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
