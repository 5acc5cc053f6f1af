package lab

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dlmlock/dlmlockd/lab/agent"
	"github.com/dlmlock/dlmlockd/lab/guest"
)

// ClusterName is the corosync cluster's name.
const ClusterName = "lab"

// corosyncConf writes corosync.conf(5) for the cluster.
func (c *Cluster) corosyncConf() string {
	var b strings.Builder
	fmt.Fprintf(&b, `totem {
  version: 2
  cluster_name: %s
  transport: udpu
  token: %d
  consensus: %d
}
quorum {
  provider: corosync_votequorum
`, ClusterName, c.config.Token.Milliseconds(), c.consensus().Milliseconds())
	if len(c.nodes) == 2 {
		// Two nodes have no majority without each other. wait_for_all would
		// keep a node that restarts alone from ever being quorate.
		b.WriteString("  two_node: 1\n  wait_for_all: 0\n")
	}
	b.WriteString("}\nlogging {\n  to_stderr: yes\n  to_syslog: no\n  timestamp: hires\n}\nnodelist {\n")
	for _, n := range c.nodes {
		fmt.Fprintf(&b, "  node {\n    ring0_addr: %s\n    nodeid: %d\n    name: %s\n  }\n", n.Addr, n.ID, n.Name)
	}
	b.WriteString("}\n")
	return b.String()
}

// consensus is how long the nodes take to agree on who is left, after the token
// was lost. Two nodes may take less than the token's time (corosync.conf(5)).
func (c *Cluster) consensus() time.Duration {
	if len(c.nodes) == 2 {
		return c.config.Token * 2 / 5
	}
	return c.config.Token * 6 / 5
}

// dlmConf writes dlm.conf(5) for the cluster. After quorum has come back
// dlm_controld fences those that are still missing, by default half a minute
// later. Within ten seconds a node whose start has brought the quorum back joins,
// and is not fenced for its last end.
func (c *Cluster) dlmConf() string {
	if !c.config.Fencing {
		return "enable_fencing=0\nenable_startup_fencing=0\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "enable_fencing=1\nenable_startup_fencing=0\npost_join_delay=10\ndevice labfence %s x=1\n",
		guest.FencePath)
	for _, n := range c.nodes {
		fmt.Fprintf(&b, "connect labfence node=%d id=%d\n", n.ID, n.ID)
	}
	return b.String()
}

// JoinDLM starts corosync and dlm_controld on all nodes and returns when every
// node is a member and its dlm_controld answers.
func (c *Cluster) JoinDLM(ctx context.Context) error {
	err := c.each(func(n *Node) error { return n.JoinDLM(ctx) })
	if err == nil {
		c.config.Log.Info("lab: the DLM is ready", "after", time.Since(c.started))
	}
	return err
}

// JoinDLM starts corosync and dlm_controld on one node, and returns when all
// nodes that are up are members and its dlm_controld answers.
func (n *Node) JoinDLM(ctx context.Context) error {
	steps := []struct {
		what string
		do   func(context.Context) error
	}{
		{"configuration", n.configure},
		{"udev", n.startUdev},
		{"corosync", n.startCorosync},
		{"members", func(ctx context.Context) error { return n.WaitMembers(ctx, n.cluster.upIDs()...) }},
		{"dlm_controld", n.startControld},
	}
	for _, s := range steps {
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
		n.cluster.config.Log.Debug("lab: join", "node", n.ID, "step", s.what, "after", time.Since(n.cluster.started))
	}
	return nil
}

