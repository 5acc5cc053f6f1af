package libdlm

import (
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// afterScout lets the scout before a cancel end, and returns the cancel.
func afterScout(t *testing.T, d *script, resource string, end dlm.Status) *asked {
	t.Helper()
	call := d.next("request")
	require.Equal(t, resource, call.resource)
	require.Equal(t, dlm.NL, call.mode)
	require.Equal(t, dlm.NoQueue, call.flags)
	require.GreaterOrEqual(t, call.cookie, firstScout)
	call.returns(9, nil)
	synctest.Wait()
	d.noCall()
	d.result(result{cookie: call.cookie, id: 9, status: end})
	return d.next("cancel")
}

func TestCancel(t *testing.T) {
	t.Run("in the kernel", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			s.Lock(1, "disk", dlm.EX, 0)
			d.next("request").returns(3, nil)
			synctest.Wait()
			s.Cancel(1)
			s.Cancel(1)
			call := afterScout(t, d, "disk", dlm.StatusAgain)
			require.Equal(t, dlm.LockID(3), call.id)
			call.returns(0, nil)
			synctest.Wait()
			require.Empty(t, ev.take())
			d.noCall()
			d.result(result{cookie: 1, id: 3, status: dlm.StatusCanceled})
			synctest.Wait()
			require.Equal(t, []dlm.Event{end(dlm.OpLock, 1, dlm.StatusCanceled, 3, dlm.None)}, ev.take())
		})
	})
	t.Run("during the call", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			s.Lock(1, "disk", dlm.EX, 0)
			call := d.next("request")
			s.Cancel(1)
			synctest.Wait()
			require.Empty(t, ev.take())
			call.returns(3, nil)
			afterScout(t, d, "disk", dlm.StatusAgain).returns(0, nil)
		})
	})
	t.Run("before the call, at once", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			s.Lock(1, "disk", dlm.EX, 0)
			asleep := d.next("request")
			s.Lock(2, "disk", dlm.EX, 0)
			s.Cancel(2)
			require.Equal(t, []dlm.Event{end(dlm.OpLock, 2, dlm.StatusCanceled, 0, dlm.None)}, ev.take())
			s.Lock(2, "other", dlm.PR, 0)
			asleep.returns(3, nil)
			call := d.next("request")
			require.Equal(t, "other", call.resource)
			call.returns(4, nil)
		})
	})
	t.Run("too late", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			s.Lock(1, "disk", dlm.EX, 0)
			d.next("request").returns(3, nil)
			synctest.Wait()
			s.Cancel(1)
			call := afterScout(t, d, "disk", dlm.StatusAgain)
			d.result(result{cookie: 1, id: 3})
			call.returns(0, nil)
			synctest.Wait()
			require.Equal(t, []dlm.Event{end(dlm.OpLock, 1, 0, 3, dlm.EX)}, ev.take())
		})
	})
	t.Run("not before the scout has found the master", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			s.Lock(1, "disk", dlm.EX, 0)
			d.next("request").returns(3, nil)
			synctest.Wait()
			s.Cancel(1)
			d.next("request").returns(0, syscall.ENOBUFS) // the cluster loses a node
			first := d.next("request")
			first.returns(4, nil)
			time.Sleep(time.Minute)
			d.noCall()
			held := make(map[dlm.LockID]bool)
			s.lockIDs(held)
			require.True(t, held[3])

			d.result(result{cookie: first.cookie, id: 4})
			call := d.next("cancel")
			s.lockIDs(held)
			require.True(t, held[4], "a scout that was granted is this handle's own")
			call.returns(0, nil)
			d.next("unlock").returns(0, syscall.EBUSY)
			again := d.next("unlock")
			require.Equal(t, dlm.LockID(4), again.id)
			again.returns(0, nil)
			d.result(result{cookie: first.cookie, id: 4, status: dlm.StatusUnlocked})
			d.result(result{cookie: 1, id: 3, status: dlm.StatusCanceled})
			synctest.Wait()
			require.Equal(t, []dlm.Event{end(dlm.OpLock, 1, dlm.StatusCanceled, 3, dlm.None)}, ev.take())
			require.Empty(t, s.scouts)
		})
	})
	t.Run("no cancel after a scout that the grant has overtaken", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			s.Lock(1, "disk", dlm.EX, 0)
			d.next("request").returns(3, nil)
			synctest.Wait()
			s.Lock(2, "other", dlm.EX, 0)
			asleep := d.next("request")
			s.Cancel(1)
			d.result(result{cookie: 1, id: 3})
			synctest.Wait()
			asleep.returns(4, nil)
			synctest.Wait()
			d.noCall() // not even the scout

			s.Cancel(2)
			first := d.next("request")
			d.result(result{cookie: 2, id: 4})
			synctest.Wait()
			d.result(result{cookie: first.cookie, id: 5})
			synctest.Wait()
			first.returns(5, nil)
			d.next("unlock").returns(0, syscall.ENOENT) // somebody else has unlocked it
			synctest.Wait()
			d.noCall()
			require.Empty(t, s.scouts)
			require.Len(t, ev.take(), 2)
		})
	})
	t.Run("not what can't wait: its lockid may be another lock's by then", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			s.Lock(1, "disk", dlm.EX, dlm.NoQueue)
			d.next("request").returns(3, nil)
			synctest.Wait()
			s.Cancel(1)
			s.Lock(2, "disk", dlm.EX, 0)
			d.next("request").returns(4, nil)
		})
	})
	t.Run("what can't wait and does not end", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			s.Lock(1, "disk", dlm.EX, dlm.NoQueue)
			d.next("request").returns(3, nil)
			synctest.Wait()
			s.Cancel(1)
			s.Cancel(1)
			began := time.Now()
			d.next("cancel").returns(0, nil) // the kernel was in the middle of a message
			again := d.next("cancel")
			require.Equal(t, 2*stuckWait, time.Since(began))
			require.Equal(t, dlm.LockID(3), again.id)
			again.returns(0, nil)
			d.result(result{cookie: 1, id: 3, status: dlm.StatusCanceled})
			synctest.Wait()
			require.Equal(t, []dlm.Event{end(dlm.OpLock, 1, dlm.StatusCanceled, 3, dlm.None)}, ev.take())
			time.Sleep(2 * stuckWait)
			d.noCall()

			s.Lock(1, "disk", dlm.EX, dlm.NoQueue)
			d.next("request").returns(3, nil)
			synctest.Wait()
			s.Cancel(1)
			d.next("cancel").returns(0, nil)
			d.result(result{cookie: 1, id: 3, status: dlm.StatusCanceled})
			synctest.Wait()
			looks := d.door.looks.Load()
			s.Lock(1, "disk", dlm.EX, dlm.NoQueue) // the kernel may have left the resource without a master
			d.next("request").returns(3, nil)
			require.Equal(t, looks+1, d.door.looks.Load())
			synctest.Wait()
			s.Cancel(1)
			s.Lock(2, "disk", dlm.EX, dlm.NoQueue)
			d.next("request").returns(3, nil) // the result of the first is lost: its lockid is in use again
			time.Sleep(2 * stuckWait)
			d.noCall()
		})
	})
	t.Run("a conversion keeps its mode", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			granted(s, d, 1, 3, dlm.PR, 0)
			s.Convert(1, dlm.EX, 0, nil)
			d.next("convert").returns(0, nil)
			synctest.Wait()
			s.Cancel(1)
			d.next("cancel").returns(0, nil)
			d.result(result{cookie: 1, id: 3, status: dlm.StatusCanceled})
			synctest.Wait()
			require.Equal(t, []dlm.Event{end(dlm.OpLock, 1, 0, 3, dlm.PR),
				end(dlm.OpConvert, 1, dlm.StatusCanceled, 3, dlm.PR)}, ev.take())
		})
	})
}
