package dbus

import (
	"context"
	"fmt"

	godbus "github.com/godbus/dbus/v5"
)

// Needed says why somebody would miss the service if it ended now, or "" if
// nobody would: then the bus can start it again at the next call.
func (s *Server) Needed(ctx context.Context) string {
	if n := s.subs.count(); n > 0 {
		return fmt.Sprintf("%d connections are subscribed", n)
	}
	if n := s.requests.count(); n > 0 {
		return fmt.Sprintf("%d requests wait or have just ended", n)
	}
	return s.core.Needed(ctx)
}

// ShutdownIdle is Shutdown of a server that nobody needed a moment ago. The
// name goes first, so calls that come meanwhile wait at the bus for the next
// daemon; if one that came before has made a lock that must be looked after,
// the bus is asked to start that daemon now.
func (s *Server) ShutdownIdle(ctx context.Context) error {
	return s.shutdown(ctx, func() {
		if why := s.core.NeededByService(ctx); why != "" {
			s.log.Info("needed again at the last moment", "reason", why)
			s.bus.conn.BusObject().Go("org.freedesktop.DBus.StartServiceByName", godbus.FlagNoReplyExpected, nil, Name, uint32(0))
		}
	})
}

// count is how many connections are subscribed.
func (u *subscribers) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.uids)
}

// count is how many Requests can be read.
func (b *requestBook) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.all)
}
