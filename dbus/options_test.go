package dbus

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// pair is an entry of an a{sv} of which the order and the number count.
type pair struct {
	Key   string
	Value godbus.Variant
}

func pairs(kv ...any) []pair {
	var out []pair
	for i := 0; i < len(kv); i += 2 {
		out = append(out, pair{kv[i].(string), godbus.MakeVariant(kv[i+1])})
	}
	return out
}

// callRaw calls a member with a body that is declared to be of another
// signature than godbus would make of it: an a{sv} has the bytes of an a(sv).
func (c *client) callRaw(member, sig string, args ...any) error {
	c.t.Helper()
	done := make(chan *godbus.Call, 1)
	c.conn.Send(&godbus.Message{Type: godbus.TypeMethodCall, Headers: map[godbus.HeaderField]godbus.Variant{
		godbus.FieldDestination: godbus.MakeVariant(Name), godbus.FieldPath: godbus.MakeVariant(Path),
		godbus.FieldInterface: godbus.MakeVariant(Name), godbus.FieldMember: godbus.MakeVariant(member),
		godbus.FieldSignature: godbus.MakeVariant(godbus.ParseSignatureMust(sig))}, Body: args}, done)
	return receive(c.t, done).Err
}

// An option or a filter that is given twice could mean either, also where both
// are the same, so it means neither.
func TestOptionGivenTwice(t *testing.T) {
	cases := []struct {
		member, sig, option string
		args                []any
	}{
		{"Acquire", "sssa{sv}", "owner", []any{"vms", "r", "EX", pairs("owner", "a", "owner", "b")}},
		{"Acquire", "sssa{sv}", "owner", []any{"vms", "r", "EX", pairs("owner", "a", "label", "l", "owner", "a")}},
		{"Acquire", "sssa{sv}", "wait-usec",
			[]any{"vms", "r", "EX", pairs("wait-usec", uint64(1), "wait-usec", int32(1))}},
		{"Acquire", "sssa{sv}", "value", []any{"vms", "r", "EX", pairs("value", []byte{1}, "value", []byte{2})}},
		{"AcquireMany", "a(sss)a{sv}", "labels",
			[]any{[]wantRow{{"vms", "r", "EX"}}, pairs("labels", []string{"a"}, "labels", []string{"a"})}},
		{"AcquireMany", "a(sss)a{sv}", "owner", []any{[]wantRow{}, pairs("owner", "a", "owner", "b")}},
		{"Request", "sssa{sv}", "lifetime",
			[]any{"vms", "r", "EX", pairs("lifetime", "connection", "lifetime", "persistent")}},
		{"Convert", "sssa{sv}", "lockid", []any{"vms", "r", "EX", pairs("lockid", uint32(1), "lockid", uint32(2))}},
		{"Release", "ssa{sv}", "token", []any{"vms", "r", pairs("token", uint64(1), "token", uint64(2))}},
		{"ReleaseMany", "a(ss)a{sv}", "owner", []any{[]nameRow{{"vms", "r"}}, pairs("owner", "a", "owner", "b")}},
		{"ListLocks", "a{sv}", "lockspace", []any{pairs("lockspace", "vms", "lockspace", "other")}},
		{"ListLocks", "a{sv}", "uid", []any{pairs("uid", uint32(0), "limit", uint32(1), "uid", uint32(0))}},
		{"LeaveLockspace", "sa{sv}", "force", []any{"vms", pairs("force", false, "force", true)}},
	}
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		root := newRig(t, b, rigConfig{}).dial(testbus.Root)
		for _, c := range cases {
			var e godbus.Error
			require.ErrorAs(t, root.callRaw(c.member, c.sig, c.args...), &e, "%s %v", c.member, c.args)
			require.Equal(t, errInvalidArgs, e.Name, "%s %v", c.member, c.args)
			require.Contains(t, e.Error(), "option "+c.option+" is given twice", "%s", c.member)
		}
		require.Empty(t, root.list(opt()))
		require.NoError(t, root.callRaw("Acquire", "sssa{sv}", "vms", "r", "EX", pairs("owner", "a", "label", "b")))
	})
}

