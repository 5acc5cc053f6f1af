package libdlm

import (
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// call says which wrapper a request needs.
type call uint8

const (
	callRequest call = iota
	callAdopt
	callConvert
	callTest      // the conversion in place that tests whether a lock reports
	callTestAgain // see unheard.go
	callDemote    // the conversion that begins an Unlock
	callUnlock
	callUnlockAgain
	callCancel
	callForward // a purge, still in the lane of adoptions
	callPurge
)

// request is a call into the kernel that waits in a lane. It concerns the
// operation seq of its lock and is void if that is over.
type request struct {
	lock  *lock
	seq   uint32
	call  call
	tries uint8
	mode  dlm.Mode
	flags dlm.Flags
	name  string
	value dlm.Value
}

// How often a lockspace that is stopped is looked at.
const (
	holdFirst = 5 * time.Millisecond
	holdMost  = 100 * time.Millisecond
)

// hold waits while the lockspace is stopped. The kernel would do that too, but
// uninterruptibly: a process with a thread there can't end, and the kernel
// complains about it after two minutes. A lockspace that stops just now still
// puts one call to sleep.
func (s *space) hold() {
	for d := holdFirst; s.gate.Stopped(); d = min(2*d, holdMost) {
		select {
		case <-s.shutting:
			return
		case <-time.After(d):
		}
	}
}

// serve makes one call into the kernel, on the goroutine of a lane.
func (s *space) serve(r *request) {
	switch r.call {
	case callForward:
		s.calls.put(request{call: callPurge})
		return
	case callPurge:
		s.servePurge()
		return
	}
	id, ok := s.calling(r)
	if !ok {
		return
	}
	id, err := s.ask(r, id)
	if more := s.returned(r, id, err); more != nil {
		s.serve(more)
	}
}

// calling prepares a call and tells whether it is still wanted, and the lockid
// if there is one by now.
func (s *space) calling(r *request) (dlm.LockID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := r.lock
	if s.closed || l.seq != r.seq || l.op == dlm.OpNone {
		return 0, false
	}
	switch r.call {
	case callCancel:
		l.recalled = true
	case callTestAgain, callUnlockAgain:
		return l.id, s.unanswered(l)
	case callTest:
		l.stage = hearing
	case callDemote:
		l.stage = demoting
	case callUnlock:
		l.stage = unlocking
	default:
		l.stage = calling
	}
	return l.id, true
}

// returned handles what a call has returned. It may have another call to make
// at once.
func (s *space) returned(r *request, id dlm.LockID, err error) (more *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := r.lock
	switch {
	case s.closed:
		return nil
	case r.call == callCancel:
		return nil // the kernel says how the operation ended, or nothing is to be said
	case r.call == callTestAgain, r.call == callUnlockAgain:
		s.askedAgain(r, err)
		return nil
	case err != nil:
		s.failed(r, err)
		return nil
	}
	if l.id == 0 {
		l.id = id
	}
	if l.seq != r.seq || l.op == dlm.OpNone {
		return nil // the result was faster
	}
	switch {
	case r.call == callAdopt:
		l.flags, l.unheard = l.asked, true
		s.finish(l, dlm.Event{})
	case l.stage == calling:
		l.stage = pending
		if l.canceled {
			s.sendCancel(l)
		}
	case r.call == callDemote:
		l.mode, l.flags = dlm.NL, 0
		return &request{lock: l, seq: l.seq, call: callUnlock}
	default:
		s.doubt(l)
	}
	return nil
}

// ask makes the call.
func (s *space) ask(r *request, id dlm.LockID) (dlm.LockID, error) {
	d, c := s.device, r.lock.cookie
	switch r.call {
	case callRequest:
		return d.request(c, r.name, r.mode, r.flags)
	case callAdopt:
		return d.adopt(c, r.name, r.mode, r.flags)
	case callConvert, callDemote, callTest, callTestAgain:
		return id, d.convert(c, id, r.mode, r.flags, &r.value)
	case callUnlock, callUnlockAgain:
		return id, d.unlock(c, id)
	default:
		return id, d.cancel(c, id)
	}
}

// failed ends an operation that the kernel did not take.
func (s *space) failed(r *request, err error) {
	l := r.lock
	if l.seq != r.seq || l.op == dlm.OpNone {
		return
	}
	status := statusOf(err)
	switch {
	case status == dlm.StatusBusy && r.tries < maxTries:
		// No operation of ours is under way, so this is the reply to a cancel
		// that has not come back from the master (validate_lock_args).
		l.stage = queued
		again := *r
		again.tries++
		time.AfterFunc(patience(r.tries), func() { s.calls.put(again) })
		return
	case status == dlm.StatusNotFound && r.call == callRequest:
		status = dlm.StatusGone // there is no lock to be found: it means the lockspace
	}
	s.finish(l, dlm.Event{Status: status})
}

// An operation that the kernel calls busy is tried again for half a minute.
const maxTries = 70

func patience(tries uint8) time.Duration {
	return min(time.Millisecond<<min(tries, 10), 500*time.Millisecond)
}

// statusOf makes a status of the error of a wrapper.
func statusOf(err error) dlm.Status {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return dlm.Status(errno)
	}
	return dlm.Status(syscall.EIO)
}

// servePurge makes dlm_ls_purge, which answers when all is done (do_purge in
// fs/dlm/lock.c) and does not say how many orphans there were.
func (s *space) servePurge() {
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

// listen takes the results from the kernel until the device is interrupted.
func (s *space) listen() {
	var r result
	for {
		err := s.device.read(&r)
		switch {
		case err == nil:
			s.take(&r)
		case errors.Is(err, os.ErrClosed):
			return
		default:
			s.log.Error("reading results of the lockspace device: operations won't end any more", "err", err)
			return
		}
	}
}

// take handles one result.
func (s *space) take(r *result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
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
	l.unheard = false
	switch {
	case r.blocking:
		s.blocking(l, r.mode)
	case r.status == dlm.StatusUnlocked && (l.op != dlm.OpUnlock || l.stage != unlocking):
		s.ended(l)
	case l.op == dlm.OpUnlock && r.status == dlm.StatusOK:
		// The first step, which nobody waits for. An unlock ends with EUNLOCK.
	case l.op != dlm.OpNone && l.stage == hearing:
		s.heard(l, r)
	case l.op == dlm.OpNone || l.op == dlm.OpAdopt || l.stage == queued:
		s.log.Warn("result without an operation", "lkid", r.id, "status", r.status)
	default:
		s.completed(l, r)
	}
}

// blocking reports a notification, behind the end of an adoption under way.
func (s *space) blocking(l *lock, m dlm.Mode) {
	ev := dlm.Event{Kind: dlm.Blocking, Cookie: l.cookie, LockID: l.id, Mode: m}
	if l.op == dlm.OpAdopt {
		l.early = append(l.early, ev)
		return
	}
	s.sink(ev)
}

// ended handles an unlock that was not ours. Any process that can open the
// lockspace device can do that.
func (s *space) ended(l *lock) {
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

// completed ends the operation under way as the kernel says.
func (s *space) completed(l *lock, r *result) {
	ev := dlm.Event{Status: r.status}
	if l.op != dlm.OpUnlock {
		l.flags = l.asked
	}
	if r.hasValue && r.status == dlm.StatusOK && l.asked&dlm.ValueBlock != 0 &&
		dlm.TransferOf(l.mode, l.want) == dlm.Reads {
		// The kernel sends the block along also after conversions that don't
		// concern it, and then what it sends is no news.
		ev.HasValue, ev.Value, ev.ValueInvalid = true, r.value, r.invalid
	}
	s.finish(l, ev)
}
