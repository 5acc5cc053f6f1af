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
	WouldBlock         Kind = "WouldBlock"         // another lock is in the way, and the call does not wait
	Timeout            Kind = "Timeout"            // still in the way when the wait was over; names the holder
	Canceled           Kind = "Canceled"           // the wait was withdrawn
	Deadlock           Kind = "Deadlock"           // conversions wait for each other; this one is given up
	NotHeld            Kind = "NotHeld"            // there is no such lock of the caller
	Ambiguous          Kind = "Ambiguous"          // several match; the message lists them
	AlreadyHeld        Kind = "AlreadyHeld"        // the owner has the resource in another mode
	NoSuchLockspace    Kind = "NoSuchLockspace"    // this node is not in it
	InvalidMode        Kind = "InvalidMode"        // no mode has this name
	InvalidName        Kind = "InvalidName"        // of a lockspace or resource
	LimitExceeded      Kind = "LimitExceeded"      // of the configuration, mostly for each user
	NotQuorate         Kind = "NotQuorate"         // the cluster grants nothing until it has quorum
	LockspaceStopped   Kind = "LockspaceStopped"   // nor does a lockspace while a node is being fenced
	LockspaceInUse     Kind = "LockspaceInUse"     // it can't be left while there are locks in it
	LockspaceForeign   Kind = "LockspaceForeign"   // another program has made it
	ClusterUnavailable Kind = "ClusterUnavailable" // the cluster software does not answer
	StateWriteFailed   Kind = "StateWriteFailed"   // the lock could not be recorded, so it is not held
	KernelError        Kind = "KernelError"        // anything else that the lock manager reports
	ShuttingDown       Kind = "ShuttingDown"       // the call has not begun; it may be made again
	NotSupported       Kind = "NotSupported"       // the service, or the transport, does not have it

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
