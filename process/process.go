// Package process tells when another process ends, and never mistakes a reused pid for the process
// that had it before.
//
// It owns pidfds and the parsing of /proc/PID. It does not know why anybody asks. A process is
// identified by its pid together with its start time; a pid alone proves nothing.
//
// A question about a process has three answers: it is alive, it has ended, or that is not known. It
// has ended if the kernel says so: pidfd_open(2) gives ESRCH, its pidfd is readable, or its pid
// belongs to a process with a different start time. Every other failure (no descriptor left, no
// permission, a /proc that shows only some processes) says nothing about the process, and is an
// *Error.
//
// A process that is no longer needed stays watched for a while, where descriptors are plentiful, so
// that the next question about it need not read /proc again.
//
// Concurrency: the methods of Watcher may be called from any goroutine. One goroutine waits for all
// watched processes. Hold and Translate read /proc, a few callers at once; the other methods are
// short.
package process

import (
	"errors"
	"fmt"
	"syscall"
)

// ID identifies one process of this boot.
type ID struct {
	PID   uint32
	Start uint64 // start time in clock ticks since boot: field 22 of /proc/PID/stat, proc(5)
}

// Info is what the kernel says about a live process.
type Info struct {
	ID
	UID    uint32 // the real uid
	Parent uint32 // pid of its parent; 0 if that can't be seen from here
	// Numbers are its pid in the pid namespace of /proc, and in each nested namespace that it is in
	// (NSpid in proc(5)).
	Numbers []uint32
}

// Nested reports whether the process is in a pid namespace below that of /proc, so it knows
// processes by other numbers than this program.
func (i *Info) Nested() bool { return len(i.Numbers) > 1 }

// own returns the pid by which the process knows itself.
func (i *Info) own() uint32 { return i.Numbers[len(i.Numbers)-1] }

// State says what is known about a watched process.
type State uint8

// The states of a watched process.
const (
	Alive State = iota + 1 // it is alive, and its end will be reported
	Ended                  // the kernel says that it has ended
	// Undetermined says neither; the error that comes with it says why.
	Undetermined
)

func (s State) String() string {
	switch s {
	case Alive:
		return "alive"
	case Ended:
		return "ended"
	case Undetermined:
		return "undetermined"
	}
	return "invalid"
}

// What can be wrong with a process that somebody names. Each of these is certain; what could not be
// found out is an *Error that wraps none of them.
var (
	ErrGone         = errors.New("no such process")
	ErrThread       = errors.New("it is a thread of a process, not a process")
	ErrKernelThread = errors.New("it is a thread of the kernel, which never ends")
	ErrElsewhere    = errors.New("the pid belongs to another pid namespace, and its process can't be found from here")
)

// Reasons why a process is not watched although it could be. An *Error wraps them.
var (
	ErrUserLimit = errors.New("too many processes are watched for the user")
	ErrReserve   = errors.New("the last descriptors are kept for the rest of the service")
	ErrHidden    = errors.New("/proc is mounted with hidepid and does not show the process, which is alive")
	ErrOtherProc = errors.New("/proc belongs to another pid namespace than this program")
)

// Error says what could not be done with a process, or found out about it. It does not mean that
// the process has ended.
type Error struct {
	PID   uint32 // 0 if it concerns no single process
	Op    string // the system call or the file
	Errno syscall.Errno
	Err   error // set if there is no Errno
}

func (e *Error) Error() string {
	text := e.Op + ": "
	if e.Errno != 0 {
		text += e.Errno.Error()
	} else {
		text += e.Err.Error()
	}
	if e.PID == 0 {
		return text
	}
	return fmt.Sprintf("process %d: %s", e.PID, text)
}

// Unwrap lets errors.Is see the errno or the cause.
func (e *Error) Unwrap() error {
	if e.Errno != 0 {
		return e.Errno
	}
	return e.Err
}

// failed makes the error of a system call.
func failed(pid uint32, op string, err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return &Error{PID: pid, Op: op, Errno: errno}
	}
	return &Error{PID: pid, Op: op, Err: err}
}
