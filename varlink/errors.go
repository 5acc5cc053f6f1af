package varlink

import (
	"cmp"
	"errors"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// Interface is the name of the service's own interface.
const Interface = "org.example.DlmLock"

// The errors of the standard interfaces (varlink.org, "Service"; systemd,
// shared/varlink-io.systemd.c).
const (
	errInterfaceNotFound    = "org.varlink.service.InterfaceNotFound"
	errMethodNotFound       = "org.varlink.service.MethodNotFound"
	errMethodNotImplemented = "org.varlink.service.MethodNotImplemented"
	errInvalidParameter     = "org.varlink.service.InvalidParameter"
	errPermissionDenied     = "org.varlink.service.PermissionDenied"
	errExpectedMore         = "org.varlink.service.ExpectedMore"
	errInteraction          = "io.systemd.InteractiveAuthenticationRequired"
)

// noSuchLock is the kind of error of a list with nothing in it. The service has no
// such error: a list of no locks is one there.
const noSuchLock api.Kind = "NoSuchLock"

// invalidConfiguration is the kind of error of Reload where the configuration is
// wrong.
const invalidConfiguration api.Kind = "InvalidConfiguration"

// wording is how errors of calls are worded here: the operations and hints of package
// api in the words of this interface. A test holds that no hint is missing.
var wording = api.Wording{
	Argument: func(e *api.Error) string { return field(e.Argument) },
	Operations: map[string]string{
		"request":         "acquire",
		"release-owner":   "release",
		"subscribe":       "monitor",
		"list-waits":      "list waits",
		"list-lost":       "list lost locks",
		"list-nodes":      "list nodes",
		"list-lockspaces": "list lockspaces",
		"list-orphans":    "list orphans",
	},
	Hints: map[api.Hint]string{
		api.HintWait:           "try again later or wait with waitUSec",
		api.HintWaitLonger:     "wait longer with waitUSec, or let Acquire wait without a limit with the flag more",
		api.HintInspect:        "call Inspect to see what is held",
		api.HintListLocks:      "call ListLocks to see what is held",
		api.HintOwnerOrLockID:  "say which one with the owner or lockId of select",
		api.HintConvert:        "use Convert to change the mode",
		api.HintReleaseOne:     "locks without owner are released one by one with Release",
		api.HintJoin:           "call JoinLockspace, or name it under lockspaces in /etc/dlmlockd.toml",
		api.HintListLockspaces: "call ListLockspaces to see which there are",
		api.HintLockspaceState: "ListLockspaces shows its state",
		api.HintForce:          "release them, or leave with force and lose them",
		api.HintListOrphans:    "call ListOrphans again",
		api.HintClearOrphans: "list them with ListOrphans, adopt each with AdoptOrphan or remove it with Purge, " +
			"then leave again",
		api.HintOneOwner: "call Monitor with owner or ownerPrefix, which does not count",
	},
}

// fields are the names of arguments, where they have another one here.
var fields = map[api.Argument]string{
	api.ArgPID:        "processId",
	api.ArgStartTime:  "processStartTicks",
	api.ArgOnLost:     "onLost",
	api.ArgOnLostData: "onLostData",
	api.ArgWait:       "waitUSec",
	api.ArgLockID:     "lockId",
	api.ArgLockIDs:    "lockIds",
	api.ArgUID:        "userId",
	api.ArgNode:       "nodeId",
}

func field(a api.Argument) string {
	if name, ok := fields[a]; ok {
		return name
	}
	return string(a)
}

// invalidParameter are the fields of InvalidParameter. The interface has the first
// one; the second one is for people, who see it in what varlinkctl prints.
type invalidParameter struct {
	Parameter string `json:"parameter"`
	Message   string `json:"message,omitempty"`
}

// refused are the fields of PermissionDenied and
// InteractiveAuthenticationRequired, which have none in their interfaces.
type refused struct {
	Message string `json:"message"`
}

// badParameter is a field that can't be read: unknown, missing, of a wrong type.
type badParameter struct{ field, text string }

func (e badParameter) Error() string { return e.field + ": " + e.text }

// parameterError makes an error of Decode one of the call.
func parameterError(err error) error {
	var fe *wire.FieldError
	if errors.As(err, &fe) {
		return badParameter{fe.Field, fe.Text}
	}
	return badParameter{"parameters", err.Error()}
}

// writeError ends a call with what went wrong. A kind of the service is an error of the
// service's own interface under the same name, unless a standard interface has one for
// it, which generic clients know.
func writeError(w *wire.Call, err error) (n int, _ error) {
	var bad badParameter
	if errors.As(err, &bad) {
		return w.Fail(errInvalidParameter, invalidParameter{printable(bad.field), printable(bad.Error())})
	}
	var e *api.Error
	if !errors.As(err, &e) {
		return w.Fail(Interface+"."+string(api.Internal), failure{Message: printable(err.Error())})
	}
	message := printable(wording.Message(err))
	switch e.Kind {
	case api.InvalidArgs:
		return w.Fail(errInvalidParameter, invalidParameter{printable(cmp.Or(field(e.Argument), "parameters")), message})
	case api.AccessDenied:
		return w.Fail(errPermissionDenied, refused{message})
	case api.InteractionRequired:
		return w.Fail(errInteraction, refused{message})
	case api.TooManyCalls:
		return w.Fail(Interface+"."+string(api.LimitExceeded), failure{Message: message})
	}
	f := failure{Message: message}
	switch e.Kind {
	case api.WouldBlock, api.Timeout:
		f.Holder = text(e.Holder.String())
	case api.Ambiguous:
		f.Candidates = locks(e.Candidates)
	case api.KernelError:
		f.Errno = some(int(e.Errno))
	case "":
		return w.Fail(Interface+"."+string(api.Internal), f)
	}
	return w.Fail(Interface+"."+string(e.Kind), f)
}

// fail ends a call of the standard interfaces with an error.
func fail(w *wire.Call, name string, parameters any) { _, _ = w.Fail(name, parameters) }

// missing is the error of a list with nothing in it.
func missing(op string, kind api.Kind, text string) error {
	return &api.Error{Op: op, Kind: kind, Mode: dlm.None, Text: text}
}

var _ frontend.Handler = (*call)(nil)
