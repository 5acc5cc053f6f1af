package local

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Cluster is a set of simulated nodes with their lockspaces. Besides making nodes it can disturb
// them, for tests: Stop and Resume, Fail, and the methods of Node.
type Cluster struct {
	name string

	mu       sync.Mutex
	nodes    map[uint32]*Node
	spaces   map[string]*lockspace
	stops    map[string]string // stopped lockspaces with the reason, even if nobody has joined yet
	fail     func(Attempt) syscall.Errno
	inquorum bool // quorum is lost; so that the zero value is a cluster that has it

	// effects has the effects of the operation under way. They become events (apply) before the
	// mutex is released, and then the slice is reused.
	effects []effect
	// dirty has the handles that have got their first pending event under the mutex. Whoever
	// releases the mutex delivers the events (unlockAndDeliver).
	dirty []*handle
}

// NewCluster returns a cluster without nodes. The name appears in NodeInfo.
func NewCluster(name string) *Cluster {
	return &Cluster{
		name:   name,
		nodes:  make(map[uint32]*Node),
		spaces: make(map[string]*lockspace),
		stops:  make(map[string]string),
	}
}

// AddNode starts node id, from 1. A node that has crashed starts again without locks and as a
// member of no lockspace. AddNode panics if the node is running.
func (c *Cluster) AddNode(id uint32) *Node {
	return c.addNode(id, fmt.Sprintf("node%d", id))
}

func (c *Cluster) addNode(id uint32, name string) *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == 0 || c.nodes[id] != nil {
		panic(fmt.Sprintf("local: node %d can't be added: it runs already, or is 0", id))
	}
	n := &Node{cluster: c, id: id, name: name, members: make(map[string]*member)}
	c.nodes[id] = n
	return n
}

// Stop stops a lockspace on all nodes, as the loss of quorum or a pending fencing does: nothing is
// granted and no operation ends until Resume, except that Adopt still answers. The reason is shown
// to people in Health.
func (c *Cluster) Stop(lockspace, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stops[lockspace] = reason
}

// Resume ends a Stop: what has become possible meanwhile is granted, then the operations that were
// requested meanwhile are carried out in order.
func (c *Cluster) Resume(lockspace string) {
	c.mu.Lock()
	delete(c.stops, lockspace)
	if s := c.spaces[lockspace]; s != nil {
		for _, r := range s.sorted() {
			s.settle(r)
		}
		held := s.held
		s.held = nil
		for i := range held {
			if o := &held[i]; !o.handle.closed {
				o.handle.perform(o)
			}
		}
	}
	c.unlockAndDeliver()
}

// SetQuorate sets what Health says about quorum. It stops nothing by itself.
func (c *Cluster) SetQuorate(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inquorum = !yes
}

// Attempt is a call that Fail may make fail.
type Attempt struct {
	Node uint32
	// "lock", "convert", "unlock", "adopt", "purge"; "node", "open", "create", "remove", "restore",
	// "lockspaces", "look"
	Op        string
	Lockspace string   // "" for "node" and "lockspaces"
	Resource  string   // lock, convert, unlock, adopt
	Mode      dlm.Mode // lock, convert, adopt: the mode asked for
}

// Fail makes calls fail: f sees every attempt before it is carried out, and returns the errno with
// which it ends, or 0 to let it pass. To Engine methods EUNATCH and ENOTCONN mean that the cluster
// is not available. nil lets everything pass. f must not call into the cluster.
func (c *Cluster) Fail(f func(Attempt) syscall.Errno) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = f
}

func (c *Cluster) failure(a Attempt) syscall.Errno {
	if c.fail == nil {
		return 0
	}
	return c.fail(a)
}

// unlockAndDeliver ends a critical section: it releases the mutex and delivers
// the events that were made under it.
//
// Between the two steps another caller may make more events for the same handles, and deliver
// all of them; flush allows for that.
func (c *Cluster) unlockAndDeliver() {
	var few [4]*handle // no garbage in the usual case of one handle or two
	dirty := append(few[:0], c.dirty...)
	clear(c.dirty)
	c.dirty = c.dirty[:0]
	c.mu.Unlock()
	for _, h := range dirty {
		h.flush()
	}
}

// lockspace is one lockspace on all nodes.
type lockspace struct {
	cluster   *Cluster
	name      string
	resources map[string]*resource // those with a lock; a resource is forgotten with its last lock
	members   map[uint32]*member   // by node; the lockspace ends when the last one leaves
	spare     []*resource          // forgotten resources, reused for new names
	held      []operation          // requested while the lockspace was stopped, in order
}

// member is one node in one lockspace.
type member struct {
	space   *lockspace
	node    *Node
	ids     idset                // the lockids of the node in this lockspace, orphans included
	handles map[*handle]struct{} // those that have it open; the node stays a member without any
	orphans int                  // how many locks of the node have no owner
}

func (s *lockspace) stopped() bool {
	_, stopped := s.cluster.stops[s.name]
	return stopped
}

