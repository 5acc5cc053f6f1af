package libdlm

import (
	"errors"
	"syscall"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// An adopted lock can be deaf: the kernel carries its operations out and
// reports none of them. It happens on Linux 6.1 (and by reading before 6.10)
// where a process was killed while a conversion was under way to another node.
// The reply to that conversion takes the mark "orphan" away with the other
// flags it brings (receive_flags_reply in fs/dlm/lock.c), so dlm_user_add_ast
// queues the result for the process that is gone; and as long as the lock is in
// that queue it is put into no other. Nothing takes it out again.
//
// So a lock that was adopted, and that nothing was heard of since, is not
// trusted to report:
//
//   - An Unlock of it that has not ended after a while is asked for again. The
//     kernel says EBUSY while it is under way, and ENOENT when it has been
//     carried out (DLM_IFL_ENDOFLIFE).
//   - A Convert of it is preceded by a test: a conversion in place, which never
//     waits. If a second one is accepted without a result of the first, the
//     lock is deaf. Then the Convert ends with StatusUnheard and has done
//     nothing, because the kernel has no way to tell how it would have ended.
//
// Asking for a lockid again hits no other lock. The kernel keeps a reference to
// a deaf lock, so its lockid is never given to another one. One whose result
// is only late keeps its lockid until the result has been read. Should that
// not hold, what other locks of this handle have is known here: new lockids
// are given out by calls of the same lane alone. A lockid of a copy of another
// node's lock is refused by the kernel (MSTCPY, EINVAL). What is left are
// other programs, which have no business in a lockspace of dlmlockd.

// silence is how long an operation of a lock that was not heard of may take
// until it is asked for again, and between two times after that.
const silence = 2 * time.Second

// testFirst has the lock tested before a conversion.
func (s *space) testFirst(l *lock, conversion request) {
	l.tested = &conversion
	s.calls.put(request{lock: l, seq: l.seq, call: callTest, mode: l.mode, flags: l.flags&dlm.Persistent | dlm.NoQueue})
}

// heard ends a test: the lock reports, and no cancel is under way.
func (s *space) heard(l *lock, r *result) {
	conversion := *l.tested
	l.tested, l.stage, l.late = nil, queued, false
	switch {
	case l.canceled:
		s.finish(l, dlm.Event{Status: dlm.StatusCanceled})
	case r.status != dlm.StatusOK:
		s.finish(l, dlm.Event{Status: r.status})
	default:
		l.flags &^= dlm.ValueBlock
		s.calls.put(conversion)
	}
}

// doubt sees to it that an operation which the kernel has taken does not stay
// without an end because its lock is deaf.
func (s *space) doubt(l *lock) {
	if !l.unheard {
		return
	}
	again := request{lock: l, seq: l.seq, call: callUnlockAgain}
	switch l.stage {
	case unlocking:
	case hearing:
		again.call, again.mode, again.flags = callTestAgain, l.mode, l.flags&dlm.Persistent|dlm.NoQueue
	default:
		return
	}
	time.AfterFunc(silence, func() { s.calls.put(again) })
}

// unanswered tells whether a call that asks again is still needed.
func (s *space) unanswered(l *lock) bool {
	if !l.unheard {
		return false
	}
	for _, other := range s.locks {
		if other != l && other.id == l.id {
			s.end(l, "its lockid is another lock's by now")
			return false
		}
	}
	return true
}

// askedAgain handles what a call that asks again has returned.
func (s *space) askedAgain(r *request, err error) {
	l := r.lock
	switch {
	case l.seq != r.seq || l.op == dlm.OpNone || !l.unheard:
		return // the result has come after all
	case errors.Is(err, syscall.EBUSY):
		s.doubt(l)
	case r.call == callTestAgain && err == nil:
		s.deaf(l)
	case r.call == callTestAgain:
		s.failed(r, err)
	case err == nil: // it had been lost, with its node perhaps
		s.doubt(l)
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.EINVAL):
		s.end(l, "it is gone")
	default:
		s.failed(r, err)
	}
}

// end ends an Unlock whose result will not come.
func (s *space) end(l *lock, why string) {
	s.log.Warn("the kernel did not report the end of a lock that was adopted", "lkid", l.id, "reason", why)
	s.finish(l, dlm.Event{Status: dlm.StatusUnlocked})
}

// deaf refuses a conversion of a lock that does not report.
func (s *space) deaf(l *lock) {
	s.log.Warn("the kernel reports nothing of a lock that was adopted: it is held and can be released, but not "+
		"converted", "lkid", l.id, "mode", l.mode)
	status := dlm.StatusUnheard
	if l.canceled {
		status = dlm.StatusCanceled
	}
	l.tested = nil
	s.finish(l, dlm.Event{Status: status})
}
