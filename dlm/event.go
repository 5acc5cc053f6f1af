package dlm

import (
	"fmt"
	"syscall"
)

// Status is the outcome of one operation as the lock manager reports it: 0,
// an errno, or one of the kernel's own codes at 0x10001 and above, which are
// outcomes and not errnos.
type Status int32

// The statuses that follow from rules of the DLM. An engine may report any other errno as well, if
// the system refused the operation.
const (
	StatusOK       Status = 0
	StatusNotFound Status = Status(syscall.ENOENT) // no such orphan, or the lock no longer exists
	// not granted at once (NoQueue), or an orphan in another mode
	StatusAgain    Status = Status(syscall.EAGAIN)
	StatusBusy     Status = Status(syscall.EBUSY)   // another operation on this lock is under way
	StatusInvalid  Status = Status(syscall.EINVAL)  // the arguments break a rule
	StatusDeadlock Status = Status(syscall.EDEADLK) // conversion deadlock: the lock keeps its granted mode
	StatusCanceled Status = 0x10001                 // DLM_ECANCEL
	StatusUnlocked Status = 0x10002                 // DLM_EUNLOCK: the normal end of an Unlock
	StatusProgress Status = 0x10003                 // EINPROG
	// StatusCompletionLost: the kernel no longer reports completions of this lock, so it can be unlocked
	// but not converted.
	StatusCompletionLost Status = Status(syscall.ENOMSG)
	StatusGone           Status = Status(syscall.ENOTCONN) // the lockspace handle is closed or was removed
	// StatusMasterless: the kernel knows of no master of the resource, and would panic at a request for
	// it (docs/kernel-bugs/09.md).
	StatusMasterless Status = Status(syscall.ENOTRECOVERABLE)
)

// OK reports success: granted, converted, adopted or unlocked.
func (s Status) OK() bool { return s == StatusOK || s == StatusUnlocked }

// Errno returns the errno, or 0 if the status is not one.
func (s Status) Errno() syscall.Errno {
	if s < 0 || s >= StatusCanceled {
		return 0
	}
	return syscall.Errno(s)
}

// String returns a short name of the statuses that rules produce, and the system's text of other
// errnos.
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

// Op is the operation that an event ends, or OpNone for a notification.
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

// EventKind is the kind of an event.
type EventKind uint8

const (
	// Completed ends the operation Op of the lock Cookie (the kernel's AST).
	Completed EventKind = iota + 1
	// Blocking says that the granted lock Cookie blocks a request for Mode (the kernel's BAST). It
	// may arrive after the lock has been released, and more than once.
	Blocking
	// Ended says that somebody else has removed the granted lock Cookie (the kernel reports EUNLOCK
	// without an Unlock of ours). The cookie is free.
	Ended
	// Closed says that the lockspace of this handle is gone: every lock in it is lost. It is the
	// last event.
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

// Event is one report from a Lockspace. Which fields are valid depends on Kind and Op.
type Event struct {
	Kind   EventKind
	Op     Op     // Completed: the operation that has ended
	Cookie Cookie // the lock; 0 for OpPurge and Closed
	Status Status // Completed: the outcome
	LockID LockID // Completed with OK: the lock's lockid
	// Mode is, in Completed, the mode of the lock after the operation (None: it does not exist),
	// and in Blocking the mode that is blocked.
	Mode Mode
	// Value is the block that was read, if HasValue is set. ValueInvalid is the DLM's VALNOTVALID:
	// the block may be older than the last write, because a holder died.
	Value        Value
	HasValue     bool
	ValueInvalid bool
	Count        int // OpPurge: how many orphans were removed, or -1 if the engine can't tell
}
