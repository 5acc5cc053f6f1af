package dbus

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// A reader or an send queue that does not go on is noticed, and one that waits for
// work is not taken for one.
func TestHealthy(t *testing.T) {
	r := newRig(t, testbus.Start(t, testbus.Daemon), rigConfig{})
	c := r.dial(testbus.Root)
	c.ok(ifacePeer + ".Ping")
	const limit = 50 * time.Millisecond
	stuck := func(what string) {
		t.Helper()
		// On a busy machine the other one may not have run for that long, either, but not for ever.
		is := func() bool {
			err := r.server.Healthy(limit)
			return err != nil && strings.Contains(err.Error(), what)
		}
		assert.Eventually(t, is, patience, time.Millisecond, what) // not require: what is held must be let go of
	}
	well := func() {
		t.Helper()
		require.Eventually(t, func() bool { return r.server.Healthy(limit) == nil }, patience, time.Millisecond)
	}
	well()

	r.server.mu.Lock() // which the reader needs to find the line of a caller
	got := c.conn.Object(Name, Path).Go(full("ListLockspaces"), 0, nil)
	stuck("the bus reader is stuck")
	r.server.mu.Unlock()
	require.NoError(t, receive(t, got.Done).Err)
	well()

	r.server.bus.wire.mu.Lock()
	got = c.conn.Object(Name, Path).Go(ifacePeer+".Ping", 0, nil)
	stuck("the send queue is stuck")
	r.server.bus.wire.mu.Unlock()
	require.NoError(t, receive(t, got.Done).Err)
	well()
}
