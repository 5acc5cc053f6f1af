package client

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	godbus "github.com/godbus/dbus/v5"
)

// Kind says what went wrong. errors.Is distinguishes the kinds:
//
//	errors.Is(err, client.WouldBlock)
type Kind string

// The errors of the service (org.example.DlmLock.Error.*) and of the bus.
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
	LimitExceeded      Kind = "LimitExceeded"
	NotQuorate         Kind = "NotQuorate"
	LockspaceStopped   Kind = "LockspaceStopped"
	LockspaceInUse     Kind = "LockspaceInUse"
	LockspaceForeign   Kind = "LockspaceForeign"
	ClusterUnavailable Kind = "ClusterUnavailable"
	StateWriteFailed   Kind = "StateWriteFailed"
	KernelError        Kind = "KernelError"
	ShuttingDown       Kind = "ShuttingDown"
	NotSupported       Kind = "NotSupported"

	InvalidArgs         Kind = "InvalidArgs"
	AccessDenied        Kind = "AccessDenied"
	InteractionRequired Kind = "InteractiveAuthorizationRequired"
	Unknown             Kind = "Unknown" // the service does not know the member: it is older

	// NotRunning: the service does not run and can't be started.
	NotRunning Kind = "NotRunning"
	// NoAnswer: the service ended, or did not answer in time. It is not known
	// whether the call was carried out.
	NoAnswer Kind = "NoAnswer"
	// NoBus: the message bus can't be reached.
	NoBus Kind = "NoBus"
	// Failed: anything else, a bug for example.
	Failed Kind = "Failed"
)

func (k Kind) Error() string { return string(k) }

// Error is the one error type of the package.
type Error struct {
	Op      string // the member, or "connect"
	Kind    Kind
	Name    string // the D-Bus error name; "" where the bus sent none
	Message string // for people: what is wrong and, from the service, what to do
	Err     error  // the cause, or nil
}

func (e *Error) Error() string { return e.Message }

// Unwrap lets errors.Is see the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err != nil {
		return []error{e.Kind, e.Err}
	}
	return []error{e.Kind}
}

// NotTaken reports whether the call has certainly not begun, and so can be made again.
func (e *Error) NotTaken() bool { return e.Kind == NotRunning || e.Kind == ShuttingDown }

const (
	ownErrors = Name + ".Error."
	busErrors = "org.freedesktop.DBus.Error."
)

// busKinds are the bus's own errors (D-Bus specification, and dbus-protocol.h
// of the reference implementation).
var busKinds = map[string]Kind{
	"AccessDenied":                     AccessDenied,
	"InteractiveAuthorizationRequired": InteractionRequired,
	"InvalidArgs":                      InvalidArgs,
	"LimitsExceeded":                   LimitExceeded,
	"UnknownMethod":                    Unknown,
	"UnknownInterface":                 Unknown,
	"UnknownProperty":                  Unknown,
	"UnknownObject":                    NotHeld,
	"ServiceUnknown":                   NotRunning,
	"NameHasNoOwner":                   NotRunning,
	"NoReply":                          NoAnswer,
	"Timeout":                          NoAnswer,
	"TimedOut":                         NoAnswer,
	"Disconnected":                     NoBus,
}

// kindOf finds the kind of a D-Bus error name.
func kindOf(name string) Kind {
	if k, ok := strings.CutPrefix(name, ownErrors); ok {
		return Kind(k)
	}
	if b, ok := strings.CutPrefix(name, busErrors); ok {
		if strings.HasPrefix(b, "Spawn.") {
			return NotRunning
		}
		if k, ok := busKinds[b]; ok {
			return k
		}
	}
	if strings.HasPrefix(name, "org.freedesktop.systemd1.") {
		return NotRunning // what the bus passes on when systemd can't start the unit
	}
	return Failed
}

// wrap makes an Error of one that godbus returned; nil stays nil.
func wrap(op string, err error) error {
	var be godbus.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &be):
		return &Error{Op: op, Kind: kindOf(be.Name), Name: be.Name, Message: be.Error(), Err: err}
	case errors.Is(err, context.Canceled):
		return &Error{Op: op, Kind: Canceled, Message: "canceled", Err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Op: op, Kind: NoAnswer, Message: "the service did not answer in time", Err: err}
	case isClosed(err):
		return &Error{Op: op, Kind: NoBus, Message: "the connection to the message bus is gone", Err: err}
	}
	return &Error{Op: op, Kind: Failed, Message: err.Error(), Err: err}
}

// isClosed reports whether an error means that the connection to the bus has ended.
// godbus returns its own or, for a while, that of the socket.
func isClosed(err error) bool {
	for _, end := range []error{godbus.ErrClosed, net.ErrClosed, io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE,
		syscall.ECONNRESET} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}
