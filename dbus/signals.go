package dbus

import (
	"log/slog"

	godbus "github.com/godbus/dbus/v5"

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

// Notify takes what the service says unasked; it is lockd's Config.Notify. It
// never blocks. What comes before Start is not sent: nobody can listen yet.
func (s *Server) Notify(n api.Notice) {
	if s.bus.server.Load() != s {
		return
	}
	switch n := n.(type) {
	case api.LockLost:
		s.lost(n)
	case api.BlockingNotice:
		s.blocking(n)
	case api.LockspaceChanged:
		state := n.State.String()
		if n.Gone {
			state = "left"
		}
		s.post(s.signal("LockspaceChanged", sigLockspaceChanged, printable(n.Name), state, spaceDetails(&n.LockspaceInfo)))
		s.subs.spaceChanged(&n)
	case api.LockAdded:
		s.subs.added(lockPath(n.Ref), lockFace, &n.LockInfo)
	case api.LockChanged:
		s.subs.changed(lockPath(n.Ref), lockFace, &n.LockInfo)
	case api.LockRemoved:
		s.subs.removed(lockPath(n.Ref), lockFace)
	case api.StatusChanged:
		s.props.note()
	}
}

func (s *Server) signal(member string, sig godbus.Signature, body ...any) letter {
	return letter{lane: laneless, path: Path, iface: Name, member: member, sig: sig, body: body}
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
	s.post(letter{class: mustSend, lane: s.laneOf(dest), dest: dest, path: lockPath(n.Ref), iface: lockIface, member: "Lost", sig: sigLost,
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
	l.dest, l.lane = dest, s.laneOf(dest)
	s.post(l)
}

// laneOf is the lane of the answers to a connection: what it is told of a lock
// comes after the answer that tells it of the lock.
func (s *Server) laneOf(sender string) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.sessions[sender]; c != nil {
		return c.lane()
	}
	return laneless
}

// post sends a signal, unless the bus takes none: then thousands wait already.
func (s *Server) post(l letter) {
	if !s.out.post(l) {
		s.log.Error("signal dropped, the bus does not keep up", slog.String("signal", l.member))
	}
}
