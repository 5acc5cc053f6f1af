package table

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// Very many locks whose end could not be written down do not hold up everybody else when it can
// be: no turn releases more than a slice of them.
func TestOverdueLocksAreReleasedInSlices(t *testing.T) {
	const many = 5*sliceLength + 1
	s, _ := simWith(t, "vms")
	alice := user(7, ":1.7")
	for i := range many {
		want := wantOf("vms", fmt.Sprintf("x%d", i), dlm.PR)
		require.NoError(t, s.done(s.acquire(alice, api.AcquireOptions{Lifetime: state.Connection}, want)))
	}
	s.journal.SetFail(syscall.EIO)
	s.turn(func() { s.tab.SessionGone(alice.Session) })
	s.rest()
	require.Len(t, s.tab.retries.overdue, many)
	s.journal.SetFail(0)
	s.retryJournal()
	s.rest()
	s.now = s.now.Add(retryInterval)
	for left := many; left > 0; {
		if left == many {
			s.turn(s.tab.Tick)
		} else {
			require.True(t, s.tab.Busy())
			s.turn(s.tab.Chore)
		}
		now := len(s.tab.retries.overdue)
		require.LessOrEqual(t, left-now, sliceLength, "in one turn")
		left = now
	}
	s.rest()
	require.Zero(t, s.tab.locks.count())
	checkIntegrity(t, s.tab)
}
