package process

import (
	"errors"
	"syscall"
)

// Advice says what to do where a process can't be watched, as the end of a
// sentence, or "". Each case is a limit that an administrator sets, with its name.
func Advice(err error) string {
	switch {
	case errors.Is(err, ErrReserve), errors.Is(err, syscall.EMFILE):
		return "; raise LimitNOFILE= in the unit of the service and restart it"
	case errors.Is(err, syscall.ENFILE):
		return "; raise the sysctl fs.file-max"
	case errors.Is(err, syscall.ENOSPC):
		return "; raise the sysctl fs.epoll.max_user_watches"
	case errors.Is(err, syscall.ENOMEM):
		return "; free memory"
	case errors.Is(err, ErrHidden):
		return "; mount /proc so that the service sees all processes"
	case errors.Is(err, ErrOtherProc):
		return "; mount a /proc that belongs to the pid namespace of the service"
	case errors.Is(err, ErrKernelThread), errors.Is(err, ErrThread):
		return "; release the locks if nobody needs them"
	}
	return ""
}
