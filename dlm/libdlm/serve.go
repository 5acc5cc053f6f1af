package libdlm

import (
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/internal/queue"
)

// callKind says which wrapper a call needs.
type callKind uint8

const (
	callRequest callKind = iota
	callAdopt
	callConvert
	callProbe      // the conversion in place that precedes a conversion, see completion.go
	callProbeRetry // see completion.go
	callDemote     // the conversion that begins an Unlock
	callUnlock
	callUnlockRetry
	callCancel
	callScout    // see cancel.go
	callScoutEnd // the unlock of a scout that was granted
	callWaiting  // the requests that wait, see masterless.go
	callForward  // a purge that is still in the queue of adoptions
	callPurge
)

// kernelCall is a call into the kernel that waits in a call queue. It belongs to the operation seq
// of its lock and is void when that has ended.
type kernelCall struct {
	lock  *lock
	scout *scout // of callScout and callScoutEnd, which have no lock
	seq   uint32
	kind  callKind
	tries uint8
	mode  dlm.Mode
	flags dlm.Flags
	name  string
	value dlm.Value
}

// How often a stopped lockspace is looked at.
const (
	holdFirst = 5 * time.Millisecond
	holdMost  = 100 * time.Millisecond
)

// hold waits while the lockspace is stopped. The kernel would wait too, but uninterruptibly: a
// process with a thread in it can't end, and the kernel complains about it after two minutes. If
// the lockspace stops at just this moment, one call still goes to sleep.
func (s *lockspace) hold() {
	for d := holdFirst; s.gate.Stopped(); d = min(2*d, holdMost) {
		select {
		case <-s.shutting:
			return
		case <-time.After(d):
		}
	}
}

// maxSpareCalls bounds the memory that a call queue keeps after a burst.
const maxSpareCalls = 1024

// serveQueue serves the calls of a queue in order until the queue is closed. Calls that are still
// waiting then are dropped.
func serveQueue(q *queue.Queue[kernelCall], serve func(*kernelCall)) {
	var spare []kernelCall
	for {
		batch := q.Take(spare)
		if batch.Closed {
			return
		}
		if len(batch.Items) == 0 {
			<-q.Wake()
		}
		for i := range batch.Items {
			serve(&batch.Items[i])
		}
		clear(batch.Items)
		if spare = batch.Items; cap(spare) > maxSpareCalls {
			spare = nil
		}
	}
}

// serve makes one call into the kernel, on the goroutine of a call queue.
func (s *lockspace) serve(r *kernelCall) {
	switch r.kind {
	case callForward:
		s.calls.Add(kernelCall{kind: callPurge})
		return
	case callPurge:
		s.servePurge()
		return
	case callWaiting:
		s.serveWaiting()
		return
	case callScout, callScoutEnd:
		s.serveScout(r)
		return
	}
	if r.kind == callRequest && s.keptBack(r) {
		return
	}
	id, ok := s.prepare(r)
	if !ok {
		return
	}
	id, err := s.ask(r, id)
	if more := s.returned(r, id, err); more != nil {
		s.serve(more)
	}
}

// prepare notes in the lock that a call is about to be made. It returns the lockid, if there is one
// yet, and whether the call is still needed.
func (s *lockspace) prepare(r *kernelCall) (dlm.LockID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := r.lock
	if s.closed || l.seq != r.seq || l.op == dlm.OpNone {
		return 0, false
	}
	switch r.kind {
	case callCancel:
		if l.asked&dlm.NoQueue != 0 && s.lockidReused(l) {
			return 0, false
		}
		l.cancelSent = true
	case callProbeRetry, callUnlockRetry:
		return l.id, s.stillUnconfirmed(l)
	case callProbe:
		l.stage = probing
	case callDemote:
		l.stage = demoting
	case callUnlock:
		l.stage = unlocking
	default:
		l.stage = calling
	}
	return l.id, true
}

