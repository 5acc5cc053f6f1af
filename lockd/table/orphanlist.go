package table

import (
	"cmp"
	"log/slog"
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
)

// orphans are the orphans of a lockspace that no record explains. The service lists them,
// and touches them only for a Purge or an AdoptOrphan.
type orphans struct {
	sp *lockspace
	// unexplained is how many there were at the last look; -1: not known.
	unexplained int
	// mapLost: the lockspace was taken over from an instance whose state file is lost, so
	// its orphans are this service's, and no record explains them.
	mapLost bool
	// adopted are those that were adopted, by lockid: for a Purge or an AdoptOrphan, or
	// because they have the name and mode of one that was meant. There is no way to give
	// a lock back; it is an orphan again when the process ends.
	adopted map[dlm.LockID]*lock
	// adoptions are under way, for a Purge, an AdoptOrphan or a takeover.
	adoptions map[dlm.Cookie]adopter
}

// adopter gets the outcome of the adoption of an orphan that no record explains.
type adopter interface{ orphanAdopted(ev dlm.Event) }

func newOrphans(sp *lockspace) orphans {
	return orphans{sp: sp, unexplained: -1, adopted: map[dlm.LockID]*lock{}, adoptions: map[dlm.Cookie]adopter{}}
}

// look counts the orphans.
func (x *orphans) look() { x.sp.t.look(x.sp, Question{}, x) }

// looked takes what a look at the orphans has found.
func (x *orphans) looked(k Looked) {
	if !k.HasOrphans {
		x.unexplained = -1
		return
	}
	x.unexplained = len(x.among(k.Orphans))
	if x.unexplained > 0 {
		x.sp.t.log(slog.LevelWarn, msgOrphansFound.String(), slog.String("lockspace", x.sp.name),
			slog.Int("orphans", x.unexplained))
	}
}

// among returns those of the orphans that are not locks of this instance, and those
// that it has adopted.
func (x *orphans) among(found []dlm.Orphan) []dlm.Orphan {
	sp := x.sp
	var out []dlm.Orphan
	for _, o := range found {
		known := o.LockID == sp.anchor.id && o.Resource == sp.anchor.name
		for l := sp.byResource[o.Resource]; l != nil && !known; l = l.nextRes {
			known = l.lockid == o.LockID
		}
		if !known && x.adopted[o.LockID] == nil && !isAnchor(o.Resource) {
			out = append(out, o)
		}
	}
	for _, l := range x.adopted {
		out = append(out, dlm.Orphan{LockID: l.lockid, Resource: l.resource, Mode: l.mode})
	}
	slices.SortFunc(out, func(a, b dlm.Orphan) int { return cmp.Compare(a.LockID, b.LockID) })
	return out
}

// adopt asks for an orphan of a name and mode.
func (x *orphans) adopt(ck dlm.Cookie, resource string, m dlm.Mode, to adopter) {
	x.adoptions[ck] = to
	x.sp.t.do(AdoptAction{Lockspace: x.sp.id, Cookie: ck, Resource: resource, Mode: m})
}

// keep makes the entry of an orphan that was adopted.
func (x *orphans) keep(ck dlm.Cookie, resource string, id dlm.LockID, m dlm.Mode) *lock {
	t := x.sp.t
	l := &lock{ref: t.locks.nextRef(), sp: x.sp, resource: resource, lockid: id, mode: m, wanted: dlm.None,
		blocked: dlm.None, kind: unknownOrphan, state: lockHeld}
	l.knownAs(ck)
	t.locks.add(l)
	x.adopted[id] = l
	return l
}

// forget forgets the orphans of a handle that is closed. Adoptions in flight end with
// StatusGone.
func (x *orphans) forget() {
	for _, l := range x.adopted {
		l.remove()
	}
	for ck, to := range x.adoptions {
		delete(x.adoptions, ck)
		to.orphanAdopted(dlm.Event{Kind: dlm.Completed, Op: dlm.OpAdopt, Cookie: ck, Status: dlm.StatusGone, Mode: dlm.None})
	}
}

// orphanTaker wants one particular orphan; it gets nil if that is gone.
type orphanTaker interface{ orphanTaken(l *lock) }

// take adopts orphans of the name and mode of o until o itself is there; the others are
// kept as well.
func (x *orphans) take(o dlm.Orphan, to orphanTaker) {
	if l := x.adopted[o.LockID]; l != nil || !x.sp.open() {
		to.orphanTaken(l)
		return
	}
	ck := dlm.Cookie(x.sp.t.locks.nextRef())
	x.adopt(ck, o.Resource, o.Mode, orphanSearch{x, o, ck, to})
}

// orphanSearch is a search for one orphan that is under way.
type orphanSearch struct {
	in *orphans
	// The one that is wanted, by its lockid.
	orphan dlm.Orphan
	// Of the adoption in flight.
	cookie dlm.Cookie
	to     orphanTaker
}

// orphanAdopted keeps what was adopted, which the lock manager chose among those of one name
// and mode, and goes on if it is another one.
func (s orphanSearch) orphanAdopted(ev dlm.Event) {
	if !ev.Status.OK() {
		s.to.orphanTaken(nil)
		return
	}
	s.in.keep(s.cookie, s.orphan.Resource, ev.LockID, s.orphan.Mode)
	s.in.take(s.orphan, s.to) // it may be another one of the name and mode
}
