package main

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// whenLogged notes when the first line was logged.
type whenLogged struct{ at time.Time }

func (w *whenLogged) Write(b []byte) (int, error) {
	if w.at.IsZero() {
		w.at = time.Now()
	}
	return len(b), nil
}

// What stands still is in the log well before systemd ends the service, whenever it began to stand still.
func TestWatchdogTellsWhatStandsStill(t *testing.T) {
	const interval = time.Second // shorter than statusEvery: keep does not ask the service for its status
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(interval.Microseconds(), 10))
	for stuck := time.Duration(0); stuck < interval; stuck += interval / 16 {
		synctest.Test(t, func(t *testing.T) {
			log := &whenLogged{}
			begun, fed := time.Now(), time.Now()
			healthy := func(ctx context.Context, limit time.Duration) error {
				if time.Since(begun) < stuck {
					fed = time.Now()
					return nil
				}
				select {
				case <-ctx.Done():
				case <-time.After(limit):
				}
				return errors.New("stuck")
			}
			ctx, cancel := context.WithTimeout(t.Context(), 7*interval/4)
			defer cancel()
			notifier{slog.New(slog.NewTextHandler(log, nil))}.keep(ctx, nil, healthy)
			require.False(t, log.at.IsZero())
			require.LessOrEqual(t, log.at.Sub(fed), 3*interval/4)
		})
	}
}
