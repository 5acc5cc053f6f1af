package local_test

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/dlmtest"
	"github.com/dlmlock/dlmlockd/dlm/local"
)

func TestMain(m *testing.M) {
	// Stories of 100 steps reach what 30, rapid's default, rarely do.
	if err := flag.Set("rapid.steps", "100"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// rig is a simulated cluster as the conformance suite sees it.
type rig struct {
	cluster *local.Cluster
	nodes   []*local.Node
	fresh   int
}

func newRig(t *testing.T, nodes int) *rig {
	r := &rig{cluster: local.NewCluster("test")}
	for i := range nodes {
		n := r.cluster.AddNode(uint32(i + 1))
		r.nodes = append(r.nodes, n)
		ls, err := n.Engine().Create(t.Context(), "shared", func(dlm.Event) {})
		require.NoError(t, err)
		require.NoError(t, ls.Close())
	}
	return r
}

func (r *rig) Nodes() int                                     { return len(r.nodes) }
func (r *rig) Process(_ testing.TB, node int) dlmtest.Process { return r.nodes[node].Engine() }
func (r *rig) Lockspace(testing.TB) string                    { return "shared" }
func (r *rig) Timing() dlmtest.Timing                         { return dlmtest.Timing{Wait: time.Minute} }
func (r *rig) Crash(_ testing.TB, node int)                   { r.nodes[node].Crash() }
func (r *rig) Stop(_ testing.TB, lockspace string)            { r.cluster.Stop(lockspace, "a test") }
func (r *rig) Resume(_ testing.TB, lockspace string)          { r.cluster.Resume(lockspace) }
func (r *rig) Unlock(t testing.TB, n int, s string, i dlm.LockID) {
	require.True(t, r.nodes[n].Unlock(s, i))
}

func (r *rig) FreshLockspace(testing.TB) string {
	r.fresh++
	return fmt.Sprintf("fresh-%d", r.fresh)
}

// The rig can do everything that a rule may need, so that none is skipped.
var (
	_ dlmtest.Crasher  = (*rig)(nil)
	_ dlmtest.Stopper  = (*rig)(nil)
	_ dlmtest.Intruder = (*rig)(nil)
)

// TestConformance runs every rule of dlmtest.
func TestConformance(t *testing.T) {
	for nodes := 1; nodes <= 3; nodes++ {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) { dlmtest.Run(t, newRig(t, nodes)) })
	}
}
