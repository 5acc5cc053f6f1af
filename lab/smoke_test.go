package lab_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
	"github.com/dlmlock/dlmlockd/lab/lan"
)

// What the lab itself can do is looked at before the nodes are used for more:
// see TestTwoNodes.

func commands(t *testing.T, n *lab.Node) {
	ctx := lab.Context(t, "commands", stepTime)
	out, err := n.Run(ctx, "uname", "-n")
	require.NoError(t, err)
	require.Equal(t, n.Name+"\n", out)
	_, err = n.Shell(ctx, "exit 3")
	var failed *agent.ExitError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, 3, failed.Code)

	// Two processes driven at the same time, as a conformance run does.
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	a, err := n.Start(ctx, agent.Command{Argv: []string{"cat"}, Stdout: w1})
	require.NoError(t, err)
	b, err := n.Start(ctx, agent.Command{Argv: []string{"cat"}, Stdout: w2})
	require.NoError(t, err)
	require.NotEqual(t, a.PID, b.PID)
	for range 10 {
		echo(t, a, r1, "to a")
		echo(t, b, r2, "to b")
	}
	require.NoError(t, a.Kill(ctx))
	require.NoError(t, b.CloseInput())
	require.NoError(t, b.Wait(ctx))
}

func echo(t *testing.T, p *agent.Process, r io.Reader, text string) {
	t.Helper()
	_, err := io.WriteString(p, text)
	require.NoError(t, err)
	got := make([]byte, len(text))
	_, err = io.ReadFull(r, got)
	require.NoError(t, err)
	require.Equal(t, text, string(got))
}

func files(t *testing.T, n *lab.Node) {
	ctx := lab.Context(t, "files", stepTime)
	body := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	require.NoError(t, n.Put(ctx, "/run/test/file", 0o640, body))
	got, err := n.Get(ctx, "/run/test/file")
	require.NoError(t, err)
	require.True(t, bytes.Equal(body, got))

	// A file of the host that changes while the node runs.
	host := filepath.Join(t.TempDir(), "changing")
	for _, text := range []string{"one", "two, longer"} {
		require.NoError(t, os.WriteFile(host, []byte(text), 0o600))
		out, err := n.Run(ctx, "cat", "/host"+host)
		require.NoError(t, err)
		require.Equal(t, text, out, "/host is not cached")
		require.NoError(t, n.Push(ctx, host, "/run/test/pushed"))
		out, err = n.Run(ctx, "cat", "/run/test/pushed")
		require.NoError(t, err)
		require.Equal(t, text, out)
	}
	_, err = n.Shell(ctx, "echo node > /etc/lab-was-here && touch /host/etc/lab-was-here")
	require.Error(t, err, "the host is read-only")
	require.NoFileExists(t, "/etc/lab-was-here")
}

func systemBus(t *testing.T, n *lab.Node) {
	ctx := lab.Context(t, "bus", stepTime)
	require.NoError(t, n.StartBus(ctx, "../data/org.example.DlmLock.conf"))
	out, err := n.Run(ctx, "dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.DBus", "/",
		"org.freedesktop.DBus.RequestName", "string:org.example.DlmLock", "uint32:0")
	require.NoError(t, err, "root owns the name by the shipped policy")
	require.Contains(t, out, "uint32 1")
	_, _, err = n.RunCommand(ctx, agent.Command{
		Argv: []string{"dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.DBus", "/",
			"org.freedesktop.DBus.RequestName", "string:org.example.DlmLock", "uint32:0"},
		UID: 65534, GID: 65534,
	}, nil)
	require.ErrorContains(t, err, "AccessDenied", "nobody does not")
	conn, err := n.Dial(ctx, "unix", "/run/dbus/system_bus_socket")
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "\x00AUTH EXTERNAL 30\r\n")
	require.NoError(t, err)
	answer := make([]byte, 3)
	_, err = io.ReadFull(conn, answer)
	require.NoError(t, err)
	require.Equal(t, "OK ", string(answer))
}

func join(t *testing.T, c *lab.Cluster) {
	ctx := lab.Context(t, "join", joinTime)
	require.NoError(t, c.JoinDLM(ctx))
	for _, n := range c.Nodes() {
		require.NoError(t, n.JoinLockspace(ctx, "smoke"))
	}
	for _, n := range c.Nodes() {
		awaitMembers(t, n, "smoke", 1, 2)
		q, err := n.Quorum(ctx)
		require.NoError(t, err)
		require.Equal(t, lab.Quorum{Quorate: true, Members: []int{1, 2}}, q)
		_, err = n.Shell(ctx,
			"test -c /dev/misc/dlm_smoke && test -e /sys/kernel/debug/dlm/smoke && test -d "+
				"/sys/kernel/config/dlm/cluster/spaces/smoke")
		require.NoError(t, err, "device link, debugfs and configfs are there")
	}
}

// awaitMembers waits until the node sees exactly these members.
func awaitMembers(t *testing.T, n *lab.Node, lockspace string, want ...int) {
	t.Helper()
	require.NoError(t, n.WaitLockspaceMembers(lab.Context(t, "members", joinTime), lockspace, want...))
}

func slowNetwork(t *testing.T, c *lab.Cluster) {
	ctx := lab.Context(t, "slow network", stepTime)
	before := c.Net.Stats()
	c.Net.SetLink(1, 2, lan.Link{Delay: 50 * time.Millisecond})
	c.Net.SetLink(2, 1, lan.Link{Delay: 50 * time.Millisecond})
	require.Eventually(t, func() bool { return c.Net.Stats().Passed > before.Passed+20 }, stepTime, 100*time.Millisecond,
		"corosync's token goes round")
	c.Heal()
	q, err := c.Node(1).Quorum(ctx)
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, q.Members, "delay alone loses nobody")
}

func complaints(t *testing.T, n *lab.Node) {
	ctx := lab.Context(t, "complaints", stepTime)
	end := n.Expect(regexp.MustCompile("BUG: a test of the console"))
	seen := func() bool { return strings.Contains(consoleOf(t, n), "BUG: a test of the console") }
	_, err := n.Shell(ctx, "echo '<4>BUG: a test of the console' > /dev/kmsg; echo '<4>---[ end trace ]---' > /dev/kmsg")
	require.NoError(t, err)
	require.Eventually(t, seen, stepTime, 50*time.Millisecond, "warnings reach the console")
	end()
	require.Empty(t, n.Console.Findings())
}

func consoleOf(t *testing.T, n *lab.Node) string {
	t.Helper()
	text, err := os.ReadFile(n.ConsolePath())
	require.NoError(t, err)
	return string(text)
}