// A number may come in any integer type.
func TestNumbersOfAnyType(t *testing.T) {
	for _, v := range []any{byte(7), int16(7), uint16(7), int32(7), uint32(7), int64(7), uint64(7)} {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			r := &reader{b: encoded(t, order, opt("lockid", v)), order: order}
			var s frontend.Release
			require.NoError(t, parseOptions("release", frontend.ReleaseOptions, r, &s), "%T", v)
			require.Equal(t, dlm.LockID(7), s.Selector.LockID, "%T", v)
		}
		r, err := parseRelease(bodyOf(t, "vms", "r", opt("token", v)))
		require.NoError(t, err)
		require.Equal(t, uint64(7), r.(*release).Selector.Token)
		a, err := parseAcquire(bodyOf(t, "vms", "r", "EX", opt("lifetime", "process", "pid", v, "wait-usec", v)))
		require.NoError(t, err)
		require.Equal(t, uint32(7), a.(*acquire).Options.PID)
		require.Equal(t, 7*time.Microsecond, a.(*acquire).Options.Wait)
		l, err := parseListLocks(bodyOf(t, opt("uid", v, "limit", v)))
		require.NoError(t, err)
		require.Equal(t, []any{uint32(7), 7}, []any{l.(*listLocks).Filter.UID, l.(*listLocks).Filter.Limit})
	}
	r, err := parseRelease(bodyOf(t, "vms", "r", opt("token", uint64(math.MaxUint64), "lockid", int64(math.MaxUint32))))
	require.NoError(t, err)
	require.Equal(t, api.Selector{LockID: math.MaxUint32, Token: math.MaxUint64}, r.(*release).Selector)
}

// encoded is a value as godbus writes it.
func encoded(t *testing.T, order binary.ByteOrder, v any) []byte {
	msg := &godbus.Message{Type: godbus.TypeSignal, Headers: map[godbus.HeaderField]godbus.Variant{
		godbus.FieldPath: godbus.MakeVariant(Path), godbus.FieldInterface: godbus.MakeVariant(Name),
		godbus.FieldMember:    godbus.MakeVariant("X"),
		godbus.FieldSignature: godbus.MakeVariant(godbus.SignatureOf(v))}, Body: []any{v}}
	var b bytes.Buffer
	require.NoError(t, msg.EncodeTo(&b, order))
	h, ok := parseHeader(b.Bytes())
	require.True(t, ok)
	return h.body.b
}

// A denial says what was tried, on what.
func TestDenialsNameWhatWasTried(t *testing.T) {
	denials := []struct {
		text, member string
		args         []any
	}{
		{"acquire vms/r EX: only root and members", "Acquire", []any{"vms", "r", "EX", opt()}},
		{"acquire vms/s PR: only root and members", "AcquireMany", []any{[]wantRow{{"vms", "s", "shared"}}, opt()}},
		{"request vms/r PW: only root and members", "Request", []any{"vms", "r", "PW", opt()}},
		{"convert vms/held NL: only root and members", "Convert", []any{"vms", "held", "NL", opt()}},
		{"release vms/held: it belongs to another user", "Release", []any{"vms", "held", opt()}},
		{"join other: without polkit only root may join", "JoinLockspace", []any{"other", opt()}},
		{"leave vms: without polkit only root may join and leave", "LeaveLockspace", []any{"vms", opt()}},
		{"purge vms: without polkit only root may remove or adopt orphans", "Purge", []any{"vms", []uint32{1}, opt()}},
		{"adopt vms/r: without polkit only root may remove or adopt orphans", "AdoptOrphan",
			[]any{"vms", uint32(1), opt("resource", "r")}},
	}
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root, nobody, one := r.dial(testbus.Root), r.dial(testbus.Nobody), r.dial(member)
		_, lock := root.acquire("held", opt())
		for _, c := range denials {
			require.Contains(t, nobody.refused(errAccessDenied, c.member, c.args...), c.text, c.member)
		}
		require.Contains(t, nobody.at(lock).refused(errAccessDenied, lockIfaceName+".Release", opt()),
			"release vms/held: it belongs to another user")
		require.Contains(t, nobody.at(lock).refused(errAccessDenied, lockIfaceName+".Convert", "PR", opt()),
			"convert vms/held PR: only root and members")
		require.Contains(t, one.refused(errAccessDenied, "Convert", "vms", "held", "PR", opt()),
			"convert vms/held PR: the lock belongs to another user")
		space := nobody.at(spacePath("vms"))
		require.Contains(t, space.refused(errAccessDenied, lockspaceIfaceName+".Leave", opt()),
			"leave vms: without polkit only root")
		request := root.request("held", opt())
		require.Contains(t, one.at(request).refused(errAccessDenied, requestIfaceName+".Cancel"),
			"cancel vms/held EX: it belongs to another user")
	})
}

// No member says NL where no mode was given, whatever went wrong.
func TestNoErrorInventsAMode(t *testing.T) {
	for _, op := range []string{"acquire", "request", "convert", "cancel", "release"} {
		e := &api.Error{Op: op, Kind: api.ShuttingDown, Text: "x"}
		require.Equal(t, op+": x", e.Error())
		e = &api.Error{Op: op, Lockspace: "vms", Kind: api.ShuttingDown, Text: "x"}
		require.Equal(t, op+" vms: x", e.Error())
	}
	e := &api.Error{Op: "request", Lockspace: "vms", Resource: "r", Mode: dlm.EX, Text: "x"}
	require.Equal(t, "request vms/r EX: x", fmt.Sprint(e))
}
