package libdlm

import (
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// adopted gives s the lock c with lockid id, which is not confirmed yet.
func adopted(s *lockspace, d *script, ev *events, c dlm.Cookie, id dlm.LockID, m dlm.Mode) {
	s.Adopt(c, "disk", m, dlm.Persistent|dlm.ValueBlock)
	d.next("adopt").returns(id, nil)
	synctest.Wait()
	ev.take()
}

func TestLostCompletionIsUnlocked(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		adopted(s, d, ev, 1, 3, dlm.PR)
		s.Unlock(1, nil)
		d.next("unlock").returns(0, nil)
		d.next("unlock").returns(0, syscall.EBUSY) // under way
		synctest.Wait()
		require.Empty(t, ev.take())
		began := time.Now()
		again := d.next("unlock")
		require.Equal(t, completionWait, time.Since(began))
		require.Equal(t, dlm.LockID(3), again.id)
		again.returns(0, syscall.ENOENT)
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpUnlock, 1, dlm.StatusUnlocked, 3, dlm.None)}, ev.take())
	})
}

func TestLostCompletionIsUnlockedWithItsValue(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		adopted(s, d, ev, 1, 3, dlm.EX)
		s.Unlock(1, &dlm.Value{7})
		down := d.next("convert")
		require.Equal(t, dlm.Value{7}, down.value)
		down.returns(0, nil)
		d.next("unlock").returns(0, nil)
		synctest.Wait()
		require.Empty(t, ev.take())
		d.next("unlock").returns(0, syscall.ENOENT)
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpUnlock, 1, dlm.StatusUnlocked, 3, dlm.None)}, ev.take())
	})
}

// If another lock has got the lockid, the first lock is gone. It must not be unlocked again.
func TestLostCompletionWhoseLockidIsUsedAgain(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		adopted(s, d, ev, 1, 3, dlm.PR)
		s.Unlock(1, nil)
		d.next("unlock").returns(0, nil)
		granted(s, d, 2, 3, dlm.EX, 0)
		ev.take()
		time.Sleep(2 * completionWait)
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpUnlock, 1, dlm.StatusUnlocked, 3, dlm.None)}, ev.take())
		s.Unlock(2, nil)
		call := d.next("unlock")
		require.Equal(t, dlm.Cookie(2), call.cookie)
		call.returns(0, nil)
	})
}

// The lockid now belongs to a copy of another node's lock.
func TestLostCompletionWhoseLockidIsAnotherNodes(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		adopted(s, d, ev, 1, 3, dlm.PR)
		s.Unlock(1, nil)
		d.next("unlock").returns(0, nil)
		d.next("unlock").returns(0, syscall.EINVAL)
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpUnlock, 1, dlm.StatusUnlocked, 3, dlm.None)}, ev.take())
	})
}

func TestLateResultOfAnAdoptedLock(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		adopted(s, d, ev, 1, 3, dlm.PR)
		s.Unlock(1, nil)
		d.next("unlock").returns(0, nil)
		again := d.next("unlock")
		d.result(result{cookie: 1, id: 3, status: dlm.StatusUnlocked})
		again.returns(0, syscall.ENOENT)
		time.Sleep(2 * completionWait)
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpUnlock, 1, dlm.StatusUnlocked, 3, dlm.None)}, ev.take())
	})
}

// A lock of this process reports: no call is repeated, however long it takes.
func TestOnlyAdoptedLocksAreDoubted(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		granted(s, d, 1, 3, dlm.PR, 0)
		ev.take()
		s.Unlock(1, nil)
		d.next("unlock").returns(0, nil)
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Empty(t, ev.take())

		adopted(s, d, ev, 2, 4, dlm.PR)
		d.result(result{cookie: 2, id: 4, blocking: true, mode: dlm.EX})
		synctest.Wait()
		ev.take()
		s.Unlock(2, nil)
		d.next("unlock").returns(0, nil)
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Empty(t, ev.take())
	})
}

func TestConversionOfAnAdoptedLockIsPrecededByATest(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		adopted(s, d, ev, 1, 3, dlm.EX)
		s.Convert(1, dlm.PR, dlm.Persistent|dlm.ValueBlock, &dlm.Value{9})
		test := d.next("convert")
		require.Equal(t, dlm.EX, test.mode)
		require.Equal(t, dlm.Persistent|dlm.NoQueue, test.flags, "and the value block is left as it is")
		test.returns(0, nil)
		d.result(result{cookie: 1, id: 3})
		call := d.next("convert")
		require.Equal(t, dlm.PR, call.mode)
		require.Equal(t, dlm.Persistent|dlm.ValueBlock, call.flags)
		require.Equal(t, dlm.Value{9}, call.value)
		call.returns(0, nil)
		synctest.Wait()
		require.Empty(t, ev.take())
		d.result(result{cookie: 1, id: 3})
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpConvert, 1, dlm.StatusOK, 3, dlm.PR)}, ev.take())

		s.Convert(1, dlm.EX, dlm.Persistent, nil) // confirmed by now
		call = d.next("convert")
		require.Equal(t, dlm.EX, call.mode)
		call.returns(0, nil)
	})
}

func TestLostCompletionIsNotConverted(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		adopted(s, d, ev, 1, 3, dlm.EX)
		s.Convert(1, dlm.PR, dlm.Persistent, nil)
		d.next("convert").returns(0, nil)
		d.next("convert").returns(0, syscall.EBUSY) // the first one is under way
		again := d.next("convert")
		require.Equal(t, dlm.EX, again.mode)
		again.returns(0, nil)
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpConvert, 1, dlm.StatusCompletionLost, 3, dlm.EX)}, ev.take())

		s.Unlock(1, nil) // through NL, because its flags may still have VALBLK
		call := d.next("convert")
		require.Equal(t, dlm.NL, call.mode)
		call.returns(0, nil)
	})
}

func TestCancelDuringATest(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		adopted(s, d, ev, 1, 3, dlm.EX)
		s.Convert(1, dlm.PR, dlm.Persistent, nil)
		d.next("convert").returns(0, nil)
		s.Cancel(1)
		synctest.Wait()
		require.Empty(t, ev.take(), "the kernel is at the test")
		d.result(result{cookie: 1, id: 3})
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpConvert, 1, dlm.StatusCanceled, 3, dlm.EX)}, ev.take())

		adopted(s, d, ev, 2, 4, dlm.EX)
		s.Convert(2, dlm.PR, dlm.Persistent, nil)
		d.next("convert").returns(0, nil)
		s.Cancel(2)
		d.next("convert").returns(0, nil)
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpConvert, 2, dlm.StatusCanceled, 4, dlm.EX)}, ev.take())
	})
}

// The reply to an operation of a dead process can come to the process that has adopted its lock. It
// must not end an operation that has not reached the kernel.
func TestResultOfAnEarlierProcess(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		adopted(s, d, ev, 1, 3, dlm.PR)
		s.Unlock(1, nil)
		d.next("unlock").returns(0, syscall.EBUSY)
		synctest.Wait()
		d.result(result{cookie: 1, id: 3})
		call := d.next("unlock")
		require.Empty(t, ev.take())
		call.returns(0, nil)
		d.result(result{cookie: 1, id: 3, status: dlm.StatusUnlocked})
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpUnlock, 1, dlm.StatusUnlocked, 3, dlm.None)}, ev.take())
	})
}
