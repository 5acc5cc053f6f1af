package libdlm

import (
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// In these tests synctest.Wait stands for "everything that can happen without
// the kernel has happened".

func end(op dlm.Op, c dlm.Cookie, s dlm.Status, id dlm.LockID, m dlm.Mode) dlm.Event {
	return dlm.Event{Kind: dlm.Completed, Op: op, Cookie: c, Status: s, LockID: id, Mode: m}
}

// story runs a test in a bubble and closes the lockspace at its end. A call that is under way by then, such
// as the second step of an Unlock, is answered.
func story(t *testing.T, run func(t *testing.T, s *lockspace, d *script, ev *events)) {
	synctest.Test(t, func(t *testing.T) {
		s, d, ev := open(t)
		run(t, s, d, ev)
		go s.Close()
		for {
			select {
			case call := <-d.calls:
				call.returns(0, syscall.EBADF)
			case <-d.closed:
				return
			}
		}
	})
}

// granted gives s the lock c with lockid id.
func granted(s *lockspace, d *script, c dlm.Cookie, id dlm.LockID, m dlm.Mode, f dlm.Flags) {
	s.Lock(c, "disk", m, f)
	d.next("request").returns(id, nil)
	d.result(result{cookie: c, id: id})
	synctest.Wait()
}

func TestResultBeforeTheCallReturns(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		s.Lock(7, "disk", dlm.EX, dlm.NoQueue)
		call := d.next("request")
		require.Equal(t, dlm.Cookie(7), call.cookie)
		require.Equal(t, "disk", call.resource)
		d.result(result{cookie: 7, id: 3})
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpLock, 7, 0, 3, dlm.EX)}, ev.take())
		call.returns(3, nil)

		// The same for a request that is refused: its cookie is free before the call has returned,
		// and the call must not disturb the next lock.
		s.Unlock(7, nil)
		call = d.next("unlock")
		d.result(result{cookie: 7, id: 3, status: dlm.StatusUnlocked})
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpUnlock, 7, dlm.StatusUnlocked, 3, dlm.None)}, ev.take())
		s.Lock(7, "disk", dlm.PR, 0)
		call.returns(0, syscall.ENOENT)
		d.next("request").returns(4, nil)
		synctest.Wait()
		require.Empty(t, ev.take())
		d.result(result{cookie: 7, id: 4})
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpLock, 7, 0, 4, dlm.PR)}, ev.take())
	})
}

func TestErrnoOfACallEndsTheOperation(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		s.Lock(1, "disk", dlm.EX, 0)
		d.next("request").returns(0, syscall.EINVAL)
		s.Lock(2, "disk", dlm.EX, 0)
		d.next("request").returns(0, syscall.ENOENT)
		synctest.Wait() // the queues have no order between them
		s.Adopt(3, "disk", dlm.EX, dlm.Persistent)
		d.next("adopt").returns(0, syscall.EAGAIN)
		s.Adopt(4, "disk", dlm.EX, dlm.Persistent)
		d.next("adopt").returns(0, syscall.ENOENT)
		synctest.Wait()
		require.Equal(t, []dlm.Event{
			end(dlm.OpLock, 1, dlm.StatusInvalid, 0, dlm.None),
			end(dlm.OpLock, 2, dlm.StatusGone, 0, dlm.None),
			end(dlm.OpAdopt, 3, dlm.StatusAgain, 0, dlm.None),
			end(dlm.OpAdopt, 4, dlm.StatusNotFound, 0, dlm.None),
		}, ev.take())
	})
}

func TestBlockingNotificationWaitsForTheAdoption(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		s.Adopt(5, "disk", dlm.PR, dlm.Persistent)
		call := d.next("adopt")
		d.result(result{cookie: 5, id: 9, blocking: true, mode: dlm.EX})
		synctest.Wait()
		require.Empty(t, ev.take())
		call.returns(9, nil)
		synctest.Wait()
		require.Equal(t, []dlm.Event{
			end(dlm.OpAdopt, 5, 0, 9, dlm.PR),
			{Kind: dlm.Blocking, Cookie: 5, LockID: 9, Mode: dlm.EX},
		}, ev.take())
	})
}

