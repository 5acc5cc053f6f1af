package dbus

import (
	"log/slog"
	"sync"
	"sync/atomic"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/frontend"
)

// subscribe is Subscribe.
type subscribe struct{ frontend.Subscribe }

func parseSubscribe(*reader) (request, error) { return &subscribe{}, nil }

func (r *subscribe) serve(c *call) {
	sub, err := r.Run(&c.Call)
	if err != nil {
		c.Fail(err)
		return
	}
	c.srv.subs.add(c.from, sub, c.UID(), func() { c.reply() })
}

// unsubscribe is Unsubscribe.
type unsubscribe struct{ own }

func parseUnsubscribe(*reader) (request, error) { return unsubscribe{}, nil }

func (unsubscribe) serve(c *call) {
	c.srv.subs.drop(c.from)
	c.reply()
}

// subscribers are the connections that want to hear of each object. The
// signals go to each of them alone, so that nobody else pays for them.
type subscribers struct {
	srv  *Server
	list atomic.Pointer[[]subscriber] // for whoever sends

	mu sync.Mutex // not for send, which runs on the owner's goroutine and reads list
	// By session, so that a connection which vanishes is found at once.
	subs map[*session]*subscribed
}

// subscribed is the subscription of a connection.
type subscribed struct {
	*frontend.Subscription
	uid   uint32 // whose turn its signals take in the send queue
	count int    // Subscribe was called so many times more than Unsubscribe
}

// subscriber is a connection and whose it is.
type subscriber struct {
	name string
	uid  uint32
}

func newSubscribers(s *Server) *subscribers {
	return &subscribers{srv: s, subs: make(map[*session]*subscribed)}
}

// add notes a subscription, and answers. A connection that has one needs no other. answer comes
// before anybody can end the subscription, so that SubscriptionLost comes after the answer.
func (u *subscribers) add(of *session, sub *frontend.Subscription, uid uint32, answer func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	defer answer()
	if s := u.subs[of]; s != nil {
		sub.Close()
		s.count++
		return
	}
	if of.Context().Err() != nil {
		return // remove has been called, or is about to be and finds nothing
	}
	u.subs[of] = &subscribed{sub, uid, 1}
	u.changedList()
}

// drop undoes one Subscribe, if there was one.
func (u *subscribers) drop(of *session) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.subs[of]
	if s == nil {
		return
	}
	if s.count--; s.count == 0 {
		u.end(of)
	}
}

// remove ends the subscription of a connection, if there is one.
func (u *subscribers) remove(of *session) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.subs[of] != nil {
		u.end(of)
	}
}

// end ends a subscription. u.mu is held.
func (u *subscribers) end(of *session) {
	u.subs[of].Close()
	delete(u.subs, of)
	u.changedList()
}

// changedList publishes the names.
func (u *subscribers) changedList() {
	list := make([]subscriber, 0, len(u.subs))
	for of, s := range u.subs {
		list = append(list, subscriber{of.name, s.uid})
	}
	u.list.Store(&list)
}

// lose ends every subscription, because the bus does not keep up: who would
// hear of some changes only must know that.
func (u *subscribers) lose() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.subs) == 0 {
		return
	}
	u.srv.log.Error("subscriptions ended, the bus does not keep up", slog.Int("subscribers", len(u.subs)))
	ended := u.subs
	u.subs = make(map[*session]*subscribed)
	u.changedList()
	for of, s := range ended {
		s.Close()
		// The last step, so that the subscription has ended when its client hears of it.
		l := u.srv.signal("SubscriptionLost", sigNone)
		l.class, l.dest, l.user = mustSend, of.name, s.uid
		u.srv.out.post(l)
	}
}

// messageBytes is about what a message takes in the send queue beside its body.
const messageBytes = 256

// send sends a signal to every subscriber. It is encoded once, and not at all
// where there is none.
func (u *subscribers) send(path godbus.ObjectPath, iface, member string, sig godbus.Signature, body func(*encoder)) {
	list := u.list.Load()
	if list == nil || len(*list) == 0 {
		return
	}
	var e encoder
	body(&e)
	// The body is one piece of memory for all of them, so each has a share of its weight.
	l := message{class: toSubscriber, path: path, iface: iface, member: member, sig: sig, raw: e.b,
		weight: messageBytes + len(e.b)/len(*list)}
	for _, s := range *list {
		l.dest, l.user = s.name, s.uid
		if !u.srv.out.post(l) {
			u.lose()
			return
		}
	}
}

// added, changed and removed tell of an object with the interface i, which is
// about of.
func (u *subscribers) added(path godbus.ObjectPath, i *iface, of any) {
	u.send(Path, ifaceManager, "InterfacesAdded", sigInterfacesAdded, func(e *encoder) {
		e.text(string(path))
		e.object(i, u.srv, of)
	})
}

// changed sends all properties that may change, not only those that have: what a subscriber
// was told last is not kept.
func (u *subscribers) changed(path godbus.ObjectPath, i *iface, of any) {
	u.send(path, ifaceProperties, "PropertiesChanged", sigPropertiesChanged, func(e *encoder) {
		e.text(i.name)
		e.values(i, u.srv, of, func(p *property) bool { return p.emits == emitsTrue })
		e.texts()
	})
}

func (u *subscribers) removed(path godbus.ObjectPath, i *iface) {
	u.send(Path, ifaceManager, "InterfacesRemoved", sigInterfacesRemoved, func(e *encoder) {
		e.text(string(path))
		e.texts(i.name)
	})
}

// spaceChanged tells of a lockspace.
func (u *subscribers) spaceChanged(n *frontend.LockspaceChanged) {
	path := spacePath(n.Name)
	switch {
	case n.Gone:
		u.removed(path, lockspaceIface)
	case n.New:
		u.added(path, lockspaceIface, &n.LockspaceInfo)
	default:
		u.changed(path, lockspaceIface, &n.LockspaceInfo)
	}
}
