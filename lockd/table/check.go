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
	t.checkOrder()
	t.checkChains()
	t.checkOwners()
	t.checkUsage()
	t.checkCalls()
	t.checkRetries()
	return nil
}

// contradiction is what Check finds.
type contradiction struct{ text string }

func (c contradiction) Error() string { return c.text }

// claim ends Check if what is claimed is not so.
func claim(so bool, format string, a ...any) {
	if !so {
		panic(contradiction{fmt.Sprintf(format, a...)})
	}
}

func (t *Table) checkRetries() {
	for l := range t.doomed {
		claim(l.flying, "%d is canceled and nothing of it is under way", l.ref)
		claim(t.locks[l.ref] == l, "a canceled lock that is not in the table")
	}
	for l := range t.probes {
		claim(l.probe && t.locks[l.ref] == l, "a probe that is not in the table")
	}
	for ck, l := range t.alias {
		claim(ck == l.cookie && ck != dlm.Cookie(l.ref), "alias %d of the cookie %d and the ref %d", ck, l.cookie, l.ref)
		claim(t.locks[l.ref] == l, "an alias of a lock that is not in the table")
	}
}

func (t *Table) checkOrder() {
	holes, seen := 0, map[api.Ref]bool{}
	for i, o := range t.order {
		claim(i == 0 || t.order[i-1].ref < o.ref, "order is not sorted")
		if o.l == nil {
			holes++
			continue
		}
		claim(o.ref == o.l.ref && t.locks[o.ref] == o.l, "order has a lock that the table has not")
		seen[o.ref] = true
	}
	claim(holes == t.holes, "%d holes are counted as %d", holes, t.holes)
	for ref, l := range t.locks {
		claim(ref == l.ref && ref < t.nextRef, "lock %d is under %d", l.ref, ref)
		claim(seen[ref] != l.probe, "lock %d in order", ref)
		claim(l.sp.step == spaceAdopting || t.byCookie(l.cookie) == l, "lock %d is not found by its cookie", ref)
		claim(l.busy != nil || l.phase != state.Held || l.state == api.Held, "lock %d is %s with nothing under way", ref, l.state)
		claim(l.busy == nil || l.state != api.Held, "lock %d is held with a call under way", ref)
	}
	claim(len(seen) == t.lockCount(), "%d locks are counted as %d", len(seen), t.lockCount())
}

func (t *Table) checkChains() {
	total := 0
	for name, sp := range t.spaces {
		claim(name == sp.name && t.byID[sp.id] == sp, "lockspace %s is under %s", sp.name, name)
		inSpace := 0
		for res, head := range sp.byResource {
			var prev *lock
			for l := head; l != nil; prev, l = l, l.nextRes {
				claim(l.sp == sp && l.resource == res && prev == l.prevRes, "the chain of %q is broken at %d", res, l.ref)
				claim(t.locks[l.ref] == l && !l.probe, "the chain of %q has a lock that the table has not", res)
				inSpace++
			}
		}
		claim(inSpace == sp.locks, "%d locks in %s are counted as %d", inSpace, name, sp.locks)
		total += inSpace
	}
	claim(len(t.byID) == len(t.spaces), "a lockspace without a name")
	claim(total == t.lockCount(), "a lock in a lockspace that the table does not know")
}

func (t *Table) checkOwners() {
	owned, inChains, inHash := 0, 0, 0
	for _, l := range t.locks {
		if l.hasOwner {
			owned++
			claim(t.findOwned(l.sp, l.resource, l.uid, l.owner) == l, "an owner has two locks on a resource, or a hash chain is broken")
		}
	}
	for k, head := range t.owners {
		var prev *lock
		for l := head; l != nil; prev, l = l, l.nextOwner {
			claim(k == ownerKey{l.uid, l.owner} && prev == l.prevOwner, "the chain of owner %q is broken at %d", k.owner, l.ref)
			inChains++
		}
	}
	for h, head := range t.owned {
		for l := head; l != nil; l = l.nextHash {
			claim(h == t.hash(l.sp.name, l.resource, l.uid, l.owner), "lock %d has another hash", l.ref)
			inHash++
		}
	}
	claim(owned == inChains && owned == inHash, "%d locks with owners, %d in chains, %d in hash chains", owned, inChains, inHash)
}

func (t *Table) checkUsage() {
	want := map[uint32]usage{}
	waiters := map[*space]int{}
	for _, l := range t.locks {
		if l.probe {
			continue
		}
		u := want[l.uid]
		u.locks++
		if l.flying && l.state == api.Acquiring && l.busy.stage == stageLocking && l.busy.wait > 0 {
			u.waiting++
			waiters[l.sp]++
		}
		want[l.uid] = u
	}
	for _, sp := range t.spaces {
		claim(sp.waiters == waiters[sp], "%d requests wait in %s and not %d", waiters[sp], sp.name, sp.waiters)
	}
	for uid, u := range t.perUID {
		claim(*u != usage{}, "uid %d uses nothing and is kept", uid)
		claim(want[uid] == *u, "uid %d uses %+v and not %+v", uid, want[uid], *u)
		claim(u.locks <= t.limits.LocksPerUID && u.waiting <= t.limits.WaitingPerUID, "uid %d is above its limits", uid)
	}
	claim(len(t.perUID) == len(want), "a uid is not counted")
}

// checkCalls holds the unanswered calls against deadlines, sessions and locks.
func (t *Table) checkCalls() {
	for i, c := range t.deadlines {
		claim(i == c.heapIdx && !c.answered, "a deadline of a call that needs none")
	}
	for session, c := range t.calls {
		t.checkSession(session, c, false)
	}
	for session, c := range t.queued {
		t.checkSession(session, c, true)
	}
	parked := 0
	for session, calls := range t.waiters {
		claim(len(calls) > 0, "an empty list of waiters")
		for _, c := range calls {
			claim(session == c.caller.Session && c.parkedAt != nil && slices.Contains(c.parkedAt.parked, c), "a call that waits for nothing")
			parked++
		}
	}
	t.checkParked(parked)
}

func (t *Table) checkSession(session api.Session, calls *call, requests bool) {
	claim(calls != nil && calls.newer == nil, "the newest call of %q", session)
	for c := calls; c != nil; c = c.older {
		claim(c.older == nil || c.older.newer == c, "the chain of the calls of %q is broken", session)
		claim(!c.answered && session == c.caller.Session && requests == (c.request != 0), "a call in the wrong chain")
		claim(c.heapIdx >= 0 || t.requests[c.request] == c, "an unanswered call without deadline")
	}
}

func (t *Table) checkParked(parked int) {
	for _, l := range t.locks {
		for _, c := range l.parked {
			if c.id != 0 {
				parked--
			}
			claim(!c.answered && l.busy != nil, "a call is parked behind a lock that is idle, or is answered")
		}
		if l.busy != nil && !l.probe {
			claim(slices.Contains(l.busy.locks, l), "lock %d is busy with a call that does not know it", l.ref)
			claim(l.busy.stage != stageDone, "lock %d is busy with a call that has ended", l.ref)
		}
	}
	claim(parked == 0, "calls are parked that their sessions don't know of, or the other way round")
}
