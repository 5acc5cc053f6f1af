package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/client"
)

// waiterOut is a lock that waits, with the names of the nodes.
type waiterOut struct {
	client.Waiter
	For        []blockerOut `json:"for"`
	MasterName string       `json:"master_name,omitempty"`
}

// blockerOut is a lock that is in the way, with the name of its node.
type blockerOut struct {
	client.Blocker
	NodeName string `json:"node_name,omitempty"`
}

// waitsList is what "waits" is asked for.
type waitsList struct {
	client.Filter
	noLegend bool
}

func (a *app) waitsCmd() *cobra.Command {
	var l waitsList
	cmd := &cobra.Command{
		Use:   "waits [LOCKSPACE [RESOURCE]] [--owner=OWNER] [--uid=UID]",
		Short: "List the locks that wait, and what each waits for",
		Long: `Lists the locks of the service on this node that wait, for their first grant or for
another mode, the longest wait first, and what each waits for: the holders, or the
lock before it in the queue.

Only the services of other nodes know what waits there. If another node keeps the
queues of a resource, the holder is known only if its mode is PW or EX. "dlmlockctl
tree" draws who waits for whom over several resources, and with --all-nodes over all
nodes.

On a terminal long names are shortened to fit the line; -o wide shows everything.`,
		Example: `  dlmlockctl waits vms
  dlmlockctl waits --owner=$uuid --json`,
		SuggestFor:        []string{"waiters", "queue", "waiting"},
		Args:              needs(0, "LOCKSPACE", "RESOURCE"),
		ValidArgsFunction: a.complete(lockspaces, resources),
		RunE: func(cmd *cobra.Command, args []string) error {
			l.Lockspace, l.Resource = scope(args)
			l.HasUID = cmd.Flags().Changed("uid")
			if cmd.Flags().Changed("limit") && l.Limit < 1 {
				return wrongUsage("--limit=%d: use 1 or more", l.Limit)
			}
			return a.with(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
				return l.show(ctx, a, c)
			})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&l.Owner, "owner", "", "only of this owner")
	fl.Uint32Var(&l.UID, "uid", 0, "only of this user id")
	fl.IntVar(&l.Limit, "limit", 0, "at most this many (default: all)")
	fl.BoolVar(&l.noLegend, "no-legend", false, "without the heading")
	a.completeFlag(cmd, "owner", owners)
	return cmd
}

func (l *waitsList) show(ctx context.Context, a *app, c *client.Client) error {
	waiters, err := c.Waits(ctx, l.Filter)
	if err == nil && len(waiters) == 0 && l.Lockspace != "" {
		err = known(ctx, c, l.Lockspace)
	}
	if err != nil {
		return about(err, l.Lockspace, l.Resource)
	}
	if len(waiters) > 0 && !c.SeesPIDs(ctx) {
		for i := range waiters {
			waiters[i].PID = 0 // of another namespace: it would name a wrong process here
		}
	}
	names := namesOf(ctx, c)
	out := make([]waiterOut, len(waiters))
	for i, w := range waiters {
		out[i] = names.waiter(w)
	}
	return a.show(out, func() {
		if len(out) == 0 {
			fmt.Fprintln(a.err, "Nobody waits.")
			return
		}
		a.waiterTable(out, l.noLegend).write(a.out)
	})
}

// waiter adds the names of the nodes to a lock that waits.
func (n nodeNames) waiter(w client.Waiter) waiterOut {
	out := waiterOut{Waiter: w, For: make([]blockerOut, len(w.For)), MasterName: n[w.Master]}
	for i, b := range w.For {
		out.For[i] = blockerOut{b, n[b.Node]}
	}
	return out
}

// waiterTable makes a table of locks that wait. Its columns are shortened on a terminal,
// except with --output=wide.
func (p *printer) waiterTable(waiters []waiterOut, noLegend bool) *table {
	t := &table{noLegend: noLegend, heading: []string{"RESOURCE", "MODE", "SINCE", "WHO", "WAITS FOR"}}
	if !p.wide {
		t.elastic = []string{"RESOURCE", "WHO", "WAITS FOR"}
	}
	for _, w := range waiters {
		t.add(text(w.Lockspace+"/"+w.Resource), text(modes2(w.Mode, w.Wanted)), since(w.Since, p.wide), text(w.Who),
			cell{w.blockers(), plain})
	}
	return t
}

// blockers names what a lock waits for, or says why that is not known.
func (w *waiterOut) blockers() string {
	var all []string
	for _, b := range w.For {
		how := "held"
		if b.Waits {
			how = "queued"
		}
		if b.Mode != "" {
			how += " in " + visible(b.Mode)
		}
		all = append(all, partyName(b.Who, b.Node, b.NodeName)+", "+how)
	}
	if len(all) == 0 && w.Missing != "" {
		return "not known: " + visible(w.Missing)
	}
	return strings.Join(all, "; ")
}