// returned handles the return of a call. It may return another call to make at once.
func (s *lockspace) returned(r *kernelCall, id dlm.LockID, err error) (more *kernelCall) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := r.lock
	switch {
	case s.closed:
		return nil
	case r.kind == callCancel:
		s.cancelReturned(r, err)
		return nil
	case r.kind == callProbeRetry, r.kind == callUnlockRetry:
		s.retried(r, err)
		return nil
	case err != nil:
		s.failed(r, err)
		return nil
	}
	if l.id == 0 {
		l.id = id
	}
	if l.seq != r.seq || l.op == dlm.OpNone {
		return nil // the result came before the call returned
	}
	switch {
	case r.kind == callAdopt:
		l.flags, l.unconfirmed = l.asked, true
		s.finish(l, dlm.Event{})
	case l.stage == calling:
		l.stage = pending
		if l.canceled {
			s.sendCancel(l)
		}
	case r.kind == callDemote:
		l.mode, l.flags = dlm.NL, 0
		return &kernelCall{lock: l, seq: l.seq, kind: callUnlock}
	default:
		s.awaitCompletion(l)
	}
	return nil
}

// ask makes the call.
func (s *lockspace) ask(r *kernelCall, id dlm.LockID) (dlm.LockID, error) {
	d, c := s.device, r.lock.cookie
	switch r.kind {
	case callRequest:
		return d.request(c, r.name, r.mode, r.flags)
	case callAdopt:
		return d.adopt(c, r.name, r.mode, r.flags)
	case callConvert, callDemote, callProbe, callProbeRetry:
		return id, d.convert(c, id, r.mode, r.flags, &r.value)
	case callUnlock, callUnlockRetry:
		return id, d.unlock(c, id)
	default:
		return id, d.cancel(c, id)
	}
}

// cancelReturned handles the return of a cancel. The result of the canceled operation reports
// everything, unless the kernel could not send the cancel.
func (s *lockspace) cancelReturned(r *kernelCall, err error) {
	l := r.lock
	switch {
	case l.seq != r.seq:
	case statusOf(err) == statusNotSent:
		s.later(r)
	case l.asked&dlm.NoQueue != 0:
		s.cancelIfStuck(*r)
	}
}

// statusNotSent is what create_message (fs/dlm/lock.c) returns if it can't send to a node. This
// happens while the cluster loses that node: dlm_controld removes the node's address from configfs
// as soon as corosync reports that it is gone (quorum_callback in member.c), and stops the
// lockspaces a moment later. A call that is tried again then waits in the kernel for the recovery.
const statusNotSent = dlm.Status(syscall.ENOBUFS)

// failed ends an operation that the kernel refused, or tries it again later if the refusal is
// temporary.
func (s *lockspace) failed(r *kernelCall, err error) {
	l := r.lock
	if l.seq != r.seq || l.op == dlm.OpNone {
		return
	}
	status := statusOf(err)
	// The kernel is busy although no operation of ours is under way if the master's reply to a cancel
	// is outstanding (validate_lock_args).
	passing := status == dlm.StatusBusy || status == statusNotSent
	switch {
	case passing && l.canceled:
		l.afterProbe, status = nil, dlm.StatusCanceled
	case passing && r.tries < maxTries:
		l.stage = queued
		s.later(r)
		return
	case status == dlm.StatusNotFound && r.kind == callRequest:
		status = dlm.StatusGone // a new lock can't be missing: the lockspace is
	}
	s.finish(l, dlm.Event{Status: status})
}

// maxTries bounds how often an operation that the kernel refuses temporarily is tried again: for half
// a minute.
const maxTries = 70

// later makes a call again, after a pause that grows with the number of tries. A cancel is repeated
// without a limit.
func (s *lockspace) later(r *kernelCall) {
	again := *r
	again.tries = min(r.tries+1, maxTries)
	time.AfterFunc(patience(r.tries), func() { s.calls.Add(again) })
}

func patience(tries uint8) time.Duration {
	return min(time.Millisecond<<min(tries, 10), 500*time.Millisecond)
}

