package libdlm

import "github.com/dlmlock/dlmlockd/dlm"

// A cancel can come too late: the conversion has been granted, and that it was
// reaches this node before the answer to the cancel does. Then the kernel
// forgets the cancel, so that the next operation is not refused as busy
// (_remove_from_waiters in fs/dlm/lock.c, "zap overlap_cancel"). Its answer
// comes all the same. If by then the next conversion is with another node and
// has been canceled too, the kernel takes the answer to the first cancel for
// that to the second, ends the wait for the conversion, and throws its result
// away when it comes. On the console it says "remwait error", and the
// conversion never ends. Linux 6.1 and 6.12 do that.
//
// So the first conversion after a cancel that changed nothing is preceded by a
// test, as that of a lock that was not heard of (unheard.go): a conversion in
// place. Nobody cancels it, and another node answers in the order in which it
// is asked, so with the result of the test the answer to the cancel has come.
// The test changes neither the mode nor whether the lock is persistent: a process
// that dies during it leaves the lock as it was.

// settle notes how an operation has ended, which the kernel may have been asked
// to cancel.
func (l *lock) settle(status dlm.Status) {
	if l.recalled && status != dlm.StatusCanceled {
		l.late = true
	}
	l.recalled = false
}