func (c *Cluster) upIDs() []int {
	var ids []int
	for _, n := range c.nodes {
		if n.Up() {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

func (n *Node) configure(ctx context.Context) error {
	files := map[string]string{
		"/etc/corosync/corosync.conf": n.cluster.corosyncConf(),
		"/etc/dlm/dlm.conf":           n.cluster.dlmConf(),
		"/etc/default/dlm":            "DLM_CONTROLD_OPTS=-D\n",
	}
	for path, body := range files {
		if err := n.Put(ctx, path, 0o644, []byte(body)); err != nil {
			return err
		}
	}
	return nil
}

// startUdev makes udev link the misc devices, also later ones; libdlm looks
// for the links. Triggering every device would take half a minute.
func (n *Node) startUdev(ctx context.Context) error {
	if n.cluster.config.Systemd {
		return nil // lab-udev.service
	}
	_, err := n.Shell(ctx,
		"[ -e /run/udev/control ] || /lib/systemd/systemd-udevd --daemon && udevadm trigger --subsystem-match=misc --settle")
	return err
}

func (n *Node) startCorosync(ctx context.Context) error {
	if n.cluster.config.Systemd {
		if err := n.WaitSystemd(ctx); err != nil {
			return err
		}
		_, err := n.Run(ctx, "systemctl", "start", "corosync.service")
		return err
	}
	_, err := n.Daemon(ctx, "corosync", agent.Command{Argv: []string{"corosync", "-f"}})
	return err
}

func (n *Node) startControld(ctx context.Context) error {
	if n.cluster.config.Systemd {
		if _, err := n.Run(ctx, "systemctl", "start", "dlm.service"); err != nil {
			return err
		}
	} else if _, err := n.Daemon(ctx, "dlm_controld", agent.Command{Argv: []string{"dlm_controld", "-D"}}); err != nil {
		return err
	}
	return n.retry(ctx, func() error {
		// Its exit status is 0 also when dlm_controld does not answer.
		out, err := n.Run(ctx, "dlm_tool", "status")
		if err == nil && !strings.Contains(out, "cluster nodeid") {
			err = errors.New(strings.TrimSpace(out))
		}
		return err
	})
}

// StopControld ends dlm_controld (SIGTERM, which it refuses while lockspaces
// exist) and waits until it is gone; force kills it instead.
func (n *Node) StopControld(ctx context.Context, force bool) error {
	sig := "-TERM"
	if force {
		sig = "-KILL"
	}
	if _, err := n.Run(ctx, "pkill", sig, "-x", "dlm_controld"); err != nil {
		return err
	}
	return n.retry(ctx, func() error {
		if _, err := n.Run(ctx, "pgrep", "-x", "dlm_controld"); err == nil {
			return errors.New("dlm_controld is still running")
		}
		return nil
	})
}

// StartControld starts dlm_controld again after StopControld.
func (n *Node) StartControld(ctx context.Context) error { return n.startControld(ctx) }

// retry repeats a step that fails while something is still starting.
func (n *Node) retry(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil || errors.Is(err, ErrDown) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", context.Cause(ctx), err)
		case <-n.Gone():
			return fmt.Errorf("%w; last: %w", ErrDown, err)
		case <-time.After(400 * time.Millisecond):
		}
	}
}

// Quorum is what corosync on one node thinks.
type Quorum struct {
	Quorate bool
	Members []int // node ids, in order
}

var (
	quorateLine = regexp.MustCompile(`(?m)^Quorate:\s+Yes`)
	memberLine  = regexp.MustCompile(`(?m)^\s+(\d+)\s+\d+\s+(?:\S+\s+)?node\d+`)
)

// parseQuorum reads the output of "corosync-quorumtool -s".
func parseQuorum(out string) Quorum {
	q := Quorum{Quorate: quorateLine.MatchString(out)}
	for _, m := range memberLine.FindAllStringSubmatch(out, -1) {
		id, err := strconv.Atoi(m[1])
		if err == nil {
			q.Members = append(q.Members, id)
		}
	}
	slices.Sort(q.Members)
	return q
}

// Quorum asks the node's corosync.
func (n *Node) Quorum(ctx context.Context) (Quorum, error) {
	out, err := n.Run(ctx, "corosync-quorumtool", "-s")
	// Without quorum it exits with another status than 0.
	if err != nil && !strings.Contains(out, "Quorate:") {
		return Quorum{}, err
	}
	return parseQuorum(out), nil
}

// WaitMembers waits until the node's corosync has exactly these members and,
// with them, quorum if they are a majority.
func (n *Node) WaitMembers(ctx context.Context, ids ...int) error {
	slices.Sort(ids)
	return n.retry(ctx, func() error {
		q, err := n.Quorum(ctx)
		if err == nil && !slices.Equal(q.Members, ids) {
			err = fmt.Errorf("members are %v, not %v", q.Members, ids)
		}
		return err
	})
}

// WaitMembers waits until all these nodes see exactly each other.
func (c *Cluster) WaitMembers(ctx context.Context, ids ...int) error {
	var nodes []*Node
	for _, id := range ids {
		nodes = append(nodes, c.Node(id))
	}
	return onEach(nodes, func(n *Node) error { return n.WaitMembers(ctx, slices.Clone(ids)...) })
}

// JoinLockspace joins a lockspace with dlm_tool. The first join after
// dlm_controld's start can fail for a moment, it is repeated.
func (n *Node) JoinLockspace(ctx context.Context, name string) error {
	return n.retry(ctx, func() error {
		_, err := n.Run(ctx, "dlm_tool", "join", name)
		return err
	})
}

// LeaveLockspace leaves a lockspace with dlm_tool.
func (n *Node) LeaveLockspace(ctx context.Context, name string) error {
	_, err := n.Run(ctx, "dlm_tool", "leave", name)
	return err
}

// WaitLockspaceMembers waits until the node sees exactly these members in a lockspace. If the node
// can't be asked, that is an error at once.
func (n *Node) WaitLockspaceMembers(ctx context.Context, name string, ids ...int) error {
	ids = slices.Sorted(slices.Values(ids))
	for {
		members, _, err := n.LockspaceMembers(ctx, name)
		if err != nil || slices.Equal(members, ids) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: members of %s are %v, not %v: %w", n.Name, name, members, ids, context.Cause(ctx))
		case <-time.After(600 * time.Millisecond):
		}
	}
}

