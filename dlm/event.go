package dlm

import (
	"fmt"
	"syscall"
)

// Status is the outcome of one operation as the lock manager reports it: 0,
// an errno, or one of the kernel's own codes at 0x10001 and above, which are
// outcomes and not errnos.
type Status int32

// The statuses that rules of the DLM produce. An engine may report any other
// errno as well, where the system refused the operation.
const (
	StatusOK       Status = 0
	StatusNotFound Status = Status(syscall.ENOENT)  // no such orphan, or no such lock any more
	StatusAgain    Status = Status(syscall.EAGAIN)  // refused: not at once (NoQueue), or an orphan in another mode
	StatusBusy     Status = Status(syscall.EBUSY)   // another operation of this lock is under way
	StatusInvalid  Status = Status(syscall.EINVAL)  // the arguments break a rule
	StatusDeadlock Status = Status(syscall.EDEADLK) // conversion deadlock: the lock keeps its granted mode
	StatusCanceled Status = 0x10001                 // DLM_ECANCEL
	StatusUnlocked Status = 0x10002                 // DLM_EUNLOCK: the normal end of an Unlock
	StatusProgress Status = 0x10003                 // EINPROG
	// the kernel reports nothing of this lock any more: it can be unlocked, not converted
	StatusUnheard Status = Status(syscall.ENOMSG)
	StatusGone    Status = Status(syscall.ENOTCONN) // the lockspace handle is closed or was removed
)

// OK reports success: granted, converted, adopted or unlocked.
func (s Status) OK() bool { return s == StatusOK || s == StatusUnlocked }

// Errno returns the errno, or 0 where the status is none.
func (s Status) Errno() syscall.Errno {
	if s < 0 || s >= StatusCanceled {
		return 0
	}
	return syscall.Errno(s)
}

// String returns a short word for the rule-made statuses and the system's
// text for other errnos.
func (s Status) String() string {
	switch s {
	case StatusOK:
		return "ok"
	case StatusAgain:
		return "EAGAIN"
	case StatusNotFound:
		return "ENOENT"
	case StatusBusy:
		return "EBUSY"
	case StatusInvalid:
		return "EINVAL"
	case StatusDeadlock:
		return "EDEADLK"
	case StatusCanceled:
		return "ECANCEL"
	case StatusUnlocked:
		return "EUNLOCK"
	case StatusProgress:
		return "EINPROG"
	}
	if e := s.Errno(); e != 0 {
		return e.Error()
	}
	return fmt.Sprintf("status %#x", int32(s))
}

// Op names the operation that an event ends, or OpNone for a notification.
type Op uint8

// The operations of a Lockspace that end with exactly one event each.
const (
	OpNone Op = iota
	OpLock
	OpConvert
	OpUnlock
	OpAdopt
	OpPurge
)

var opNames = [...]string{"notice", "lock", "convert", "unlock", "adopt", "purge"}

func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return fmt.Sprintf("Op(%d)", uint8(o))
}

// EventKind tells what an event is.
type EventKind uint8

const (
	// Completed ends the operation Op of the lock Cookie (the kernel's AST).
	Completed EventKind = iota + 1
	// Blocking says that the granted lock Cookie is in the way of a request
	// for Mode (the kernel's BAST). It may arrive after the lock has been let
	// go, and more than once.
	Blocking
	// Ended says that somebody else removed the granted lock Cookie (the
	// kernel reports EUNLOCK without an Unlock of ours). The cookie is free.
	Ended
	// Closed says that the lockspace is gone underneath this handle: every
	// lock of it is lost. It is the last event.
	Closed
)

func (k EventKind) String() string {
	switch k {
	case Completed:
		return "completed"
	case Blocking:
		return "blocking"
	case Ended:
		return "ended"
	case Closed:
		return "closed"
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// Event is one thing that a Lockspace reports. Which fields count depends on
// Kind and Op.
type Event struct {
	Kind   EventKind
	Op     Op     // Completed: what ended
	Cookie Cookie // the lock; 0 for OpPurge and Closed
	Status Status // Completed: the outcome
	LockID LockID // Completed with OK: the lock's lockid
	// Mode is, for Completed, the mode that the lock holds after the
	// operation (None: it does not exist), and for Blocking the mode that
	// somebody waits for.
	Mode Mode
	// Value holds what was read, where HasValue; ValueInvalid is the DLM's
	// VALNOTVALID: the block may be older than the last write, because a
	// holder died.
	Value        Value
	HasValue     bool
	ValueInvalid bool
	Count        int // OpPurge: how many orphans went, -1 where the engine can't tell
}
