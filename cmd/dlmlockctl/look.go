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

func (a *app) listCmd() *cobra.Command {
	var f client.Filter
	cmd := &cobra.Command{
		Use:               "list [LOCKSPACE [RESOURCE]] [--owner=OWNER] [--uid=UID] [--mode=MODE] [--state=STATE]",
		Aliases:           []string{"ls"},
		Short:             "List the locks of the service on this node",
		Args:              cobra.MaximumNArgs(2),
		ValidArgsFunction: a.complete(lockspaces, resources),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				f.Lockspace = args[0]
			}
			if len(args) > 1 {
				f.Resource = args[1]
			}
			f.HasUID = cmd.Flags().Changed("uid")
			return a.with(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
				locks, err := c.Locks(ctx, f)
				if err == nil && len(locks) == 0 && f.Lockspace != "" {
					err = known(ctx, c, f.Lockspace)
				}
				if err != nil {
					return about(err, f.Lockspace, f.Resource)
				}
				return a.show(locks, func() {
					if len(locks) == 0 {
						a.none("locks")
						return
					}
					a.lockTable(locks)
				})
			})
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.Owner, "owner", "o", "", "only of this owner")
	fl.Uint32Var(&f.UID, "uid", 0, "only of this user id")
	fl.StringVarP(&f.Mode, "mode", "m", "", "only in this mode")
	fl.StringVar(&f.State, "state", "", "only in this state: acquiring, held, converting, releasing")
	fl.IntVarP(&f.Limit, "limit", "n", 0, "at most so many (default: all)")
	a.completeFlag(cmd, "owner", owners)
	a.completeFlag(cmd, "mode", modes)
	a.completeFlag(cmd, "state", fixed("acquiring", "held", "converting", "releasing"))
	return cmd
}

// known returns an error if the service does not know a lockspace: a listing of it
// is as empty as that of one without locks.
func known(ctx context.Context, c *client.Client, lockspace string) error {
	spaces, err := c.Lockspaces(ctx)
	if err != nil || slices.ContainsFunc(spaces, func(s client.Lockspace) bool { return s.Name == lockspace }) {
		return err
	}
	return &client.Error{Op: "list", Kind: client.NoSuchLockspace,
		Message: "list " + lockspace + ": the lockspace is not joined here"}
}

// lockTable shows locks to people.
func (a *app) lockTable(locks []client.Lock) {
	t := table{heading: []string{"LOCKSPACE", "RESOURCE", "MODE", "STATE", "LOCKID", "TOKEN", "UID", "PID", "LIFETIME", "SINCE", "OWNER", "LABEL"}}
	for _, l := range locks {
		t.add(text(l.Lockspace), text(l.Resource), text(modes2(l.Mode, l.Wanted)), state(l.State), number(l.LockID), tokenCell(l.Token),
			number(l.UID), number(l.PID), text(l.Lifetime), clock(l.Since), text(l.Owner), text(l.Label))
	}
	t.write(a.out)
}

// modes2 is a mode and the one that is waited for.
func modes2(mode, wanted string) string {
	if wanted == "" {
		return mode
	}
	return mode + "->" + wanted
}

var stateColours = map[string]colour{
	"held": green, "ready": green,
	"acquiring": yellow, "converting": yellow, "releasing": yellow, "joining": yellow, "leaving": yellow,
	"failed": red, "stopped": red,
}

func state(s string) cell { return cell{visible(s), stateColours[s]} }

func (a *app) inspectCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "inspect LOCKSPACE RESOURCE",
		Short:             "Show all that is known of one resource, on this node and others",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.complete(lockspaces, resources),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
				in, err := c.Inspect(ctx, args[0], args[1])
				if err != nil {
					return about(err, args[0], args[1])
				}
				return a.show(in, func() { a.inspection(args[0], args[1], &in) })
			})
		},
	}
}

// inspection shows a resource to people.
func (a *app) inspection(space, resource string, in *client.Inspection) {
	a.printf("%s/%s: %s\n", visible(space), visible(resource), situation(in))
	if len(in.Locks) > 0 {
		a.printf("\nLocks of this service:\n")
		a.lockTable(in.Locks)
	}
	queues := table{heading: []string{"QUEUE", "NODE", "LOCKID", "MODE"}}
	for _, q := range []struct {
		name string
		in   []client.Queued
	}{{"granted", in.Granted}, {"converting", in.Converting}, {"waiting", in.Waiting}} {
		for _, l := range q.in {
			queues.add(text(q.name), number(l.Node), number(l.LockID), text(modes2(l.Mode, l.Wanted)))
		}
	}
	if len(queues.rows) > 0 {
		a.printf("\nWhat the lock manager shows (%s):\n", sight(in))
		queues.write(a.out)
	}
	if len(in.Waits) > 0 {
		a.printf("\nWho waits for whom:\n")
	}
	for _, w := range in.Waits {
		a.printf("%s waits for %s\n", party(w.Who, w.Node, w.Mode), party(w.ForWho, w.ForNode, w.ForMode))
	}
	if h := in.Holder; h != nil && h.Node != 0 {
		a.printf("\nLast holder to write the lock value block: %s, node %d, %s, token %d\n", orDash(h.Who), h.Node, visible(h.Mode), h.Token)
	}
	if in.ValueInvalid != nil && *in.ValueInvalid {
		a.printf("\nThe lock value block is not valid: a node died holding the lock.\n")
	}
	for _, l := range in.Lost {
		a.printf("\nLOST: lockid %d %s, owner %s, at %s: %s\n", l.LockID, visible(l.Mode), orDash(l.Owner), clock(l.When).text, visible(l.Reason))
	}
	for _, m := range in.Missing {
		a.printf("\nNot known: %s\n", visible(m))
	}
}

// party is one side of a wait, in words.
func party(who string, node uint32, mode string) string {
	switch {
	case node == 0:
		return "somebody on another node"
	case who == "":
		return fmt.Sprintf("node %d (%s)", node, visible(mode))
	}
	return fmt.Sprintf("%s (node %d, %s)", visible(who), node, visible(mode))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return visible(s)
}

// situation sums a resource up.
func situation(in *client.Inspection) string {
	var parts []string
	if who := holders(in); who != "" {
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

// sight says how much of the queues can be seen from here.
func sight(in *client.Inspection) string {
	switch {
	case in.Complete != nil && *in.Complete:
		return "locks of all nodes"
	case in.Master != 0:
		return fmt.Sprintf("this node's locks; node %d has the rest", in.Master)
	}
	return "this node's locks"
}

func (a *app) statusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show how the service does",
		Long: `Shows how the service does. It is not started for that; the exit code is 69 if
it does not run.`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
				c.AutoStart(false)
				st, err := c.Status(ctx)
				if err != nil {
					return err
				}
				return a.show(st, func() { a.status(st) })
			})
		},
	}
}

// latency sums up how long grants took.
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

// status shows the properties to people: first those that matter, in this
// order, then whatever else a newer service has.
func (a *app) status(st map[string]any) {
	first := []string{"Version", "Commit", "BuildDate", "Engine", "ClusterName", "NodeID", "NodeName", "QuorumState", "Quorate", "LockspaceCount", "LockCount", "WaitingCount", "Degraded"}
	paint := coloured(a.out)
	line := func(name string) {
		v := visible(fmt.Sprint(st[name]))
		if l, ok := st[name].(client.Latency); ok {
			v = latency(&l)
		}
		bad := name == "Degraded" && st[name] != "" || name == "QuorumState" && st[name] != "quorate" || name == "Quorate" && st[name] == false
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
