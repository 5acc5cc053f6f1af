package table

import (
	"context"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// Somebody removed a lockspace. The service was killed while it made the lockspace again, before the
// locks in the first one had ended, and then somebody else has made it. The record "left" of the
// lockspace ends the records of the locks, so the table must not keep them; a lock that a client held
// is lost.
func TestRecordsOfALockspaceThatWasBeingMade(t *testing.T) {
	for phase, lost := range map[state.Phase]int{state.Granted: 0, state.Releasing: 0, state.Held: 1} {
		node := local.NewCluster("c").AddNode(1)
		other := node.Engine()
		h, err := other.Create(context.Background(), "vms", func(dlm.Event) {})
		require.NoError(t, err)
		h.Lock(1, "theirs", dlm.NL, dlm.NoQueue|dlm.Persistent)
		require.NoError(t, other.Close())

		s := newSim(t, node, "vms")
		require.NoError(t, s.journal.Append([]state.Change{state.Lockspace{Name: "vms", Phase: state.Creating},
			state.Lock{ID: 4, Lockspace: "vms", Resource: "disk", LockID: 2, Mode: dlm.NL, Phase: phase}}))
		var told []api.Lost
		s.onLost = func(l api.Lost) { told = append(told, l) }
		s.start()
		s.rest()
		require.ErrorIs(t, s.tab.spaces.byName["vms"].err, api.LockspaceForeign)
		require.Zero(t, s.tab.locks.count())
		require.Len(t, told, lost, "%s", phase)
		checkRecords(t, s.tab, s.journal.Contents("").Locks)
		checkIntegrity(t, s.tab)
	}
}

// If a leave is refused after its removal has failed once, no error stays behind.
func TestStayAfterAFailedRemoval(t *testing.T) {
	cluster := local.NewCluster("c")
	node := cluster.AddNode(1)
	s := newSim(t, node, "vms")
	s.start()
	s.rest()
	cluster.Fail(func(a local.Attempt) syscall.Errno {
		if a.Op == "remove" {
			return syscall.ENOMEM
		}
		return 0
	})
	s.leave(root, "vms", false)
	s.rest()
	require.Error(t, s.tab.spaces.byName["vms"].err)
	cluster.Fail(nil)
	other := node.Engine()
	h, err := other.Open(context.Background(), "vms", func(dlm.Event) {})
	require.NoError(t, err)
	h.Lock(1, "theirs", dlm.NL, dlm.NoQueue|dlm.Persistent)
	require.NoError(t, other.Close())
	s.pass(2 * retryFirst)
	require.Equal(t, spaceReady, s.tab.spaces.byName["vms"].state)
	checkIntegrity(t, s.tab)
}
