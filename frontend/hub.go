package frontend

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

const (
	// MaxSubscribers is how many sessions may be subscribed to everything; every change
	// of a lock is a message to each. Subscriptions to the locks of one owner
	// (Subscribe.Of) do not count.
	MaxSubscribers = 64
	// MaxSubscribersPerUID is how many sessions of one user may be. Root is exempt.
	MaxSubscribersPerUID = 8
)

// Event is what a door gets without asking. All doors get api.LockLost,
// api.BlockingNotice, api.StatusChanged and LockspaceChanged. Subscriptions, and
// doors that have some, also get api.LockAdded, api.LockChanged, api.LockRemoved,
// RequestAdded, RequestChanged and RequestRemoved. api.Notice describes those of
// package api.
type Event any

// LockspaceChanged: the state, error or health of a lockspace has changed.
type LockspaceChanged struct {
	api.LockspaceChanged
	New bool // it has not been told of before
}

// RequestAdded: a request has begun to wait.
type RequestAdded struct{ RequestInfo }

// RequestChanged: a request has ended.
type RequestChanged struct{ RequestInfo }

// RequestRemoved: a request can't be looked at any more.
type RequestRemoved struct{ RequestInfo }

// hub gives events to the doors and counts who wants those about single locks
// and requests, so that no door switches off what another one needs; without
// any subscription the service does not even give them.
//
// Events are delivered one at a time, with deliver held. mu guards the rest, so
// a receiver may end subscriptions.
type hub struct {
	core *Core
	// Held while an event is delivered, so that every receiver gets the events in one
	// order.
	deliver sync.Mutex
	// A copy of who gets events, made anew with each change: publish reads it without mu.
	receivers atomic.Pointer[receivers]

	mu         sync.Mutex
	doors      []*Door                      // that listen
	subscribed map[*Session][]*Subscription // by session
	watching   bool                         // what Watch has told the service
	telling    bool                         // somebody is about to tell it
	spaces     map[string]bool              // lockspaces that were told of

	// The subscriptions to the locks of one owner: owners finds those for an event, narrow
	// those of a session (guarded by mu).
	owners *ownerIndex
	narrow map[*Session][]*Subscription
	// The subscriptions that an event concerns. Only publish uses it, with deliver held.
	found []*Subscription
}

// receivers are who gets events.
type receivers struct {
	doors    []*Door // all events
	detailed []*Door // and those about single locks and requests
	subs     []*Subscription
}

func newHub(core *Core) *hub {
	h := &hub{core: core, subscribed: make(map[*Session][]*Subscription), spaces: make(map[string]bool),
		owners: newOwnerIndex(), narrow: make(map[*Session][]*Subscription)}
	h.receivers.Store(new(receivers))
	return h
}

// Listen has the door's events given to fn from now on: one at a time, in order.
// fn must not block.
func (d *Door) Listen(fn func(Event)) {
	h := d.core.hub
	defer h.tellService()
	h.mu.Lock()
	defer h.mu.Unlock()
	d.listen = fn
	h.doors = append(h.doors, d)
	h.changed()
}

// Ignore ends Listen.
func (d *Door) Ignore() {
	h := d.core.hub
	defer h.tellService()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.doors = slices.DeleteFunc(h.doors, func(other *Door) bool { return other == d })
	h.changed()
}

// changed publishes who gets events. h.mu is held.
func (h *hub) changed() {
	r := &receivers{doors: slices.Clone(h.doors)}
	for _, subs := range h.subscribed {
		for _, s := range subs {
			if s.sink != nil {
				r.subs = append(r.subs, s)
			} else if d := s.session.door; slices.Contains(h.doors, d) && !slices.Contains(r.detailed, d) {
				r.detailed = append(r.detailed, d)
			}
		}
	}
	h.receivers.Store(r)
}

