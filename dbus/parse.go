package dbus

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Limits of what a call may ask, beside those of the service. They bound what
// a connection can make the daemon remember.
const (
	// MaxWanted is how many locks one AcquireMany may ask for, whatever
	// lockd.Limits say.
	MaxWanted = 1 << 14
	// MaxPurge is how many orphans one Purge may name.
	MaxPurge = 1 << 16
	// MaxPage is the longest page of ListLocks.
	MaxPage = 10000
	// maxText is how many bytes an option's text may have.
	maxText = 4096
)

// option is a key that a member knows. set gets a value of type sig. Where that
// is a number (u or t) the caller may send any integer type: what a shell or a
// scripting language makes of a number is rarely the one that is documented.
type option[T any] struct {
	key, sig string
	set      func(into *T, value any) error
}

// parseOptions reads an a{sv} as known says. op is the operation, for errors.
// The bus lets a key through that comes twice, and it could mean either value.
func parseOptions[T any](op string, known []option[T], body *reader, into *T) error {
	var given uint64 // a bit for each of known
	for end := body.array(8); body.more(end); {
		body.align(8)
		key := body.bytes()
		sig := string(body.signature())
		i := slices.IndexFunc(known, func(o option[T]) bool { return o.key == string(key) })
		if i < 0 {
			return invalid(op, "unknown option %q; known here: %s", clip(string(key)), optionKeys(known))
		}
		o := &known[i]
		if given&(1<<i) != 0 {
			return invalid(op, "option %s is given twice; give it once", key)
		}
		given |= 1 << i
		v, err := optionValue(o.sig, sig, body)
		if err != nil {
			return named(op, o.key, err)
		}
		if s, ok := v.(string); ok && len(s) > maxText {
			return invalid(op, "option %s has %d bytes, at most %d are allowed", key, len(s), maxText)
		}
		if err := o.set(into, v); err != nil {
			return named(op, o.key, err)
		}
	}
	return nil
}

// optionValue reads a value that is to be of type want and was sent as one of
// type sig.
func optionValue(want, sig string, body *reader) (any, error) {
	switch {
	case (want == "u" || want == "t") && isInteger(sig):
		return body.number(sig, want)
	case want == "u" || want == "t":
		return nil, errText("it takes a number (of type " + want + ", or of any other integer type), not the type " + clip(sig))
	case sig != want:
		return nil, errText("it takes the type " + want + ", not " + clip(sig))
	}
	return body.value(want), nil
}

// isInteger reports whether sig is an integer type of D-Bus.
func isInteger(sig string) bool { return len(sig) == 1 && strings.Contains("ynqiuxt", sig) }

// number reads an integer of the type sig, for one of type u (uint32) or t
// (uint64).
func (r *reader) number(sig, want string) (any, error) {
	var n uint64
	var signed int64
	switch sig {
	case "y":
		n = uint64(r.byte())
	case "n":
		signed = int64(int16(r.uint16()))
	case "q":
		n = uint64(r.uint16())
	case "i":
		signed = int64(int32(r.uint32()))
	case "u":
		n = uint64(r.uint32())
	case "x":
		signed = int64(r.uint64())
	case "t":
		n = r.uint64()
	}
	switch {
	case signed < 0:
		return nil, errText(fmt.Sprintf("%d is negative", signed))
	case signed > 0:
		n = uint64(signed)
	}
	switch {
	case want == "t":
		return n, nil
	case n > math.MaxUint32:
		return nil, errText(fmt.Sprintf("%d is too large, %d is the largest", n, uint32(math.MaxUint32)))
	}
	return uint32(n), nil
}

func optionKeys[T any](known []option[T]) string {
	if len(known) == 0 {
		return "none"
	}
	keys := make([]string, len(known))
	for i := range known {
		keys[i] = known[i].key
	}
	sort.Strings(keys)
	return strings.Join(keys, ", ")
}

// errText is what is wrong with one option's value.
type errText string

func (e errText) Error() string { return string(e) }