func TestUnlockWithAValueGoesThroughNL(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		granted(s, d, 1, 3, dlm.EX, 0)
		ev.take()
		v := dlm.Value{1, 2, 3}
		s.Unlock(1, &v)
		call := d.next("convert")
		require.Equal(t, dlm.NL, call.mode)
		require.Equal(t, dlm.ValueBlock, call.flags, "and not Persistent")
		require.Equal(t, v, call.value)
		call.returns(0, nil)
		d.result(result{cookie: 1, id: 3})
		call = d.next("unlock")
		require.Equal(t, dlm.LockID(3), call.id)
		call.returns(0, nil)
		synctest.Wait()
		require.Empty(t, ev.take())
		d.result(result{cookie: 1, id: 3, status: dlm.StatusUnlocked})
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpUnlock, 1, dlm.StatusUnlocked, 3, dlm.None)}, ev.take())
	})
}

// The second step is requested as soon as the first one has been accepted.
func TestUnlockDoesNotWaitForItsFirstStep(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		granted(s, d, 1, 3, dlm.EX, 0)
		ev.take()
		s.Unlock(1, &dlm.Value{1})
		d.next("convert").returns(0, nil)
		call := d.next("unlock")
		d.result(result{cookie: 1, id: 3})
		synctest.Wait()
		require.Empty(t, ev.take())
		call.returns(0, nil)
		d.result(result{cookie: 1, id: 3, status: dlm.StatusUnlocked})
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpUnlock, 1, dlm.StatusUnlocked, 3, dlm.None)}, ev.take())
	})
}

// dlm_ls_unlock sends uninitialised memory as value, and the kernel takes it if
// the last conversion had VALBLK.
func TestUnlockWithoutAValueDoesNotWriteOne(t *testing.T) {
	for name, c := range map[string]struct {
		mode    dlm.Mode
		flags   dlm.Flags // of the last conversion
		through bool      // NL
	}{
		"EX that wrote its value": {dlm.EX, dlm.Persistent | dlm.ValueBlock, true},
		"PW that wrote its value": {dlm.PW, dlm.Persistent | dlm.ValueBlock, true},
		"EX without a value":      {dlm.EX, dlm.Persistent, false},
		"PR":                      {dlm.PR, dlm.Persistent | dlm.ValueBlock, false},
	} {
		t.Run(name, func(t *testing.T) {
			story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
				granted(s, d, 1, 3, c.mode, 0)
				s.Convert(1, c.mode, c.flags, nil)
				d.next("convert").returns(0, nil)
				d.result(result{cookie: 1, id: 3})
				synctest.Wait()
				s.Unlock(1, nil)
				if c.through {
					call := d.next("convert")
					require.Zero(t, call.flags)
					require.Equal(t, dlm.NL, call.mode)
					call.returns(0, nil)
					d.result(result{cookie: 1, id: 3})
				}
				d.next("unlock").returns(0, nil)
				d.result(result{cookie: 1, id: 3, status: dlm.StatusUnlocked})
				synctest.Wait()
			})
		})
	}
}

// Even a conversion that the kernel refuses has changed the flags.
func TestRefusedConversionKeepsItsFlags(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		granted(s, d, 1, 3, dlm.PW, 0)
		s.Convert(1, dlm.EX, dlm.NoQueue|dlm.ValueBlock, nil)
		d.next("convert").returns(0, nil)
		d.result(result{cookie: 1, id: 3, status: dlm.StatusAgain})
		synctest.Wait()
		s.Unlock(1, nil)
		d.next("convert").returns(0, nil)
		d.result(result{cookie: 1, id: 3})
		d.next("unlock").returns(0, nil)
	})
}

