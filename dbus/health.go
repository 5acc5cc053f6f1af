package dbus

import (
	"fmt"
	"time"
)

// Healthy tells what has not gone on for as long as limit, if anything: the
// reader goroutine, which never waits for anybody but the bus, or the send queue,
// whose messages the bus takes at once. A process that hangs there serves nobody on the bus, and
// a restart by the watchdog loses no lock.
func (s *Server) Healthy(limit time.Duration) error {
	if d := s.bus.wire.idle.left.shows(); d >= limit {
		return fmt.Errorf("the bus reader is stuck, it has not read for %v", d.Round(time.Millisecond))
	}
	if d := s.out.busy.shows(); d >= limit {
		return fmt.Errorf("the send queue is stuck, it has been writing one message for %v", d.Round(time.Millisecond))
	}
	return nil
}
