package dbus

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// lost is ListLost.
func (c *client) lost(filter options) []lostRow {
	c.t.Helper()
	var rows []lostRow
	require.NoError(c.t, c.ok("ListLost", filter).Store(&rows))
	return rows
}

// What was lost is listed, the last one first, by whatever filter, also when its
// lockspace was left; and what was released is not.
func TestListLost(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root, holder := r.dial(testbus.Root), r.dial(member)
		require.Empty(t, root.lost(opt()))
		id, lock := holder.acquire("a", opt("owner", "vm1", "label", "the disk"))
		holder.acquire("b", opt())
		holder.acquire("released", opt())
		holder.ok("Release", "vms", "released", opt())
		root.ok("LeaveLockspace", "vms", opt("force", true))
		root.ok("JoinLockspace", "more", opt())
		root.ok("Acquire", "more", "c", "PR", opt("owner", "vm1"))
		root.ok("LeaveLockspace", "more", opt("force", true))

		names := func(filter options) (names []string) {
			for _, row := range r.dial(testbus.Nobody).lost(filter) {
				names = append(names, row.Lockspace+"/"+row.Resource)
			}
			return names
		}
		all := names(opt())
		require.Equal(t, "more/c", all[0])
		require.ElementsMatch(t, []string{"more/c", "vms/a", "vms/b"}, all)
		require.Equal(t, []string{"more/c", "vms/a"}, names(opt("owner", "vm1")))
		require.Equal(t, []string{"more/c"}, names(opt("owner", "vm1", "limit", uint32(1))))
		require.Equal(t, []string{"vms/b"}, names(opt("lockspace", "vms", "resource", "b")))
		require.Equal(t, []string{"more/c"}, names(opt("uid", uint32(0))))
		require.Empty(t, names(opt("owner", "vm2")))

		row := root.lost(opt("resource", "a"))[0]
		require.Contains(t, row.Details, "uid")
		row.Details = nil
		require.Equal(t, lostRow{Lock: lock, Lockspace: "vms", Resource: "a", LockID: id, Mode: "EX", Owner: "vm1",
			Label: "the disk", When: row.When, Reason: row.Reason}, row)
		require.NotZero(t, row.When)
		require.NotEmpty(t, row.Reason)

		require.Contains(t, root.refused(errInvalidArgs, "ListLost", opt("limit", uint32(0))), "1 to 1000")
		root.refused(errInvalidArgs, "ListLost", opt("limit", uint32(frontend.MaxLost+1)))
		root.refused(invalidNameError, "ListLost", opt("lockspace", ""))
		root.refused(errInvalidArgs, "ListLost", opt("owner", ""))
	})
}

const invalidNameError = ErrorPrefix + "InvalidName"

// A list of lost locks has as many rows as fit into its bytes.
func TestListLostIsBounded(t *testing.T) {
	b := testbus.Start(t, testbus.Daemon)
	r := newRig(t, b, rigConfig{})
	root := r.dial(testbus.Root)
	many := make([]wantRow, 500)
	for i := range many {
		many[i] = wantRow{"vms", fmt.Sprint(i), "EX"}
	}
	root.ok("AcquireMany", many, opt("label", strings.Repeat("x", 1000)))
	root.ok("LeaveLockspace", "vms", opt("force", true))
	before := r.server.bus.wire.wrote.Load()
	rows := root.lost(opt("limit", uint32(500)))
	require.Less(t, r.server.bus.wire.wrote.Load()-before, uint64(frontend.LongAnswer+4096))
	require.Greater(t, len(rows), 40)
}
