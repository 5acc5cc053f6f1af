package lockd

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/internal/teststate"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// promptJournal is on a file system that nothing can hold up.
type promptJournal struct{ *teststate.Journal }

func (promptJournal) Prompt() bool { return true }

// A call that nothing is in the way of is answered before it returns: there is no
// hand-over to another goroutine, and its deadline does not wake the goroutine of Run.
func TestALoneCallIsCarriedThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(local.NewCluster("test").AddNode(1))
		d := h.spawnWith(t, h.config, promptJournal{h.journal})
		<-d.Ready()
		synctest.Wait()
		alarm := d.alarm
		time.Sleep(100 * time.Millisecond) // Run would set another alarm now
		for range 3 {
			var granted, released bool
			d.Acquire(root, []api.Want{wantOf("vms", "a", dlm.EX)}, api.AcquireOptions{},
				func(_ []api.Grant, err error) { granted = err == nil })
			require.True(t, granted)
			d.Release(root, "vms", "a", api.Selector{}, func(err error) { released = err == nil })
			require.True(t, released)
		}
		synctest.Wait()
		require.Equal(t, alarm, d.alarm)
		d.stop()
	})
}

// A disk that hangs stops neither the table nor the goroutine of any call: lists, looks
// and refusals are answered, and a caller who is gone is noticed.
func TestAHungDiskStopsNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(local.NewCluster("test").AddNode(1))
		open := make(chan struct{})
		close(open)
		j := &stuckJournal{h.journal, open}
		d := h.spawnWith(t, h.config, j)
		<-d.Ready()
		synctest.Wait()
		shut := make(chan struct{})
		j.gate = shut
		var answers []error
		note := func(_ []api.Grant, err error) { answers = append(answers, err) }
		for _, name := range []string{"a", "b"} { // each returns at once
			d.Acquire(alice, []api.Want{wantOf("vms", name, dlm.EX)}, api.AcquireOptions{}, note)
		}
		synctest.Wait()
		require.Empty(t, answers, "granted before it was written down")
		_, err := call2(func(done func(api.Inspection, error)) { d.Inspect("vms", "a", done) })
		require.NoError(t, err)
		require.Len(t, d.list(api.Filter{}), 2)
		_, err = d.acquire(root, "a", dlm.EX, api.AcquireOptions{})
		require.ErrorIs(t, err, api.WouldBlock)
		d.SessionGone(alice.Session)
		synctest.Wait()
		require.Len(t, answers, 2)
		for _, err := range answers {
			require.ErrorIs(t, err, api.Canceled)
		}
		close(shut)
		synctest.Wait()
		require.Empty(t, d.list(api.Filter{}))
		d.stop()
	})
}
