package dbus

import (
	"bytes"
	"testing"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// In a lockspace for raw values the option value is what Inspect shows, of each
// member that takes it; there is no token and no holder.
func TestRawValue(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{raw: []string{"raw"}})
		c := r.dial(testbus.Root)
		c.ok("JoinLockspace", "raw", opt())
		inspect := func() options {
			var d options
			require.NoError(t, c.ok("Inspect", "raw", "r").Store(&d))
			return d
		}
		full := func(text string) []byte { return append([]byte(text), make([]byte, 32-len(text))...) }
		var id uint32
		var token uint64
		var lock godbus.ObjectPath
		require.NoError(t, c.ok("Acquire", "raw", "r", "EX", opt("value", []byte{1, 0, 2})).Store(&id, &token, &lock))
		require.Zero(t, token)
		require.Equal(t, full("\x01\x00\x02"), inspect()["value"].Value())
		require.NotContains(t, inspect(), "holder")
		require.NoError(t, c.ok("Convert", "raw", "r", "EX", opt("value", bytes.Repeat([]byte{255}, 32))).Store(&token))
		require.Zero(t, token)
		require.Equal(t, bytes.Repeat([]byte{255}, 32), inspect()["value"].Value())
		c.at(lock).ok(lockIfaceName+".Convert", "NL", opt("value", []byte("by the object")))
		require.Equal(t, full("by the object"), inspect()["value"].Value())
		done := c.completions(1)
		c.ok("Request", "raw", "r", "PW", opt("value", []byte("requested")))
		require.Equal(t, "granted", receive(t, done).State)
		require.Equal(t, full("requested"), inspect()["value"].Value())

		c.refused(errInvalidArgs, "Acquire", "raw", "s", "EX", opt("value", make([]byte, 33)))
		c.refused(errInvalidArgs, "Acquire", "raw", "s", "EX", opt("value", "text"))
		c.refused(errInvalidArgs, "Acquire", "vms", "s", "EX", opt("value", []byte{1}))
		c.refused(errInvalidArgs, "AcquireMany", []wantRow{{"raw", "s", "EX"}}, opt("value", []byte{1}))
		c.refused(errInvalidArgs, "Release", "raw", "r", opt("value", []byte{1}))
		var rows []spaceRow
		require.NoError(t, c.ok("ListLockspaces").Store(&rows))
		require.Equal(t, true, rows[0].Details["raw-values"].Value(), rows[0].Name)
		require.NotContains(t, rows[1].Details, "raw-values")
	})
}
