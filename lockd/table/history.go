package table

import (
	"log/slog"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// The history of the locks is their lines in the log: acquired, converted, released
// and waits that ended without a grant. "dlmlockctl history" reads them from the
// journal, which keeps 10,000 lines of a service in 30 seconds by default and drops
// what comes after those (RateLimitBurst= in journald.conf(5)). So the history gets a
// share of that, and no flood of it hides a line that matters.
const (
	historyPeriod = 30 * time.Second
	historyLines  = 3000
)

// longWait is how long a request has waited if the history tells of it although it
// was not granted.
const longWait = time.Second

// history is what is left of the log's share of the history in this period.
type history struct {
	since  time.Time // when the period began
	lines  int       // that were written in it
	missed int       // that were left out
}

// room reports whether one more line may be written, and how many lines were left
// out in the period that has just ended.
func (h *history) room(now time.Time) (ok bool, missed int) {
	if now.Sub(h.since) >= historyPeriod {
		missed = h.missed
		*h = history{since: now}
	}
	if h.lines >= historyLines {
		h.missed++
		return false, missed
	}
	h.lines++
	return true, missed
}

// tellsHistory reports whether a line of the history is to be written. With the log level
// debug all are.
func (t *turn) tellsHistory() bool {
	if t.debug {
		return true
	}
	ok, missed := t.history.room(t.now)
	if missed > 0 {
		t.log(slog.LevelWarn, msgHistoryIncomplete.String(), slog.Int("lines", missed))
	}
	return ok
}

// logHistory writes a line of the history about one lock.
func (t *turn) logHistory(msg string, l *lock, more ...slog.Attr) {
	if t.tellsHistory() {
		t.logLock(slog.LevelInfo, msg, l, more...)
	}
}

// logWait writes the line of a wait that was not granted, if it was long.
func (c *call) logWait() {
	t := c.t
	waited := t.now.Sub(c.begun)
	if waited < longWait {
		return
	}
	var want []api.Want
	owner := ""
	switch o := c.op.(type) {
	case *acquireOp:
		want, owner = o.want, o.opts.Owner
	case *convertOp:
		want = []api.Want{o.want}
	default:
		return
	}
	if !t.tellsHistory() {
		return
	}
	mode := dlm.None
	for _, w := range want {
		if w.Lockspace == c.err.Lockspace && w.Resource == c.err.Resource {
			mode = w.Mode
		}
	}
	t.log(slog.LevelInfo, msgWaitedInVain.String(), slog.String("lockspace", c.err.Lockspace),
		slog.String("resource", api.Printable(c.err.Resource)), slog.String("mode", mode.String()),
		slog.String("owner", owner), slog.Uint64("uid", uint64(c.caller.UID)),
		slog.String("session", string(c.caller.Session)), slog.Duration("waited", waited),
		slog.String("err", c.err.Error()))
}
