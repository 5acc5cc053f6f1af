package dbus

import (
	"context"

	godbus "github.com/godbus/dbus/v5"
)

// ShutdownIdle is Shutdown of a server that nobody needed a moment ago. The
// name goes first, so calls that come meanwhile wait at the bus for the next
// daemon; if one that came before has made a lock that must be looked after,
// the bus is asked to start that daemon now.
func (s *Server) ShutdownIdle(ctx context.Context) error {
	return s.shutdown(ctx, func() {
		if why := s.core.NeededByService(ctx); why != "" {
			s.log.Info("needed again at the last moment", "reason", why)
			s.bus.conn.BusObject().Go("org.freedesktop.DBus.StartServiceByName", godbus.FlagNoReplyExpected, nil, Name,
				uint32(0))
		}
	})
}
