package lockd

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/internal/teststate"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// stuckJournal does not come back while it is closed.
type stuckJournal struct {
	*teststate.Journal
	gate chan struct{}
}

func (j *stuckJournal) Append(changes []state.Change) error {
	<-j.gate
	return j.Journal.Append(changes)
}

// The watchdog's question notices whichever goroutine does not go on.
func TestHealthyNoticesWhatIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(local.NewCluster("test").AddNode(1))
		open := make(chan struct{})
		close(open)
		j := &stuckJournal{h.journal, open}
		block := make(chan struct{})
		hang := false
		h.config.Notify = func(api.Notice) {
			if hang {
				<-block
			}
		}
		h.handOver = true
		d := h.spawnWith(t, h.config, j)
		synctest.Wait()
		ask := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return d.Healthy(ctx)
		}
		require.NoError(t, ask())
		n := len(h.journal.Locks)

		shut := make(chan struct{})
		j.gate = shut
		err := ask()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "the writing of the state file is stuck")
		close(shut)
		synctest.Wait()
		require.NoError(t, ask())
		require.Len(t, h.journal.Locks, n, "nothing is written for it")

		hang = true
		d.Acquire(root, []api.Want{wantOf("vms", "a", dlm.EX)}, api.AcquireOptions{}, func([]api.Grant, error) { <-block })
		synctest.Wait()
		require.ErrorContains(t, ask(), "the table is stuck")
		close(block)
		synctest.Wait()
		require.NoError(t, ask())
		d.stop()
	})
}
