package lockd

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// An answer names the operation of its call, although a lockspace that fails
// fails every call that waits for it.
func TestAnswersNameTheirOperation(t *testing.T) {
	tab := newTable(api.DefaultLimits(), time.Second, "test")
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
			e, ok := errors.AsType[*api.Error](r.err)
			require.True(t, ok)
			require.ErrorIs(t, e, syscall.EIO)
			got = append(got, e.Op)
		}
	}
	require.Equal(t, ops, got)
	require.Equal(t, "join", failure.Op)
}

func TestParseLockState(t *testing.T) {
	for _, st := range []api.LockState{api.Acquiring, api.Held, api.Converting, api.Releasing} {
		got, ok := api.ParseLockState(st.String())
		require.True(t, ok)
		require.Equal(t, st, got)
	}
	for _, s := range []string{"", "unknown", "Held", "held "} {
		_, ok := api.ParseLockState(s)
		require.False(t, ok, "%q", s)
	}
	require.Equal(t, "unknown", api.LockState(0).String())
	for st, want := range map[api.SpaceState]string{0: "unknown", api.SpaceJoining: "joining", api.SpaceReady: "ready", api.SpaceLeaving: "leaving", api.SpaceFailed: "failed"} {
		require.Equal(t, want, st.String())
	}
}

func TestGroupAuthorizer(t *testing.T) {
	group := api.GroupAuthorizer{GID: 10, HasGroup: true, Group: "libvirt"}
	member, other := api.Subject{UID: 1000, GIDs: []uint32{4, 10}}, api.Subject{UID: 1001, GIDs: []uint32{4}}
	noGroup := api.Subject{UID: 1002, GIDs: []uint32{0}}
	all := []api.Action{api.ActInspect, api.ActAcquire, api.ActReleaseOthers, api.ActManageLockspaces, api.ActPurge}
	for _, tc := range []struct {
		name string
		auth api.GroupAuthorizer
		who  api.Subject
		may  []api.Action
	}{
		{"root", group, api.Subject{UID: 0}, all},
		{"root without a group", api.GroupAuthorizer{}, api.Subject{UID: 0}, all},
		{"member", group, member, all[:2]},
		{"other", group, other, all[:1]},
		{"no group is not group 0", api.GroupAuthorizer{}, noGroup, all[:1]},
	} {
		for i, a := range all {
			err := tc.auth.Authorize(context.Background(), tc.who, a, nil)
			if i < len(tc.may) {
				require.NoError(t, err, "%s %s", tc.name, a)
				continue
			}
			require.ErrorIs(t, err, api.AccessDenied, "%s %s", tc.name, a)
			require.NotEmpty(t, err.Error())
		}
	}
	require.ErrorContains(t, group.Authorize(context.Background(), other, api.ActAcquire, nil), "libvirt")
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"disk1": "disk1", "größe 日本": "größe 日本", "a\x00b": `a\x00b`, "\xff": `\xff`, "tab\t": `tab\t`, `quote"`: `quote"`,
	} {
		require.Equal(t, want, api.Printable(in))
	}
}

// What the lock manager answers becomes an error that says what to do.
func TestStatusError(t *testing.T) {
	c, l := &call{op: "convert"}, &lock{sp: &space{name: "vms"}, resource: "disk1"}
	for st, want := range map[dlm.Status]struct {
		kind api.Kind
		text string
	}{
		dlm.StatusAgain:    {api.WouldBlock, "try again later"},
		dlm.StatusDeadlock: {api.Deadlock, "release it or try again"},
		dlm.StatusNotFound: {api.NotHeld, "does not know the lock"},
		dlm.StatusGone:     {api.NoSuchLockspace, "join it again"},
		dlm.StatusUnheard:  {api.KernelError, "release it and acquire it again"},
		dlm.Status(5):      {api.KernelError, "input/output error"},
	} {
		err := c.statusError(l, dlm.PR, st)
		require.ErrorIs(t, err, want.kind, "%v", st)
		require.ErrorContains(t, err, want.text)
	}
}
