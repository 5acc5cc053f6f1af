package dbus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// bodyOf is the wire form of arguments, as godbus writes them.
func bodyOf(t require.TestingT, args ...any) *reader {
	msg := &godbus.Message{Type: godbus.TypeSignal, Headers: map[godbus.HeaderField]godbus.Variant{
		godbus.FieldPath: godbus.MakeVariant(Path), godbus.FieldInterface: godbus.MakeVariant(Name),
		godbus.FieldMember:    godbus.MakeVariant("X"),
		godbus.FieldSignature: godbus.MakeVariant(godbus.SignatureOf(args...))}, Body: args}
	var b bytes.Buffer
	require.NoError(t, msg.EncodeTo(&b, binary.LittleEndian))
	h, ok := parseHeader(b.Bytes())
	require.True(t, ok)
	require.Equal(t, godbus.SignatureOf(args...).String(), string(h.sig))
	return &h.body
}

// Options reach the service as they were given.
func TestOptionValues(t *testing.T) {
	r, err := parseAcquire(bodyOf(t, "vms", "r", "exclusive", opt("owner", "o", "label", "l", "lifetime", "process",
		"pid", uint32(7), "wait-usec", uint64(20e6))))
	require.NoError(t, err)
	require.Equal(t, api.AcquireOptions{Owner: "o", HasOwner: true, Label: "l", Lifetime: state.Process, PID: 7,
		Wait: 20 * time.Second}, r.(*acquire).Options)
	r, err = parseRelease(bodyOf(t, "vms", "r",
		opt("owner", "o", "lockid", uint32(3), "token", uint64(4), "lock", lockPath(5))))
	require.NoError(t, err)
	require.Equal(t, api.Selector{Owner: "o", HasOwner: true, LockID: 3, Token: 4, Ref: 5}, r.(*release).Selector)
	r, err = parseListLocks(bodyOf(t, opt("state", "held", "after", lockPath(9), "limit", uint32(10000),
		"uid", uint32(0), "mode", "nl")))
	require.NoError(t, err)
	f := r.(*listLocks).Filter
	require.True(t, f.HasUID && f.HasMode && !f.HasOwner)
	require.Equal(t, api.Ref(9), f.After)
	require.Equal(t, api.Held, f.State)
	r, err = parseLeave(bodyOf(t, "vms", opt("force", true)))
	require.NoError(t, err)
	require.True(t, r.(*leave).Force)
	r, err = parsePurge(bodyOf(t, "vms", []uint32{7, 8}, opt()))
	require.NoError(t, err)
	require.Equal(t, []dlm.LockID{7, 8}, r.(*purge).Expect)
}

// What godbus writes is read here as it was, in both byte orders.
func TestReader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var order binary.ByteOrder = binary.LittleEndian
		if rapid.Bool().Draw(t, "big") {
			order = binary.BigEndian
		}
		text := rapid.StringMatching(`[a-zé]{0,40}`)
		var rows []wantRow
		for range rapid.IntRange(0, 4).Draw(t, "rows") {
			rows = append(rows, wantRow{text.Draw(t, "l"), text.Draw(t, "r"), text.Draw(t, "m")})
		}
		u, n, s, sender := rapid.Uint32().Draw(t, "u"), rapid.Uint64().Draw(t, "t"), text.Draw(t, "s"),
			text.Draw(t, "sender")
		msg := &godbus.Message{Type: godbus.TypeMethodCall, Flags: godbus.FlagNoReplyExpected,
			Headers: map[godbus.HeaderField]godbus.Variant{
				godbus.FieldPath: godbus.MakeVariant(Path), godbus.FieldMember: godbus.MakeVariant("X"),
				godbus.FieldSender:    godbus.MakeVariant(sender),
				godbus.FieldSignature: godbus.MakeVariant(godbus.ParseSignatureMust("ya(sss)ta{sv}ub"))},
			Body: []any{byte(1), rows, n, options{s: godbus.MakeVariant(u)}, u, true}}
		var b bytes.Buffer
		require.NoError(t, msg.EncodeTo(&b, order))
		size, ok := messageSize(b.Bytes())
		require.True(t, ok)
		require.Equal(t, b.Len(), size)
		h, ok := parseHeader(b.Bytes())
		require.True(t, ok)
		require.Equal(t, []string{string(Path), "", "X", sender},
			[]string{string(h.path), string(h.iface), string(h.member), string(h.sender)})
		require.Equal(t, godbus.FlagNoReplyExpected, h.flags)
		r := &h.body
		require.Equal(t, byte(1), r.byte())
		var got []wantRow
		for end := r.array(8); r.more(end); {
			r.align(8)
			got = append(got, wantRow{r.text(), r.text(), r.text()})
		}
		require.Equal(t, rows, got)
		require.Equal(t, n, r.uint64())
		for end := r.array(8); r.more(end); {
			r.align(8)
			require.Equal(t, s, r.text())
			require.Equal(t, u, r.value(string(r.signature())))
		}
		require.Equal(t, u, r.uint32())
		require.Equal(t, true, r.value("b"))
		require.False(t, r.bad)
		require.Equal(t, len(r.b), r.at)
	})
}

