package libdlm

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// converted has the lock converted, with a cancel that comes too late.
func converted(s *lockspace, d *script, c dlm.Cookie, id dlm.LockID, m dlm.Mode) {
	s.Convert(c, m, dlm.Persistent|dlm.ValueBlock, nil)
	d.next("convert").returns(0, nil)
	synctest.Wait()
	s.Cancel(c)
	call := d.next("cancel")
	d.result(result{cookie: c, id: id})
	call.returns(0, nil)
	synctest.Wait()
}

func TestConversionAfterALateCancelIsPrecededByATest(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		granted(s, d, 1, 3, dlm.NL, 0)
		converted(s, d, 1, 3, dlm.PR)
		ev.take()

		s.Convert(1, dlm.EX, dlm.Persistent, nil)
		test := d.next("convert")
		require.Equal(t, dlm.PR, test.mode)
		require.Equal(t, dlm.Persistent|dlm.NoQueue, test.flags)
		test.returns(0, nil)
		s.Cancel(1) // is held back: the reply to the first may not have arrived
		synctest.Wait()
		require.Empty(t, ev.take())
		d.result(result{cookie: 1, id: 3})
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpConvert, 1, dlm.StatusCanceled, 3, dlm.PR)}, ev.take())

		s.Convert(1, dlm.EX, dlm.Persistent, nil) // now nothing is under way
		call := d.next("convert")
		require.Equal(t, dlm.EX, call.mode)
		call.returns(0, nil)
	})
}

func TestOnlyACancelThatWasSentIsAwaited(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		granted(s, d, 1, 3, dlm.NL, 0)
		s.Convert(1, dlm.PR, dlm.NoQueue, nil) // ends without help
		d.next("convert").returns(0, nil)
		synctest.Wait()
		s.Cancel(1)
		d.result(result{cookie: 1, id: 3})
		synctest.Wait()

		s.Convert(1, dlm.EX, 0, nil)
		call := d.next("convert")
		require.Equal(t, dlm.EX, call.mode)
		call.returns(0, nil)
		synctest.Wait()
		s.Cancel(1)
		d.next("cancel").returns(0, nil)
		d.result(result{cookie: 1, id: 3, status: dlm.StatusCanceled}) // which is the answer
		synctest.Wait()
		s.Convert(1, dlm.EX, 0, nil)
		call = d.next("convert")
		require.Equal(t, dlm.EX, call.mode)
		call.returns(0, nil)
	})
}
