package frontend

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// Limits of what a call may ask, beside those of the service. They bound what a
// session can make the daemon remember.
const (
	// MaxLocks is how many locks one call may take or release, whatever
	// api.Limits say.
	MaxLocks = 1 << 14
	// MaxPurge is how many orphans one Purge may name.
	MaxPurge = 1 << 16
	// MaxPage is the longest page of ListLocks.
	MaxPage = 10000
	// MaxText is how many bytes a text may have.
	MaxText = 4096
)

// Clip shortens what a caller sent, for an error message.
func Clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

// ParseMode reads a mode, in any case, "shared" or "exclusive"; the error is an
// *api.Error of kind InvalidMode without Op.
func ParseMode(s string) (dlm.Mode, error) {
	m, err := dlm.ParseMode(s)
	if err != nil {
		return dlm.None, &api.Error{Mode: dlm.None, Kind: api.InvalidMode, Argument: api.ArgMode,
			Text: fmt.Sprintf("%q is not one of NL, CR, CW, PR (shared), PW, EX (exclusive)", Clip(s)), Err: err}
	}
	return m, nil
}

// invalid makes err, which is about one argument, the error of an operation.
func invalid(op string, err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		e.Op = op
	}
	return err
}

// checkLockspace checks the name of a lockspace; the error is of kind
// InvalidName.
func checkLockspace(lockspace string) error {
	if err := dlm.CheckLockspace(lockspace); err != nil {
		return badName(api.ArgLockspace, Clip(lockspace), err)
	}
	return nil
}

// checkNames checks the names of a lockspace and a resource; the error is of
// kind InvalidName.
func checkNames(lockspace, resource string) error {
	if err := checkLockspace(lockspace); err != nil {
		return err
	}
	return checkResource(lockspace, resource)
}

// checkResource checks the name of a resource; the error is of kind InvalidName.
func checkResource(lockspace, resource string) error {
	if err := dlm.CheckResource(resource); err != nil {
		return badName(api.ArgResource, lockspace, err)
	}
	return nil
}

// badName is the refusal of a name, with the rule that it breaks.
func badName(arg api.Argument, lockspace string, err error) error {
	e := &api.Error{Lockspace: lockspace, Mode: dlm.None, Kind: api.InvalidName, Argument: arg,
		Text: err.Error(), Err: err}
	var de *dlm.Error
	if errors.As(err, &de) && de.Advice != "" {
		e.Text = de.Advice
	}
	return e
}

// checkWant checks a lock that is wanted.
func checkWant(w *api.Want) error {
	if err := checkNames(w.Lockspace, w.Resource); err != nil {
		return err
	}
	if !w.Mode.Valid() {
		_, err := ParseMode("")
		return err
	}
	return nil
}

// checkOwner checks an owner; an empty one would look like none.
func checkOwner(owner string, has bool) error {
	switch {
	case has && owner == "":
		return bad(api.ArgOwner, "an owner has at least one byte; leave it out for a lock without owner")
	case len(owner) > MaxText:
		return badText(api.ArgOwner, len(owner))
	}
	return nil
}

func checkLabels(labels []string) error {
	for _, label := range labels {
		if len(label) > MaxText {
			return bad(api.ArgLabels, "one has %d bytes, at most %d are allowed", len(label), MaxText)
		}
	}
	return nil
}

func checkWait(wait time.Duration) error {
	if wait > api.MaxWait {
		return bad(api.ArgWait, "%v is longer than %v; ask again after a timeout to wait longer", wait, api.MaxWait)
	}
	return nil
}

// checkAcquire checks the options of a method that takes locks, alone and
// together.
func checkAcquire(o *api.AcquireOptions) error {
	if err := cmp.Or(checkOwner(o.Owner, o.HasOwner), checkLabels(o.Labels), checkWait(o.Wait)); err != nil {
		return err
	}
	switch {
	case len(o.Label) > MaxText:
		return badText(api.ArgLabel, len(o.Label))
	case o.PID != 0 && o.Lifetime != state.Process:
		return bad(api.ArgPID, `it needs the lifetime "process"`)
	case o.HasStart && o.Lifetime != state.Process:
		return bad(api.ArgStartTime, `it needs the lifetime "process"`)
	case o.OnLost != nil && o.OnLost.Helper == "":
		return bad(api.ArgOnLost, "the name of a helper is missing")
	case o.OnLost != nil && len(o.OnLost.Data) > MaxText:
		return badText(api.ArgOnLostData, len(o.OnLost.Data))
	}
	return nil
}

// tooManyLocks is the error for a list that is too long.
func tooManyLocks(op string) error {
	return &api.Error{Op: op, Kind: api.LimitExceeded, Mode: dlm.None,
		Text: fmt.Sprintf("more than %d locks in one call; ask for them in several", MaxLocks)}
}
