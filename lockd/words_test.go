package lockd

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/dlm"
)

func TestHolderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := Holder{
			Node: rapid.Uint32().Draw(t, "node"), Token: rapid.Uint64().Draw(t, "token"), Owner: rapid.Uint32().Draw(t, "owner"), Who: cutWho(rapid.String().Draw(t, "who")),
			Mode: rapid.SampledFrom(append([]dlm.Mode{dlm.None}, dlm.Modes[:]...)).Draw(t, "mode"),
		}
		got, ok := DecodeHolder(h.encode())
		require.True(t, ok)
		require.Equal(t, h, got)
	})
}

// A change of any byte is noticed, and a block of others is not taken for ours.
func TestHolderCheck(t *testing.T) {
	v := Holder{Node: 3, Mode: dlm.EX, Token: 12345, Who: "web"}.encode()
	for i := range v {
		for bit := range 8 {
			damaged := v
			damaged[i] ^= 1 << bit
			_, ok := DecodeHolder(damaged)
			require.False(t, ok, "byte %d bit %d", i, bit)
		}
	}
	_, ok := DecodeHolder(dlm.Value{})
	require.False(t, ok)
}

// The hash of an owner is the same on every node and for ever.
func TestOwnerHash(t *testing.T) {
	require.Zero(t, OwnerHash(0, ""))
	require.Equal(t, uint32(0x8a15f886), OwnerHash(1000, "vm1"))
	require.NotEqual(t, OwnerHash(1000, "vm1"), OwnerHash(1001, "vm1"), "owners are per uid")
}

func TestCutWho(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "web": "web", "a label too long for it": "a label ", "zwölf Zeichen": "zwölf Z",
		"li\nbr\x1b[31m": "li?br?[3", "\xff\xfe": "??", "日本語日本": "日本",
	} {
		got := cutWho(in)
		require.Equal(t, want, got, "%q", in)
		require.LessOrEqual(t, len(got), holderWhoLen)
	}
}

// FuzzDecodeHolder reads blocks of any content: what is accepted is text that
// can be printed in one line, and is written again as it was.
func FuzzDecodeHolder(f *testing.F) {
	f.Add([]byte{})
	for _, h := range []Holder{{}, {Node: 1, Mode: dlm.EX, Token: 1, Who: "web"}, {Mode: dlm.None, Token: ^uint64(0)}, {Node: 2, Mode: dlm.PW, Owner: 7, Who: "日本"}} {
		v := h.encode()
		f.Add(v[:])
	}
	f.Add([]byte("DL\x01\x4d----12345678line\nbreak--"))
	f.Add([]byte("DL\x01\x05----12345678\xff\x00\xfe---------"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v dlm.Value
		copy(v[:], b)
		if len(b) < len(v) { // a short one is given a right check
			binary.BigEndian.PutUint32(v[28:], crc32.Checksum(v[:28], castagnoli))
		}
		h, ok := DecodeHolder(v)
		if !ok {
			require.Equal(t, Holder{}, h)
			return
		}
		require.True(t, utf8.ValidString(h.Who))
		require.Equal(t, h.Who, cutWho(h.Who), "what other nodes print")
		require.True(t, h.Mode == dlm.None || h.Mode.Valid())
		require.Equal(t, v, h.encode())
	})
}

func TestErrorText(t *testing.T) {
	cause := errors.New("cause")
	for _, tc := range []struct {
		err  Error
		want string
	}{
		{Error{Op: "acquire", Lockspace: "vms", Resource: "disk1", Mode: dlm.EX, Kind: WouldBlock, Text: "another lock is in the way", Holder: "node 2 (EX)"},
			"acquire vms/disk1 EX: another lock is in the way; held by node 2 (EX)"},
		{Error{Op: "release", Lockspace: "vms", Resource: "a\nb\xff", Mode: dlm.EX, Kind: NotHeld, Text: "no lock here matches"},
			`release vms/a\nb\xff: no lock here matches`},
		{Error{Op: "convert", Lockspace: "vms", Resource: "disk1", Mode: dlm.None, Kind: KernelError, Errno: syscall.ENOMEM, Text: "refused"},
			"convert vms/disk1: refused (cannot allocate memory)"},
		{Error{Op: "leave", Lockspace: "vms", Kind: LockspaceInUse, Text: "locks are held"}, "leave vms: locks are held"},
		{Error{Op: "list", Kind: ShuttingDown, Text: "the service has stopped", Err: cause}, "list: the service has stopped"},
	} {
		require.Equal(t, tc.want, tc.err.Error())
		require.ErrorIs(t, &tc.err, tc.err.Kind)
		require.Equal(t, tc.err.Err != nil, errors.Is(&tc.err, cause))
		require.NotErrorIs(t, &tc.err, Deadlock)
	}
}

