package libdlm

import (
	"context"
	"errors"
	"syscall"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Advice for the errors that administrators meet.
const (
	adviceMisc = "/proc/misc can't be read, so it is not known which lockspaces this node is in; try again, and " +
		"raise LimitNOFILE= if no descriptor is left"
	adviceModule = "the kernel's DLM is not there: load the module dlm, and see that udev has made " +
		"/dev/misc/dlm-control"
	adviceDaemon = "dlm_controld is not running on this node: start corosync and the service dlm"
	adviceEarly  = "dlm_controld has not told the kernel this node's address yet: try again in a few seconds"
	adviceJoin   = "this node is not a member of the lockspace: join it first"
	adviceMember = "this node is a member of the lockspace already: open it instead"
	adviceRights = "joining and leaving a lockspace needs CAP_SYS_ADMIN, opening one needs write access to " +
		"/dev/misc/dlm_NAME"
	adviceDevice = "the lockspace exists but its device /dev/misc/dlm_NAME has not appeared: see that systemd-udevd " +
		"runs and has the rules of the package dlm-controld"
	adviceInUse = "another process on this node has /dev/misc/dlm_NAME open, and the kernel waits for it"
)

// fail makes the *dlm.Error of a failed operation. An err that is a *dlm.Error already is returned
// as it is.
func fail(op, lockspace string, err error) error {
	if err == nil {
		return nil
	}
	if known, ok := errors.AsType[*dlm.Error](err); ok {
		return known
	}
	e := &dlm.Error{Op: op, Lockspace: lockspace}
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		e.Err = err
		return e
	}
	e.Errno = errno
	switch errno {
	case syscall.EUNATCH, syscall.ECONNREFUSED:
		e.Err, e.Advice = dlm.ErrClusterUnavailable, adviceDaemon
	case syscall.ENOTCONN:
		e.Err, e.Advice = dlm.ErrClusterUnavailable, adviceEarly
	case syscall.ENOENT, syscall.ENODEV, syscall.ENXIO:
		e.Err, e.Advice = dlm.ErrNoLockspace, adviceJoin
	case syscall.EEXIST:
		e.Err, e.Advice = dlm.ErrLockspaceExists, adviceMember
	case syscall.EPERM, syscall.EACCES:
		e.Advice = adviceRights
	}
	return e
}

// startError makes the *dlm.Error of a failed start of the library. A missing file is then the
// control device, not a lockspace.
func startError(err error) error {
	e := &dlm.Error{Op: "start", Err: dlm.ErrClusterUnavailable, Advice: adviceModule}
	e.Errno, _ = errors.AsType[syscall.Errno](err)
	switch e.Errno {
	case syscall.EPERM, syscall.EACCES:
		e.Advice = adviceRights
	case syscall.EPROTO:
		e.Err, e.Advice = dlm.ErrUnsupported,
			"the kernel's DLM device has another major version than this program was built for"
	}
	return e
}

// within runs work on a goroutine of its own and waits for it until ctx ends. A result that comes
// after that is passed to late, which may be nil.
func within[T any](ctx context.Context, work func() (T, error), late func(T)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	done := make(chan outcome)
	go func() {
		v, err := work()
		select {
		case done <- outcome{v, err}:
		case <-ctx.Done():
			if err == nil && late != nil {
				late(v)
			}
		}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		return zero, ctx.Err()
	}
}
