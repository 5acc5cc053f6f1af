package table

import (
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// selection is a way to say which locks a release means.
type selection interface {
	// names are the lockspace and the resource for errors.
	names() (lockspace, resource string)
	// resources are those that it may mean; all is for whatever ones.
	resources() (in []resourceKey, all bool)
	// pick returns the locks. Where the release has to follow another call, that
	// is noted in the call, and what is returned does not count.
	pick(o *releaseOp) ([]*lock, *api.Error)
}

// theseLocks are locks that the table itself has found.
type theseLocks struct{}

func (theseLocks) names() (lockspace, resource string)   { return "", "" }
func (theseLocks) resources() ([]resourceKey, bool)      { return nil, false }
func (theseLocks) pick(*releaseOp) ([]*lock, *api.Error) { return nil, nil }

// oneLock is exactly one lock of a resource.
type oneLock struct {
	lockspace, resource string
	sel                 api.Selector
}

func (m oneLock) names() (string, string) { return m.lockspace, m.resource }
func (m oneLock) resources() ([]resourceKey, bool) {
	return []resourceKey{{m.lockspace, m.resource}}, false
}

// pick finds the one lock. That it is ambiguous, or not there, is an error here and nowhere
// else.
func (m oneLock) pick(o *releaseOp) ([]*lock, *api.Error) {
	if e := o.checkName(m.lockspace, m.resource); e != nil {
		return nil, e
	}
	l, e := o.findLock(m.lockspace, m.resource, m.sel, dlm.None)
	return []*lock{l}, e
}

// locksOfOwner is everything of one owner, in one lockspace or, with "", in all.
// None is fine. Where a lockspace can't be used now, what is in the others is
// released all the same, and the call fails.
type locksOfOwner struct{ lockspace, owner string }

func (m locksOfOwner) names() (string, string)          { return m.lockspace, "" }
func (m locksOfOwner) resources() ([]resourceKey, bool) { return nil, true }

// pick finds the locks by the owner, of the caller's user or, for root, of every user.
func (m locksOfOwner) pick(o *releaseOp) ([]*lock, *api.Error) {
	t := o.t
	if m.lockspace != "" {
		if e := o.checkLockspaceName(m.lockspace); e != nil {
			return nil, e
		}
		if t.spaces.byName[m.lockspace] == nil {
			return nil, o.errorOf(api.NoSuchLockspace, m.lockspace, "", dlm.None,
				"the lockspace is not joined here").WithHint(api.HintListLockspaces)
		}
	}
	if m.owner == "" {
		return nil, o.errorOf(api.InvalidArgs, m.lockspace, "", dlm.None, "the owner is empty").
			WithArgument(api.ArgOwner).WithHint(api.HintReleaseOne)
	}
	uids := []uint32{o.caller.UID}
	if o.caller.Privileged {
		uids = uids[:0]
		for uid := range t.locks.perUID {
			uids = append(uids, uid)
		}
		slices.Sort(uids)
	}
	var locks []*lock
	for _, uid := range uids {
		for l := range t.locks.ownersLocks(uid, m.owner) {
			switch {
			case m.lockspace != "" && l.sp.name != m.lockspace, !o.isThere(l):
			case !l.sp.ready():
				_, e := o.usable(l.sp.name, l.resource)
				o.fail(e)
			case o.followOccupant(l):
				return nil, nil
			default:
				locks = append(locks, l)
			}
		}
	}
	return locks, nil
}

// isThere reports whether a release of many locks may mean l: not if it was asked
// for later, or at the same time by somebody else.
func (o *releaseOp) isThere(l *lock) bool {
	return l.asked <= o.seq && (l.public() != api.Acquiring || o.isBusyWith(l))
}

// followOccupant has the release follow the call that has to be done with l before
// it, if there is one.
func (o *releaseOp) followOccupant(l *lock) bool {
	p := o.t.calls.occupant(&o.call, l)
	if p == nil {
		return false
	}
	o.err = nil // it will be looked at again
	o.follow(p, l)
	return true
}

// locksOfMany is what one owner holds of some resources, and of any resource with
// some labels. What the owner does not hold is no error.
type locksOfMany struct {
	// Of these resources whatever the owner holds; the modes don't count.
	resourcesOf []api.Want
	owner       string
	// And every lock of the owner with one of these labels.
	labels []string
}

// names are those of the first resource, for errors about all of them.
func (m locksOfMany) names() (lockspace, resource string) {
	if len(m.resourcesOf) > 0 {
		return m.resourcesOf[0].Lockspace, m.resourcesOf[0].Resource
	}
	return "", ""
}

func (m locksOfMany) resources() ([]resourceKey, bool) { return nil, true }

// pick gathers the locks of the resources and of the labels, each once.
func (m locksOfMany) pick(o *releaseOp) ([]*lock, *api.Error) {
	t := o.t
	if m.owner == "" {
		return nil, o.errorOf(api.InvalidArgs, "", "", dlm.None, "the owner is empty").
			WithArgument(api.ArgOwner).WithHint(api.HintReleaseOne)
	}
	var found []*lock
	for _, w := range m.resourcesOf {
		if e := o.checkName(w.Lockspace, w.Resource); e != nil {
			return nil, e
		}
		sp := t.spaces.byName[w.Lockspace]
		if sp == nil || !sp.ready() {
			_, e := o.usable(w.Lockspace, w.Resource)
			o.fail(e)
			continue
		}
		if l := t.locks.findOwned(sp, w.Resource, o.caller.UID, m.owner); l != nil {
			found = append(found, l)
		}
	}
	found = append(found, m.labelled(o)...)
	var locks []*lock
	seen := make(map[*lock]bool, len(found))
	for _, l := range found {
		switch {
		case seen[l], !o.isThere(l):
		case o.followOccupant(l):
			return nil, nil
		default:
			locks, seen[l] = append(locks, l), true
		}
	}
	return locks, nil
}

// labelled are the locks of the owner that have one of the labels.
func (m locksOfMany) labelled(o *releaseOp) (locks []*lock) {
	if len(m.labels) == 0 {
		return nil
	}
	labels := make(map[string]bool, len(m.labels))
	for _, label := range m.labels {
		labels[label] = true
	}
	for l := range o.t.locks.ownersLocks(o.caller.UID, m.owner) {
		if labels[l.label] && l.sp.ready() {
			locks = append(locks, l)
		}
	}
	return locks
}

// isBusyWith reports whether something is under way with the lock that the
// session of c asked for, and did not wait for before going on.
func (c *call) isBusyWith(l *lock) bool {
	return l.busy != nil && l.busy.caller.Session == c.caller.Session && l.uid == c.caller.UID
}

// findLock finds the one lock that a convert or release means, among those that
// were there when the call came in. The caller's own locks come first; those of
// others only where there is none. If the call has to follow another one first,
// that is noted in it, and it returns nothing.
func (c *call) findLock(lockspace, resource string, sel api.Selector, mode dlm.Mode) (*lock, *api.Error) {
	t := c.t
	sp := t.spaces.byName[lockspace]
	if sp == nil || !sp.ready() {
		_, e := c.usable(lockspace, resource)
		return nil, e
	}
	if l := c.exact(sp, resource, sel); l != nil {
		return c.unlessBusy(l)
	}
	var own, others []*lock
	var unsettled *lock // by an earlier call of the same session
	for l := sp.byResource[resource]; l != nil; l = l.nextRes {
		switch is := l.public(); {
		case !matches(sel, l) || l.asked > c.seq:
		case (is == api.Acquiring || is == api.Releasing) && c.isBusyWith(l):
			unsettled = l
		case is == api.Acquiring:
		case l.uid == c.caller.UID:
			own = append(own, l)
		default:
			others = append(others, l)
		}
	}
	if unsettled != nil {
		c.follow(unsettled.busy, unsettled)
		return nil, nil
	}
	if len(own) == 0 && c.caller.Privileged {
		own, others = others, nil
	}
	if len(own) == 1 {
		return c.unlessBusy(own[0])
	}
	return nil, c.notOne(lockspace, resource, mode, own, len(others) > 0)
}

// notOne returns the error of a call that does not select exactly one lock: several match, or only
// those of other users, or none.
func (c *call) notOne(lockspace, resource string, mode dlm.Mode, own []*lock, others bool) *api.Error {
	switch {
	case len(own) > 1:
		e := c.errorOf(api.Ambiguous, lockspace, resource, mode, "several locks match").WithHint(api.HintOwnerOrLockID)
		slices.SortFunc(own, byRef)
		e.Candidates = infos(own[:min(len(own), maxCandidates)])
		return e
	case others:
		return c.errorOf(api.AccessDenied, lockspace, resource, mode, "the lock belongs to another user")
	}
	return c.errorOf(api.NotHeld, lockspace, resource, mode, "no lock here matches").WithHint(api.HintListLocks)
}

// maxCandidates is how many locks an Ambiguous error names.
const maxCandidates = 32

// exact returns the lock that a selector with a number or an owner means, so
// that the cost of most calls does not grow with the number of holders.
func (c *call) exact(sp *lockspace, resource string, sel api.Selector) *lock {
	var l *lock
	switch {
	case sel.Ref != 0:
		l = c.t.locks.byRef(sel.Ref)
	case sel.HasOwner:
		l = c.t.locks.findOwned(sp, resource, c.caller.UID, sel.Owner)
	}
	if l == nil || l.sp != sp || l.resource != resource || l.kind != clientLock || l.public() == api.Acquiring ||
		!matches(sel, l) || l.asked > c.seq || l.uid != c.caller.UID && !c.caller.Privileged {
		return nil
	}
	return l
}

// unlessBusy returns l, or has the call follow the one that has to be done with it
// before.
func (c *call) unlessBusy(l *lock) (*lock, *api.Error) {
	if p := c.t.calls.occupant(c, l); p != nil {
		c.follow(p, l)
		return nil, nil
	}
	return l, nil
}

// matches reports whether the selector means l.
func matches(s api.Selector, l *lock) bool {
	return (!s.HasOwner || l.hasOwner && l.owner == s.Owner) &&
		(s.LockID == 0 || l.lockid == s.LockID) &&
		(s.Token == 0 || l.token == s.Token) &&
		(s.Ref == 0 || l.ref == s.Ref)
}
