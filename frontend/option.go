package frontend

import (
	"fmt"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// Kind is the kind of an option's value. Each door has types of its own for
// them.
type Kind uint8

// The kinds, with the Go type that Option.Set takes.
const (
	Text         Kind = iota // string
	Uint32                   // uint32
	Uint64                   // uint64
	Microseconds             // uint64
	Flag                     // bool
	Bytes                    // []byte
	Texts                    // []string
	LockRef                  // api.Ref, which a door writes as a path or a name
)

// Option is an optional argument of the method T. Names are canonical: each door
// has a spelling of its own.
type Option[T any] struct {
	// Its canonical name. Each door has a spelling of its own for it.
	Name api.Argument
	// The type of its value, by which a door reads it off the wire.
	Kind Kind
	// Checks the value as far as that needs nothing else, and stores it in the method.
	set func(into *T, value any) error
}

// Set puts a value, whose type is that of Kind, into a method. The error is an
// *api.Error without Op.
func (o *Option[T]) Set(into *T, value any) error {
	if s, ok := value.(string); ok && len(s) > MaxText {
		return badText(o.Name, len(s))
	}
	return o.set(into, value)
}

// bad is the error of an argument that is wrong by itself.
func bad(name api.Argument, format string, args ...any) error {
	return &api.Error{Kind: api.InvalidArgs, Mode: dlm.None, Argument: name, Text: fmt.Sprintf(format, args...)}
}

func badText(name api.Argument, n int) error {
	return bad(name, "it has %d bytes, at most %d are allowed", n, MaxText)
}

// text is an option that is a text of any bytes.
func text[T any](name api.Argument, field func(*T) *string) Option[T] {
	return Option[T]{name, Text, func(into *T, v any) error {
		*field(into) = v.(string)
		return nil
	}}
}

// flag is an option that is on or off.
func flag[T any](name api.Argument, field func(*T) *bool) Option[T] {
	return Option[T]{name, Flag, func(into *T, v any) error {
		*field(into) = v.(bool)
		return nil
	}}
}

// owner is the option owner.
func owner[T any](field func(*T) (owner *string, has *bool)) Option[T] {
	return Option[T]{api.ArgOwner, Text, func(into *T, v any) error {
		owner, has := field(into)
		*owner, *has = v.(string), true
		return nil
	}}
}

// uid is the option uid.
func uid[T any](field func(*T) (uid *uint32, has *bool)) Option[T] {
	return Option[T]{api.ArgUID, Uint32, func(into *T, v any) error {
		uid, has := field(into)
		*uid, *has = v.(uint32), true
		return nil
	}}
}

// mode is the option mode.
func mode[T any](field func(*T) (mode *dlm.Mode, has *bool)) Option[T] {
	return Option[T]{api.ArgMode, Text, func(into *T, v any) (err error) {
		mode, has := field(into)
		*has = true
		*mode, err = ParseMode(v.(string))
		return err
	}}
}

// ref is an option that names a lock.
func ref[T any](name api.Argument, field func(*T) *api.Ref) Option[T] {
	return Option[T]{name, LockRef, func(into *T, v any) error {
		*field(into) = v.(api.Ref)
		return nil
	}}
}

// value is the option value, a lock value block. What is missing at its end is
// zeros.
func value[T any](field func(*T) **dlm.Value) Option[T] {
	return Option[T]{api.ArgValue, Bytes, func(into *T, v any) error {
		b, block := v.([]byte), new(dlm.Value)
		if len(b) > len(block) {
			return bad(api.ArgValue, "it has %d bytes, a lock value block has %d", len(b), len(block))
		}
		copy(block[:], b)
		*field(into) = block
		return nil
	}}
}

// acquireOptions are the options of a method that takes locks, but for those of
// some of them.
func acquireOptions[T any](of func(*T) *api.AcquireOptions) []Option[T] {
	onLost := func(into *T) *api.OnLost {
		o := of(into)
		if o.OnLost == nil {
			o.OnLost = new(api.OnLost)
		}
		return o.OnLost
	}
	return []Option[T]{
		owner(func(m *T) (*string, *bool) { return &of(m).Owner, &of(m).HasOwner }),
		text(api.ArgLabel, func(m *T) *string { return &of(m).Label }),
		{api.ArgLifetime, Text, func(m *T, v any) error { return setLifetime(of(m), v.(string)) }},
		{api.ArgPID, Uint32, func(m *T, v any) error {
			if of(m).PID = v.(uint32); of(m).PID == 0 {
				return bad(api.ArgPID, "0 is no process; leave it out for the caller")
			}
			return nil
		}},
		{api.ArgStartTime, Uint64, func(m *T, v any) error {
			of(m).Start, of(m).HasStart = v.(uint64), true
			return nil
		}},
		text(api.ArgOnLost, func(m *T) *string { return &onLost(m).Helper }),
		text(api.ArgOnLostData, func(m *T) *string { return &onLost(m).Data }),
	}
}

func setLifetime(o *api.AcquireOptions, s string) error {
	l, ok := state.ParseLifetime(s)
	if !ok {
		return bad(api.ArgLifetime, "%q is not one of persistent, connection, process", Clip(s))
	}
	o.Lifetime = l
	return nil
}

// filterLockspace is the option lockspace of a list. An empty name is given, and wrong: in the filter it
// would stand for all.
func filterLockspace[T any](filter func(*T) *api.Filter) Option[T] {
	return Option[T]{api.ArgLockspace, Text, func(into *T, v any) error {
		f := filter(into)
		f.Lockspace = v.(string)
		return checkLockspace(f.Lockspace)
	}}
}

// filterResource is the option resource of a list, of which the same holds.
func filterResource[T any](filter func(*T) *api.Filter) Option[T] {
	return Option[T]{api.ArgResource, Text, func(into *T, v any) error {
		f := filter(into)
		f.Resource = v.(string)
		return checkResource("", f.Resource)
	}}
}

// filterLimit is the option limit of a list; tooSmall is the error of 0.
func filterLimit[T any](filter func(*T) *api.Filter, tooSmall func() error) Option[T] {
	return Option[T]{api.ArgLimit, Uint32, func(into *T, v any) error {
		f := filter(into)
		if f.Limit = int(v.(uint32)); f.Limit == 0 {
			return tooSmall()
		}
		return nil
	}}
}

// selectorOptions say which lock of a resource is meant.
func selectorOptions[T any](of func(*T) *api.Selector) []Option[T] {
	return []Option[T]{
		owner(func(m *T) (*string, *bool) { return &of(m).Owner, &of(m).HasOwner }),
		{api.ArgLockID, Uint32, func(m *T, v any) error {
			if of(m).LockID = dlm.LockID(v.(uint32)); of(m).LockID == 0 {
				return bad(api.ArgLockID, "0 is no lockid")
			}
			return nil
		}},
		{api.ArgToken, Uint64, func(m *T, v any) error {
			of(m).Token = v.(uint64)
			return nil
		}},
		ref(api.ArgLock, func(m *T) *api.Ref { return &of(m).Ref }),
	}
}
