package dbus

import (
	"log/slog"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/lockd"
)

// Signatures of the signals' arguments.
var (
	sigPropertiesChanged = godbus.ParseSignatureMust("sa{sv}as")
	sigLockLost          = godbus.ParseSignatureMust("ossss")
	sigBlocking          = godbus.ParseSignatureMust("oss")
	sigLockspaceChanged  = godbus.ParseSignatureMust("ssa{sv}")
	sigCompleted         = godbus.ParseSignatureMust("soutss")
	sigInterfacesAdded   = godbus.ParseSignatureMust("oa{sa{sv}}")
	sigInterfacesRemoved = godbus.ParseSignatureMust("oas")
	sigNone              = godbus.ParseSignatureMust("")
)

// Notify takes what the service says unasked; it is lockd's Config.Notify. It
// never blocks. What comes before Start is not sent: nobody can listen yet.
func (s *Server) Notify(n lockd.Notice) {
	if s.bus.server.Load() != s {
		return
	}
	switch n := n.(type) {
	case lockd.LockLost:
		s.post(s.signal("LockLost", sigLockLost, lockPath(n.Ref), printable(n.Lockspace), printable(n.Resource),
			modeName(n.Mode), printable(n.Reason)))
	case lockd.BlockingNotice:
		s.blocking(n)
	case lockd.LockspaceChanged:
		state := n.State.String()
		if n.Gone {
			state = "left"
		}
		s.post(s.signal("LockspaceChanged", sigLockspaceChanged, printable(n.Name), state, spaceDetails(&n.LockspaceInfo)))
		s.subs.spaceChanged(&n)
	case lockd.LockAdded:
		s.subs.added(lockPath(n.Ref), lockFace, &n.LockInfo)
	case lockd.LockChanged:
		s.subs.changed(lockPath(n.Ref), lockFace, &n.LockInfo)
	case lockd.LockRemoved:
		s.subs.removed(lockPath(n.Ref), lockFace)
	case lockd.StatusChanged:
		s.props.note()
	}
}

func (s *Server) signal(member string, sig godbus.Signature, body ...any) letter {
	return letter{path: Path, iface: Name, member: member, sig: sig, body: body}
}

// blocking tells the holder that somebody waits. It goes to the connection
// that asked for the lock last, if that has called this process and is still
// the same user's: after a restart of the bus the name may be somebody else's.
func (s *Server) blocking(n lockd.BlockingNotice) {
	s.mu.Lock()
	p := s.peers[n.Sender]
	s.mu.Unlock()
	if p == nil {
		return
	}
	if who := p.who.Load(); who == nil || who.uid != n.UID {
		return
	}
	l := s.signal("Blocking", sigBlocking, lockPath(n.Ref), printable(n.Resource), modeName(n.Blocked))
	l.dest = p.name
	s.post(l)
}

// post sends a signal, unless the bus takes none: then thousands wait already.
func (s *Server) post(l letter) {
	if !s.out.post(l) {
		s.log.Error("signal dropped, the bus does not keep up", slog.String("signal", l.member))
	}
}
