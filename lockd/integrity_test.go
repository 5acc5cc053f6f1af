package lockd

import (
	"context"
	"fmt"
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// reporter is what testing.TB and rapid.T have in common.
type reporter interface {
	require.TestingT
	Helper()
}

// checkIntegrity walks every index of the table and holds it against the
// others: an entry that one has and another has not is a leak or a lost lock.
func checkIntegrity(t reporter, tab *table) {
	t.Helper()
	checkOrder(t, tab)
	checkChains(t, tab)
	checkOwners(t, tab)
	checkUsage(t, tab)
	checkCalls(t, tab)
	for l := range tab.doomed {
		require.True(t, l.flying, "%d is canceled and nothing of it is under way", l.ref)
		require.Same(t, l, tab.locks[l.ref], "a canceled lock that is not in the table")
	}
	for l := range tab.probes {
		require.True(t, l.probe)
		require.Same(t, l, tab.locks[l.ref], "a probe that is not in the table")
	}
	for ck, l := range tab.alias {
		require.Equal(t, ck, l.cookie, "an alias that is not the cookie of its lock")
		require.NotEqual(t, ck, dlm.Cookie(l.ref), "an alias that is the ref")
		require.Same(t, l, tab.locks[l.ref], "an alias of a lock that is not in the table")
	}
}

func checkOrder(t reporter, tab *table) {
	t.Helper()
	holes, seen := 0, map[api.Ref]bool{}
	for i, o := range tab.order {
		if i > 0 {
			require.Less(t, tab.order[i-1].ref, o.ref, "order is not sorted")
		}
		if o.l == nil {
			holes++
			continue
		}
		require.Equal(t, o.ref, o.l.ref)
		require.Same(t, o.l, tab.locks[o.ref], "order has a lock that the table has not")
		seen[o.ref] = true
	}
	require.Equal(t, holes, tab.holes)
	for ref, l := range tab.locks {
		require.Equal(t, ref, l.ref)
		require.Equal(t, !l.probe, seen[ref], "lock %d", ref)
		require.Less(t, ref, tab.nextRef)
		if l.sp.step != spaceAdopting {
			require.Same(t, l, tab.byCookie(l.cookie), "lock %d is not found by its cookie", ref)
		}
		if l.busy == nil && l.phase == state.Held {
			require.Equal(t, api.Held, l.state, "lock %d with nothing under way", ref)
		}
		if l.busy != nil {
			require.NotEqual(t, api.Held, l.state, "lock %d with a call under way", ref)
		}
	}
	require.Equal(t, len(seen), tab.lockCount())
}

func checkChains(t reporter, tab *table) {
	t.Helper()
	total := 0
	for name, sp := range tab.spaces {
		require.Equal(t, name, sp.name)
		inSpace := 0
		for res, head := range sp.byResource {
			require.Nil(t, head.prevRes)
			var prev *lock
			for l := head; l != nil; prev, l = l, l.nextRes {
				require.Same(t, sp, l.sp)
				require.Equal(t, res, l.resource)
				require.True(t, prev == l.prevRes, "the chain of %q is broken at %d", res, l.ref)
				require.Same(t, l, tab.locks[l.ref], "the chain of %q has a lock that the table has not", res)
				require.False(t, l.probe)
				inSpace++
			}
		}
		require.Equal(t, inSpace, sp.locks, "count of locks in %s", name)
		total += inSpace
	}
	require.Equal(t, tab.lockCount(), total, "a lock in a lockspace that the table does not know")
}

func checkOwners(t reporter, tab *table) {
	t.Helper()
	owned, inChains, inHash := 0, 0, 0
	for _, l := range tab.locks {
		if l.hasOwner {
			owned++
			require.Same(t, l, tab.findOwned(l.sp, l.resource, l.uid, l.owner), "an owner has two locks on a resource, or a hash chain is broken")
		}
	}
	for k, head := range tab.owners {
		require.Nil(t, head.prevOwner)
		var prev *lock
		for l := head; l != nil; prev, l = l, l.nextOwner {
			require.Equal(t, k, ownerKey{l.uid, l.owner})
			require.True(t, prev == l.prevOwner, "the chain of owner %q is broken at %d", k.owner, l.ref)
			inChains++
		}
	}
	for h, head := range tab.owned {
		for l := head; l != nil; l = l.nextHash {
			require.Equal(t, h, tab.hash(l.sp.name, l.resource, l.uid, l.owner))
			inHash++
		}
	}
	require.Equal(t, owned, inChains)
	require.Equal(t, owned, inHash)
}

func checkUsage(t reporter, tab *table) {
	t.Helper()
	want := map[uint32]usage{}
	for _, l := range tab.locks {
		if l.probe {
			continue
		}
		u := want[l.uid]
		u.locks++
		if l.flying && l.state == api.Acquiring && l.busy.stage == stageLocking && l.busy.wait > 0 {
			u.waiting++
		}
		want[l.uid] = u
	}
	for uid, u := range tab.perUID {
		require.NotEqual(t, usage{}, *u, "uid %d uses nothing and is kept", uid)
		require.Equal(t, want[uid], *u, "usage of uid %d", uid)
		require.LessOrEqual(t, u.locks, tab.limits.LocksPerUID)
		require.LessOrEqual(t, u.waiting, tab.limits.WaitingPerUID)
	}
	require.Len(t, tab.perUID, len(want))
}

// checkCalls holds the unanswered calls against deadlines, sessions and locks.
func checkCalls(t reporter, tab *table) {
	t.Helper()
	for i, c := range tab.deadlines {
		require.Equal(t, i, c.heapIdx)
		require.False(t, c.answered, "an answered call has a deadline")
	}
	for session, calls := range tab.calls {
		checkSession(t, tab, session, calls, false)
	}
	for session, calls := range tab.queued {
		checkSession(t, tab, session, calls, true)
	}
	parked := 0
	for session, calls := range tab.waiters {
		require.NotEmpty(t, calls)
		for _, c := range calls {
			require.Equal(t, session, c.caller.Session)
			require.NotNil(t, c.parkedAt)
			require.Contains(t, c.parkedAt.parked, c)
			parked++
		}
	}
	checkParked(t, tab, parked)
}

func checkSession(t reporter, tab *table, session api.Session, calls *call, requests bool) {
	require.NotNil(t, calls)
	require.Nil(t, calls.newer)
	for c := calls; c != nil; c = c.older {
		require.True(t, c.older == nil || c.older.newer == c)
		require.False(t, c.answered, "an answered call that its session waits for")
		require.Equal(t, session, c.caller.Session)
		require.Equal(t, requests, c.request != 0)
		require.True(t, c.heapIdx >= 0 || tab.requests[c.request] == c, "an unanswered call without deadline")
	}
}

func checkParked(t reporter, tab *table, parked int) {
	for _, l := range tab.locks {
		for _, c := range l.parked {
			require.False(t, c.answered, "an answered call is still parked")
			if !c.unasked {
				parked--
			}
			require.NotNil(t, l.busy, "a call is parked behind a lock that is idle")
		}
		if l.busy != nil && !l.probe {
			require.Contains(t, l.busy.locks, l, "lock %d is busy with a call that does not know it", l.ref)
			require.NotEqual(t, stageDone, l.busy.stage)
		}
	}
	require.Zero(t, parked, "calls are parked that their sessions don't know of, or the other way round")
}

// checkEngine holds the table against the lock manager's own: no lock that the
// table does not know, none that it only believes in. What it says of the
// resources counts, so name them all. Lockspaces that are not at rest, and
// orphans, are left out.
func checkEngine(t reporter, tab *table, e *local.Engine, resources []string, unrest func(space string) bool) {
	t.Helper()
	for name, sp := range tab.spaces {
		if sp.state != api.SpaceReady || sp.step != spaceIdle || unrest(name) {
			continue
		}
		me, err := e.Node(context.Background())
		require.NoError(t, err)
		got := map[dlm.LockID]string{}
		for _, res := range append([]string{sp.anchorName}, resources...) {
			q, err := e.Queues(context.Background(), name, res)
			require.NoError(t, err)
			for _, h := range slices.Concat(q.Granted, q.Converting) {
				if h.Node == me.ID {
					got[h.LockID] = fmt.Sprint(res, " ", h.Mode)
				}
			}
		}
		orphans, err := e.Orphans(context.Background(), name)
		require.NoError(t, err)
		for _, o := range orphans {
			delete(got, o.LockID)
		}
		want := map[dlm.LockID]string{sp.anchor: fmt.Sprint(sp.anchorName, " ", dlm.NL)}
		for _, l := range tab.locks {
			if l.sp == sp && l.mode != dlm.None {
				want[l.lockid] = fmt.Sprint(l.resource, " ", l.mode)
			}
		}
		require.Equal(t, want, got, "locks of %s in the table and in the lock manager", name)
	}
}

// checkRecords holds the table against the records of the state file.
func checkRecords(t reporter, tab *table, records []state.Lock) {
	t.Helper()
	seen := map[api.Ref]bool{}
	for _, r := range records {
		seen[api.Ref(r.ID)] = true
		l := tab.locks[api.Ref(r.ID)]
		require.NotNil(t, l, "a record of lock %d, which is not there", r.ID)
		require.Equal(t, l.lockid, r.LockID)
		require.Equal(t, l.resource, r.Resource)
		require.Equal(t, l.sp.name, r.Lockspace)
		if l.busy == nil {
			require.Equal(t, l.mode, r.Mode, "recorded mode of lock %d", r.ID)
			require.Equal(t, l.phase, r.Phase, "recorded phase of lock %d", r.ID)
			require.Equal(t, l.token, r.Token, "recorded token of lock %d", r.ID)
		}
	}
	for ref, l := range tab.locks {
		require.True(t, l.probe || l.busy != nil || seen[ref], "lock %d has no record", ref)
	}
}
