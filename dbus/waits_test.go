package dbus

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// waits is ListWaits.
func (c *client) waits(filter options) []waiterRow {
	c.t.Helper()
	var rows []waiterRow
	require.NoError(c.t, c.ok("ListWaits", filter).Store(&rows))
	return rows
}

// Those that wait are listed with what each waits for, a page at a time.
func TestListWaits(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root, bob, eve := r.dial(testbus.Root), r.dial(member), r.dial(stranger)
		require.Empty(t, eve.waits(opt()))
		_, lock := root.acquire("r", opt("owner", "vm1"))
		before := time.Now().UnixMicro()
		bob.request("r", opt("owner", "vm2", "label", "two"))
		bob.request("r", opt("owner", "vm3"))
		rows := eve.waits(opt())
		require.Len(t, rows, 2)
		first := rows[0]
		require.GreaterOrEqual(t, first.Since, uint64(before))
		require.Equal(t, waiterRow{Lock: first.Lock, Lockspace: "vms", Resource: "r", Wanted: "EX", Since: first.Since,
			Who: "vm2", For: []blockerRow{{1, first.For[0].LockID, "EX", "vm1", options{}}}, Details: first.Details}, first)
		require.Equal(t, "two", first.Details["label"].Value())
		require.Equal(t, member.UID, first.Details["uid"].Value())
		require.Equal(t, opt("waits", true), rows[1].For[0].Details)
		require.Equal(t, "vm2", rows[1].For[0].Who)

		require.Equal(t, rows[:1], eve.waits(opt("limit", int64(1))))
		require.Equal(t, rows[1:], eve.waits(opt("after", first.Lock)))
		require.Equal(t, rows[1:], eve.waits(opt("owner", "vm3", "uid", uint64(member.UID), "resource", "r")))
		require.Empty(t, eve.waits(opt("lockspace", "other")))
		waiting := root.list(opt("state", "acquiring"))
		require.Equal(t, first.Since, waiting[0].Details["waiting-since"].Value())

		root.at(lock).ok(lockIfaceName+".Release", opt())
		require.Eventually(t, func() bool { return len(eve.waits(opt())) == 1 }, patience, time.Millisecond)
		root.refused(errInvalidArgs, "ListWaits", opt("state", "acquiring"))
		root.refused(errInvalidArgs, "ListWaits", opt("limit", uint32(0)))
		root.refused(invalidNameError, "ListWaits", opt("lockspace", ""))
	})
}

// A page has as many rows as fit into its bytes, and the next one goes on after it.
func TestListWaitsIsBounded(t *testing.T) {
	b := testbus.Start(t, testbus.Daemon)
	r := newRig(t, b, rigConfig{})
	root := r.dial(testbus.Root)
	root.acquire("r", opt())
	label := strings.Repeat("x", 1000)
	for i := range 200 {
		root.request("r", opt("owner", fmt.Sprint("vm", i), "label", label))
	}
	seen, filter := 0, opt()
	for {
		before := r.server.bus.wire.wrote.Load()
		rows := root.waits(filter)
		require.Less(t, r.server.bus.wire.wrote.Load()-before, uint64(frontend.LongAnswer+4096))
		if len(rows) == 0 {
			break
		}
		require.Greater(t, len(rows), 20)
		for _, row := range rows {
			require.Equal(t, fmt.Sprint("vm", seen), row.Who)
			seen++
		}
		filter = opt("after", rows[len(rows)-1].Lock)
	}
	require.Equal(t, 200, seen)
}
