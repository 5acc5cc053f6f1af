package lab_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/service"
)

// shutdown guards that a host which is shut down in order, with the service
// running and locks held, is not fenced by the others: its node leaves the
// lockspaces before dlm_controld is stopped. dlm_controld would not stop
// otherwise (90 s), and the others would power the node off. The second node is
// off after it.
func shutdown(t *testing.T, r unitRig) {
	ctx := lab.Context(t, "shutdown", 4*time.Minute)
	require.NoError(t, r.other.LeaveLockspace(ctx, "vms"), "which dlm_tool has joined")
	for _, n := range r.cluster.Nodes() {
		require.NoError(t, n.Put(ctx, service.Config, 0o644, []byte(daemonConfig)))
		// Not by a call: it joins a lockspace before it answers, and busctl's
		// patience ends after 25 s.
		_, err := n.Run(ctx, "systemctl", "restart", "dlmlockd.service")
		require.NoError(t, err)
		_, err = n.Run(ctx, "systemctl", "is-active", "dlmlockd.service", "dlmlockd-lockspaces.service")
		require.NoError(t, err)
	}
	acquire := func(n *lab.Node, resource, owner string) error {
		_, err := n.Run(ctx, "busctl", "call", "org.example.DlmLock", "/org/example/DlmLock", "org.example.DlmLock",
			"Acquire", "sssa{sv}", "vms", resource, dlm.EX.String(), "1", "owner", "s", owner)
		return err
	}
	down := r.other
	require.NoError(t, acquire(down, "disk1", "vm2"))
	require.ErrorContains(t, acquire(r.n, "disk1", "vm1"), "held by node 2")

	// Restarting the service is no shutdown.
	_, err := down.Run(ctx, "systemctl", "restart", "dlmlockd.service")
	require.NoError(t, err)
	require.ErrorContains(t, acquire(r.n, "disk1", "vm1"), "held by node 2")
	// Nor is stopping the lockspaces' unit while they are in use.
	_, err = down.Run(ctx, "systemctl", "stop", "dlmlockd-lockspaces.service")
	require.NoError(t, err)
	out, _ := down.Run(ctx, "systemctl", "is-failed", "dlmlockd-lockspaces.service")
	require.Equal(t, "failed\n", out)
	require.ErrorContains(t, acquire(r.n, "disk1", "vm1"), "held by node 2")
	_, err = down.Run(ctx, "systemctl", "start", "dlmlockd.service")
	require.NoError(t, err)
	require.NoError(t, acquire(down, "disk1", "vm2"), "both units are back, and the lock is")

	_, err = down.Run(ctx, "systemctl", "--no-block", "poweroff")
	require.NoError(t, err)
	select {
	case <-down.Gone():
	case <-ctx.Done():
		t.Fatal("the node does not go down")
	}
	require.Eventually(t, func() bool { return acquire(r.n, "disk1", "vm1") == nil }, time.Minute, 300*time.Millisecond,
		"the lock is free")
	require.Empty(t, r.cluster.Fenced(), "nobody was fenced")
	require.Regexp(t, `(?m)^node 2 X .* fail 0 fence 0 `, r.run("dlm_tool status"),
		"and nobody is going to be: it left, it did not fail")
}
