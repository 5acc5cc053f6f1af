package dbus

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

const (
	// MaxSubscribers is how many connections may be subscribed; every change
	// of a lock is a message to each.
	MaxSubscribers = 64
	// MaxSubscribersPerUID is how many of one user, root aside.
	MaxSubscribersPerUID = 8
)

type subscribe struct{ own }

func parseSubscribe(*reader) (request, error) { return subscribe{}, nil }

func (subscribe) serve(c *call) {
	err := c.Authorize(api.ActInspect, frontend.About{Op: "subscribe"})
	if err == nil {
		err = c.srv.subs.add(c.from, c.UID())
	}
	if err != nil {
		c.Fail(err)
		return
	}
	c.reply()
}

type unsubscribe struct{ own }

func parseUnsubscribe(*reader) (request, error) { return unsubscribe{}, nil }

func (unsubscribe) serve(c *call) {
	c.srv.subs.remove(c.from)
	c.reply()
}

// subscribers are the connections that want to hear of each object. The
// signals go to each of them alone, so that nobody else pays for them; without
// any, the service does not even give the notices.
type subscribers struct {
	srv  *Server
	list atomic.Pointer[[]subscriber] // for whoever sends

	mu     sync.Mutex
	uids   map[*session]uint32
	spaces map[string]bool // lockspaces that were told
}

// subscriber is a connection and whose it is.
type subscriber struct {
	name string
	uid  uint32
}

func newSubscribers(s *Server) *subscribers {
	return &subscribers{srv: s, uids: make(map[*session]uint32), spaces: make(map[string]bool)}
}

// add subscribes a connection; one that is already stays so.
func (u *subscribers) add(p *session, uid uint32) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.uids[p]; ok || p.Context().Err() != nil {
		return nil
	}
	same := 0
	for _, other := range u.uids {
		if other == uid {
			same++
		}
	}
	if len(u.uids) >= MaxSubscribers || uid != 0 && same >= MaxSubscribersPerUID {
		return &api.Error{Op: "subscribe", Kind: api.LimitExceeded, Mode: dlm.None, Text: fmt.Sprintf(
			"%d connections are subscribed, %d of this user; at most %d and %d are allowed", len(u.uids), same, MaxSubscribers, MaxSubscribersPerUID)}
	}
	u.uids[p] = uid
	u.changedList()
	return nil
}

// remove ends a subscription, if there is one.
func (u *subscribers) remove(p *session) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.uids[p]; ok {
		delete(u.uids, p)
		u.changedList()
	}
}

// changedList publishes the names, and has the service watch while there are
// any.
func (u *subscribers) changedList() {
	list := make([]subscriber, 0, len(u.uids))
	for p, uid := range u.uids {
		list = append(list, subscriber{p.name, uid})
	}
	before := u.list.Swap(&list)
	if some := len(list) > 0; some != (before != nil && len(*before) > 0) {
		u.srv.service().Watch(some)
	}
}

// lose ends every subscription, because the bus does not keep up: who would
// hear of some changes only must know that.
func (u *subscribers) lose() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.uids) == 0 {
		return
	}
	u.srv.log.Error("subscriptions ended, the bus does not keep up", slog.Int("subscribers", len(u.uids)))
	for p, uid := range u.uids {
		l := u.srv.signal("SubscriptionLost", sigNone)
		l.class, l.dest, l.lane = mustSend, p.name, uid
		u.srv.out.post(l)
	}
	clear(u.uids)
	u.changedList()
}

// letterBytes is about what a letter takes in the outbox beside its body.
const letterBytes = 256

// send sends a signal to every subscriber. It is encoded once, and not at all
// where there is none.
func (u *subscribers) send(path godbus.ObjectPath, iface, member string, sig godbus.Signature, body func(*encoder)) {
	list := u.list.Load()
	if list == nil || len(*list) == 0 {
		return
	}
	var e encoder
	body(&e)
	l := letter{class: subscribed, path: path, iface: iface, member: member, sig: sig, raw: e.b,
		weight: letterBytes + len(e.b)/len(*list)}
	for _, s := range *list {
		l.dest, l.lane = s.name, s.uid
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

// spaceChanged tells of a lockspace. Which are known it has to remember, since
// the notices don't tell a new one.
func (u *subscribers) spaceChanged(n *api.LockspaceChanged) {
	path := spacePath(n.Name)
	u.mu.Lock()
	known := u.spaces[n.Name]
	if n.Gone {
		delete(u.spaces, n.Name)
	} else {
		u.spaces[n.Name] = true
	}
	u.mu.Unlock()
	switch {
	case n.Gone:
		u.removed(path, spaceFace)
	case known:
		u.changed(path, spaceFace, &n.LockspaceInfo)
	default:
		u.added(path, spaceFace, &n.LockspaceInfo)
	}
}

// begin notes the lockspaces that are there before anybody can be subscribed.
func (u *subscribers) begin(spaces []api.LockspaceInfo) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range spaces {
		u.spaces[spaces[i].Name] = true
	}
}
