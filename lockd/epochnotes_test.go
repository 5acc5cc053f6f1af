package lockd

import (
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What can't be noted is tried again, said once, and written in the end.
func TestTokenEpochNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var got []int64
		failing := true
		fail := func(f bool) { mu.Lock(); defer mu.Unlock(); failing = f }
		saved := func() []int64 { mu.Lock(); defer mu.Unlock(); return got }
		n := newEpochNotes(func(e int64) error {
			mu.Lock()
			defer mu.Unlock()
			if failing {
				return errors.New("no")
			}
			got = append(got, e)
			return nil
		}, slog.New(slog.DiscardHandler))
		done := make(chan struct{})
		go n.run(done)
		n.note(1)
		synctest.Wait()
		require.Empty(t, saved())
		fail(false)
		time.Sleep(epochRetry)
		synctest.Wait()
		require.Equal(t, []int64{1}, saved())
		fail(true)
		n.note(2)
		synctest.Wait()
		fail(false)
		close(done)
		synctest.Wait()
		require.Equal(t, []int64{1, 2}, saved())
	})
}