// tellService has the service watch while there is somebody to be told. h.mu is
// not held, since the service may give a notice before it returns.
func (h *hub) tellService() {
	for {
		h.mu.Lock()
		now := h.receivers.Load().watch() || len(h.narrow) > 0
		if h.telling || now == h.watching {
			h.mu.Unlock()
			return
		}
		h.telling, h.watching = true, now
		h.mu.Unlock()
		h.core.service.Watch(now)
		h.mu.Lock()
		h.telling = false
		h.mu.Unlock()
	}
}

// watch reports whether anybody wants to know of single locks.
func (r *receivers) watch() bool { return len(r.detailed)+len(r.subs) > 0 }

// Notify takes what the service says unasked; it is what the service calls. It
// never blocks.
func (c *Core) Notify(n api.Notice) {
	if l, ok := n.(api.LockspaceChanged); ok {
		c.hub.publish(LockspaceChanged{l, c.hub.meet(&l)})
		return
	}
	c.hub.publish(n)
}

// meet notes a lockspace, and reports whether it is new.
func (h *hub) meet(l *api.LockspaceChanged) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.spaces[l.Name]
	if l.Gone {
		delete(h.spaces, l.Name)
	} else {
		h.spaces[l.Name] = true
	}
	return !known && !l.Gone
}

// begin notes the lockspaces that are there before any subscription.
func (h *hub) begin(spaces []api.LockspaceInfo) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range spaces {
		h.spaces[spaces[i].Name] = true
	}
}

// publish delivers an event.
func (h *hub) publish(e Event) {
	h.deliver.Lock()
	defer h.deliver.Unlock()
	r := h.receivers.Load()
	doors := r.doors
	if isDetail(e) {
		doors = r.detailed
	}
	for _, d := range doors {
		d.listen(e)
	}
	h.found = h.owners.find(e, h.found[:0])
	for _, subs := range [][]*Subscription{r.subs, h.found} {
		for _, s := range subs {
			if !s.closed.Load() {
				s.sink(e)
			}
		}
	}
	clear(h.found) // an ended subscription must not stay in memory
}

// isDetail reports whether an event is about a single lock or request.
func isDetail(e Event) bool {
	switch e.(type) {
	case api.LockAdded, api.LockChanged, api.LockRemoved, RequestAdded, RequestChanged, RequestRemoved:
		return true
	}
	return false
}

// Subscription is a wish to know of single locks and requests. It ends with
// Close, or with its session.
type Subscription struct {
	hub     *hub
	session *Session
	uid     uint32
	of      *Owners // nil: everything
	// Gets the events, one at a time, on the goroutine that brings them; it must not
	// block.
	sink func(Event)
	// Set at once by Close, for the event that is being delivered.
	closed atomic.Bool
}

// Close ends the subscription. An event that is being delivered may still come.
func (s *Subscription) Close() {
	s.closed.Store(true)
	h := s.hub
	defer h.tellService()
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.of(s)
	of := slices.DeleteFunc(all[s.session], func(other *Subscription) bool { return other == s })
	if len(of) == 0 {
		delete(all, s.session)
	} else {
		all[s.session] = of
	}
	if s.of != nil {
		h.owners.remove(s)
		return
	}
	h.changed()
}

// of returns the map to which a subscription belongs. h.mu has to be held to use it.
func (h *hub) of(s *Subscription) map[*Session][]*Subscription {
	if s.of != nil {
		return h.narrow
	}
	return h.subscribed
}

// gone ends the subscriptions of a session that is no more.
func (h *hub) gone(s *Session) {
	defer h.tellService()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, sub := range h.narrow[s] {
		sub.closed.Store(true)
		h.owners.remove(sub)
	}
	delete(h.narrow, s)
	subs, ok := h.subscribed[s]
	if !ok {
		return
	}
	for _, sub := range subs {
		sub.closed.Store(true)
	}
	delete(h.subscribed, s)
	h.changed()
}

// Subscribers is how many sessions of all doors have a subscription, of either kind.
func (c *Core) Subscribers() int {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	n := len(c.hub.subscribed)
	for s := range maps.Keys(c.hub.narrow) {
		if _, twice := c.hub.subscribed[s]; !twice {
			n++
		}
	}
	return n
}

