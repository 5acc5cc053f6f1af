package table

import (
	"fmt"
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// Check walks every index of the table and holds it against the others: an entry
// that one has and another has not is a leak or a lost lock. It returns the first
// contradiction, which is a bug of this package. It takes as long as the table is
// large, so it is for tests of what drives a table.
func (t *Table) Check() (err error) {
	defer func() {
		if c, ok := recover().(contradiction); ok {
			err = c
		}
	}()
	k := checked{t}
	k.checkOrder()
	k.checkChains()
	k.checkOwners()
	k.checkUsage()
	k.checkCalls()
	k.checkRetries()
	return nil
}

// checked is a table that is looked through.
type checked struct{ *Table }

// contradiction is what Check finds.
type contradiction struct{ text string }

func (c contradiction) Error() string { return c.text }

// claim ends Check if what is claimed is not so.
func claim(so bool, format string, a ...any) {
	if !so {
		panic(contradiction{fmt.Sprintf(format, a...)})
	}
}

// checkRetries: what is tried again is still there to be tried.
func (t checked) checkRetries() {
	for l := range t.retries.cancels {
		claim(l.inFlight(), "%d is canceled and nothing of it is under way", l.ref)
		claim(t.locks.has(l), "a canceled lock that is not in the table")
	}
	for l := range t.probes.readers {
		claim(l.kind != clientLock && t.locks.has(l), "a probe that is not in the table")
	}
	for ck, l := range t.locks.alias {
		claim(ck == l.cookie() && ck != dlm.Cookie(l.ref), "alias %d of the cookie %d and the ref %d", ck, l.cookie(), l.ref)
		claim(t.locks.has(l), "an alias of a lock that is not in the table")
	}
}

// checkOrder: the list of clients' locks is sorted, counts its holes, and has each lock once;
// each lock is found by its number and its cookie, and does what its state says.
func (t checked) checkOrder() {
	holes, seen := 0, map[api.Ref]bool{}
	for i, o := range t.locks.order {
		claim(i == 0 || t.locks.order[i-1].ref < o.ref, "order is not sorted")
		if o.l == nil {
			holes++
			continue
		}
		claim(o.ref == o.l.ref && t.locks.byRef(o.ref) == o.l, "order has a lock that the table has not")
		seen[o.ref] = true
	}
	claim(holes == t.locks.holes, "%d holes are counted as %d", holes, t.locks.holes)
	for ref, l := range t.locks.own {
		claim(ref == l.ref && l.kind != clientLock, "lock %d is under %d among the table's own", l.ref, ref)
	}
	for l := range t.locks.each {
		ref := l.ref
		claim(ref <= t.locks.last && t.locks.has(l), "lock %d is not found by its number", ref)
		claim(seen[ref] == (l.kind == clientLock), "lock %d in order", ref)
		claim(l.sp.state == spaceAdopting || t.locks.byCookie(l.cookie()) == l, "lock %d is not found by its cookie", ref)
		claim(l.busy != nil || l.phase != state.Held || l.public() == api.Held,
			"lock %d is %s with nothing under way", ref, l.public())
		claim(l.busy == nil || l.public() != api.Held, "lock %d is held with a call under way", ref)
	}
	claim(len(seen) == t.locks.count(), "%d locks are counted as %d", len(seen), t.locks.count())
}

// checkChains: each lockspace is found by name and number and is in a state in which a turn
// may end, and the chains of its resources have each of its locks once.
func (t checked) checkChains() {
	total := 0
	for name, sp := range t.spaces.byName {
		claim(name == sp.name && t.spaces.byID[sp.id] == sp, "lockspace %s is under %s", sp.name, name)
		claim(sp.state != spaceNew && sp.state != spaceClosed, "lockspace %s is between two states (%d)", name, sp.state)
		claim((sp.err == nil) == (sp.public() != api.SpaceFailed) || !sp.state.idle(),
			"lockspace %s is %s with the error %v", name, sp.public(), sp.err)
		inSpace := 0
		for res, head := range sp.byResource {
			var prev *lock
			for l := head; l != nil; prev, l = l, l.nextRes {
				claim(l.sp == sp && l.resource == res && prev == l.prevRes, "the chain of %q is broken at %d", res, l.ref)
				claim(t.locks.has(l) && l.kind == clientLock, "the chain of %q has a lock that the table has not", res)
				inSpace++
			}
		}
		claim(inSpace == sp.locks, "%d locks in %s are counted as %d", inSpace, name, sp.locks)
		total += inSpace
	}
	claim(len(t.spaces.byID) == len(t.spaces.byName), "a lockspace without a name")
	claim(total == t.locks.count(), "a lock in a lockspace that the table does not know")
}

// checkOwners: the chains by owner and by hash have each lock with an owner once.
func (t checked) checkOwners() {
	owned, shared, inChains, inHash := 0, 0, 0, 0
	for l := range t.locks.each {
		if l.hasOwner {
			owned++
			claim(l.inOwned || l.nextRes == nil && l.prevRes == nil, "lock %d shares its resource and is not in owned", l.ref)
			claim(t.locks.findOwned(l.sp, l.resource, l.uid, l.owner) == l,
				"an owner has two locks on a resource, or a hash chain is broken")
		}
		if l.inOwned {
			shared++
		}
	}
	for h, head := range t.locks.owners {
		var prev *lock
		for l := head; l != nil; prev, l = l, l.nextOwner {
			claim(h == t.locks.hash("", "", l.uid, l.owner) && prev == l.prevOwner,
				"the chain of owner %q is broken at %d", l.owner, l.ref)
			inChains++
		}
	}
	for h, head := range t.locks.owned {
		for l := head; l != nil; l = l.nextHash() {
			claim(h == t.locks.hash(l.sp.name, l.resource, l.uid, l.owner) && l.inOwned, "lock %d has another hash", l.ref)
			inHash++
		}
	}
	claim(owned == inChains, "%d locks with owners, %d in chains", owned, inChains)
	claim(shared == inHash, "%d locks are in owned, and %d in its chains", shared, inHash)
}

// checkUsage: what is counted for each user and lockspace is what the locks add up to.
func (t checked) checkUsage() {
	want := map[uint32]usage{}
	waiters := map[*lockspace]int{}
	for l := range t.locks.each {
		if l.kind != clientLock {
			continue
		}
		u := want[l.uid]
		u.locks++
		if l.state == lockLocking && l.busy.wait > 0 {
			u.waiting++
			waiters[l.sp]++
		}
		want[l.uid] = u
	}
	for _, sp := range t.spaces.byName {
		claim(sp.waiters == waiters[sp], "%d requests wait in %s and not %d", waiters[sp], sp.name, sp.waiters)
	}
	for uid, u := range t.locks.perUID {
		claim(*u != usage{}, "uid %d uses nothing and is kept", uid)
		claim(want[uid] == *u, "uid %d uses %+v and not %+v", uid, want[uid], *u)
		claim(u.locks <= t.conf.Limits.LocksPerUID && u.waiting <= t.conf.Limits.WaitingPerUID,
			"uid %d is above its limits", uid)
	}
	claim(len(t.locks.perUID) == len(want), "a uid is not counted")
}

// checkCalls holds the unanswered calls against deadlines, sessions and lines.
func (t checked) checkCalls() {
	for i, c := range t.calls.deadlines {
		claim(i == c.heapIdx && !c.answered, "a deadline of a call that needs none")
	}
	following := 0
	for name, s := range t.calls.sessions {
		following += t.checkSession(name, s)
	}
	for l := range t.locks.each {
		if c := l.busy; c != nil && l.kind == clientLock {
			claim(slices.Contains(c.op.involved(), l), "lock %d is busy with a call that does not know it", l.ref)
			for _, f := range c.place.followers {
				claim(f.place.follows == c && !f.answered, "a call follows another one that does not know it, or is answered")
			}
		}
	}
	claim(following <= t.calls.following, "%d calls follow others and are counted as %d", following, t.calls.following)
}

// checkSession checks the calls of a session, and returns how many follow others.
func (t checked) checkSession(name api.Session, s *session) int {
	claim(s.calls != nil || s.requests != nil || len(s.inLine) > 0, "session %q has no calls and is kept", name)
	for _, head := range []*call{s.calls, s.requests} {
		for c := head; c != nil; c = c.place.older {
			claim(c.place.older == nil || c.place.older.place.newer == c, "the chain of the calls of %q is broken", name)
			claim(!c.answered && name == c.caller.Session && (head == s.requests) == (c.request != 0),
				"a call in the wrong chain")
			claim(c.heapIdx >= 0 || t.calls.requests[c.request] != nil, "an unanswered call without deadline")
		}
	}
	following := 0
	for _, c := range s.inLine {
		claim(!c.answered && c.caller.Session == name, "an answered call stands in a line")
		if p := c.place.follows; p != nil {
			following++
			claim(slices.Contains(p.place.followers, c), "a call follows another one that does not know it")
		}
	}
	places := 0
	for k, line := range s.lines {
		claim(len(line) > 0 && slices.IsSortedFunc(line, bySeq), "the line of %v", k)
		places += len(line)
	}
	claim(places == s.places, "%d places in lines are counted as %d", places, s.places)
	claim(following == s.following, "%d calls of %q follow others and are counted as %d", following, name, s.following)
	return following
}
