package lockd

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/internal/teststate"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// host is one node with its state file: what outlives the daemon.
type host struct {
	node    *local.Node
	journal *teststate.Journal
	boot    string
	bus     string // its GUID
	// Only the goroutine of Run takes turns in its daemons (see Service).
	handOver bool
	config   Config // a template: limits, lockspaces, notify
	ranMu    sync.Mutex
	ran      []api.LostRun // helpers that have come to their end, whoever started them
}

// session is the session of a connection to the host's bus.
func (h *host) session(name string) api.Session { return api.MakeSession("dbus", h.bus, name) }

// session is the session of a connection to the bus that hosts begin with.
func session(name string) api.Session { return api.MakeSession("dbus", "bus", name) }

func newHost(node *local.Node) *host {
	return &host{node: node, journal: teststate.New(), boot: "boot-1", bus: "bus",
		config: Config{Lockspaces: []string{"vms"}}}
}

// daemon is one process of the service on a host.
type daemon struct {
	*Service
	engine *local.Engine
	ended  chan struct{}
	cancel context.CancelFunc
}

// start starts the service on the host and waits until it is ready.
func (h *host) start(t testing.TB) *daemon {
	d := h.spawn(t)
	select {
	case <-d.Ready():
	case <-d.ended:
		require.Fail(t, "the service ended before it was ready")
	}
	return d
}

func (h *host) spawn(t testing.TB) *daemon { return h.spawnWith(t, h.config, h.journal) }

func (h *host) spawnWith(t testing.TB, cfg Config, j Journal) *daemon {
	d := &daemon{engine: h.node.Engine(), ended: make(chan struct{})}
	cfg.Engine, cfg.Journal, cfg.Contents = d.engine, j, h.journal.Contents(h.boot)
	h.boot = "boot-1" // what is written from now on is of this boot
	cfg.BootID, cfg.Instance, cfg.Sessions = "boot-1", "test", []api.Session{h.session("")}
	node, err := d.engine.Node(t.Context())
	require.NoError(t, err)
	cfg.Node = node
	d.Service = New(cfg)
	d.Service.handOver = h.handOver
	var ctx context.Context
	ctx, d.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(d.ended)
		_ = d.Run(ctx)
	}()
	return d
}

// stop ends the service in order.
func (d *daemon) stop() {
	d.cancel()
	<-d.ended
}

// kill ends the process as SIGKILL does: nothing more is written, nothing more
// is asked of the lock manager, and its handles go.
func (d *daemon) kill(h *host) {
	h.journal.SetFail(syscall.EIO)
	d.engine.Kill()
	d.cancel()
	<-d.ended
	h.journal.SetFail(0)
}

// call makes an asynchronous call of the API wait for its answer.
func call1(f func(done func(error))) error {
	ch := make(chan error, 1)
	f(func(err error) { ch <- err })
	return <-ch
}

func call2[T any](f func(done func(T, error))) (T, error) {
	type answer struct {
		v   T
		err error
	}
	ch := make(chan answer, 1)
	f(func(v T, err error) { ch <- answer{v, err} })
	a := <-ch
	return a.v, a.err
}

var root = api.Caller{UID: 0, PID: 1, Session: session(":1.1"), Privileged: true}

func user(uid uint32, name string) api.Caller {
	return api.Caller{UID: uid, PID: 100 + uid, Session: session(name)}
}

func (d *daemon) acquire(c api.Caller, resource string, m dlm.Mode, o api.AcquireOptions) (api.Grant, error) {
	g, err := call2(func(done func([]api.Grant, error)) {
		d.Acquire(c, []api.Want{wantOf("vms", resource, m)}, o, done)
	})
	if err != nil {
		return api.Grant{}, err
	}
	return g[0], nil
}

func (d *daemon) release(c api.Caller, resource string, sel api.Selector) error {
	return call1(func(done func(error)) { d.Release(c, "vms", resource, sel, done) })
}

func (d *daemon) list(f api.Filter) []api.LockInfo {
	page, _ := call2(func(done func([]api.LockInfo, error)) {
		d.List(f, func(p api.Page, err error) { done(p.Locks, err) })
	})
	return page
}

// spaceState returns how far a lockspace has got.
func (d *daemon) spaceState(name string) api.SpaceState {
	spaces, _ := call2(d.Lockspaces)
	for _, sp := range spaces {
		if sp.Name == name {
			return sp.State
		}
	}
	return 0
}

func wantOf(lockspace, resource string, m dlm.Mode) api.Want {
	return api.Want{Lockspace: lockspace, Resource: resource, Mode: m}
}

// retryInterval is how long after a failure the table tries again.
const retryInterval = 2 * time.Second

// failing makes one operation of the lock manager fail.
func failing(cluster *local.Cluster, op string, errno syscall.Errno) {
	cluster.Fail(func(a local.Attempt) syscall.Errno {
		if a.Op == op {
			return errno
		}
		return 0
	})
}
