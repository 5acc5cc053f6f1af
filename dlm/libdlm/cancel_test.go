package libdlm

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

func TestCancel(t *testing.T) {
	t.Run("in the kernel", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			s.Lock(1, "disk", dlm.EX, 0)
			d.next("request").returns(3, nil)
			synctest.Wait()
			s.Cancel(1)
			s.Cancel(1)
			call := d.next("cancel")
			require.Equal(t, dlm.LockID(3), call.id)
			call.returns(0, nil)
			synctest.Wait()
			require.Empty(t, ev.take())
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
			d.next("cancel").returns(0, nil)
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
			call := d.next("cancel")
			d.result(result{cookie: 1, id: 3})
			call.returns(0, nil)
			synctest.Wait()
			require.Equal(t, []dlm.Event{end(dlm.OpLock, 1, 0, 3, dlm.EX)}, ev.take())
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
