package api_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

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
	for st, want := range map[api.SpaceState]string{0: "unknown", api.SpaceJoining: "joining",
		api.SpaceReady: "ready", api.SpaceLeaving: "leaving", api.SpaceFailed: "failed"} {
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
		"disk1": "disk1", "größe 日本": "größe 日本", "a\x00b": `a\x00b`, "\xff": `\xff`, "tab\t": `tab\t`,
		`quote"`: `quote"`,
	} {
		require.Equal(t, want, api.Printable(in))
	}
}
