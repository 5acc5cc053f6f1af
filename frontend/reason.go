package frontend

import (
	"context"
	"log/slog"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Whoever acts for somebody else, such as a page for administrators that runs as
// root, can say why a lock is released, a lockspace left or an orphan removed. It
// is logged with the call when that has been done, and means nothing else.

// reasonBytes is how long a reason may be.
const reasonBytes = 1024

// reason is the option reason.
func reason[T any](field func(*T) *string) Option[T] { return text(api.ArgReason, field) }

func checkReason(reason string) error {
	if len(reason) > reasonBytes {
		return bad(api.ArgReason, "it has %d bytes, at most %d are allowed", len(reason), reasonBytes)
	}
	return nil
}

// logReason logs why a call was made, if that was said.
func (c *Call) logReason(w About, reason string) {
	if reason == "" {
		return
	}
	attrs := []slog.Attr{slog.String("op", w.Op)}
	for _, a := range [...]slog.Attr{
		slog.String("lockspace", w.Lockspace), slog.String("resource", api.Printable(w.Resource)),
		slog.String("owner", w.Owner),
	} {
		if a.Value.String() != "" {
			attrs = append(attrs, a)
		}
	}
	attrs = append(attrs, slog.Uint64("uid", uint64(c.UID())), slog.String("session", string(c.session.name)),
		slog.String("reason", api.Printable(reason)))
	c.core.log.LogAttrs(context.Background(), slog.LevelInfo, "done for a reason", attrs...)
}

// withReason makes of done a function that logs the reason where the call
// succeeds.
func withReason(c *Call, w About, reason string, done func(error)) func(error) {
	return func(err error) {
		if err == nil {
			c.logReason(w, reason)
		}
		done(err)
	}
}

// countedWithReason is withReason for a call that tells how many it was about.
func countedWithReason(c *Call, w About, reason string, done func(uint32, error)) func(uint32, error) {
	return func(n uint32, err error) {
		if err == nil {
			c.logReason(w, reason)
		}
		done(n, err)
	}
}
