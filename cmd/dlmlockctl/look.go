package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/client"
)

func (a *app) inspectCmd() *cobra.Command {
	all := false
	cmd := &cobra.Command{
		Use:   "inspect LOCKSPACE RESOURCE [--all-nodes]",
		Short: "Show what is known of a resource, on this node and others",
		Long: `Shows what is known of a resource, on this node and others: who holds it, who
waits, and, if it is stuck, why.

The lock value block has room for only 8 bytes of the holder's label or owner, so
"Last holder to write the lock value block" may show only the beginning of it.`,
		Example:           "  dlmlockctl inspect vms disk1",
		SuggestFor:        []string{"show", "info", "describe", "who", "stat"},
		Args:              needs(2, "LOCKSPACE", "RESOURCE"),
		ValidArgsFunction: a.complete(lockspaces, resources),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
				if all {
					return a.inspectAll(ctx, c, args[0], args[1])
				}
				in, err := c.Inspect(ctx, args[0], args[1])
				if err != nil {
					return about(err, args[0], args[1])
				}
				forgetPIDs(ctx, c, in.Locks)
				out := inspected{in, namesOf(ctx, c)}
				return a.show(out, func() { a.inspection(args[0], args[1], &in, out.Names) })
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all-nodes", false, "also ask the services on the other nodes")
	return cmd
}

// inspected is what inspect writes as JSON. data/dlmlockctl.schema.json describes it.
type inspected struct {
	client.Inspection
	Names nodeNames `json:"node_names,omitempty"` // of the nodes by number, where corosync knows them
}

// inspection shows a resource to people: first a line that sums it up, then what this service knows, then
// what the lock manager shows, and at last what could not be looked at.
func (p *printer) inspection(space, resource string, in *client.Inspection, names nodeNames) {
	p.printf("%s/%s: %s\n", visible(space), visible(resource), situation(in, names))
	if len(in.Locks) > 0 {
		p.printf("\nLocks of this service:\n")
		columns := inspectColumns
		if p.wide {
			columns = wideColumns
		}
		p.lockTable(in.Locks, columns, false).write(p.out)
	}
	if queues := queueTable(in, names); len(queues.rows) > 0 {
		p.printf("\nWhat the lock manager shows (%s):\n", sight(in, names))
		queues.write(p.out)
	}
	if len(in.Waits) > 0 {
		p.printf("\nWho waits for whom:\n")
	}
	for _, w := range in.Waits {
		p.printf("%s waits for %s\n", names.party(w.Who, w.Node, w.Mode),
			names.party(w.ForWho, w.ForNode, w.ForMode))
	}
	if h := in.Holder; h != nil && h.Node != 0 {
		p.printf("\nLast holder to write the lock value block: %s, %s, %s, token %d\n",
			orDash(h.Who), names.node(h.Node), visible(h.Mode), h.Token)
	}
	if in.ValueInvalid != nil && *in.ValueInvalid {
		p.printf("\nThe lock value block is not valid: a node died holding the lock.\n")
	}
	for _, l := range in.Lost {
		p.printf("\nLOST: lockid %d %s, owner %s, at %s: %s\n",
			l.LockID, visible(l.Mode), orDash(l.Owner), clock(l.When).text, visible(l.Reason))
	}
	for _, m := range in.Missing {
		p.printf("\nNot known: %s\n", visible(m))
	}
}

// queueTable shows the queues of the lock manager. The names of the nodes, where they
// are known, come last: the other columns keep their numbers.
func queueTable(in *client.Inspection, names nodeNames) *table {
	t := &table{heading: []string{"QUEUE", "NODE", "LOCKID", "MODE"}}
	if len(names) > 0 {
		t.heading = append(t.heading, "NAME")
	}
	for _, q := range []struct {
		name string
		in   []client.Queued
	}{{"granted", in.Granted}, {"converting", in.Converting}, {"waiting", in.Waiting}} {
		for _, l := range q.in {
			row := []cell{text(q.name), number(l.Node), number(l.LockID), text(modes2(l.Mode, l.Wanted)), text(names[l.Node])}
			t.add(row[:len(t.heading)]...)
		}
	}
	return t
}

// party describes one side of a wait.
func (n nodeNames) party(who string, node uint32, mode string) string {
	switch {
	case node == 0:
		return "somebody on another node"
	case who == "":
		return n.node(node, mode)
	}
	return n.on(node, who, mode)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return visible(s)
}

// situation summarizes the state of a resource. That no holder is seen does not mean that there is none: a
// node that is not the master sees its own locks alone.
func situation(in *client.Inspection, names nodeNames) string {
	var parts []string
	if who := names.holders(in.Obstacles("EX", client.Selector{})); who != "" {
		parts = append(parts, "held by "+who)
	} else {
		parts = append(parts, "not held, as far as known")
	}
	if n := len(in.Waiting) + len(in.Converting); n > 0 {
		parts = append(parts, fmt.Sprintf("%d waiting", n))
	}
	if in.Stopped != nil && *in.Stopped {
		parts = append(parts, "the lockspace is STOPPED: "+visible(in.Reason))
	}
	if in.Quorate != nil && !*in.Quorate {
		parts = append(parts, "the cluster has NO QUORUM")
	}
	return strings.Join(parts, "; ")
}

// sight says which part of the queues this node sees.
func sight(in *client.Inspection, names nodeNames) string {
	switch {
	case in.Complete != nil && *in.Complete:
		return "locks of all nodes"
	case in.Master != 0:
		return fmt.Sprintf("this node's locks; %s has the rest", names.node(in.Master))
	}
	return "this node's locks"
}

func (a *app) statusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the state of the service",
		Long: `Shows the state of the service and its counters. The command does not start the
service; the exit code is 69 if it does not run.`,
		Args:              needs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
				c.AutoStart(false)
				st, err := c.Status(ctx)
				if err != nil {
					return err
				}
				return a.show(properties(st), func() { a.status(st) })
			})
		},
	}
}

// latency summarizes how long grants took.
func latency(l *client.Latency) string {
	if l.Count == 0 {
		return ""
	}
	s := fmt.Sprintf("mean %v", l.Mean())
	for _, part := range []struct {
		of   float64
		text string
	}{{0.5, "half"}, {0.99, "99%"}} {
		if d, ok := l.Within(part.of); ok {
			s += fmt.Sprintf(", %s within %v", part.text, d)
		}
	}
	return s
}

// status shows the properties to people: first the important ones, in this order,
// and then all others, which a newer service may have more of.
func (a *app) status(st map[string]any) {
	first := []string{"Version", "Commit", "BuildDate", "Engine", "ClusterName", "NodeID", "NodeName", "Nodes",
		"QuorumState",
		"Quorate",
		"LockspaceCount", "LockCount", "WaitingCount", "Degraded"}
	paint := coloured(a.out)
	line := func(name string) {
		v := visible(fmt.Sprint(st[name]))
		switch special := st[name].(type) {
		case client.Latency:
			v = latency(&special)
		case map[uint32]string:
			v = nodeNames(special).String()
		}
		bad := name == "Degraded" && st[name] != "" || name == "QuorumState" && st[name] != "quorate" ||
			name == "Quorate" && st[name] == false
		if v == "" {
			v = "-"
		}
		if bad && paint {
			v = string(red) + v + "\x1b[0m"
		}
		a.printf("%-18s%s\n", name+":", v)
	}
	for _, name := range first {
		if _, ok := st[name]; ok {
			line(name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(st)) {
		if !slices.Contains(first, name) {
			line(name)
		}
	}
}
