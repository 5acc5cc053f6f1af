package libdlm

import (
	"errors"
	"syscall"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// The completions of an adopted lock can be lost: the kernel carries its operations out and reports
// none of them. It happens on Linux 6.1 (and, according to the source, before 6.10) if a process
// was killed while a conversion was under way to another node. The reply to that conversion
// overwrites the lock's flags, the mark "orphan" among them (receive_flags_reply in fs/dlm/lock.c),
// so dlm_user_add_ast queues the result for the dead process; and as long as the lock is in that
// queue it is added to no other. Nothing ever removes it.
//
// So an adopted lock about which the kernel has reported nothing yet is unconfirmed:
//
//   - An Unlock of it that has not ended after a while is repeated. The kernel
//     answers EBUSY while the first is under way, and ENOENT when it has been
//     carried out (DLM_IFL_ENDOFLIFE).
//   - A Convert of it is preceded by a probe: a conversion in place, which never
//     waits. If a second probe is accepted without a result of the first, the
//     completions are lost. Then the Convert ends with StatusCompletionLost and has done
//     nothing, because the kernel could not report how it ended.
//
// A repeated Unlock can't hit another lock. The kernel keeps a reference to a lock whose
// completions are lost, so its lockid is never given to another one. A lock whose result is merely
// late keeps its lockid until the result has been read. In case that should not hold, the lockids
// of the other locks of this handle are compared: new lockids are assigned only in calls of the
// same queue. The kernel refuses the lockid of a copy of another node's lock (MSTCPY, EINVAL). That
// leaves other programs, which should not use a lockspace of dlmlockd.

// completionWait is how long an operation of an unconfirmed lock may take before it is repeated,
// and the pause between repetitions.
const completionWait = 2 * time.Second

// probeFirst has the lock probed before a conversion.
func (s *lockspace) probeFirst(l *lock, conversion kernelCall) {
	l.afterProbe = &conversion
	s.calls.Add(kernelCall{lock: l, seq: l.seq, kind: callProbe, mode: l.mode,
		flags: l.flags&dlm.Persistent | dlm.NoQueue})
}

// probeCompleted ends a probe: the kernel reports completions of the lock, and no cancel is
// outstanding.
func (s *lockspace) probeCompleted(l *lock, r *result) {
	conversion := *l.afterProbe
	l.afterProbe, l.stage, l.cancelReplyDue = nil, queued, false
	switch {
	case l.canceled:
		s.finish(l, dlm.Event{Status: dlm.StatusCanceled})
	case r.status != dlm.StatusOK:
		s.finish(l, dlm.Event{Status: r.status})
	default:
		l.flags &^= dlm.ValueBlock
		s.calls.Add(conversion)
	}
}

// awaitCompletion arranges that an operation which the kernel has accepted is repeated if its
// completion does not come, because it may be lost.
func (s *lockspace) awaitCompletion(l *lock) {
	if !l.unconfirmed {
		return
	}
	again := kernelCall{lock: l, seq: l.seq, kind: callUnlockRetry}
	switch l.stage {
	case unlocking:
	case probing:
		again.kind, again.mode, again.flags = callProbeRetry, l.mode, l.flags&dlm.Persistent|dlm.NoQueue
	default:
		return
	}
	time.AfterFunc(completionWait, func() { s.calls.Add(again) })
}

// stillUnconfirmed reports whether a repeated call is still needed.
func (s *lockspace) stillUnconfirmed(l *lock) bool {
	if !l.unconfirmed {
		return false
	}
	if s.lockidReused(l) {
		s.endUnreported(l, "its lockid belongs to another lock now")
		return false
	}
	return true
}

// lockidReused reports whether another lock of this handle has the lockid of l. New lockids are
// assigned only in calls of the same queue.
func (s *lockspace) lockidReused(l *lock) bool {
	for _, other := range s.locks {
		if other != l && other.id == l.id {
			return true
		}
	}
	for _, c := range s.scouts {
		if c.id == l.id {
			return true
		}
	}
	return false
}

// retried handles the return of a repeated call.
func (s *lockspace) retried(r *kernelCall, err error) {
	l := r.lock
	switch {
	case l.seq != r.seq || l.op == dlm.OpNone || !l.unconfirmed:
		return // the result has come after all
	case errors.Is(err, syscall.EBUSY):
		s.awaitCompletion(l)
	case r.kind == callProbeRetry && err == nil:
		s.completionLost(l)
	case r.kind == callProbeRetry:
		s.failed(r, err)
	case err == nil: // the first call was lost, perhaps with its node
		s.awaitCompletion(l)
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.EINVAL):
		s.endUnreported(l, "it is gone")
	default:
		s.failed(r, err)
	}
}

// endUnreported ends an Unlock whose completion will not come.
func (s *lockspace) endUnreported(l *lock, why string) {
	s.log.Warn("the kernel did not report the end of a lock that was adopted", "lkid", l.id, "reason", why)
	s.finish(l, dlm.Event{Status: dlm.StatusUnlocked})
}

// completionLost refuses a conversion of a lock whose completions are lost.
func (s *lockspace) completionLost(l *lock) {
	s.log.Warn("the kernel reports nothing about a lock that was adopted: it is held and can be released, but not "+
		"converted", "lkid", l.id, "mode", l.mode)
	status := dlm.StatusCompletionLost
	if l.canceled {
		status = dlm.StatusCanceled
	}
	l.afterProbe = nil
	s.finish(l, dlm.Event{Status: status})
}
