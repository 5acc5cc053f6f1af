package lockd

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The main job: acquire, refuse, kill -9, the same lockid, release.
func TestLockSurvivesKill(t *testing.T) {
	h := newHost(local.NewCluster("c").AddNode(1))
	d := h.start(t)
	g, err := d.acquire(root, "disk1", dlm.EX, api.AcquireOptions{Owner: "vm1", HasOwner: true, Label: "web"})
	require.NoError(t, err)
	require.NotZero(t, g.LockID)
	require.True(t, g.New)
	_, err = d.acquire(user(7, ":1.7"), "disk1", dlm.EX, api.AcquireOptions{})
	require.ErrorIs(t, err, api.WouldBlock)
	require.Contains(t, err.Error(), `this node (EX, uid 0, "web")`)
	d.kill(h)

	d = h.start(t)
	again, err := d.acquire(root, "disk1", dlm.EX, api.AcquireOptions{Owner: "vm1", HasOwner: true})
	require.NoError(t, err)
	require.Equal(t, g.LockID, again.LockID)
	require.Equal(t, g.Ref, again.Ref)
	require.False(t, again.New)
	require.NoError(t, d.release(root, "disk1", api.Selector{Owner: "vm1", HasOwner: true}))
	require.Empty(t, d.list(api.Filter{}))
	require.ErrorIs(t, d.release(root, "disk1", api.Selector{}), api.NotHeld)
	g2, err := d.acquire(user(7, ":1.7"), "disk1", dlm.EX, api.AcquireOptions{})
	require.NoError(t, err)
	require.NotEqual(t, g.Ref, g2.Ref)
	d.stop()
	require.Len(t, h.journal.Contents("x").Locks, 1)
}
