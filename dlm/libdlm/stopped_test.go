package libdlm

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// A call that sleeps in a stopped lockspace delays neither an adoption nor another lockspace nor
// the end of the program.
func TestStoppedLockspace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d, ev := open(t)
		s.Lock(1, "disk", dlm.EX, 0)
		asleep := d.next("request")
		for c := range dlm.Cookie(100) {
			s.Lock(c+10, "disk", dlm.EX, 0)
		}
		s.Purge()
		s.Adopt(2, "orphan", dlm.EX, dlm.Persistent)
		d.next("adopt").returns(8, nil)
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpAdopt, 2, 0, 8, dlm.EX)}, ev.take())

		other, d2, ev2 := open(t)
		other.Lock(1, "disk", dlm.EX, 0)
		d2.next("request").returns(3, nil)
		d2.result(result{cookie: 1, id: 3})
		synctest.Wait()
		require.Len(t, ev2.take(), 1)
		require.NoError(t, other.Close())
		<-d2.closed

		began := time.Now()
		require.NoError(t, s.Close())
		require.Equal(t, closeWait, time.Since(began))
		s.Lock(3, "disk", dlm.EX, 0)
		select {
		case <-d.closed:
			t.Fatal("the handle is closed under a call that uses it")
		default:
		}
		asleep.returns(3, nil)
		<-d.closed
		require.Empty(t, ev.take(), "no event after Close")
	})
}

// A stopped lockspace gets no calls, so nothing sleeps in the kernel; operations that wait for it
// can be withdrawn, and adoption goes on.
func TestNothingSleepsInAStoppedLockspace(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		granted(s, d, 1, 3, dlm.EX, 0)
		ev.take()
		d.door.shut.Store(true)
		s.Unlock(1, nil)
		s.Lock(2, "disk", dlm.PR, 0)
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case a := <-d.calls:
			t.Fatalf("%s in a stopped lockspace", a.what)
		default:
		}
		s.Cancel(2)
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpLock, 2, dlm.StatusCanceled, 0, dlm.None)}, ev.take())
		s.Adopt(4, "disk", dlm.NL, dlm.Persistent)
		d.next("adopt").returns(9, nil)
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpAdopt, 4, 0, 9, dlm.NL)}, ev.take())

		d.door.shut.Store(false)
		d.next("unlock").returns(3, nil)
		d.result(result{cookie: 1, id: 3, status: dlm.StatusUnlocked})
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpUnlock, 1, dlm.StatusUnlocked, 3, dlm.None)}, ev.take())
	})
}

// Close does not wait for a lockspace to resume, and does not leak the gate.
func TestCloseInAStoppedLockspace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d, _ := open(t)
		d.door.shut.Store(true)
		s.Lock(1, "disk", dlm.EX, 0)
		synctest.Wait()
		require.NoError(t, s.Close())
		<-d.closed
		require.True(t, d.door.gone.Load())
	})
}
