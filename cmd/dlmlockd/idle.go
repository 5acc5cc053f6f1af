package main

import (
	"context"
	"log/slog"
	"time"
)

// watchIdle closes idle when nobody has called for as long as the settings say and nobody needs the
// service. Then, or when ctx ends, it returns.
//
// Calls are counted, not timed: nothing has to be written down with each call. One that comes after
// the last look here is not lost, because Server.ShutdownIdle keeps it for the next start.
func (d *daemon) watchIdle(ctx context.Context, idle chan<- struct{}) {
	var seen, calls uint64 // the last count that was seen, and the current one
	since := time.Now()    // the start counts as a call: the client that caused it has not called yet
	timer := time.NewTimer(0)
	defer timer.Stop()
	told := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.settings.idleChanged:
			since = time.Now()
		case <-timer.C:
		}
		limit := d.settings.exitOnIdle()
		if calls = d.core.Calls(); calls != seen {
			seen, since = calls, time.Now()
		}
		quiet := time.Since(since)
		switch {
		case limit == 0:
			timer.Stop() // until the settings change
			continue
		case quiet < limit:
			timer.Reset(max(limit-quiet, time.Millisecond))
			continue
		}
		why := d.needed(ctx)
		// needed has taken a while: it asks the table about connections with locks, and waits.
		if why == "" && d.core.Calls() == calls {
			d.log.Info(msgNotNeeded.String(), "idle", quiet.Round(time.Millisecond))
			close(idle)
			return
		}
		if why != told {
			told = why
			d.log.Debug("idle, but needed", slog.String("reason", why))
		}
		timer.Reset(limit / 4) // what it is needed for may end without a call
	}
}

// needed says why somebody would miss the service; "" if nobody would.
func (d *daemon) needed(ctx context.Context) string {
	why := d.core.Needed(ctx)
	switch {
	case why != "":
		return why
	case d.libvirt != nil:
		return "libvirt's lock driver is served"
	}
	return d.varlinkNeeded()
}
