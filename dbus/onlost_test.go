package dbus

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// A lock names a configured helper, which is run when the lock is lost; what a
// caller may not name is refused before anything is locked.
func TestOnLost(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root, c := r.dial(testbus.Root), r.dial(member)
		require.Contains(t, c.refused(errInvalidArgs, "Acquire", "vms", "r", "EX", opt("on-lost", "/bin/sh")),
			"no helper \"/bin/sh\" is configured")
		require.Contains(t, c.refused(errInvalidArgs, "Acquire", "vms", "r", "EX", opt("on-lost-data", "x")),
			"name of a helper is missing")
		require.Contains(t, c.refused(errAccessDenied, "Acquire", "vms", "r", "EX", opt("on-lost", "admin")),
			"may not use the helper")
		require.Empty(t, root.list(opt()))

		_, lock := c.acquire("r", opt("owner", "vm", "label", "disk", "on-lost", "guard",
			"on-lost-data", "pause $(reboot)"))
		var props map[string]any
		require.NoError(t, c.conn.Object(Name, lock).Call(ifaceProperties+".GetAll", 0, lockIfaceName).Store(&props))
		require.Equal(t, "guard", props["OnLost"])
		require.NoError(t, root.call("LeaveLockspace", "vms", opt("force", true)).Err)
		run := <-r.lost
		require.Equal(t, "guard", run.Helper)
		require.Equal(t, "pause $(reboot)", run.Data)
		require.Equal(t, "r", run.Resource)
		require.Equal(t, "vm", run.Owner)
		require.Equal(t, "disk", run.Label)
		require.Equal(t, "this node left the lockspace", run.Reason)
		require.Equal(t, member.UID, run.UID)
	})
}