// named makes the error of an option's value one of the call.
func named(op, key string, err error) error {
	var le *api.Error
	if errors.As(err, &le) {
		le.Op = op
		return le
	}
	return invalid(op, "option %s: %s", key, err)
}

func invalid(op, format string, args ...any) error {
	return &api.Error{Op: op, Kind: api.InvalidArgs, Mode: dlm.None, Text: fmt.Sprintf(format, args...)}
}

// clip shortens what a caller sent, for an error message.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return printable(s[:most]) + "..."
}

// parseMode reads a mode; the error is of kind InvalidMode.
func parseMode(op, lockspace, resource, s string) (dlm.Mode, error) {
	m, err := dlm.ParseMode(s)
	if err != nil {
		return dlm.None, &api.Error{Op: op, Lockspace: lockspace, Resource: resource, Mode: dlm.None, Kind: api.InvalidMode,
			Text: fmt.Sprintf("%q is not one of NL, CR, CW, PR (shared), PW, EX (exclusive)", clip(s)), Err: err}
	}
	return m, nil
}

// checkNames checks a lockspace's and a resource's name; the error is of kind
// InvalidName.
func checkNames(op, lockspace, resource string) error {
	if err := checkSpace(op, lockspace); err != nil {
		return err
	}
	if err := dlm.CheckResource(resource); err != nil {
		return badName(op, lockspace, "", err)
	}
	return nil
}

func checkSpace(op, lockspace string) error {
	if err := dlm.CheckLockspace(lockspace); err != nil {
		return badName(op, clip(lockspace), "", err)
	}
	return nil
}

func badName(op, lockspace, resource string, err error) error {
	e := &api.Error{Op: op, Lockspace: lockspace, Resource: resource, Mode: dlm.None, Kind: api.InvalidName, Text: err.Error(), Err: err}
	var de *dlm.Error
	if errors.As(err, &de) && de.Advice != "" {
		e.Text = de.Advice
	}
	return e
}

// setText is an option that is a text.
func setText[T any](field func(*T) *string) func(*T, any) error {
	return func(into *T, v any) error {
		*field(into) = v.(string)
		return nil
	}
}

// setOwner is the option owner. An empty one would look like none.
func setOwner[T any](field func(*T) (owner *string, has *bool)) func(*T, any) error {
	return func(into *T, v any) error {
		owner, has := field(into)
		*owner, *has = v.(string), true
		if *owner == "" {
			return errText("an owner has at least one byte; leave the option out for a lock without owner")
		}
		return nil
	}
}

// setWait is the option wait-usec.
func setWait[T any](field func(*T) *time.Duration) func(*T, any) error {
	return func(into *T, v any) error {
		us := v.(uint64)
		if us > uint64(api.MaxWait/time.Microsecond) {
			return errText(fmt.Sprintf("%d is more than %d (20 s); ask again after a Timeout to wait longer", us, api.MaxWait/time.Microsecond))
		}
		*field(into) = time.Duration(us) * time.Microsecond
		return nil
	}
}

// setValue is an option that is a lock value block; what is missing at its end
// is zeros.
func setValue[T any](field func(*T) **dlm.Value) func(*T, any) error {
	return func(into *T, v any) error {
		b, value := v.([]byte), new(dlm.Value)
		if len(b) > len(value) {
			return errText(fmt.Sprintf("%d bytes, a lock value block has %d", len(b), len(value)))
		}
		copy(value[:], b)
		*field(into) = value
		return nil
	}
}

// setLock is an option that is the path of a lock.
func setLock[T any](field func(*T) *api.Ref) func(*T, any) error {
	return func(into *T, v any) error {
		ref, ok := parseLockPath(v.(godbus.ObjectPath))
		if !ok || ref == 0 {
			return errText(clip(string(v.(godbus.ObjectPath))) + " is not the path of a lock (" + LockPrefix + "NUMBER)")
		}
		*field(into) = ref
		return nil
	}
}
