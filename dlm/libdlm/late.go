package libdlm

import "github.com/dlmlock/dlmlockd/dlm"

// A cancel can come too late: the conversion has been granted, and the news of that reaches this
// node before the reply to the cancel. Then the kernel forgets the cancel, so that the next
// operation is not refused as busy (_remove_from_waiters in fs/dlm/lock.c, "zap overlap_cancel").
// The reply comes nevertheless. If by then the next conversion is with another node and has been
// canceled too, the kernel takes the reply to the first cancel for the reply to the second, stops
// waiting for the conversion, and discards its result when it comes. The console says "remwait
// error", and the conversion never ends. Linux 6.1 and 6.12 do that.
//
// So the first conversion after a cancel that came too late is preceded by a probe, as is that of
// an unconfirmed lock (completion.go): a conversion in place. Nobody cancels the probe, and another
// node replies in the order of the requests, so when the result of the probe has come, the reply to
// the cancel has come too. The probe changes neither the mode nor whether the lock is persistent: a
// process that dies during it leaves the lock as it was.

// settle notes whether the operation that has ended escaped a cancel.
func (l *lock) settle(status dlm.Status) {
	if l.cancelSent && status != dlm.StatusCanceled {
		l.cancelReplyDue = true
	}
	l.cancelSent = false
}
