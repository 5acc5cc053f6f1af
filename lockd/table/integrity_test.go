package table

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

// checkIntegrity holds the indices of the table against each other.
func checkIntegrity(t reporter, tab *Table) {
	t.Helper()
	require.NoError(t, tab.Check())
}

// checkEngine holds the table against the lock manager's own: no lock that the
// table does not know, none that it only believes in. What it says of the
// resources counts, so name them all. Lockspaces that are not at rest, and
// orphans, are left out.
func checkEngine(t reporter, tab *Table, e *local.Engine, resources []string, unrest func(space string) bool) {
	t.Helper()
	for name, sp := range tab.spaces.byName {
		if sp.state != spaceReady || unrest(name) {
			continue
		}
		me, err := e.Node(context.Background())
		require.NoError(t, err)
		got := map[dlm.LockID]string{}
		for _, res := range append([]string{sp.anchor.name}, resources...) {
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
		want := map[dlm.LockID]string{sp.anchor.id: fmt.Sprint(sp.anchor.name, " ", dlm.NL)}
		for l := range tab.locks.each {
			if l.sp == sp && l.mode != dlm.None {
				want[l.lockid] = fmt.Sprint(l.resource, " ", l.mode)
			}
		}
		require.Equal(t, want, got, "locks of %s in the table and in the lock manager", name)
	}
}

// checkRecords holds the table against the records of the state file.
func checkRecords(t reporter, tab *Table, records []state.Lock) {
	t.Helper()
	seen := map[api.Ref]bool{}
	for _, r := range records {
		seen[api.Ref(r.ID)] = true
		l := tab.locks.byRef(api.Ref(r.ID))
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
	for l := range tab.locks.each {
		require.True(t, l.kind != clientLock || l.busy != nil || seen[l.ref], "lock %d has no record", l.ref)
	}
}
