package dbus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"
	"unicode/utf8"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/lockd"
	"github.com/dlmlock/dlmlockd/state"
)

// Options reach the service as they were given.
func TestOptionValues(t *testing.T) {
	r, err := parseAcquire([]any{"vms", "r", "exclusive", opt("owner", "o", "label", "l", "lifetime", "process",
		"pid", uint32(7), "wait-usec", uint64(20e6))})
	require.NoError(t, err)
	require.Equal(t, lockd.AcquireOptions{Owner: "o", HasOwner: true, Label: "l", Lifetime: state.Process, PID: 7,
		Wait: 20 * time.Second}, r.(*acquire).opts)
	r, err = parseRelease([]any{"vms", "r", opt("owner", "o", "lockid", uint32(3), "token", uint64(4), "lock", lockPath(5))})
	require.NoError(t, err)
	require.Equal(t, lockd.Selector{Owner: "o", HasOwner: true, LockID: 3, Token: 4, Ref: 5}, r.(*release).sel)
	r, err = parseListLocks([]any{opt("state", "held", "after", lockPath(9), "limit", uint32(10000), "uid", uint32(0), "mode", "nl")})
	require.NoError(t, err)
	f := r.(*listLocks).filter
	require.True(t, f.HasUID && f.HasMode && !f.HasOwner)
	require.Equal(t, lockd.Ref(9), f.After)
	require.Equal(t, lockd.Held, f.State)
}

// A path reads back as the number that made it, and nothing else does.
func TestLockPaths(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := lockd.Ref(rapid.Uint64().Draw(t, "ref"))
		got, ok := parseLockPath(lockPath(n))
		require.True(t, ok)
		require.Equal(t, n, got)
		require.True(t, lockPath(n).IsValid())
	})
	for _, p := range []string{"/", "", LockPrefix, LockPrefix + "x", LockPrefix + "+1", LockPrefix + "00", LockPrefix + "18446744073709551616"} {
		_, ok := parseLockPath(godbus.ObjectPath(p))
		require.False(t, ok, p)
	}
}

// printable always makes what D-Bus takes, and leaves alone what it takes.
func TestPrintable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOf(rapid.Byte()).Draw(t, "s"))
		p := printable(s)
		require.True(t, utf8.ValidString(p))
		require.NotContains(t, p, "\x00")
		require.Equal(t, p, printable(p))
	})
	require.Equal(t, `a\xffb\x00é`, printable("a\xffb\x00é"))
}

// Every kind of error has a name that the bus takes.
func TestErrorNames(t *testing.T) {
	kinds := map[lockd.Kind]string{lockd.InvalidArgs: errInvalidArgs, lockd.AccessDenied: errAccessDenied,
		interactionRequired: errInteractive, "": errFailed, lockd.WouldBlock: ErrorPrefix + "WouldBlock",
		lockd.LimitExceeded: ErrorPrefix + "LimitExceeded"}
	for k, want := range kinds {
		require.Equal(t, want, errorName(&lockd.Error{Kind: k}))
	}
	require.Equal(t, errFailed, errorName(errors.New("other")))
	require.NoError(t, errorReply(":1.1", 1, errors.New("x\xff")).IsValid())
}

// FuzzOptions feeds the wire form of an a{sv} to each option parser: no input
// panics, and what is refused is refused with a name.
func FuzzOptions(f *testing.F) {
	for _, o := range []options{
		{}, opt("owner", "vm1", "label", "x"), opt("owner", ""), opt("wait-usec", uint64(1)), opt("wait-usec", ^uint64(0)),
		opt("lifetime", "process", "pid", uint32(1)), opt("force", true), opt("after", lockPath(1), "limit", uint32(2)),
		opt("owner", []string{"x"}), opt("lock", godbus.ObjectPath("/")), opt("x", godbus.MakeVariant(opt("y", 1))), opt("mode", "shared", "state", "held"),
	} {
		msg := &godbus.Message{Type: godbus.TypeSignal, Headers: map[godbus.HeaderField]godbus.Variant{
			godbus.FieldPath: godbus.MakeVariant(Path), godbus.FieldInterface: godbus.MakeVariant(Name), godbus.FieldMember: godbus.MakeVariant("X"),
			godbus.FieldSignature: godbus.MakeVariant(godbus.ParseSignatureMust("a{sv}"))}, Body: []any{o}}
		var b bytes.Buffer
		require.NoError(f, msg.EncodeTo(&b, binary.LittleEndian))
		n := binary.LittleEndian.Uint32(b.Bytes()[4:])
		f.Add(b.Bytes()[b.Len()-int(n):])
	}
	parsers := []func(o options) (request, error){
		func(o options) (request, error) { return parseAcquire([]any{"vms", "r", "EX", o}) },
		func(o options) (request, error) { return parseAcquireMany([]any{[][]any{{"vms", "r", "EX"}}, o}) },
		func(o options) (request, error) { return parseConvert([]any{"vms", "r", "EX", o}) },
		func(o options) (request, error) { return parseRelease([]any{"vms", "r", o}) },
		func(o options) (request, error) { return parseListLocks([]any{o}) },
		func(o options) (request, error) { return parseJoin([]any{"vms", o}) },
		func(o options) (request, error) { return parseLeave([]any{"vms", o}) },
		func(o options) (request, error) { return parsePurge([]any{"vms", []uint32{1}, o}) },
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		frame := frameOf(t, "a{sv}", body)
		if !readable(frame) {
			return
		}
		msg, err := godbus.DecodeMessage(bytes.NewReader(frame))
		if err != nil {
			return // a bus would not have let it through
		}
		o := msg.Body[0].(options)
		for _, parse := range parsers {
			if _, err := parse(o); err != nil {
				require.NotEqual(t, errFailed, errorName(err))
				require.NoError(t, errorReply(":1.1", 1, err).IsValid())
			}
		}
	})
}