func TestValueIsSentOnlyWhereItIsWritten(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		granted(s, d, 1, 3, dlm.PR, 0)
		v := dlm.Value{9}
		s.Convert(1, dlm.EX, dlm.ValueBlock, &v)
		call := d.next("convert")
		require.Zero(t, call.value, "a conversion that reads gets zeros back if there is no value")
		call.returns(0, nil)
		d.result(result{cookie: 1, id: 3, hasValue: true, value: dlm.Value{4}, invalid: true})
		synctest.Wait()
		all := ev.take()
		got := all[len(all)-1]
		require.True(t, got.HasValue)
		require.True(t, got.ValueInvalid)
		require.Equal(t, dlm.Value{4}, got.Value)

		s.Convert(1, dlm.EX, dlm.ValueBlock, &v)
		call = d.next("convert")
		require.Equal(t, v, call.value)
		call.returns(0, nil)
		d.result(result{cookie: 1, id: 3, hasValue: true, value: v})
		synctest.Wait()
		require.False(t, ev.take()[0].HasValue, "what was written is not read")
	})
}

// The reply to a cancel may still be on its way from the master, and until then
// the kernel refuses every operation of the lock with EBUSY.
func TestBusyKernelIsAskedAgain(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		granted(s, d, 1, 3, dlm.EX, 0)
		ev.take()
		s.Unlock(1, nil)
		began := time.Now()
		for range 5 {
			d.next("unlock").returns(0, syscall.EBUSY)
		}
		d.next("unlock").returns(0, nil)
		require.Less(t, time.Since(began), 100*time.Millisecond)
		d.result(result{cookie: 1, id: 3, status: dlm.StatusUnlocked})
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpUnlock, 1, dlm.StatusUnlocked, 3, dlm.None)}, ev.take())

		granted(s, d, 1, 3, dlm.EX, 0)
		ev.take()
		s.Convert(1, dlm.PR, 0, nil)
		began = time.Now()
		for range maxTries + 1 {
			d.next("convert").returns(0, syscall.EBUSY)
		}
		synctest.Wait()
		require.Equal(t, []dlm.Event{end(dlm.OpConvert, 1, dlm.StatusBusy, 3, dlm.EX)}, ev.take())
		require.InDelta(t, 30, time.Since(began).Seconds(), 5)
	})
}

// While the cluster loses a node, the kernel can't send to it for a moment.
func TestCallsThatCannotBeSentAreMadeAgain(t *testing.T) {
	t.Run("request, conversion and unlock", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			notSent := func(what string) {
				for range 5 {
					d.next(what).returns(0, syscall.ENOBUFS)
				}
			}
			s.Lock(1, "disk", dlm.EX, dlm.NoQueue)
			notSent("request")
			d.next("request").returns(3, nil)
			d.result(result{cookie: 1, id: 3})
			synctest.Wait()
			s.Convert(1, dlm.PR, 0, nil)
			notSent("convert")
			d.next("convert").returns(3, nil)
			d.result(result{cookie: 1, id: 3})
			synctest.Wait()
			s.Unlock(1, nil)
			notSent("unlock")
			d.next("unlock").returns(0, nil)
			d.result(result{cookie: 1, id: 3, status: dlm.StatusUnlocked})
			synctest.Wait()
			require.Equal(t, []dlm.Event{
				end(dlm.OpLock, 1, dlm.StatusOK, 3, dlm.EX),
				end(dlm.OpConvert, 1, dlm.StatusOK, 3, dlm.PR),
				end(dlm.OpUnlock, 1, dlm.StatusUnlocked, 3, dlm.None),
			}, ev.take())
		})
	})
	t.Run("a cancel", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			s.Lock(1, "disk", dlm.EX, 0)
			d.next("request").returns(3, nil)
			synctest.Wait()
			s.Cancel(1)
			afterScout(t, d, "disk", dlm.StatusAgain).returns(0, syscall.ENOBUFS)
			for range 300 {
				d.next("cancel").returns(0, syscall.ENOBUFS)
			}
			d.next("cancel").returns(0, nil)
			d.result(result{cookie: 1, id: 3, status: dlm.StatusCanceled})
			synctest.Wait()
			require.Equal(t, []dlm.Event{end(dlm.OpLock, 1, dlm.StatusCanceled, 3, dlm.None)}, ev.take())
			time.Sleep(time.Minute)
			d.noCall()
		})
	})
	t.Run("but not what was canceled", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			s.Lock(1, "disk", dlm.EX, 0)
			call := d.next("request")
			s.Cancel(1)
			call.returns(0, syscall.ENOBUFS)
			synctest.Wait()
			require.Equal(t, []dlm.Event{end(dlm.OpLock, 1, dlm.StatusCanceled, 0, dlm.None)}, ev.take())
			time.Sleep(time.Minute)
			d.noCall()
		})
	})
	t.Run("and not for ever", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			s.Lock(1, "disk", dlm.EX, 0)
			for range maxTries + 1 {
				d.next("request").returns(0, syscall.ENOBUFS)
			}
			synctest.Wait()
			require.Equal(t, []dlm.Event{end(dlm.OpLock, 1, statusNotSent, 0, dlm.None)}, ev.take())
		})
	})
}