// statusOf turns the error of a wrapper into a status.
func statusOf(err error) dlm.Status {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return dlm.Status(errno)
	}
	return dlm.Status(syscall.EIO)
}

// servePurge calls dlm_ls_purge, which returns when everything is done (do_purge in fs/dlm/lock.c)
// and does not say how many orphans there were.
func (s *lockspace) servePurge() {
	err := s.device.purge(s.node)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.purges--
	ev := dlm.Event{Kind: dlm.Completed, Op: dlm.OpPurge, Mode: dlm.None, Count: -1}
	if err != nil {
		ev.Status, ev.Count = statusOf(err), 0
	}
	s.sink(ev)
}

// listen reads results from the kernel until the device is interrupted.
func (s *lockspace) listen() {
	var r result
	for {
		err := s.device.read(&r)
		switch {
		case err == nil:
			s.take(&r)
		case errors.Is(err, os.ErrClosed):
			return
		default:
			s.log.Error("reading results from the lockspace device failed: its operations will not end any more", "err",
				err)
			return
		}
	}
}

// take handles one result.
func (s *lockspace) take(r *result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if c := s.scouts[r.cookie]; c != nil {
		s.scouted(c, r)
		return
	}
	l := s.locks[r.cookie]
	if l == nil {
		s.log.Debug("result for a lock that is gone", "lkid", r.id, "status", r.status)
		return
	}
	if l.id == 0 {
		l.id = r.id
	}
	l.unconfirmed = false
	switch {
	case r.blocking:
		s.blocking(l, r.mode)
	case r.status == dlm.StatusUnlocked && (l.op != dlm.OpUnlock || l.stage != unlocking):
		s.ended(l)
	case l.op == dlm.OpUnlock && r.status == dlm.StatusOK:
		// The result of the first step, which nobody waits for. An unlock ends with EUNLOCK.
	case l.op != dlm.OpNone && l.stage == probing:
		s.probeCompleted(l, r)
	case l.op == dlm.OpNone || l.op == dlm.OpAdopt || l.stage == queued:
		s.log.Warn("result without an operation", "lkid", r.id, "status", r.status)
	default:
		s.completed(l, r)
	}
}

// blocking reports a notification, after the end of an adoption under way.
func (s *lockspace) blocking(l *lock, m dlm.Mode) {
	ev := dlm.Event{Kind: dlm.Blocking, Cookie: l.cookie, LockID: l.id, Mode: m}
	if l.op == dlm.OpAdopt {
		l.early = append(l.early, ev)
		return
	}
	s.sink(ev)
}

// ended handles an unlock by somebody else. Any process that can open the lockspace device can
// unlock any lock in it.
func (s *lockspace) ended(l *lock) {
	s.log.Warn("somebody else removed a lock", "lkid", l.id, "mode", l.mode)
	held := l.mode != dlm.None
	l.mode, l.unlock = dlm.None, nil
	if l.op != dlm.OpNone {
		s.finish(l, dlm.Event{Status: dlm.StatusNotFound})
	} else {
		delete(s.locks, l.cookie)
	}
	if held {
		s.sink(dlm.Event{Kind: dlm.Ended, Cookie: l.cookie, LockID: l.id, Mode: dlm.None})
	}
}

// completed ends the operation under way with the kernel's result.
func (s *lockspace) completed(l *lock, r *result) {
	ev := dlm.Event{Status: r.status}
	if l.op != dlm.OpUnlock {
		l.flags = l.asked
	}
	if r.hasValue && r.status == dlm.StatusOK && l.asked&dlm.ValueBlock != 0 &&
		dlm.TransferOf(l.mode, l.want) == dlm.Reads {
		// The kernel also sends the block after conversions that don't read it, and then its
		// contents mean nothing.
		ev.HasValue, ev.Value, ev.ValueInvalid = true, r.value, r.invalid
	}
	s.finish(l, ev)
}
