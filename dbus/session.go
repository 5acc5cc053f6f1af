package dbus

import (
	"context"
	"fmt"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/frontend"
)

// session is one connection that has called us, from its first call until it is
// gone.
type session struct {
	*frontend.Session
	name string // unique bus name
}

// session finds or makes the session of a connection. Only the reader makes and
// removes them, so one that vanishes can't come back.
func (s *Server) session(name string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.sessions[name]
	if c == nil {
		c = &session{name: name}
		identify := func(ctx context.Context) (frontend.Credentials, error) { return s.identify(ctx, name) }
		c.Session = s.door.Open(name, identify)
		s.sessions[name] = c
	}
	return c
}

// sessionGone is called by the reader when a connection has vanished. A connection that has never
// called in this life of the service may hold locks of the one before, so it is reported as well.
func (s *Server) sessionGone(name string) {
	s.mu.Lock()
	c := s.sessions[name]
	delete(s.sessions, name)
	s.mu.Unlock()
	if c == nil {
		s.door.Gone(name)
		return
	}
	c.Close()
	s.subs.remove(c)
}

// identifyTimeout bounds the question to the bus, which answers at once. If it does not, the
// caller's calls fail; nothing is done for somebody who is not known.
const identifyTimeout = 10 * time.Second

// identify asks the bus who is behind a unique name (D-Bus specification,
// org.freedesktop.DBus.GetConnectionCredentials).
func (s *Server) identify(ctx context.Context, name string) (who frontend.Credentials, err error) {
	ctx, cancel := context.WithTimeout(ctx, identifyTimeout)
	defer cancel()
	var creds map[string]godbus.Variant
	err = s.bus.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionCredentials", 0,
		name).Store(&creds)
	if err != nil {
		return who, err
	}
	uid, ok := creds["UnixUserID"].Value().(uint32)
	if !ok {
		return who, fmt.Errorf("no user id of %s", name)
	}
	who.UID, who.BusName = uid, name
	// A bus in another pid namespace has numbers that mean other processes here.
	if s.bus.alien == "" {
		who.PID, _ = creds["ProcessID"].Value().(uint32)
	}
	who.GIDs, _ = creds["UnixGroupIDs"].Value().([]uint32)
	return who, nil
}