func TestSomebodyElseUnlocks(t *testing.T) {
	ended := dlm.Event{Kind: dlm.Ended, Cookie: 1, LockID: 3, Mode: dlm.None}
	t.Run("a lock at rest", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			granted(s, d, 1, 3, dlm.EX, 0)
			ev.take()
			d.result(result{cookie: 1, id: 3, status: dlm.StatusUnlocked})
			synctest.Wait()
			require.Equal(t, []dlm.Event{ended}, ev.take())
			s.Unlock(1, nil)
			require.Equal(t, []dlm.Event{end(dlm.OpUnlock, 1, dlm.StatusNotFound, 0, dlm.None)}, ev.take())
		})
	})
	t.Run("before our unlock, which then finds nothing", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			granted(s, d, 1, 3, dlm.EX, 0)
			ev.take()
			s.Unlock(1, nil)
			d.next("unlock").returns(0, syscall.ENOENT)
			synctest.Wait()
			d.result(result{cookie: 1, id: 3, status: dlm.StatusUnlocked})
			synctest.Wait()
			require.Equal(t, []dlm.Event{end(dlm.OpUnlock, 1, dlm.StatusNotFound, 3, dlm.EX), ended}, ev.take())
		})
	})
	t.Run("during a conversion", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			granted(s, d, 1, 3, dlm.PR, 0)
			ev.take()
			s.Convert(1, dlm.EX, 0, nil)
			d.next("convert").returns(0, nil)
			d.result(result{cookie: 1, id: 3, status: dlm.StatusUnlocked})
			synctest.Wait()
			require.Equal(t, []dlm.Event{end(dlm.OpConvert, 1, dlm.StatusNotFound, 3, dlm.None), ended}, ev.take())
		})
	})
	t.Run("a request that waits", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			s.Lock(1, "disk", dlm.EX, 0)
			d.next("request").returns(3, nil)
			d.result(result{cookie: 1, id: 3, status: dlm.StatusUnlocked})
			synctest.Wait()
			require.Equal(t, []dlm.Event{end(dlm.OpLock, 1, dlm.StatusNotFound, 3, dlm.None)}, ev.take())
		})
	})
}

func TestUnlockOfARequestThatWaits(t *testing.T) {
	t.Run("canceled", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			s.Lock(1, "disk", dlm.EX, 0)
			d.next("request").returns(3, nil)
			synctest.Wait()
			s.Unlock(1, nil)
			afterScout(t, d, "disk", dlm.StatusAgain).returns(0, nil)
			d.result(result{cookie: 1, id: 3, status: dlm.StatusCanceled})
			synctest.Wait()
			require.Equal(t, []dlm.Event{end(dlm.OpLock, 1, dlm.StatusCanceled, 3, dlm.None),
				end(dlm.OpUnlock, 1, dlm.StatusUnlocked, 0, dlm.None)}, ev.take())
		})
	})
	t.Run("granted meanwhile", func(t *testing.T) {
		story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
			s.Lock(1, "disk", dlm.EX, 0)
			d.next("request").returns(3, nil)
			synctest.Wait()
			s.Unlock(1, nil)
			call := afterScout(t, d, "disk", dlm.StatusAgain)
			d.result(result{cookie: 1, id: 3})
			call.returns(0, nil)
			d.next("unlock").returns(0, nil)
			d.result(result{cookie: 1, id: 3, status: dlm.StatusUnlocked})
			synctest.Wait()
			require.Equal(t, []dlm.Event{end(dlm.OpLock, 1, 0, 3, dlm.EX),
				end(dlm.OpUnlock, 1, dlm.StatusUnlocked, 3, dlm.None)}, ev.take())
		})
	})
}