// An answer names the operation of its call, although a lockspace that fails
// fails every call that waits for it.
func TestAnswersNameTheirOperation(t *testing.T) {
	tab := newTable(DefaultLimits(), time.Second, "test")
	sp := tab.space("vms")
	ops := []string{"join", "leave", "join"}
	for _, op := range ops {
		sp.waiting = append(sp.waiting, &call{kind: callSpace, op: op, space: "vms", heapIdx: -1})
	}
	failure := spaceError(sp, syscall.EIO)
	tab.answerSpace(sp, failure)
	var got []string
	for _, a := range tab.out {
		if r, ok := a.(replyAction); ok {
			e, ok := errors.AsType[*Error](r.err)
			require.True(t, ok)
			require.ErrorIs(t, e, syscall.EIO)
			got = append(got, e.Op)
		}
	}
	require.Equal(t, ops, got)
	require.Equal(t, "join", failure.Op)
}

func TestParseLockState(t *testing.T) {
	for _, st := range []LockState{Acquiring, Held, Converting, Releasing} {
		got, ok := ParseLockState(st.String())
		require.True(t, ok)
		require.Equal(t, st, got)
	}
	for _, s := range []string{"", "unknown", "Held", "held "} {
		_, ok := ParseLockState(s)
		require.False(t, ok, "%q", s)
	}
	require.Equal(t, "unknown", LockState(0).String())
	for st, want := range map[SpaceState]string{0: "unknown", SpaceJoining: "joining", SpaceReady: "ready", SpaceLeaving: "leaving", SpaceFailed: "failed"} {
		require.Equal(t, want, st.String())
	}
}

func TestGroupAuthorizer(t *testing.T) {
	group := GroupAuthorizer{GID: 10, HasGroup: true, Group: "libvirt"}
	member, other := Subject{UID: 1000, GIDs: []uint32{4, 10}}, Subject{UID: 1001, GIDs: []uint32{4}}
	noGroup := Subject{UID: 1002, GIDs: []uint32{0}}
	all := []Action{ActInspect, ActAcquire, ActReleaseOthers, ActManageLockspaces, ActPurge}
	for _, tc := range []struct {
		name string
		auth GroupAuthorizer
		who  Subject
		may  []Action
	}{
		{"root", group, Subject{UID: 0}, all},
		{"root without a group", GroupAuthorizer{}, Subject{UID: 0}, all},
		{"member", group, member, all[:2]},
		{"other", group, other, all[:1]},
		{"no group is not group 0", GroupAuthorizer{}, noGroup, all[:1]},
	} {
		for i, a := range all {
			err := tc.auth.Authorize(context.Background(), tc.who, a, nil)
			if i < len(tc.may) {
				require.NoError(t, err, "%s %s", tc.name, a)
				continue
			}
			require.ErrorIs(t, err, AccessDenied, "%s %s", tc.name, a)
			require.NotEmpty(t, err.Error())
		}
	}
	require.ErrorContains(t, group.Authorize(context.Background(), other, ActAcquire, nil), "libvirt")
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"disk1": "disk1", "größe 日本": "größe 日本", "a\x00b": `a\x00b`, "\xff": `\xff`, "tab\t": `tab\t`, `quote"`: `quote"`,
	} {
		require.Equal(t, want, Printable(in))
	}
}

// What the lock manager answers becomes an error that says what to do.
func TestStatusError(t *testing.T) {
	c, l := &call{op: "convert"}, &lock{sp: &space{name: "vms"}, resource: "disk1"}
	for st, want := range map[dlm.Status]struct {
		kind Kind
		text string
	}{
		dlm.StatusAgain:    {WouldBlock, "try again later"},
		dlm.StatusDeadlock: {Deadlock, "release it or try again"},
		dlm.StatusNotFound: {NotHeld, "does not know the lock"},
		dlm.StatusGone:     {NoSuchLockspace, "join it again"},
		dlm.StatusUnheard:  {KernelError, "release it and acquire it again"},
		dlm.Status(5):      {KernelError, "input/output error"},
	} {
		err := c.statusError(l, dlm.PR, st)
		require.ErrorIs(t, err, want.kind, "%v", st)
		require.ErrorContains(t, err, want.text)
	}
}
