package peer_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/dlmtest"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lab/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// process is a simulated process at the other end of two pipes.
type process struct {
	*peer.Client
	engine *local.Engine
	end    func()
}

// start starts a process that lives until it is killed or t ends.
func start(t testing.TB, engine *local.Engine) *process {
	in, toServer := io.Pipe()
	fromServer, out := io.Pipe()
	served := make(chan error, 1)
	go func() {
		served <- peer.Serve(engine, in, out)
		out.Close()
	}()
	p := &process{Client: peer.NewClient(fromServer, toServer), engine: engine}
	p.end = func() {
		toServer.Close()
		<-p.Done()
	}
	t.Cleanup(func() {
		p.end()
		require.NoError(t, <-served)
	})
	return p
}

func (p *process) Kill() {
	p.engine.Kill()
	p.end()
}

type rig struct {
	t       *testing.T // the whole test: processes outlive the rule that starts them
	cluster *local.Cluster
	nodes   []*local.Node
	started []*process
	fresh   int
}

func (r *rig) Nodes() int { return len(r.nodes) }
func (r *rig) Process(_ testing.TB, node int) dlmtest.Process {
	p := start(r.t, r.nodes[node].Engine())
	r.started = append(r.started, p)
	return p
}
func (r *rig) Lockspace(testing.TB) string      { return "shared" }
func (r *rig) FreshLockspace(testing.TB) string { r.fresh++; return fmt.Sprint("fresh-", r.fresh) }
func (r *rig) Timing() dlmtest.Timing {
	return dlmtest.Timing{Wait: time.Minute, Settled: r.settle}
}

// settle waits until every process has carried out the operations that were requested of it, and until
// its client has the events that these caused: the reply comes after both.
func (r *rig) settle() {
	for range 2 {
		for _, p := range r.started {
			p.Name() // the answer for a killed process comes at once
		}
	}
}

// An engine that conforms still does so from the other end.
func TestConformance(t *testing.T) {
	r := &rig{t: t, cluster: local.NewCluster("test")}
	for i := range 2 {
		n := r.cluster.AddNode(uint32(i + 1))
		r.nodes = append(r.nodes, n)
		_, err := n.Engine().Create(t.Context(), "shared", func(dlm.Event) {})
		require.NoError(t, err)
	}
	t.Run("rules", func(t *testing.T) { dlmtest.Run(t, r) })
}

func TestLooker(t *testing.T) {
	p := start(t, local.New("here"))
	space, err := p.Create(t.Context(), "foo", func(dlm.Event) {})
	require.NoError(t, err)
	space.Lock(1, "disk", dlm.EX, 0)
	require.Eventually(t, func() bool {
		q, err := p.Queues(t.Context(), "foo", "disk")
		return err == nil && len(q.Granted) == 1 && q.Granted[0].Mode == dlm.EX
	}, time.Minute, time.Millisecond)
	h, err := p.Health(t.Context(), "foo")
	require.NoError(t, err)
	require.Equal(t, []uint32{1}, h.Members)
	_, err = p.Orphans(t.Context(), "bar")
	require.ErrorIs(t, err, dlm.ErrNoLockspace)
}

func TestOtherEndGone(t *testing.T) {
	p := start(t, local.New("here"))
	space, err := p.Create(t.Context(), "foo", func(dlm.Event) {})
	require.NoError(t, err)
	p.Kill()
	space.Lock(1, "disk", dlm.EX, 0)
	_, err = p.Node(context.Background())
	require.ErrorIs(t, err, dlm.ErrClosed)
	require.ErrorIs(t, space.Close(), dlm.ErrClosed)
	require.Empty(t, p.Name())
}
