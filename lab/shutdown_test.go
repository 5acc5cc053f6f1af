package lab_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/service"
)

// shutdownFiles are the files of the service that systemd and the bus read.
var shutdownFiles = map[string]string{
	"../systemd/dlmlockd.service":            "/usr/lib/systemd/system/",
	"../systemd/dlmlockd-lockspaces.service": "/usr/lib/systemd/system/",
	"../data/org.example.DlmLock.service":    "/usr/share/dbus-1/system-services/",
	"../data/org.example.DlmLock.conf":       "/usr/share/dbus-1/system.d/",
}

// TestShutdown guards that a host which is shut down in order, with the service
// running and locks held, is not fenced by the others: its node leaves the
// lockspaces before dlm_controld is stopped. dlm_controld would not stop
// otherwise (90 s), and the others would power the node off.
func TestShutdown(t *testing.T) {
	lab.Require(t)
	t.Parallel()
	program := buildPrograms(t).daemon
	c := lab.Start(t, lab.Config{Nodes: 2, Systemd: true, Fencing: true})
	ctx := lab.Context(t, "shutdown", 4*time.Minute)
	require.NoError(t, c.JoinDLM(ctx))
	t.Cleanup(func() {
		for _, n := range c.Nodes() {
			if t.Failed() && n.Up() {
				out, _ := n.Run(context.Background(), "journalctl", "-b", "-n", "60", "--no-pager")
				t.Logf("%s:\n%s", n.Name, out)
			}
		}
	})
	for _, n := range c.Nodes() {
		require.NoError(t, n.Push(ctx, program, "/usr/sbin/dlmlockd"))
		require.NoError(t, n.Put(ctx, service.Config, 0o644, []byte(daemonConfig)))
		for from, to := range shutdownFiles {
			require.NoError(t, n.Push(ctx, from, to+filepath.Base(from)))
		}
		_, err := n.Shell(ctx, "systemctl daemon-reload && busctl call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus ReloadConfig")
		require.NoError(t, err)
		// Not by a call: it joins a lockspace before it answers, and busctl's
		// patience ends after 25 s.
		_, err = n.Run(ctx, "systemctl", "start", "dlmlockd.service")
		require.NoError(t, err)
		_, err = n.Run(ctx, "systemctl", "is-active", "dlmlockd.service", "dlmlockd-lockspaces.service")
		require.NoError(t, err)
	}
	acquire := func(n *lab.Node, resource, owner string) error {
		_, err := n.Run(ctx, "busctl", "call", "org.example.DlmLock", "/org/example/DlmLock", "org.example.DlmLock",
			"Acquire", "sssa{sv}", "vms", resource, dlm.EX.String(), "1", "owner", "s", owner)
		return err
	}
	down := c.Node(2)
	require.NoError(t, acquire(down, "disk1", "vm2"))
	require.ErrorContains(t, acquire(c.Node(1), "disk1", "vm1"), "held by node 2")

	// Restarting the service is no shutdown.
	_, err := down.Run(ctx, "systemctl", "restart", "dlmlockd.service")
	require.NoError(t, err)
	require.ErrorContains(t, acquire(c.Node(1), "disk1", "vm1"), "held by node 2")
	// Nor is stopping the lockspaces' unit while they are in use.
	_, err = down.Run(ctx, "systemctl", "stop", "dlmlockd-lockspaces.service")
	require.NoError(t, err)
	out, _ := down.Run(ctx, "systemctl", "is-failed", "dlmlockd-lockspaces.service")
	require.Equal(t, "failed\n", out)
	require.ErrorContains(t, acquire(c.Node(1), "disk1", "vm1"), "held by node 2")
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
	require.Eventually(t, func() bool { return acquire(c.Node(1), "disk1", "vm1") == nil }, time.Minute, 300*time.Millisecond,
		"the lock is free")
	require.Empty(t, c.Fenced(), "nobody was fenced")
	out, err = c.Node(1).Run(ctx, "dlm_tool", "status")
	require.NoError(t, err)
	require.Regexp(t, `(?m)^node 2 X .* fail 0 fence 0 `, out, "and nobody is going to be: it left, it did not fail")
}
