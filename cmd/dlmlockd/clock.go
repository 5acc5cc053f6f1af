package main

import (
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/internal/boottime"
)

// clocks reads the wall clock and then the time since the boot, including the time for which the
// host was suspended: CLOCK_BOOTTIME, which nobody can set.
//
// The token clock needs both: tokens grow with the wall clock, so that those of two nodes
// compare, and the time since the boot says how far the wall clock was set (docs/tokens.md).
func clocks() (wall time.Time, up time.Duration) { return sinceBoot.read() }

// sinceBoot is what clocks reads with.
var sinceBoot = bootClock{now: time.Now, boot: boottime.Now}

// bootClock derives the time since the boot from the wall clock and the monotonic clock of Go, both
// of which are read without a system call, as CLOCK_BOOTTIME is not. It differs from the monotonic
// clock only by the time for which the host was suspended. In that time the wall clock goes on and
// the monotonic clock does not, so a suspend shows as a step of one against the other, as if somebody
// had set the wall clock. Then, and after resyncTime in any case, CLOCK_BOOTTIME is read again.
type bootClock struct {
	now  func() time.Time
	boot func() (time.Duration, error)

	mu   sync.Mutex
	at   time.Time     // just after CLOCK_BOOTTIME was read last; zero: it has to be read
	up   time.Duration // what it was then
	last time.Duration // the latest time that was given; there is none before it
}

const (
	// resyncTime is how long CLOCK_BOOTTIME is derived at most.
	resyncTime = time.Second
	// steady is by how much the wall clock and the monotonic clock may differ without a suspend being
	// suspected, because they are read one after the other, and how long reading CLOCK_BOOTTIME may
	// take.
	steady = 20 * time.Microsecond
)

// read reads the wall clock, and how long after the boot that is.
func (c *bootClock) read() (wall time.Time, up time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall = c.now()
	passed := wall.Sub(c.at) // by the monotonic clock
	if !c.at.IsZero() && passed >= 0 && passed < resyncTime && together(c.at, wall) {
		up = c.up + passed
	} else {
		up = c.resync(wall)
	}
	c.last = max(c.last, up)
	return wall, c.last
}

// together reports whether as much time has passed by the wall clock as by the monotonic clock.
func together(from, to time.Time) bool {
	step := to.Round(0).Sub(from.Round(0)) - to.Sub(from)
	return -steady < step && step < steady
}

// resync reads CLOCK_BOOTTIME. If that has taken long, since the thread was interrupted or the host
// was suspended, nothing is derived from it. c.mu is held.
func (c *bootClock) resync(wall time.Time) time.Duration {
	up, err := c.boot()
	if err != nil {
		return time.Since(started) // never happens: every kernel with the DLM has this clock
	}
	c.at, c.up = c.now(), up
	if c.at.Sub(wall) > steady || !together(wall, c.at) {
		c.at = time.Time{}
	}
	return up
}

var started = time.Now()
