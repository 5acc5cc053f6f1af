package lockd

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

// clockTick is the unit of process.ID.Start: USER_HZ of the kernel, which is 100
// on every system that Go runs on.
const clockTick = 10 * time.Millisecond

// findProcess finds out which process a lock of lifetime process means, whether
// the caller may name it, and sees to it that its end is noticed. It makes system
// calls, so it runs on the caller's goroutine, before the call goes to the table:
//
//	Hold           the watch stands, or the call is refused and nothing was done
//	Table.Submit   the call, up to its answer; a binding watches for itself
//	Drop           with the answer: without a binding nobody watches any more
//
// So a lock is never asked for, written down or granted without a watch.
func (s *Service) findProcess(c api.Caller, o *api.AcquireOptions) (id process.ID, err error) {
	if o.Lifetime != state.Process {
		return id, nil
	}
	if s.cfg.Processes == nil {
		return id, processError(api.NotSupported, "the lifetime process is not available here", nil)
	}
	pid, err := s.whichProcess(c, o)
	if err != nil {
		return id, explainProcess(o.PID, c, err)
	}
	info, err := s.cfg.Processes.Hold(pid, c.UID)
	if err != nil {
		return id, explainProcess(pid, c, err)
	}
	if err := s.mayName(c, o, info); err != nil {
		s.cfg.Processes.Drop(info.ID)
		return id, err
	}
	return info.ID, nil
}

// whichProcess returns the pid here of the process that the caller means: its
// own, as the front end knows it, or the one that it names, whose number counts
// in the caller's pid namespace.
func (s *Service) whichProcess(c api.Caller, o *api.AcquireOptions) (uint32, error) {
	if c.PID == 0 {
		return 0, process.ErrElsewhere
	}
	if o.PID == 0 {
		return c.PID, nil
	}
	return s.cfg.Processes.Translate(c.PID, o.PID, uint64(c.Seen/clockTick))
}

// mayName checks whose process it is, and that it is the one that the client
// means.
func (s *Service) mayName(c api.Caller, o *api.AcquireOptions, info process.Info) error {
	switch {
	case c.UID != 0 && info.UID != c.UID: // root may name any process
		return processError(api.AccessDenied, "only root may name a process of another user", nil)
	case o.HasStart && info.Start != o.Start:
		return argumentError(api.ArgStartTime,
			fmt.Sprintf("process %d started at clock tick %d, not at %d: "+
				"the pid means another process here, or the one that was meant has ended; check both", named(c,
				o), info.Start, o.Start), nil)
	case o.PID == 0 && c.Seen != 0 && info.Start > uint64(c.Seen/clockTick):
		return argumentError(api.ArgPID,
			"the calling process has ended, and another process has its pid now; name a process", nil)
	}
	return nil
}

// named is the pid in the words of the client.
func named(c api.Caller, o *api.AcquireOptions) uint32 {
	if o.PID != 0 {
		return o.PID
	}
	return c.PID
}

// argumentError is processError about an argument.
func argumentError(arg api.Argument, text string, err error) *api.Error {
	e := processError(api.InvalidArgs, text, err)
	e.Argument = arg
	return e
}

func processError(k api.Kind, text string, err error) *api.Error {
	return &api.Error{Op: "acquire", Mode: dlm.None, Kind: k, Text: text, Err: err}
}

// explainProcess makes the client's error of what package process says about pid.
func explainProcess(pid uint32, c api.Caller, err error) error {
	const instead = "use the lifetime connection or persistent"
	switch {
	case errors.Is(err, process.ErrElsewhere) && c.PID == 0:
		return processError(api.NotSupported,
			"the calling process has no pid in this service's pid namespace; "+instead, err)
	case errors.Is(err, process.ErrElsewhere):
		return argumentError(api.ArgPID,
			fmt.Sprintf("the caller is in another pid namespace (a container), and pid %d is neither the caller nor one "+
				"of its children, "+
				"so the service can't tell which process is meant; leave it out for the caller itself, %s, or call from "+
				"the host", pid, instead), err)
	case errors.Is(err, process.ErrGone):
		return argumentError(api.ArgPID, "there is no process with that pid", err)
	case errors.Is(err, process.ErrThread):
		return argumentError(api.ArgPID, fmt.Sprintf("pid %d: %s; name the process (Tgid in /proc/%d/status)",
			pid, process.ErrThread, pid), err)
	case errors.Is(err, process.ErrKernelThread):
		return argumentError(api.ArgPID, fmt.Sprintf("pid %d: %s; name a process", pid, process.ErrKernelThread), err)
	case errors.Is(err, process.ErrUserLimit):
		return processError(api.LimitExceeded,
			fmt.Sprintf("uid %d has locks on as many processes as it may have (limits.processes-per-uid, and half of "+
				"LimitNOFILE= at most); "+
				"let one process hold several locks, or release some", c.UID), err)
	}
	return unwatchable(pid, err)
}

// unwatchable is the error for a process of which it could not be found out
// whether it lives.
func unwatchable(pid uint32, err error) *api.Error {
	kind, errno, what := api.KernelError, syscall.Errno(0), err.Error()
	if scarce(err) {
		kind = api.LimitExceeded
	}
	if pe, ok := errors.AsType[*process.Error](err); ok {
		errno, what = pe.Errno, pe.Op // the errno is said at the end
		if errno == 0 {
			what = pe.Err.Error()
		}
	}
	e := processError(kind, fmt.Sprintf("process %d can't be watched (%s), so nothing was locked%s", pid, what,
		process.Advice(err)), err)
	e.Errno = errno
	return e
}

// scarce reports whether something is used up that others have.
func scarce(err error) bool {
	for _, e := range []error{process.ErrReserve, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOSPC} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
