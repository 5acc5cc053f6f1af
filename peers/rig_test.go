package peers

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// group is a group in memory, with parts that do not see each other.
type group struct {
	mu    sync.Mutex
	links []*link
	part  map[uint32]int // of each node
	drop  func(from, to Member, data []byte) bool
}

// link is a member's place in the group.
type link struct {
	group  *group
	member Member
	events chan Event
	closed chan struct{}
	once   sync.Once
}

func (g *group) dial(m Member) func(context.Context) (Link, error) {
	return func(context.Context) (Link, error) {
		l := &link{group: g, member: m, events: make(chan Event, 1000), closed: make(chan struct{})}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.links = append(g.links, l)
		g.tell()
		return l, nil
	}
}

func (g *group) peersOf(l *link) (all []*link) {
	for _, o := range g.links {
		if g.part[o.member.Node] == g.part[l.member.Node] {
			all = append(all, o)
		}
	}
	return all
}

// tell tells everybody who is in the group. It is called with mu held.
func (g *group) tell() {
	for _, l := range g.links {
		ev := Event{Self: l.member}
		for _, o := range g.peersOf(l) {
			ev.Members = append(ev.Members, o.member)
		}
		l.events <- ev
	}
}

// lose decides which messages get lost.
func (g *group) lose(drop func(from, to Member, data []byte) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drop = drop
}

// end ends the link of a node.
func (g *group) end(node uint32) {
	g.mu.Lock()
	i := slices.IndexFunc(g.links, func(l *link) bool { return l.member.Node == node })
	l := g.links[i]
	g.mu.Unlock()
	_ = l.Close()
}

// cut moves a node into a part.
func (g *group) cut(node uint32, part int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.part[node] = part
	g.tell()
}

func (l *link) Send(data []byte) error {
	l.group.mu.Lock()
	defer l.group.mu.Unlock()
	for _, o := range l.group.peersOf(l) {
		if copied := slices.Clone(data); l.group.drop == nil || !l.group.drop(l.member, o.member, copied) {
			o.events <- Event{From: l.member, Data: copied}
		}
	}
	return nil
}

func (l *link) Receive() (Event, error) {
	select {
	case ev := <-l.events:
		return ev, nil
	case <-l.closed:
		return Event{}, errors.New("the link has ended")
	}
}

func (l *link) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.group.mu.Lock()
		defer l.group.mu.Unlock()
		l.group.links = slices.DeleteFunc(l.group.links, func(o *link) bool { return o == l })
		l.group.tell()
	})
	return nil
}

// service is what a node has.
type service struct {
	status  api.Status
	locks   []api.LockInfo
	inspect func() (api.Inspection, error)
	hang    atomic.Bool

	mu     sync.Mutex
	listed []api.Filter
}

func (s *service) Status() api.Status { return s.status }

func (s *service) List(f api.Filter, done func(api.Page, error)) {
	if s.hang.Load() {
		return
	}
	s.mu.Lock()
	s.listed = append(s.listed, f)
	s.mu.Unlock()
	if f.Lockspace == "unknown" {
		done(api.Page{}, &api.Error{Kind: api.NoSuchLockspace, Text: "not joined"})
		return
	}
	var page api.Page
	for _, l := range s.locks {
		if l.Ref <= f.After {
			continue
		}
		if len(page.Locks) == f.Limit {
			page.Next = page.Locks[len(page.Locks)-1].Ref
			break
		}
		page.Locks = append(page.Locks, l)
	}
	done(page, nil)
}

func (s *service) Inspect(_, _ string, done func(api.Inspection, error)) { done(s.inspect()) }

// node is the service of a node.
type node struct {
	*Peers
	*service
	stop func()
}

// rig is nodes 1 to n, each with a lock of its own.
type rig struct {
	group group
	nodes []*node
	all   []uint32 // members of the cluster
}

var names = api.NamesOf(map[uint32]string{1: "alpha", 2: "beta", 3: "gamma"})

func newRig(t *testing.T, n int) *rig {
	r := &rig{group: group{part: map[uint32]int{}}}
	for id := uint32(1); id <= uint32(n); id++ {
		r.all = append(r.all, id)
		r.start(t, id)
	}
	synctest.Wait()
	return r
}

func (r *rig) start(t *testing.T, id uint32) *node {
	s := &service{status: api.Status{Node: dlm.NodeInfo{ID: id}, Names: names}}
	s.locks = []api.LockInfo{{Ref: api.Ref(id), Lockspace: "vms", Resource: "disk\xff", Mode: dlm.EX, Wanted: dlm.None,
		State: api.Held, Owner: "", HasOwner: true, Label: "größe", UID: id}}
	p := New(Config{Service: s, Build: "build" + string(rune('0'+id)), Log: slog.New(slog.DiscardHandler),
		Members: func(context.Context) ([]uint32, error) { return r.all, nil },
		Dial:    r.group.dial(Member{id, 100 + id})})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); p.Run(ctx) }()
	n := &node{p, s, func() { cancel(); <-ended }}
	r.nodes = append(r.nodes, n)
	return n
}

func (r *rig) stop() {
	for _, n := range r.nodes {
		n.stop()
	}
}

// list asks and waits.
func (n *node) list(node uint32, f api.Filter) (page api.Page, err error) {
	done := make(chan struct{})
	n.Peers.List(node, f, func(p api.Page, e error) { page, err = p, e; close(done) })
	<-done
	return page, err
}

// inspectOn inspects a resource on another node, and waits.
func (n *node) inspectOn(node uint32) (in api.Inspection, err error) {
	done := make(chan struct{})
	n.Peers.Inspect(node, "vms", "a\xff", func(i api.Inspection, e error) { in, err = i, e; close(done) })
	<-done
	return in, err
}

func (n *node) views() (views []api.NodeView) {
	done := make(chan struct{})
	n.Peers.Nodes(func(v []api.NodeView, _ error) { views = v; close(done) })
	<-done
	return views
}
