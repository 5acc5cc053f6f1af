package table

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Who may name which helper, and what is said to those who may not.
func TestHelpersAreForThoseNamed(t *testing.T) {
	policies := map[string]api.HelperPolicy{"root": {}, "uids": {UIDs: []uint32{7}}, "group": {GID: 50, HasGroup: true}}
	tab := testTable()
	tab.conf.Helpers = policies
	ask := func(c api.Caller, helper, data string) *api.Error {
		return (&call{t: tab, name: "acquire", caller: c}).checkOnLost(&api.OnLost{Helper: helper, Data: data})
	}
	grouped := api.Caller{UID: 8, GIDs: []uint32{3, 50}}
	for name := range policies {
		require.Nil(t, ask(api.Caller{}, name, ""), "root may name %s", name)
	}
	require.Nil(t, ask(api.Caller{UID: 7}, "uids", "x"))
	require.Nil(t, ask(grouped, "group", "x"))
	require.Equal(t, api.AccessDenied, ask(api.Caller{UID: 7}, "root", "").Kind)
	require.Equal(t, api.AccessDenied, ask(api.Caller{UID: 7}, "group", "").Kind)
	require.Equal(t, api.AccessDenied, ask(grouped, "uids", "").Kind)
	require.EqualError(t, ask(grouped, "uids", ""),
		`acquire: uid 8 may not use the helper "uids"; see uids and group of [on-lost.uids] in /etc/dlmlockd.toml`)
	require.EqualError(t, ask(api.Caller{}, "/bin/sh", ""),

		`acquire: on-lost: no helper "/bin/sh" is configured here; `+
			`an administrator can add [on-lost.NAME] to /etc/dlmlockd.toml`)
	require.Equal(t, api.LimitExceeded, ask(api.Caller{}, "root", string(make([]byte, 1025))).Kind)
	require.Equal(t, api.InvalidArgs, ask(api.Caller{}, "root", "a\x00").Kind)
	require.Equal(t, api.InvalidArgs, ask(api.Caller{}, "root", "\xff").Kind)
}
