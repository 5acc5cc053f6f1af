package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Engine is one process of a Node: a dlm.Engine and a dlm.Looker. Its methods never block.
type Engine struct {
	node *Node

	// Guarded by Cluster.mu.
	handles map[*handle]struct{}
	closed  bool
}

var (
	_ dlm.Engine = (*Engine)(nil)
	_ dlm.Looker = (*Engine)(nil)

	_ dlm.QuorumLooker = (*Engine)(nil)
	_ dlm.NameLooker   = (*Engine)(nil)
)

// New returns the engine of a daemon without a cluster: one node, number 1, with the given name and
// one process.
func New(name string) *Engine {
	return NewCluster("").addNode(1, name).Engine()
}

// Name returns "local".
func (e *Engine) Name() string { return "local" }

// Node returns the number of this simulated node.
func (e *Engine) Node(ctx context.Context) (dlm.NodeInfo, error) {
	c := e.node.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := e.usable(ctx, "node", ""); err != nil {
		return dlm.NodeInfo{}, err
	}
	return dlm.NodeInfo{ID: e.node.id, Name: e.node.name, Cluster: c.name}, nil
}

// Open opens a lockspace that the node is a member of.
func (e *Engine) Open(ctx context.Context, name string, sink dlm.Sink) (dlm.Lockspace, error) {
	c := e.node.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := e.usable(ctx, "open", name); err != nil {
		return nil, err
	}
	m := e.node.members[name]
	if m == nil {
		return nil, missing("open", name)
	}
	return e.open(m, sink), nil
}

// Create makes the node a member of a lockspace and opens it. The lockspace is created if no other
// node is in it.
func (e *Engine) Create(ctx context.Context, name string, sink dlm.Sink) (dlm.Lockspace, error) {
	c := e.node.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := e.usable(ctx, "create", name); err != nil {
		return nil, err
	}
	if e.node.members[name] != nil {
		return nil, &dlm.Error{Op: "create", Lockspace: name, Errno: syscall.EEXIST, Err: dlm.ErrLockspaceExists,
			Advice: "open it instead"}
	}
	return e.open(e.node.join(name), sink), nil
}

func (e *Engine) open(m *member, sink dlm.Sink) *handle {
	h := &handle{engine: e, member: m, name: m.space.name, sink: sink,
		locks: make(map[dlm.Cookie]*lock, m.orphans)} // which are likely to be adopted
	m.handles[h] = struct{}{}
	e.handles[h] = struct{}{}
	return h
}

// Remove makes the node leave a lockspace and ends all its locks there.
func (e *Engine) Remove(ctx context.Context, name string) error {
	c := e.node.cluster
	c.mu.Lock()
	defer c.unlockAndDeliver()
	if err := e.usable(ctx, "remove", name); err != nil {
		return err
	}
	m := e.node.members[name]
	if m == nil {
		return missing("remove", name)
	}
	m.leave() // even with open handles, which get dlm.Closed
	return nil
}

// Lockspaces lists the lockspaces that the node is a member of, sorted.
func (e *Engine) Lockspaces(ctx context.Context) ([]string, error) {
	c := e.node.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := e.usable(ctx, "lockspaces", ""); err != nil {
		return nil, err
	}
	names := make([]string, 0, len(e.node.members))
	for name := range e.node.members {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// Close closes every handle and makes further calls fail with ErrClosed.
func (e *Engine) Close() error {
	e.shut()
	return nil
}

// Kill ends the process as SIGKILL does. To the lock tables it is the same as Close; only the
// process itself gets to do nothing before it.
func (e *Engine) Kill() { e.shut() }

func (e *Engine) shut() {
	c := e.node.cluster
	c.mu.Lock()
	e.closed = true
	handles := make([]*handle, 0, len(e.handles))
	for h := range e.handles {
		handles = append(handles, h)
	}
	slices.SortFunc(handles, func(a, b *handle) int { return strings.Compare(a.name, b.name) })
	for _, h := range handles {
		h.shut()
	}
	c.unlockAndDeliver()
	for _, h := range handles {
		h.flush() // waits for a delivery under way
	}
}

// Restore makes the node a member of a lockspace, if it is not, and adds orphans with their old
// lockids, as a kernel would still have them after the daemon was restarted. Call it before
// anything is requested in the lockspace. Invalid records are left out and named in the error,
// which joins one *dlm.Error for each: EEXIST for a lockid that is in use, EDEADLK for a mode that
// conflicts with an orphan before it, EINVAL for a name, mode or lockid out of range. The others
// are kept.
func (e *Engine) Restore(lockspace string, held []dlm.Orphan) error {
	c := e.node.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := e.usable(context.Background(), "restore", lockspace); err != nil {
		return err
	}
	m := e.node.members[lockspace]
	if m == nil {
		m = e.node.join(lockspace)
	}
	if len(m.space.resources) == 0 { // one allocation in place of many, for 100,000 locks
		m.space.resources = make(map[string]*resource, len(held))
	}
	var errs []error
	for _, o := range held {
		if errno := m.restore(o); errno != 0 {
			errs = append(errs, &dlm.Error{Op: "restore", Lockspace: lockspace, Resource: o.Resource, Errno: errno,
				Advice: fmt.Sprintf("the record of lockid %d in mode %v is void", o.LockID, o.Mode)})
		}
	}
	return errors.Join(errs...)
}

// restore adds an orphan, unless it contradicts those before it. The records of a damaged or
// edited state file must not give two holders locks that exclude each other.
func (m *member) restore(o dlm.Orphan) syscall.Errno {
	if o.LockID == 0 || o.LockID > maxLockID || !o.Mode.Valid() || dlm.CheckResource(o.Resource) != nil {
		return syscall.EINVAL
	}
	if !m.ids.reserve(o.LockID) {
		return syscall.EEXIST
	}
	r := m.space.resource(o.Resource, m.node.id)
	l := r.newLock()
	l.member, l.id, l.flags, l.wanted = m, o.LockID, dlm.Persistent, o.Mode
	if r.conflict(l) {
		m.ids.release(o.LockID)
		return syscall.EDEADLK
	}
	r.grant(l, nil)
	m.orphans++
	return 0
}

// usable returns why no call can be made at all, or nil.
func (e *Engine) usable(ctx context.Context, op, lockspace string) error {
	c := e.node.cluster
	if err := ctx.Err(); err != nil {
		return &dlm.Error{Op: op, Lockspace: lockspace, Err: err}
	}
	if e.closed {
		return &dlm.Error{Op: op, Lockspace: lockspace, Err: dlm.ErrClosed}
	}
	if e.node.down {
		return &dlm.Error{Op: op, Lockspace: lockspace, Err: dlm.ErrClusterUnavailable, Advice: "this node has crashed"}
	}
	// The other operations do not concern a lockspace.
	if lockspace != "" || op == "open" || op == "create" || op == "remove" || op == "restore" {
		if err := dlm.CheckLockspace(lockspace); err != nil {
			return err
		}
	}
	errno := c.failure(Attempt{Node: e.node.id, Op: op, Lockspace: lockspace, Mode: dlm.None})
	switch errno {
	case 0:
		return nil
	case syscall.EUNATCH, syscall.ENOTCONN:
		return &dlm.Error{Op: op, Lockspace: lockspace, Errno: errno, Err: dlm.ErrClusterUnavailable}
	}
	return &dlm.Error{Op: op, Lockspace: lockspace, Errno: errno}
}

func missing(op, name string) error {
	return &dlm.Error{Op: op, Lockspace: name, Errno: syscall.ENOENT, Err: dlm.ErrNoLockspace,
		Advice: "join it first"}
}
