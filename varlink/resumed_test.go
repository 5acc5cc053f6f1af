package varlink

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// A call from before the restart learns who has been blocked since, even if it goes on only later.
func TestBlockedBeforeACallGoesOn(t *testing.T) {
	d := &Door{holders: make(map[api.Ref]map[*call]struct{}), resuming: make(map[api.Ref]*api.BlockingNotice)}
	d.looking = true // nothing looks at the locks
	i := &inheritance{mark: wire.Open}
	i.ref = 7
	d.expectResumed(i)
	n := &api.BlockingNotice{LockInfo: api.LockInfo{Ref: 7}, Blocked: dlm.EX}
	require.Empty(t, d.blocked(&api.BlockingNotice{LockInfo: api.LockInfo{Ref: 8}}))
	require.Empty(t, d.blocked(n))
	c := &call{}
	require.Nil(t, d.hold(8, c), "no call from before the restart is about it")
	require.Same(t, n, d.hold(7, c))
	require.Equal(t, []*call{c}, d.blocked(n))
	require.Nil(t, d.hold(7, &call{}), "it has been told")

	d.expectResumed(i)
	d.forgetResumed(7)
	require.NotNil(t, d.blocked(n))
	require.Nil(t, d.hold(7, c))
}
