package libdlm

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// A request for a resource that a recovery has left without a master waits, and no other.
func TestRequestsForResourcesWithoutAMaster(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		d.door.recovers("disk")
		s.Lock(1, "disk", dlm.EX, 0)
		s.Lock(2, "disk", dlm.EX, 0)
		s.Lock(4, "disk", dlm.EX, dlm.NoQueue)
		s.Lock(3, "other", dlm.EX, dlm.NoQueue)
		call := d.next("request")
		require.Equal(t, "other", call.resource)
		call.returns(3, nil)
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpLock, 4, dlm.StatusMasterless, 0, dlm.None)}, ev.take())
		time.Sleep(time.Hour)
		d.noCall()
		s.Cancel(2)
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpLock, 2, dlm.StatusCanceled, 0, dlm.None)}, ev.take())

		d.door.masterless.Store(&map[string]bool{})
		call = d.next("request")
		require.Equal(t, "disk", call.resource)
		call.returns(4, nil)
		looks := d.door.looks.Load()
		s.Lock(5, "disk", dlm.NL, 0)
		d.next("request").returns(5, nil)
		require.Equal(t, looks, d.door.looks.Load(), "nothing has changed")
		d.door.masterless.Store(nil)
		d.door.changed.Store(true)
		s.Lock(6, "disk", dlm.NL, 0)
		d.next("request").returns(6, nil) // debugfs can't be read
		require.Equal(t, looks+1, d.door.looks.Load())
	})
}

// A request that was given up while it waited is not kept: clients that ask again and again for a
// resource without a master would otherwise leave more and more behind.
func TestWaitingForAMasterEnds(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		d.door.recovers("disk")
		for i := range dlm.Cookie(100) {
			s.Lock(i+1, "disk", dlm.EX, 0)
			synctest.Wait()
			s.Cancel(i + 1)
		}
		time.Sleep(2 * masterlessPause)
		looks := d.door.looks.Load()
		time.Sleep(time.Minute)
		require.Equal(t, looks, d.door.looks.Load(), "nothing waits any more")
	})
}

// Requests for a resource are made in the order in which they came, also those that had to wait.
func TestOrderAfterWaitingForAMaster(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		d.door.recovers("disk")
		for i := range dlm.Cookie(20) {
			s.Lock(i+1, "disk", dlm.EX, 0)
		}
		time.Sleep(masterlessPause * 5 / 2)
		d.door.recovers()
		s.Lock(21, "disk", dlm.EX, 0)
		for i := range dlm.Cookie(21) {
			call := d.next("request")
			require.Equal(t, i+1, call.cookie)
			call.returns(dlm.LockID(call.cookie), nil)
		}
	})
}
