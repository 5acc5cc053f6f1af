package api

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Kind is what went wrong, as a caller should tell errors apart. Its text is
// the last part of the D-Bus error name. A Kind is an error, so
// errors.Is(err, lockd.WouldBlock) works.
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
	Holder     string        // WouldBlock: who is in the way, where known
	Candidates []LockInfo    // Ambiguous: the locks that match
	Text       string        // what is wrong and what to do, for people
	Err        error         // the cause, or nil
}

// modal are the operations that are about a mode.
var modal = []string{"acquire", "request", "convert", "cancel"}

// Error says what was tried, what is wrong, who is in the way and what to do.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Lockspace != "" {
		b.WriteString(" " + Printable(e.Lockspace))
	}
	if e.Resource != "" {
		b.WriteString("/" + Printable(e.Resource))
	}
	// A mode belongs to a resource: an Error without one says nothing of a mode,
	// whatever is in the field, whose zero is NL.
	if e.Resource != "" && e.Mode.Valid() && slices.Contains(modal, e.Op) {
		b.WriteString(" " + e.Mode.String())
	}
	b.WriteString(": " + e.Text)
	if e.Holder != "" {
		b.WriteString("; held by " + e.Holder)
	}
	if e.Errno != 0 {
		fmt.Fprintf(&b, " (%s)", e.Errno.Error())
	}
	return b.String()
}

// Unwrap lets errors.Is see the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err != nil {
		return []error{e.Kind, e.Err}
	}
	return []error{e.Kind}
}
