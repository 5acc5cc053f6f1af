package local

import (
	"context"
	"fmt"
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Queues returns a resource as this node sees it: the locks of all nodes if this node is its
// master, which is the first node that requested it, and otherwise only the node's own, as in the
// kernel. A resource on which nobody has a lock has empty queues.
func (e *Engine) Queues(ctx context.Context, lockspace, name string) (dlm.Queues, error) {
	c := e.node.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := e.look(ctx, lockspace)
	if err != nil {
		return dlm.Queues{}, err
	}
	if err := dlm.CheckResource(name); err != nil {
		return dlm.Queues{}, err
	}
	r := m.space.resources[name]
	if r == nil {
		return dlm.Queues{Complete: true}, nil
	}
	q := dlm.Queues{Master: r.master, Complete: r.master == e.node.id}
	if q.Complete {
		if r.written {
			q.Value, q.HasValue = *r.value, true
		}
	} else {
		q.Missing = fmt.Sprintf("node %d keeps the queues of this resource; only locks of this node are shown",
			r.master)
	}
	q.Granted = m.show(&r.granted, q.Complete)
	q.Converting = m.show(&r.converting, q.Complete)
	q.Waiting = m.show(&r.waiting, q.Complete)
	return q, nil
}

// QueuesOf returns several resources, each as Queues does.
func (e *Engine) QueuesOf(ctx context.Context, lockspace string, names []string) ([]dlm.Queues, error) {
	all := make([]dlm.Queues, len(names))
	for i, name := range names {
		var err error
		if all[i], err = e.Queues(ctx, lockspace, name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// show lists a queue: all of it, or only the locks of this node. Locks of other nodes have no
// lockid, because the kernel's number for its copy of such a lock does not exist here.
func (m *member) show(q *queue, all bool) []dlm.Held {
	var held []dlm.Held
	for l := q.head; l != nil; l = l.next {
		h := dlm.Held{Node: l.member.node.id, Mode: l.granted, Wanted: l.wanted}
		switch {
		case l.member == m:
			h.LockID = l.id
		case !all:
			continue
		}
		held = append(held, h)
	}
	return held
}

// Orphans lists the orphans of this node, by lockid.
func (e *Engine) Orphans(ctx context.Context, lockspace string) ([]dlm.Orphan, error) {
	c := e.node.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := e.look(ctx, lockspace)
	if err != nil {
		return nil, err
	}
	locks := m.collectOrphans()
	orphans := make([]dlm.Orphan, len(locks))
	for i, l := range locks {
		orphans[i] = dlm.Orphan{LockID: l.id, Resource: l.res.name, Mode: l.granted}
	}
	return orphans, nil
}

// Users lists the other engines of this node that have the lockspace open. They are not processes,
// so their pid is 0.
func (e *Engine) Users(ctx context.Context, lockspace string) ([]dlm.User, error) {
	c := e.node.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := e.look(ctx, lockspace)
	if err != nil {
		return nil, err
	}
	others := map[*Engine]bool{}
	for h := range m.handles {
		if h.engine != e {
			others[h.engine] = true
		}
	}
	var users []dlm.User
	for range others {
		users = append(users, dlm.User{Name: "another engine"})
	}
	return users, nil
}

// Health says whether the lockspace is stopped, and which nodes are in it.
func (e *Engine) Health(ctx context.Context, lockspace string) (dlm.Health, error) {
	c := e.node.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := e.look(ctx, lockspace)
	if err != nil {
		return dlm.Health{}, err
	}
	h := dlm.Health{Quorate: !c.inquorum, Known: true}
	h.Reason, h.Stopped = c.stops[lockspace]
	for id := range m.space.members {
		h.Members = append(h.Members, id)
	}
	slices.Sort(h.Members)
	return h, nil
}

// Quorum is always true for a lone engine: it is the whole cluster, and grants without asking
// anybody. For simulated nodes Cluster.SetQuorate decides.
func (e *Engine) Quorum(ctx context.Context) (quorate bool, err error) {
	c := e.node.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := e.usable(ctx, "quorum", ""); err != nil {
		return false, err
	}
	return !c.inquorum, nil
}

// NodeNames returns the names of the simulated nodes that run.
func (e *Engine) NodeNames(ctx context.Context) (map[uint32]string, error) {
	c := e.node.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := e.usable(ctx, "names", ""); err != nil {
		return nil, err
	}
	names := make(map[uint32]string, len(c.nodes))
	for id, n := range c.nodes {
		names[id] = n.name
	}
	return names, nil
}

// look returns the member whose tables are to be looked at.
func (e *Engine) look(ctx context.Context, lockspace string) (*member, error) {
	if err := e.usable(ctx, "look", lockspace); err != nil {
		return nil, err
	}
	m := e.node.members[lockspace]
	if m == nil {
		return nil, missing("look", lockspace)
	}
	return m, nil
}
