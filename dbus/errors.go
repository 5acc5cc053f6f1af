package dbus

import (
	"errors"
	"fmt"
	"strings"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Errors of the D-Bus specification and of the reference implementation
// (dbus-protocol.h, "DBUS_ERROR_*").
const (
	errFailed           = "org.freedesktop.DBus.Error.Failed"
	errInvalidArgs      = "org.freedesktop.DBus.Error.InvalidArgs"
	errAccessDenied     = "org.freedesktop.DBus.Error.AccessDenied"
	errInteractive      = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
	errLimits           = "org.freedesktop.DBus.Error.LimitsExceeded"
	errUnknownObject    = "org.freedesktop.DBus.Error.UnknownObject"
	errUnknownInterface = "org.freedesktop.DBus.Error.UnknownInterface"
	errUnknownMethod    = "org.freedesktop.DBus.Error.UnknownMethod"
	errUnknownProperty  = "org.freedesktop.DBus.Error.UnknownProperty"
	errReadOnly         = "org.freedesktop.DBus.Error.PropertyReadOnly"
)

// ErrorPrefix and an api.Kind make the name of an error of the service.
const ErrorPrefix = Name + ".Error."

// busError is an error that is already in the words of the bus.
type busError struct{ name, text string }

func (e busError) Error() string { return e.text }

// errorName finds the name on the bus of what went wrong. Kinds for which the bus has a name get
// that, because busctl, libraries and polkit agents know it; all others have a name of the
// service.
func errorName(err error) string {
	var be busError
	if errors.As(err, &be) {
		return be.name
	}
	var le *api.Error
	if !errors.As(err, &le) {
		return errFailed
	}
	switch le.Kind {
	case api.InvalidArgs:
		return errInvalidArgs
	case api.AccessDenied:
		return errAccessDenied
	case api.InteractionRequired:
		return errInteractive
	case api.TooManyCalls:
		return errLimits
	case api.Internal, "":
		return errFailed
	}
	return ErrorPrefix + string(le.Kind)
}

// wording is how errors are worded for callers on the bus.
var wording = api.Wording{
	Argument: func(e *api.Error) string {
		if e.Op == "release-owner" || e.Argument == api.ArgLockIDs {
			return "" // they are no options
		}
		return "option " + optionName(e.Argument)
	},
	Hints: map[api.Hint]string{
		api.HintWait:           "try again later or wait with wait-usec",
		api.HintWaitLonger:     "wait longer with wait-usec, or without a limit with a Request",
		api.HintInspect:        "see Inspect",
		api.HintListLocks:      "see ListLocks",
		api.HintOwnerOrLockID:  "say which with owner or lockid",
		api.HintConvert:        "use Convert to change the mode",
		api.HintReleaseOne:     "locks without owner are released one by one with Release",
		api.HintJoin:           "call JoinLockspace, or name it under lockspaces in /etc/dlmlockd.toml",
		api.HintListLockspaces: "see ListLockspaces",
		api.HintLockspaceState: "ListLockspaces shows its state",
		api.HintForce:          "release them, or leave with the option force and lose them",
		api.HintListOrphans:    "call ListOrphans again",
		api.HintClearOrphans: "list them with ListOrphans, adopt each with AdoptOrphan or remove it with Purge, " +
			"then leave again",
		api.HintOneOwner: "to follow the locks of one owner, call Monitor with owner over Varlink, which does not count",
	},
}

// errorText is what the caller reads. An ambiguous request gets the candidates
// too, so that the next try can name one.
func errorText(err error) string {
	text := wording.Message(err)
	var le *api.Error
	if errors.As(err, &le) && len(le.Candidates) > 0 {
		text += ": " + candidates(le.Candidates)
	}
	return printable(text)
}

// maxCandidates bounds the length of an error message.
const maxCandidates = 10

// candidates names the locks of an Ambiguous error for a person, who can choose one. An error of
// D-Bus is a text: a program that needs the locks calls ListLocks.
func candidates(locks []api.LockInfo) string {
	var b strings.Builder
	for i := range locks {
		if i > 0 {
			b.WriteString("; ")
		}
		if i == maxCandidates {
			fmt.Fprintf(&b, "and %d more", len(locks)-i)
			break
		}
		l := &locks[i]
		fmt.Fprintf(&b, "lockid %d in %s", l.LockID, l.Mode)
		if l.HasOwner {
			fmt.Fprintf(&b, " for owner %q", l.Owner)
		}
		if l.Label != "" {
			fmt.Fprintf(&b, " (%s)", l.Label)
		}
	}
	return b.String()
}

// printable makes any bytes a D-Bus string that carries them.
func printable(s string) string { return frontend.Transportable(s) }

// errorReply makes the message that answers a call with an error.
func errorReply(dest string, serial uint32, err error) *godbus.Message {
	return &godbus.Message{
		Type: godbus.TypeError,
		Headers: map[godbus.HeaderField]godbus.Variant{
			godbus.FieldDestination: godbus.MakeVariantWithSignature(dest, sigString),
			godbus.FieldReplySerial: godbus.MakeVariantWithSignature(serial, sigUint32),
			godbus.FieldErrorName:   godbus.MakeVariantWithSignature(errorName(err), sigString),
			godbus.FieldSignature:   godbus.MakeVariantWithSignature(sigString, sigSignature),
		},
		Body: []any{errorText(err)},
	}
}