// Subscribe asks for the events about single locks and requests. They go to Sink
// with all others, one at a time and in order; where Sink is nil, to the
// door's function (Door.Listen).
type Subscribe struct {
	Sink func(Event)
	// Of limits the subscription to locks and requests of the caller's user with these owners,
	// and needs a Sink. Such a subscription gets no events about lockspaces and the service. It
	// costs nothing when other locks change, so only the limits on sessions bound the number of
	// such subscriptions. nil: everything.
	Of *Owners
}

// Op implements Method.
func (*Subscribe) Op() string { return "subscribe" }

// Cost implements Method.
func (*Subscribe) Cost() Cost { return Cost{} }

// Validate implements Method.
func (m *Subscribe) Validate() error {
	if m.Of == nil {
		return nil
	}
	return invalid(m.Op(), checkOwner(m.Of.Name, true))
}

// Run subscribes, unless too many sessions are. It blocks in the authoriser.
func (m *Subscribe) Run(c *Call) (*Subscription, error) {
	if err := c.Authorize(api.ActInspect, About{Op: m.Op()}); err != nil {
		return nil, err
	}
	s := &Subscription{hub: c.core.hub, session: c.session, uid: c.UID(), of: m.Of, sink: m.Sink}
	if err := s.hub.add(s); err != nil {
		return nil, err
	}
	return s, nil
}

func (h *hub) add(s *Subscription) error {
	defer h.tellService()
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.subscribed[s.session]; !ok && s.of == nil {
		if err := h.full(s.uid); err != nil {
			return err
		}
	}
	if s.session.ctx.Err() != nil {
		s.closed.Store(true) // gone has been called, or is about to be and finds nothing
		return nil
	}
	all := h.of(s)
	all[s.session] = append(all[s.session], s)
	if s.of != nil {
		h.owners.add(s)
		return nil
	}
	h.changed()
	return nil
}

// full is the error for one more subscribed session than there may be. h.mu is
// held.
func (h *hub) full(uid uint32) error {
	same := 0
	for s := range maps.Keys(h.subscribed) {
		if other, _ := s.UID(); other == uid {
			same++
		}
	}
	if len(h.subscribed) < MaxSubscribers && (uid == 0 || same < MaxSubscribersPerUID) {
		return nil
	}
	e := &api.Error{Op: "subscribe", Kind: api.LimitExceeded, Mode: dlm.None, Text: fmt.Sprintf(
		"%d connections are subscribed to everything, %d of this user; at most %d and %d are allowed",
		len(h.subscribed), same, MaxSubscribers, MaxSubscribersPerUID)}
	return e.WithHint(api.HintOneOwner)
}

// Snapshot is what there is at one moment. Events that were delivered before it
// are in it, later ones are not.
type Snapshot struct {
	Lockspaces []api.LockspaceInfo
	Locks      []api.LockInfo // that were granted
	Requests   []RequestInfo
	// Position is the place in the queue of each of Requests, as Requests.Position
	// tells it; 0: it does not wait, or its place is not known.
	Position []int
}

// Snapshot gives what there is, of locks and requests the oldest, at most limit
// of each, in order with the events. It asks nobody whether the caller may look.
//
// For all locks, where they may be more, subscribe first and then list them page
// by page (ListLocks with Filter.Granted). An event about a lock with a Ref after
// the last page is to be ignored until the last page has come: the lock is on a
// page that comes.
func (c *Core) Snapshot(limit int, done func(Snapshot)) {
	c.service.Snapshot(limit, func(spaces []api.LockspaceInfo, locks []api.LockInfo, place func(api.Ref) int) {
		c.hub.deliver.Lock()
		defer c.hub.deliver.Unlock()
		requests := c.requests.List(limit)
		positions := make([]int, len(requests))
		for i := range requests {
			if requests[i].State == RequestWaiting {
				positions[i] = place(requests[i].Ref)
			}
		}
		done(Snapshot{spaces, locks, requests, positions})
	})
}
