package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/dlmlock/dlmlockd/lockd"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// notifier reports the state of the service to systemd (sd_notify(3)). Without systemd it does
// nothing.
type notifier struct{ log *slog.Logger }

// tell sends systemd a message; without NOTIFY_SOCKET nobody gets it.
func (n notifier) tell(state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		n.log.Warn("systemd could not be notified", "err", err)
	}
}

// statusEvery is how often the status line is checked.
const statusEvery = 2 * time.Second

// keep sends systemd the status line when it changes, and feeds the watchdog as long as the service
// is healthy, until ctx ends. The watchdog's goroutine itself does nothing that can block for long:
// Status is a copy, and healthy gives up after half the interval.
//
// The service is looked at four times in each interval. So the line that says what stands still is in
// the log a quarter of the interval before systemd ends the service.
func (n notifier) keep(ctx context.Context, s *lockd.Service, healthy func(context.Context, time.Duration) error) {
	interval, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("the watchdog's interval is not understood", "err", err)
	}
	var feed <-chan time.Time
	if interval > 0 {
		t := time.NewTicker(interval / 4)
		defer t.Stop()
		feed = t.C
		n.feed(ctx, healthy, interval)
	}
	status := time.NewTicker(statusEvery)
	defer status.Stop()
	told := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-feed:
			n.feed(ctx, healthy, interval)
		case <-status.C:
			if line := statusLine(s.Status()); line != told {
				told = line
				n.tell(line)
			}
		}
	}
}

// feed feeds the watchdog if the service is healthy. Otherwise it sends nothing, and systemd
// restarts the service: the locks survive that.
func (n notifier) feed(ctx context.Context, healthy func(context.Context, time.Duration) error,
	interval time.Duration) {
	if err := healthy(ctx, interval/2); err != nil {
		if ctx.Err() == nil {
			n.log.Error(msgNotAnswering.String(), "err", err)
		}
		return
	}
	n.tell("WATCHDOG=1")
}

// statusLine returns the line that systemctl status shows.
func statusLine(st api.Status) string {
	line := fmt.Sprintf("STATUS=engine %s, node %d", st.Engine, st.Node.ID)
	switch {
	case st.Node.ID == 0:
		line = fmt.Sprintf("STATUS=engine %s, this node is not known yet", st.Engine)
	case st.Node.Cluster != "":
		line += " of " + st.Node.Cluster
	}
	switch st.Quorum {
	case api.Inquorate:
		line += ", no quorum"
	case api.QuorumUnknown:
		line += ", quorum not known"
	}
	line += fmt.Sprintf("; %d locks in %d lockspaces, %d waiting", st.Locks, st.Lockspaces, st.Waiting)
	if st.Degraded != "" {
		line += "; " + st.Degraded
	}
	return line
}
