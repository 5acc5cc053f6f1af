package dbus

import (
	"log/slog"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Signatures of the signals' arguments.
var (
	sigPropertiesChanged = godbus.ParseSignatureMust("sa{sv}as")
	sigLockLost          = godbus.ParseSignatureMust("ossss")
	sigBlocking          = godbus.ParseSignatureMust("ossu")
	sigLost              = godbus.ParseSignatureMust("ssss")
	sigLockspaceChanged  = godbus.ParseSignatureMust("ssa{sv}")
	sigCompleted         = godbus.ParseSignatureMust("soutss")
	sigInterfacesAdded   = godbus.ParseSignatureMust("oa{sa{sv}}")
	sigInterfacesRemoved = godbus.ParseSignatureMust("oas")
	sigNone              = godbus.ParseSignatureMust("")
)

// event takes the notices of the service. It never blocks, because it runs in the turn of the
// table (lockd): it queues a signal, and drops what does not fit into the queue.
func (s *Server) event(e frontend.Event) {
	switch e := e.(type) {
	case api.LockLost:
		s.lost(e)
	case api.BlockingNotice:
		s.blocking(e)
	case api.StatusChanged:
		s.props.note()
	case frontend.LockspaceChanged:
		state := e.State.String()
		if e.Gone {
			state = "left"
		}
		s.post(s.signal("LockspaceChanged", sigLockspaceChanged, printable(e.Name), state,
			spaceDetails(&e.LockspaceInfo)))
		s.subs.spaceChanged(&e)
	default:
		s.objectEvent(e)
	}
}

// objectEvent takes an event about a lock or a request, for the subscribers. The place of a
// request in its queue is left out: it would need a look at the kernel's tables for each event.
func (s *Server) objectEvent(e frontend.Event) {
	switch e := e.(type) {
	case api.LockAdded:
		s.subs.added(lockPath(e.Ref), lockIface, &e.LockInfo)
	case api.LockChanged:
		s.subs.changed(lockPath(e.Ref), lockIface, &e.LockInfo)
	case api.LockRemoved:
		s.subs.removed(lockPath(e.Ref), lockIface)
	case frontend.RequestAdded:
		s.subs.added(requestPath(e.Number), requestIface, &pending{e.RequestInfo, unknownPosition})
	case frontend.RequestChanged:
		s.subs.changed(requestPath(e.Number), requestIface, &pending{e.RequestInfo, unknownPosition})
	case frontend.RequestRemoved:
		s.subs.removed(requestPath(e.Number), requestIface)
	}
}

// signal makes a signal of the root object for everybody. The bus policy decides who may
// receive which member.
func (s *Server) signal(member string, sig godbus.Signature, body ...any) message {
	return message{user: noUser, path: Path, iface: Name, member: member, sig: sig, body: body}
}

// lost tells everybody who may know, and the holder, who may be nobody else:
// the bus policy hides LockLost from most users. None is dropped, because a lock
// is lost only once.
func (s *Server) lost(n api.LockLost) {
	l := s.signal("LockLost", sigLockLost, lockPath(n.Ref), printable(n.Lockspace), printable(n.Resource),
		modeName(n.Mode), printable(n.Reason))
	l.class = mustSend
	s.post(l)
	dest, ok := s.bus.nameOf(n.Session)
	if !ok {
		return
	}
	s.post(message{class: mustSend, user: s.userOf(dest), dest: dest, path: lockPath(n.Ref), iface: lockIfaceName,
		member: "Lost", sig: sigLost,
		body: []any{printable(n.Lockspace), printable(n.Resource), modeName(n.Mode), printable(n.Reason)}})
}

// blocking tells the holder that somebody waits. It goes to the connection
// that asked for the lock last, if it was one of this bus: a bus never gives a
// unique name to two connections.
func (s *Server) blocking(n api.BlockingNotice) {
	dest, ok := s.bus.nameOf(n.Session)
	if !ok {
		return
	}
	l := s.signal("Blocking", sigBlocking, lockPath(n.Ref), printable(n.Resource), modeName(n.Blocked), n.Node)
	l.dest, l.user = dest, s.userOf(dest)
	s.post(l)
}

// userOf is whose turn the answers to a connection take: what it is told of a
// lock comes after the answer that tells it of the lock.
func (s *Server) userOf(sender string) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.sessions[sender]; c != nil {
		return c.user()
	}
	return noUser
}

// post sends a signal, unless the bus takes none: then thousands wait already.
func (s *Server) post(l message) {
	if !s.out.post(l) {
		s.log.Error("signal dropped, the bus does not keep up", slog.String("signal", l.member))
	}
}
