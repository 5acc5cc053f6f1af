package api

import (
	"syscall"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Kind is what went wrong, as a caller should tell errors apart. Its text is
// the last part of the D-Bus error name. A Kind is an error, so
// errors.Is(err, api.WouldBlock) works.
type Kind string

// The kinds of errors (design.md section 6).
const (
	WouldBlock         Kind = "WouldBlock"
	Timeout            Kind = "Timeout"
	Canceled           Kind = "Canceled"
	Deadlock           Kind = "Deadlock"
	NotHeld            Kind = "NotHeld"
	Ambiguous          Kind = "Ambiguous"
	AlreadyHeld        Kind = "AlreadyHeld"
	NoSuchLockspace    Kind = "NoSuchLockspace"
	InvalidMode        Kind = "InvalidMode"
	InvalidName        Kind = "InvalidName"
	InvalidArgs        Kind = "InvalidArgs"
	LimitExceeded      Kind = "LimitExceeded"
	NotQuorate         Kind = "NotQuorate"
	LockspaceStopped   Kind = "LockspaceStopped"
	LockspaceInUse     Kind = "LockspaceInUse"   // leave with locks held
	LockspaceForeign   Kind = "LockspaceForeign" // it belongs to somebody else
	ClusterUnavailable Kind = "ClusterUnavailable"
	StateWriteFailed   Kind = "StateWriteFailed"
	KernelError        Kind = "KernelError"
	AccessDenied       Kind = "AccessDenied" // the lock belongs to another uid
	ShuttingDown       Kind = "ShuttingDown"
	NotSupported       Kind = "NotSupported"

	// TooManyCalls and Internal are a front end's: the caller, or its user, has too
	// many calls that are not answered; a fault of the service itself.
	TooManyCalls Kind = "TooManyCalls"
	Internal     Kind = "Internal"

	// InteractionRequired is an Authorizer's: a person could allow it, and the
	// call does not permit to ask one.
	InteractionRequired Kind = "InteractiveAuthorizationRequired"
)

func (k Kind) Error() string { return string(k) }

// Error is the one typed error of the service.
type Error struct {
	Op         string // acquire, convert, release, ...
	Lockspace  string
	Resource   string
	Mode       dlm.Mode // the mode asked for, or None
	Kind       Kind
	Errno      syscall.Errno // 0 where the system gave none
	Holder     *HeldBy       // WouldBlock, Timeout, Canceled: who is in the way; nil if not known
	Candidates []LockInfo    // Ambiguous: the locks that match
	Argument   Argument      // which argument is wrong, where that is what is wrong
	Text       string        // what is wrong, for people
	Hint       Hint          // what to do about it, which each front end says in its own terms
	Err        error         // the cause, or nil
}

// WithHint sets the hint and returns the error.
func (e *Error) WithHint(h Hint) *Error {
	e.Hint = h
	return e
}

// WithArgument sets the argument that is wrong and returns the error.
func (e *Error) WithArgument(a Argument) *Error {
	e.Argument = a
	return e
}

// Unwrap lets errors.Is see the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err != nil {
		return []error{e.Kind, e.Err}
	}
	return []error{e.Kind}
}
