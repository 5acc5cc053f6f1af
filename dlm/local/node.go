package local

import (
	"slices"
	"strings"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Node is one simulated node. Its memberships and the orphans on it belong to the node and not to
// an Engine.
type Node struct {
	cluster *Cluster
	id      uint32
	name    string

	// Guarded by Cluster.mu.
	members map[string]*member // by lockspace
	down    bool               // it has crashed; AddNode makes a new Node with that number
}

// ID returns the number of the node.
func (n *Node) ID() uint32 { return n.id }

// Engine starts a process on the node: an Engine with its own handles and locks.
func (n *Node) Engine() *Engine {
	return &Engine{node: n, handles: make(map[*handle]struct{})}
}

// Crash ends the node at once. All its locks end, orphans included; the handles of its processes
// get dlm.Closed; other nodes are granted what has become free, with an invalid value block if a
// lock in PW or EX has ended. Its engines no longer find a cluster. Cluster.AddNode starts the node
// again.
func (n *Node) Crash() {
	c := n.cluster
	c.mu.Lock()
	n.down = true
	delete(c.nodes, n.id)
	for _, m := range n.sorted() {
		m.leave()
	}
	c.unlockAndDeliver()
}

// Unlock ends a granted lock or orphan of this node by its lockid, as any process can that has the
// lockspace open: the owner gets dlm.Ended. It returns false if there is no such granted lock.
func (n *Node) Unlock(lockspace string, id dlm.LockID) bool {
	c := n.cluster
	c.mu.Lock()
	defer c.unlockAndDeliver()
	m := n.members[lockspace]
	if m == nil {
		return false
	}
	l := m.find(id)
	if l == nil || l.place != inGranted {
		return false
	}
	owner, cookie := l.owner, l.cookie
	m.end(l)
	owner.emit(dlm.Event{Kind: dlm.Ended, Cookie: cookie, LockID: id, Mode: dlm.None, Status: dlm.StatusUnlocked})
	m.space.settle(l.res)
	return true
}

// find searches all resources: it is only for tests, because nothing else uses lockids as keys.
func (m *member) find(id dlm.LockID) *lock {
	for _, r := range m.space.resources {
		for _, q := range []*queue{&r.granted, &r.converting, &r.waiting} {
			for l := q.head; l != nil; l = l.next {
				if l.member == m && l.id == id {
					return l
				}
			}
		}
	}
	return nil
}

// sorted returns the members by lockspace. No loop ranges over a map if the order shows in
// events: a test that fails has to fail again.
func (n *Node) sorted() []*member {
	all := make([]*member, 0, len(n.members))
	for _, m := range n.members {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *member) int { return strings.Compare(a.space.name, b.space.name) })
	return all
}

// join makes the node a member of a lockspace that it is not in.
func (n *Node) join(name string) *member {
	c := n.cluster
	s := c.spaces[name]
	if s == nil {
		s = &lockspace{cluster: c, name: name, resources: make(map[string]*resource), members: make(map[uint32]*member)}
		c.spaces[name] = s
	}
	m := &member{space: s, node: n, handles: make(map[*handle]struct{})}
	s.members[n.id] = m
	n.members[name] = m
	return m
}

// collectOrphans returns the orphans of a node in a lockspace by lockid.
func (m *member) collectOrphans() []*lock {
	if m.orphans == 0 {
		return nil
	}
	all := make([]*lock, 0, m.orphans)
	for _, r := range m.space.resources {
		for l := r.granted.head; l != nil; l = l.next {
			if l.member == m && l.owner == nil {
				all = append(all, l)
			}
		}
	}
	slices.SortFunc(all, byID)
	return all
}

func byID(a, b *lock) int { return int(a.id) - int(b.id) }