// holds reports whether an operation on a lock waits for the lockspace to resume, not counting a
// Cancel.
func (s *lockspace) holds(h *handle, c dlm.Cookie) bool {
	return slices.ContainsFunc(s.held, func(o operation) bool {
		return o.handle == h && o.cookie == c && o.op != opCancel && o.op != dlm.OpPurge
	})
}

// sorted returns the resources by name, so that what is done to all of them has the same order in
// every run.
func (s *lockspace) sorted() []*resource {
	all := make([]*resource, 0, len(s.resources))
	for _, r := range s.resources {
		all = append(all, r)
	}
	slices.SortFunc(all, byName)
	return all
}

// resource returns the resource of that name. If it does not exist, it is made with node as its
// master.
func (s *lockspace) resource(name string, node uint32) *resource {
	r := s.resources[name]
	if r == nil {
		if n := len(s.spare); n > 0 {
			r, s.spare = s.spare[n-1], s.spare[:n-1]
		} else {
			r = new(resource)
		}
		r.name, r.master = name, node
		s.resources[name] = r
	}
	return r
}

// maxSpare is how many forgotten resources a lockspace keeps for new names: enough for acquiring
// and releasing locks to make no garbage.
const maxSpare = 64

// forget drops a resource on which nobody has a lock.
//
// r may become another resource after that, so the caller must not use it any more.
func (s *lockspace) forget(r *resource) {
	delete(s.resources, r.name)
	if len(s.spare) < maxSpare {
		*r = resource{value: r.value}
		s.spare = append(s.spare, r)
	}
}

// settle grants what the end of a lock or of a conversion has made possible, and forgets r if
// nobody has a lock on it. In a stopped lockspace the grants wait for Resume.
func (s *lockspace) settle(r *resource) {
	if r.empty() {
		s.forget(r)
		return
	}
	if !s.stopped() {
		r.grantPending(&s.cluster.effects)
		s.cluster.apply()
	}
}

// apply turns the effects of an operation into events.
func (c *Cluster) apply() {
	for i := range c.effects {
		e := &c.effects[i]
		if e.kind == dlm.Blocking {
			e.lock.owner.emit(dlm.Event{Kind: dlm.Blocking, Cookie: e.lock.cookie, Mode: e.mode})
		} else {
			e.lock.owner.granted(e.lock, e.from)
		}
		e.lock = nil
	}
	c.effects = c.effects[:0]
}

// end removes the granted or queued lock l from the tables and frees its lockid. It grants nothing
// to others.
func (m *member) end(l *lock) {
	l.res.drop(l)
	m.ids.release(l.id)
	if l.owner == nil {
		m.orphans--
	} else {
		delete(l.owner.locks, l.cookie)
	}
}

// lose ends l although its owner has not asked for that, which makes the value block invalid if the
// owner could have been about to write it (unlock_proc_lock sets IVVALBLK; set_lvb_unlock).
func (m *member) lose(l *lock) {
	if l.granted >= dlm.PW {
		l.res.invalid = true
	}
	m.end(l)
}

// orphan makes an orphan of the granted lock l.
func (m *member) orphan(l *lock) {
	delete(l.owner.locks, l.cookie)
	l.owner, l.cookie = nil, 0
	m.orphans++
}

// leave ends every lock of the node in the lockspace, informs its handles, and hands its resources
// to other nodes.
func (m *member) leave() {
	s := m.space
	for h := range m.handles { // in any order: each gets its own events
		h.lost()
	}
	delete(s.members, m.node.id)
	delete(m.node.members, s.name)
	if len(s.members) == 0 {
		delete(s.cluster.spaces, s.name) // with all locks and value blocks
		return
	}
	for _, r := range s.sorted() {
		if r.purge(m) {
			r.recoverMaster(m.node.id)
			s.settle(r)
		}
	}
}

// purge removes the locks of a node that has left from r; it returns false if there were none.
func (r *resource) purge(m *member) bool {
	found := r.master == m.node.id
	for _, q := range []*queue{&r.granted, &r.converting, &r.waiting} {
		for l := q.head; l != nil; {
			next := l.next
			if l.member == m {
				found = true
				if l.granted >= dlm.PW {
					r.invalid = true
				}
				r.drop(l)
			}
			l = next
		}
	}
	return found
}

// recoverMaster makes another node the master of r if gone was, and does to the value block what
// recover_lvb in fs/dlm/recover.c does: the block can be recovered only from the copies of locks
// that were taken with ValueBlock, and is invalid unless one of them is stronger than CR.
func (r *resource) recoverMaster(gone uint32) {
	if r.master != gone {
		return
	}
	copies, strong := false, false
	for _, q := range []*queue{&r.granted, &r.converting} {
		for l := q.head; l != nil; l = l.next {
			if l.flags&dlm.ValueBlock != 0 {
				copies = true
				strong = strong || l.granted > dlm.CR
			}
		}
	}
	switch {
	case !copies:
		r.written, r.invalid = false, false
	case strong:
		r.invalid = false
	default:
		r.invalid = true
	}
	for _, q := range []*queue{&r.granted, &r.converting, &r.waiting} {
		if q.head != nil {
			r.master = q.head.member.node.id
			return
		}
	}
}

func byName(a, b *resource) int { return strings.Compare(a.name, b.name) }
