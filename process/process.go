// Package process tells when another process ends, and never mistakes a reused
// pid for the process that had it before.
//
// It owns pidfds and the reading of /proc/PID. It refuses to know why anybody
// wants to know. A process is its pid together with its start time; a pid alone
// proves nothing.
//
// What is asked about a process has three answers: it lives, it has ended, or
// that is not known. It has ended where the kernel says so: pidfd_open(2) gives
// ESRCH, its pidfd is readable, or its pid belongs to a process with another
// start time. Every other failure (no descriptor left, no right, a /proc that
// shows only some processes) says nothing of the process, and is an *Error.
//
// Concurrency: the methods of Watcher may be called from any goroutine. One
// goroutine waits for all watched processes. Hold and Translate read /proc, a few
// callers at once; the others are short.
package process

import (
	"errors"
	"fmt"
	"syscall"
)

// ID is one process of this boot.
type ID struct {
	PID   uint32
	Start uint64 // start time in clock ticks since boot: field 22 of /proc/PID/stat, proc(5)
}

// Info is what the kernel tells of a process that lives.
type Info struct {
	ID
	UID    uint32 // the real one
	Parent uint32 // pid of its parent; 0 where that can't be seen from here
	// Numbers are its pid in the pid namespace of /proc, and in each namespace
	// nested in that one which it is in (NSpid in proc(5)).
	Numbers []uint32
}

// Nested reports whether the process is in a pid namespace below that of /proc,
// so that the numbers by which it knows processes are others than here.
func (i *Info) Nested() bool { return len(i.Numbers) > 1 }

// own is the pid by which the process knows itself.
func (i *Info) own() uint32 { return i.Numbers[len(i.Numbers)-1] }

// State is what is known of a watched process.
type State uint8

// The states of a watched process.
const (
	Alive   State = iota + 1 // it lives, and its end will be told
	Ended                    // the kernel says that it has ended
	Unknown                  // neither: the error that comes with it says why
)

func (s State) String() string {
	switch s {
	case Alive:
		return "alive"
	case Ended:
		return "ended"
	case Unknown:
		return "unknown"
	}
	return "invalid"
}

// What can be wrong with a process that somebody names. Each is certain; what
// could not be found out is an *Error that wraps none of them.
var (
	ErrGone         = errors.New("no such process")
	ErrThread       = errors.New("it is a thread of a process, not a process")
	ErrKernelThread = errors.New("it is a thread of the kernel, which never ends")
	ErrElsewhere    = errors.New("the pid belongs to another pid namespace, and its process can't be found from here")
)

// Why a process is not watched although it could be. An *Error wraps them.
var (
	ErrUserLimit = errors.New("too many processes are watched for the user")
	ErrReserve   = errors.New("the last descriptors are kept for the rest of the service")
	ErrHidden    = errors.New("/proc is mounted with hidepid and does not show the process, which is alive")
	ErrOtherProc = errors.New("/proc belongs to another pid namespace than this program")
)

// Error says what could not be done with a process, or found out about it. It
// does not mean that the process has ended.
type Error struct {
	PID   uint32 // 0: it concerns no single process
	Op    string // the system call or the file
	Errno syscall.Errno
	Err   error // where there is no Errno
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