// FuzzMessage: no bytes make the reader of headers panic or read elsewhere.
func FuzzMessage(f *testing.F) {
	f.Add(frameOf(f, "sssa{sv}", []byte{1, 0, 0, 0, 'x', 0}))
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Add(bytes.Repeat([]byte{0}, 64))
	tree := newTree()
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < headerSize {
			return
		}
		if size, ok := messageSize(frame); !ok || size != len(frame) {
			return // not how the wire cuts messages
		}
		h, ok := parseHeader(frame)
		if !ok {
			return
		}
		if m, _, _, err := tree.find(&h); err == nil && m.parse != nil {
			_, _ = m.parse(&h.body)
		}
	})
}

// A path reads back as the number that made it, and nothing else does.
func TestLockPaths(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := api.Ref(rapid.Uint64().Draw(t, "ref"))
		got, ok := parseLockPath(lockPath(n))
		require.True(t, ok)
		require.Equal(t, n, got)
		require.True(t, lockPath(n).IsValid())
	})
	for _, p := range []string{"/", "", LockPrefix, LockPrefix + "x", LockPrefix + "+1", LockPrefix + "00",
		LockPrefix + "18446744073709551616"} {
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
	kinds := map[api.Kind]string{api.InvalidArgs: errInvalidArgs, api.AccessDenied: errAccessDenied,
		api.InteractionRequired: errInteractive, "": errFailed, api.WouldBlock: ErrorPrefix + "WouldBlock",
		api.LimitExceeded: ErrorPrefix + "LimitExceeded"}
	for k, want := range kinds {
		require.Equal(t, want, errorName(&api.Error{Kind: k}))
	}
	require.Equal(t, errFailed, errorName(errors.New("other")))
	require.NoError(t, errorReply(":1.1", 1, errors.New("x\xff")).IsValid())
}

// FuzzOptions feeds the wire form of an a{sv} to each option parser: no input
// panics, and what is refused is refused with a name.
func FuzzOptions(f *testing.F) {
	for _, o := range []options{
		{}, opt("owner", "vm1", "label", "x"), opt("owner", ""), opt("wait-usec", uint64(1)),
		opt("wait-usec", ^uint64(0)),
		opt("lifetime", "process", "pid", uint32(1)), opt("force", true), opt("after", lockPath(1), "limit", uint32(2)),
		opt("owner", []string{"x"}), opt("lock", godbus.ObjectPath("/")), opt("x", godbus.MakeVariant(opt("y", 1))),
		opt("mode", "shared", "state", "held"),
	} {
		f.Add(bodyOf(f, o).b)
	}
	parsers := []func(r *reader) error{
		func(r *reader) error {
			return parseOptions("acquire", frontend.AcquireOptions, r, new(frontend.Acquire))
		},
		func(r *reader) error {
			return parseOptions("convert", frontend.ConvertOptions, r, new(frontend.Convert))
		},
		func(r *reader) error {
			return parseOptions("release", frontend.ReleaseOptions, r, new(frontend.Release))
		},
		func(r *reader) error { return parseOptions("list", frontend.ListOptions, r, new(frontend.ListLocks)) },
		func(r *reader) error { return parseOptions("join", frontend.JoinOptions, r, new(frontend.Join)) },
		func(r *reader) error { return parseOptions("leave", frontend.LeaveOptions, r, new(frontend.Leave)) },
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, parse := range parsers {
			if err := parse(&reader{b: body, order: binary.LittleEndian}); err != nil {
				require.NotEqual(t, errFailed, errorName(err))
				require.NoError(t, errorReply(":1.1", 1, err).IsValid())
			}
		}
	})
}

// Every hint is worded in the terms of the bus.
func TestHintsAreWorded(t *testing.T) {
	for _, h := range api.Hints {
		require.NotEmpty(t, wording.Hints[h], h)
		require.False(t, strings.HasSuffix(wording.Hints[h], "."), h)
	}
	e := &api.Error{Op: "acquire", Lockspace: "vms", Resource: "r", Mode: dlm.EX, Kind: api.WouldBlock,
		Text: "another lock is in the way", Hint: api.HintWait, Holder: &api.HeldBy{Node: 2, Mode: dlm.EX}}
	require.Equal(t,
		"acquire vms/r EX: another lock is in the way; try again later or wait with wait-usec; held by node 2 (EX)",
		errorText(e))
	require.Equal(t, "acquire vms/r EX: another lock is in the way; try again later or wait; held by node 2 (EX)",
		e.Error())
}