func TestRefusals(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		s.Convert(1, dlm.EX, 0, nil)
		s.Unlock(1, nil)
		s.Cancel(1)
		s.Lock(0, "disk", dlm.EX, 0)
		s.Lock(1, "", dlm.EX, 0)
		s.Lock(1, "disk", dlm.None, 0)
		s.Lock(1, "disk", dlm.EX, 0x4000) // ORPHAN
		require.Equal(t, []dlm.Event{
			end(dlm.OpConvert, 1, dlm.StatusNotFound, 0, dlm.None),
			end(dlm.OpUnlock, 1, dlm.StatusNotFound, 0, dlm.None),
			end(dlm.OpLock, 0, dlm.StatusInvalid, 0, dlm.None),
			end(dlm.OpLock, 1, dlm.StatusInvalid, 0, dlm.None),
			end(dlm.OpLock, 1, dlm.StatusInvalid, 0, dlm.None),
			end(dlm.OpLock, 1, dlm.StatusInvalid, 0, dlm.None),
		}, ev.take())

		s.Lock(1, "disk", dlm.EX, 0)
		s.Lock(1, "disk", dlm.EX, 0)
		s.Convert(1, dlm.PR, 0, nil)
		require.Equal(t, []dlm.Event{
			end(dlm.OpLock, 1, dlm.StatusBusy, 0, dlm.None),
			end(dlm.OpConvert, 1, dlm.StatusBusy, 0, dlm.None),
		}, ev.take())
		d.next("request").returns(3, nil)
		d.result(result{cookie: 1, id: 3})
		synctest.Wait()
		ev.take()
		s.Convert(1, dlm.PR, 0x2, nil) // CANCEL
		require.Equal(t, []dlm.Event{end(dlm.OpConvert, 1, dlm.StatusInvalid, 3, dlm.EX)}, ev.take())
	})
}

func TestPurgeComesAfterTheAdoptionsBeforeIt(t *testing.T) {
	story(t, func(t *testing.T, s *lockspace, d *script, ev *events) {
		s.Adopt(1, "orphan", dlm.EX, dlm.Persistent)
		s.Purge()
		call := d.next("adopt")
		synctest.Wait()
		select {
		case <-d.calls:
			t.Fatal("the purge would take the orphan")
		default:
		}
		call.returns(3, nil)
		d.next("purge").returns(0, nil)
		synctest.Wait()
		require.Equal(t, dlm.Event{Kind: dlm.Completed, Op: dlm.OpPurge, Mode: dlm.None, Count: -1}, ev.take()[1])
	})
}

func TestLockspaceGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d, ev := open(t)
		granted(s, d, 1, 3, dlm.EX, 0)
		s.Lock(2, "disk", dlm.EX, 0)
		d.next("request").returns(4, nil)
		s.Unlock(2, nil)
		afterScout(t, d, "disk", dlm.StatusAgain).returns(0, nil)
		s.Purge()
		d.next("purge").returns(0, nil)
		synctest.Wait()
		ev.take()
		s.Convert(1, dlm.PR, 0, nil)
		call := d.next("convert")
		s.lose()
		require.Equal(t, []dlm.Event{
			end(dlm.OpConvert, 1, dlm.StatusGone, 3, dlm.None),
			end(dlm.OpLock, 2, dlm.StatusGone, 4, dlm.None),
			end(dlm.OpUnlock, 2, dlm.StatusGone, 0, dlm.None),
			{Kind: dlm.Closed, Mode: dlm.None},
		}, ev.take())
		call.returns(0, nil)
		<-d.closed
		s.lose()
		require.NoError(t, s.Close())
		require.Empty(t, ev.take())
	})
}
