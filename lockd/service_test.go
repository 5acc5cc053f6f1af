package lockd

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// However much there is to do, deadlines are kept and the end is noticed.
func TestDeadlinesUnderLoad(t *testing.T) {
	h := newHost(local.NewCluster("c").AddNode(1))
	d := h.start(t)
	var busy func()
	busy = func() { d.post(busy) }
	d.post(busy)
	_, err := d.acquire(root, "x", dlm.EX, api.AcquireOptions{})
	require.NoError(t, err)
	_, err = d.acquire(root, "x", dlm.EX, api.AcquireOptions{Wait: 20 * time.Millisecond})
	require.ErrorIs(t, err, api.Timeout)
	d.stop()
}

// Every call is answered exactly once, also the one that comes just before the
// end.
func TestEveryCallIsAnswered(t *testing.T) {
	h := newHost(local.NewCluster("c").AddNode(1))
	d := h.start(t)
	var asked, answered atomic.Int64
	var callers sync.WaitGroup
	for i := range 4 {
		callers.Go(func() {
			c := user(uint32(i), fmt.Sprintf(":1.%d", i))
			for over := false; !over; {
				ended := make(chan bool, 7)
				done := func(err error) {
					answered.Add(1)
					e, _ := err.(*api.Error)
					ended <- e != nil && e.Kind == api.ShuttingDown
				}
				d.Acquire(c, []api.Want{wantOf("vms", "x", dlm.CR)}, api.AcquireOptions{},
					func(_ []api.Grant, err error) { done(err) })
				d.Convert(c, wantOf("vms", "x", dlm.PR), api.Selector{}, api.ConvertOptions{},
					func(_ api.Grant, err error) { done(err) })
				d.Release(c, "vms", "x", api.Selector{}, done)
				d.ReleaseOwner(c, "", "vm1", func(_ uint32, err error) { done(err) })
				d.Inspect("vms", "x", func(_ api.Inspection, err error) { done(err) })
				d.List(api.Filter{}, func(_ api.Page, err error) { done(err) })
				d.Join(c, "vms", done)
				asked.Add(7)
				for range 7 {
					over = <-ended || over
				}
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	d.stop()
	callers.Wait()
	require.Equal(t, asked.Load(), answered.Load())
}

// slowEngine opens and closes lockspaces as slowly as the test wants.
type slowEngine struct {
	*local.Engine
	opening chan struct{} // Open returns when it is closed
	closing time.Duration
	handles atomic.Int64 // open now
	most    atomic.Int64 // open at once
}

type slowSpace struct {
	dlm.Lockspace
	e *slowEngine
}

func (e *slowEngine) Open(ctx context.Context, name string, sink dlm.Sink) (dlm.Lockspace, error) {
	if e.opening != nil {
		<-e.opening
	}
	return e.count(e.Engine.Open(context.WithoutCancel(ctx), name, sink))
}

func (e *slowEngine) Create(ctx context.Context, name string, sink dlm.Sink) (dlm.Lockspace, error) {
	return e.count(e.Engine.Create(ctx, name, sink))
}

func (e *slowEngine) count(h dlm.Lockspace, err error) (dlm.Lockspace, error) {
	if err != nil {
		return nil, err
	}
	e.most.Store(max(e.most.Load(), e.handles.Add(1)))
	return slowSpace{h, e}, nil
}

func (s slowSpace) Close() error {
	time.Sleep(s.e.closing)
	s.e.handles.Add(-1)
	return s.Lockspace.Close()
}

func (h *host) startOver(t *testing.T, e dlm.Engine) *daemon {
	d := &daemon{ended: make(chan struct{})}
	cfg := h.config
	cfg.Engine, cfg.Journal, cfg.Contents = e, h.journal, h.journal.Contents(h.boot)
	cfg.BootID, cfg.Instance = "boot-1", "test"
	d.Service = New(cfg)
	var ctx context.Context
	ctx, d.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(d.ended)
		_ = d.Run(ctx)
	}()
	return d
}

// A lockspace that is opened when the service has stopped is closed again.
func TestOpenedTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(local.NewCluster("c").AddNode(1))
		h.start(t).stop()
		e := &slowEngine{Engine: h.node.Engine(), opening: make(chan struct{})}
		d := h.startOver(t, e)
		synctest.Wait()
		d.cancel()
		synctest.Wait()
		close(e.opening)
		<-d.ended
		require.Zero(t, e.handles.Load())
	})
}

// hangingLooker is an engine where the look at one lockspace hangs.
type hangingLooker struct {
	*local.Engine
	hangs string
}

func (e *hangingLooker) Health(ctx context.Context, name string) (dlm.Health, error) {
	if name == e.hangs {
		<-ctx.Done()
		return dlm.Health{}, ctx.Err()
	}
	return e.Engine.Health(ctx, name)
}

// What happens to a lockspace is told within a second, also while the look at
// another one hangs.
func TestHealthIsToldSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := local.NewCluster("c")
		h := newHost(cluster.AddNode(1))
		h.config.Lockspaces = []string{"a", "b"}
		var stopped []string
		h.config.Notify = func(n api.Notice) {
			if c, ok := n.(api.LockspaceChanged); ok && c.Health.Stopped {
				stopped = append(stopped, c.Name)
			}
		}
		e := &hangingLooker{Engine: h.node.Engine(), hangs: "a"}
		d := h.startOver(t, e)
		<-d.Ready()
		time.Sleep(10 * time.Second)
		cluster.Stop("b", "fencing node 2")
		time.Sleep(time.Second - 1)
		synctest.Wait()
		d.stop()
		require.Equal(t, []string{"b"}, stopped)
	})
}

// A lockspace is not opened again before the handle that failed is closed:
// what it held must be gone, or there to be adopted.
func TestClosedBeforeOpenedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := local.NewCluster("c")
		h := newHost(cluster.AddNode(1))
		e := &slowEngine{Engine: h.node.Engine(), closing: 5 * time.Second}
		failing(cluster, "convert", syscall.ENOMEM) // of the anchor
		d := h.startOver(t, e)
		<-d.Ready()
		synctest.Wait()
		require.Equal(t, api.SpaceFailed, d.spaceState("vms"))
		cluster.Fail(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, api.SpaceReady, d.spaceState("vms"))
		require.EqualValues(t, 1, e.handles.Load())
		require.EqualValues(t, 1, e.most.Load())
		d.stop()
	})
}

// Whoever is answered finds what the answer tells of in the status, also if others are answered with it.
func TestStatusIsNoOlderThanAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newHost(local.NewCluster("test").AddNode(1)).start(t)
		defer d.stop()
		_, err := d.acquire(root, "disk", dlm.EX, api.AcquireOptions{})
		require.NoError(t, err)
		require.Equal(t, 1, d.Status().Locks)
		left, err := call2(func(done func(int, error)) {
			d.Release(root, "vms", "disk", api.Selector{}, func(err error) { done(d.Status().Locks, err) })
		})
		require.NoError(t, err)
		require.Zero(t, left)
	})
}
