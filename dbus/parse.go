package dbus

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// signatures are the types of options on the bus. Where that is a number (u or
// t) the caller may send any integer type: what a shell or a scripting language
// makes of a number is rarely the one that is documented.
var signatures = [...]string{
	frontend.Text: "s", frontend.Uint32: "u", frontend.Uint64: "t", frontend.Microseconds: "t", frontend.Flag: "b",
	frontend.Bytes: "ay", frontend.Texts: "as", frontend.LockRef: "o",
}

// optionName is how an option is spelled on the bus.
func optionName(a api.Argument) string {
	if a == api.ArgWait {
		return "wait-usec"
	}
	return string(a)
}

// only are those options that have one of the names.
func only[T any](known []frontend.Option[T], names ...api.Argument) []frontend.Option[T] {
	return slices.DeleteFunc(slices.Clone(known),
		func(o frontend.Option[T]) bool { return !slices.Contains(names, o.Name) })
}

// parseOptions reads an a{sv} as known says. op is the operation, for errors.
// The bus lets a key through that comes twice, and it could mean either value.
func parseOptions[T any](op string, known []frontend.Option[T], body *reader, into *T) error {
	var given uint64 // a bit for each of known
	for end := body.array(8); body.more(end); {
		body.align(8)
		key := body.bytes()
		sig := string(body.signature())
		i := slices.IndexFunc(known, func(o frontend.Option[T]) bool { return optionName(o.Name) == string(key) })
		if i < 0 {
			return invalid(op, "unknown option %q; known here: %s", clip(string(key)), optionNames(known))
		}
		o := &known[i]
		if given&(1<<i) != 0 {
			return invalid(op, "option %s is given twice; give it once", key)
		}
		given |= 1 << i
		v, err := optionValue(o.Name, o.Kind, sig, body)
		if err == nil {
			err = o.Set(into, v)
		}
		if err != nil {
			return named(op, api.Want{}, err)
		}
	}
	return nil
}

// optionValue reads the value of an option, which was sent as one of type sig. A value of
// another type is not read: the call is refused, so where it ends does not matter.
func optionValue(name api.Argument, kind frontend.Kind, sig string, body *reader) (any, error) {
	want := signatures[kind]
	switch {
	case (want == "u" || want == "t") && isInteger(sig):
		n, err := body.number(sig, want)
		if err != nil {
			return nil, wrong(name, err.Error())
		}
		return n, nil
	case want == "u" || want == "t":
		return nil, wrong(name, "it takes a number (of type "+want+", or of any other integer type), not the type "+
			clip(sig))
	case sig != want:
		return nil, wrong(name, "it takes the type "+want+", not "+clip(sig))
	}
	v := body.value(want)
	if path, ok := v.(godbus.ObjectPath); ok {
		ref, ok := parseLockPath(path)
		if !ok || ref == 0 {
			return nil, wrong(name, clip(string(path))+" is not the path of a lock ("+LockPrefix+"NUMBER)")
		}
		return ref, nil
	}
	return v, nil
}

// wrong is the error of an option's value.
func wrong(name api.Argument, text string) error {
	return &api.Error{Kind: api.InvalidArgs, Mode: dlm.None, Argument: name, Text: text}
}

// named makes the error of an argument one of the call. Names that the error has
// stay.
func named(op string, w api.Want, err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		e.Op, e.Lockspace, e.Resource = op, cmp.Or(e.Lockspace, w.Lockspace), cmp.Or(e.Resource, w.Resource)
	}
	return err
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
		return nil, fmt.Errorf("%d is negative", signed)
	case signed > 0:
		n = uint64(signed)
	}
	switch {
	case want == "t":
		return n, nil
	case n > math.MaxUint32:
		return nil, fmt.Errorf("%d is too large, %d is the largest", n, uint32(math.MaxUint32))
	}
	return uint32(n), nil
}

func optionNames[T any](known []frontend.Option[T]) string {
	if len(known) == 0 {
		return "none"
	}
	names := make([]string, len(known))
	for i := range known {
		names[i] = optionName(known[i].Name)
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}

// invalid is the refusal of arguments that don't have the form of the method.
func invalid(op, format string, args ...any) error {
	return &api.Error{Op: op, Kind: api.InvalidArgs, Mode: dlm.None, Text: fmt.Sprintf(format, args...)}
}

// clip shortens what a caller sent, for an error message.
func clip(s string) string { return printable(frontend.Clip(s)) }
