package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// clocks reads the wall clock and then the time since the boot, including the time for which the
// host was suspended: CLOCK_BOOTTIME, which nobody can set.
//
// The token clock needs both: tokens grow with the wall clock, so that those of two nodes
// compare, and the time since the boot says how far the wall clock was set (docs/tokens.md).
func clocks() (wall time.Time, up time.Duration) {
	wall = time.Now()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return wall, time.Since(started) // never happens: every kernel with the DLM has this clock
	}
	return wall, time.Duration(ts.Nano())
}

var started = time.Now()