// LockspaceMembers returns the node ids that "dlm_tool ls" shows for a
// lockspace, and its flags or wait reason as dlm_tool prints them.
func (n *Node) LockspaceMembers(ctx context.Context, name string) (members []int, change string, err error) {
	out, err := n.Run(ctx, "dlm_tool", "ls", name)
	if err != nil {
		return nil, "", err
	}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		switch {
		case len(f) > 1 && f[0] == "members":
			for _, m := range f[1:] {
				if id, err := strconv.Atoi(m); err == nil {
					members = append(members, id)
				}
			}
		case len(f) > 1 && (f[0] == "change" || f[0] == "new"):
			change += strings.TrimSpace(line) + "\n"
		}
	}
	slices.Sort(members)
	return members, change, nil
}

// fence powers off a node for dlm_controld of another one.
func (c *Cluster) fence(by *Node, victim string) error {
	id, err := strconv.Atoi(victim)
	if err != nil || id < 1 || id > len(c.nodes) {
		return fmt.Errorf("fence: no node %q", victim)
	}
	if c.config.BeforeFence != nil {
		c.config.BeforeFence(by, id)
	}
	if err := c.Node(id).Crash(); err != nil {
		c.config.Log.Error("lab: fencing failed", "node", id, "by", by.ID, "err", err)
		return err
	}
	c.config.Log.Info("lab: fenced", "node", id, "by", by.ID)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fenced = append(c.fenced, Fenced{Node: id, By: by.ID, At: time.Now()})
	return nil
}

// Fenced tells of one node that was powered off for another.
type Fenced struct {
	Node, By int
	At       time.Time // when it was off
}

// Fenced returns what was fenced so far, in order.
func (c *Cluster) Fenced() []Fenced {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.fenced)
}

// WaitFenced waits until a node has been powered off for another one, and
// returns the first time that it was.
func (c *Cluster) WaitFenced(ctx context.Context, id int) (Fenced, error) {
	for {
		for _, f := range c.Fenced() {
			if f.Node == id {
				return f, nil
			}
		}
		select {
		case <-ctx.Done():
			return Fenced{}, fmt.Errorf("nobody fenced node %d: %w", id, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
