package lockd

import (
	"context"
	"io/fs"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// clusterDown is an engine whose cluster can be taken away: nobody answers.
type clusterDown struct {
	*local.Engine
	down *atomic.Bool
}

func (e clusterDown) Quorum(ctx context.Context) (bool, error) {
	if e.down.Load() {
		return false, dlm.ErrClusterUnavailable
	}
	return e.Engine.Quorum(ctx)
}

func (e clusterDown) Health(ctx context.Context, name string) (dlm.Health, error) {
	h, err := e.Engine.Health(ctx, name)
	if e.down.Load() {
		h.Known, h.Quorate = false, false
	}
	return h, err
}

// The status follows what can be asked: from the start on, without a lockspace,
// and when the cluster goes away and comes back.
func TestQuorumFollowsTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := local.NewCluster("test")
		h := newHost(cluster.AddNode(1))
		h.config.Lockspaces = nil
		var down atomic.Bool
		down.Store(true)
		told := make(chan api.Quorum, 100)
		h.config.Notify = func(n api.Notice) {
			if n, ok := n.(api.StatusChanged); ok {
				told <- n.Quorum
			}
		}
		cfg := h.config
		cfg.Engine, cfg.Journal, cfg.Contents = clusterDown{h.node.Engine(), &down}, h.journal, h.journal.Contents(h.boot)
		cfg.BootID = h.boot
		s := New(cfg)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		synctest.Wait()
		require.Equal(t, api.QuorumUnknown, s.Status().Quorum)
		down.Store(false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, api.Quorate, s.Status().Quorum, "without a lockspace")
		require.NoError(t, call1(func(done func(error)) { s.Join(root, "vms", done) }))
		cluster.SetQuorate(false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, api.Inquorate, s.Status().Quorum)
		down.Store(true)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, api.QuorumUnknown, s.Status().Quorum)
		var changes []api.Quorum
		for len(told) > 0 {
			if q := <-told; len(changes) == 0 || changes[len(changes)-1] != q {
				changes = append(changes, q)
			}
		}
		require.Equal(t, []api.Quorum{api.QuorumUnknown, api.Quorate, api.Inquorate, api.QuorumUnknown}, changes)
		stop()
		require.NoError(t, <-ended)
	})
}

// namesGone is an engine whose names of nodes can become unreadable.
type namesGone struct {
	*local.Engine
	gone *atomic.Bool
}

func (e namesGone) NodeNames(ctx context.Context) (map[uint32]string, error) {
	if e.gone.Load() {
		return nil, fs.ErrPermission
	}
	return e.Engine.NodeNames(ctx)
}

// The status has the names of the nodes. When they can't be read any more, it keeps those that it
// has, and says why.
func TestNamesOfTheNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := local.NewCluster("test")
		h := newHost(cluster.AddNode(1))
		cluster.AddNode(2)
		h.config.Lockspaces = nil
		var gone atomic.Bool
		gone.Store(true)
		cfg := h.config
		cfg.Engine, cfg.Journal, cfg.Contents = namesGone{h.node.Engine(), &gone}, h.journal, h.journal.Contents(h.boot)
		cfg.BootID = h.boot
		s := New(cfg)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		look := func() api.NodeNames {
			time.Sleep(cfg.HealthInterval + 2*time.Second)
			synctest.Wait()
			return s.Status().Names
		}
		names := look()
		require.Empty(t, names.Map())
		require.Contains(t, names.Missing, "permission")

		gone.Store(false)
		both := map[uint32]string{1: "node1", 2: "node2"}
		names = look()
		require.Equal(t, both, names.Map())
		require.Empty(t, names.Missing)

		gone.Store(true)
		names = look()
		require.Equal(t, both, names.Map())
		require.NotEmpty(t, names.Missing)
		stop()
		require.NoError(t, <-ended)
	})
}
