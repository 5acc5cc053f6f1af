package lab_test

import (
	"cmp"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
	"github.com/dlmlock/dlmlockd/lab/service"
)

// beforeAllNodes is an older program, whose service does not answer other nodes: that which this
// variable names. Without it that node has all-nodes = false,
// which looks the same.
const beforeAllNodes = "LAB_OLDER_DAEMON"

// TestAllNodes shows the locks of three nodes on one: with the queues and the owners, with
// one node whose service is older, and with one that is cut off.
func TestAllNodes(t *testing.T) {
	lab.Require(t)
	t.Parallel()
	dir := t.TempDir()
	daemon, err := service.Build(t.Context(), dir)
	require.NoError(t, err)
	ctl := filepath.Join(dir, "dlmlockctl")
	require.NoError(t, service.Go(t.Context(), "build", "-tags", "godbus_no_tcp", "-o", ctl, "./cmd/dlmlockctl"))
	c := lab.Start(t, lab.Config{Nodes: 3})
	require.NoError(t, c.JoinDLM(lab.Context(t, "joining", joinTime)))
	const config = "lockspaces = [\"vms\"]\n"
	services := map[int]*service.Service{}
	for _, n := range c.Nodes() {
		ctx := lab.Context(t, "install", joinTime)
		program, text := daemon, config
		if n.ID == 3 {
			if program = os.Getenv(beforeAllNodes); program == "" {
				program, text = daemon, "all-nodes = false\n"+config
			}
		}
		services[n.ID], err = service.Install(ctx, n, program, text)
		require.NoError(t, err)
		require.NoError(t, n.Push(ctx, ctl, "/usr/bin/dlmlockctl"))
		if n.ID != 3 {
			_, err = n.Daemon(ctx, "relay", agent.Command{Argv: []string{service.Program, "--relay-cpg"}})
			require.NoError(t, err)
		}
		require.NoError(t, services[n.ID].Start(ctx))
	}
	v := &allNodes{t: t, cluster: c}
	v.lock(1, "acquire", "vms", "a", "EX", "--owner=web", "--label=the disk of web")
	v.lock(2, "acquire", "vms", "b", "PR", "--owner=db")
	v.lock(3, "acquire", "vms", "c", "EX", "--owner=old")
	_, err = c.Node(2).Daemon(t.Context(), "waiter", agent.Command{Argv: []string{"dlmlockctl", "acquire", "vms", "a",
		"EX", "--owner=backup", "--wait=10m", "-q"}})
	require.NoError(t, err)

	for _, node := range []int{1, 2} { // whoever asks sees the same
		view := v.until(node, func(o *allView) bool { return len(o.Locks) == 3 })
		require.ElementsMatch(t, []string{"1 node1 a web held", "2 node2 b db held", "2 node2 a backup acquiring"},
			view.names())
		require.Empty(t, view.Nodes[0].Missing)
		require.Empty(t, view.Nodes[1].Missing)
		require.Contains(t, view.Nodes[2].Missing, "no service there takes part", "an older one, or one that is switched off")
		tree := v.text(node, "tree", "--all-nodes")
		require.Contains(t, tree, "web (node 1, node1)\n└─ backup (node 2, node2) waits for vms/a EX, held in EX")
		require.Contains(t, tree, "node 3 (node3) is missing")
	}
	require.Contains(t, v.text(1, "inspect", "--all-nodes", "vms", "b"), "Locks of the service on node 2 (node2):")

	// Node 2 is cut off. Before corosync knows it, its answer is missing; then it is no member.
	c.Node(2).Isolate()
	view := v.until(1, func(o *allView) bool { return o.Nodes[1].Missing != "" })
	require.Equal(t, []string{"1 node1 a web held"}, view.names())
	v.until(1, func(o *allView) bool { return strings.Contains(o.Nodes[1].Missing, "not a member") })
	// What is left of the cluster for it is itself.
	v.until(2, func(o *allView) bool { return o.Nodes[0].Missing != "" && len(o.Locks) == 2 })
	require.Contains(t, v.text(1, "list", "--all-nodes"), "node 2 (node2) is missing")
}

// allNodes calls dlmlockctl on nodes.
type allNodes struct {
	t       *testing.T
	cluster *lab.Cluster
}

func (v *allNodes) lock(node int, args ...string) {
	_, err := v.cluster.Node(node).Run(lab.Context(v.t, "lock", commandTime), append([]string{"dlmlockctl"}, args...)...)
	require.NoError(v.t, err)
}

// text is what a command writes, errors included.
func (v *allNodes) text(node int, args ...string) string {
	out, err := v.cluster.Node(node).Shell(lab.Context(v.t, "look", commandTime),
		"dlmlockctl "+strings.Join(args, " ")+" 2>&1")
	require.NoError(v.t, err, "%s", out)
	return out
}

// allView is the answer of list --all-nodes.
type allView struct {
	Locks []struct {
		Node     int
		NodeName string `json:"node_name"`
		Resource string
		Owner    string
		State    string
	}
	Nodes []struct {
		Node    int
		Name    string
		Version string
		Missing string
	}
}

func (o *allView) names() (names []string) {
	for _, l := range o.Locks {
		names = append(names, strings.Join([]string{string(rune('0' + l.Node)), l.NodeName, l.Resource,
			cmp.Or(l.Owner, "-"), l.State}, " "))
	}
	return names
}

// until asks until it is as it should be.
func (v *allNodes) until(node int, good func(*allView) bool) *allView {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), time.Minute)
	defer cancel()
	last := ""
	for {
		out, err := v.cluster.Node(node).Run(ctx, "dlmlockctl", "list", "--all-nodes", "--json")
		require.NoError(v.t, err, "%s; before: %s", out, last)
		last = out
		o := new(allView)
		if i := strings.Index(out, "{"); i >= 0 {
			require.NoError(v.t, json.NewDecoder(strings.NewReader(out[i:])).Decode(o), "%s", out)
		}
		if len(o.Nodes) == 3 && good(o) {
			return o
		}
		select {
		case <-ctx.Done():
			require.FailNow(v.t, "it does not come", "%s", out)
		case <-time.After(300 * time.Millisecond):
		}
	}
}
