package lockd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// memJournal is a state file in memory. It folds the changes as the real one
// does at the next Open, and fails on demand.
type memJournal struct {
	mu     sync.Mutex
	locks  map[uint64]state.Lock
	spaces map[string]state.Lockspace
	next   uint64
	fail   syscall.Errno // ENOSPC: nothing new fits; any other: nothing can be written
	writes int
	onDone func() // after each successful append
}

func newMemJournal() *memJournal {
	return &memJournal{locks: map[uint64]state.Lock{}, spaces: map[string]state.Lockspace{}, next: 1}
}

func (j *memJournal) Append(changes []state.Change) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fail != 0 && (j.fail != syscall.ENOSPC || j.fresh(changes)) {
		return j.fail
	}
	j.writes++
	for _, c := range changes {
		if err := encodable(c); err != nil {
			return err
		}
	}
	for _, c := range changes {
		j.apply(c)
	}
	if j.onDone != nil {
		j.onDone()
	}
	return nil
}

// fresh reports whether changes take on what needs room to be ended.
func (j *memJournal) fresh(changes []state.Change) bool {
	for _, c := range changes {
		switch c := c.(type) {
		case state.Lock:
			if c.Phase != state.Lost {
				return true
			}
		case state.Lockspace:
			if _, known := j.spaces[c.Name]; !known && c.Phase != state.Left {
				return true
			}
		}
	}
	return false
}

func (j *memJournal) Health() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fail != 0 {
		return j.fail
	}
	return nil
}

func (*memJournal) Tend() {}

// encodable refuses what the state file can't hold either.
func encodable(c state.Change) error {
	ok := true
	switch c := c.(type) {
	case state.Lock:
		ok = c.ID != 0 && c.LockID != 0 && c.Mode.Valid() && c.Phase >= state.Granted && c.Phase <= state.Lost && c.Phase != state.Gone
	case state.Mark:
		ok = c.ID != 0 && c.Phase <= state.Gone && (!c.HasMode || c.Mode.Valid())
	case state.Lockspace:
		ok = c.Phase >= state.Creating && c.Phase <= state.Left
	}
	if !ok {
		return fmt.Errorf("%w: %+v", state.ErrRecord, c)
	}
	return nil
}

func (j *memJournal) apply(c state.Change) {
	switch c := c.(type) {
	case state.Lock:
		j.locks[c.ID] = c
		j.next = max(j.next, c.ID+1)
	case state.Mark:
		l, ok := j.locks[c.ID]
		if !ok {
			return
		}
		if c.Phase == state.Gone {
			delete(j.locks, c.ID)
			return
		}
		if c.Phase != 0 {
			l.Phase = c.Phase
		}
		if c.HasMode {
			l.Mode, l.Token = c.Mode, c.Token
		}
		if c.Sender != "" {
			l.Sender, l.BusID = c.Sender, c.BusID
		}
		j.locks[c.ID] = l
	case state.Lockspace:
		if c.Phase != state.Left {
			j.spaces[c.Name] = c
			return
		}
		delete(j.spaces, c.Name)
		for id, l := range j.locks {
			if l.Lockspace == c.Name && l.Phase != state.Lost {
				delete(j.locks, id)
			}
		}
	}
}

// contents is what the next start reads.
func (j *memJournal) contents(bootID string) state.Contents {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := state.Contents{Header: state.Header{BootID: bootID}, NextID: j.next}
	for _, l := range j.locks {
		c.Locks = append(c.Locks, l)
	}
	for _, s := range j.spaces {
		c.Spaces = append(c.Spaces, s)
	}
	slices.SortFunc(c.Locks, func(a, b state.Lock) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(c.Spaces, func(a, b state.Lockspace) int { return cmp.Compare(a.Name, b.Name) })
	return c
}

func (j *memJournal) setFail(fail syscall.Errno) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.fail = fail
}

// host is one node with its state file: what outlives the daemon.
type host struct {
	node    *local.Node
	journal *memJournal
	boot    string
	bus     string // its GUID
	config  Config // a template: limits, lockspaces, notify
	ranMu   sync.Mutex
	ran     []api.LostRun // helpers that have come to their end, whoever started them
}

// session is the session of a connection to the host's bus.
func (h *host) session(name string) api.Session { return api.MakeSession("dbus", h.bus, name) }

// session is the session of a connection to the bus that hosts begin with.
func session(name string) api.Session { return api.MakeSession("dbus", "bus", name) }

func newHost(node *local.Node) *host {
	return &host{node: node, journal: newMemJournal(), boot: "boot-1", bus: "bus", config: Config{Lockspaces: []string{"vms"}}}
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
	cfg.Engine, cfg.Journal, cfg.Contents = d.engine, j, h.journal.contents(h.boot)
	h.boot = "boot-1" // what is written from now on is of this boot
	cfg.BootID, cfg.Instance, cfg.Sessions = "boot-1", "test", []api.Session{h.session("")}
	node, err := d.engine.Node(t.Context())
	require.NoError(t, err)
	cfg.Node = node
	d.Service = New(cfg)
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
	h.journal.setFail(syscall.EIO)
	d.engine.Kill()
	d.cancel()
	<-d.ended
	h.journal.setFail(0)
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
