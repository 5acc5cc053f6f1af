package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/dlmlock/dlmlockd/client"
)

// nodeLock is a lock with the node whose service has it.
type nodeLock struct {
	Node     uint32 `json:"node"`
	NodeName string `json:"node_name,omitempty"`
	client.Lock
}

// everywhere is what the services of all nodes have said. Those that could not be asked, or did not
// answer, have the reason in Missing.
type everywhere struct {
	Locks []nodeLock    `json:"locks"`
	Nodes []client.Node `json:"nodes"`
}

// askNodes lists the locks of all nodes, which it asks at the same time.
func askNodes(ctx context.Context, c *client.Client, f client.Filter) (*everywhere, error) {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	found := make([][]client.Lock, len(nodes))
	var work sync.WaitGroup
	for i := range nodes {
		n := &nodes[i]
		if !n.Answers {
			continue
		}
		of := f
		if !n.Self {
			of.Node = n.ID
		}
		work.Go(func() {
			var err error
			if found[i], err = c.Locks(ctx, of); err != nil {
				n.Missing = err.Error()
			}
		})
	}
	work.Wait()
	all := &everywhere{Locks: []nodeLock{}, Nodes: nodes}
	for i, locks := range found {
		for _, l := range locks {
			if !nodes[i].Self {
				l.PID = 0 // it means nothing here
			}
			all.Locks = append(all.Locks, nodeLock{nodes[i].ID, nodes[i].Name, l})
		}
	}
	if f.Limit > 0 && len(all.Locks) > f.Limit {
		all.Locks = all.Locks[:f.Limit]
	}
	return all, nil
}

// names are the names of the nodes.
func (e *everywhere) names() nodeNames {
	names := nodeNames{}
	for _, n := range e.Nodes {
		if n.Name != "" {
			names[n.ID] = n.Name
		}
	}
	return names
}

// tellMissing says which nodes are missing in what is shown. It is part of the answer, and is said
// with --quiet, too.
func (a *app) tellMissing(e *everywhere) {
	for _, n := range e.Nodes {
		if n.Missing != "" {
			fmt.Fprintf(a.err, "dlmlockctl: %s is missing: %s\n", e.names().node(n.ID), visible(n.Missing))
		}
	}
}

// listAll is list --all-nodes.
func (a *app) listAll(ctx context.Context, c *client.Client, f client.Filter, columns []string, noLegend bool) error {
	all, err := askNodes(ctx, c, f)
	if err != nil {
		return about(err, f.Lockspace, f.Resource)
	}
	a.tellMissing(all)
	return a.show(all, func() {
		if len(all.Locks) == 0 {
			a.none("locks")
			return
		}
		var locks []client.Lock
		for _, l := range all.Locks {
			locks = append(locks, l.Lock)
		}
		t := a.lockTable(locks, columns, noLegend)
		t.heading = append([]string{"NODE"}, t.heading...)
		for i := range t.rows {
			t.rows[i] = append([]cell{text(cmp.Or(all.Locks[i].NodeName, fmt.Sprint(all.Locks[i].Node)))}, t.rows[i]...)
		}
		t.write(a.out)
	})
}

// fullView inspects a resource where its queues are kept, and names those who stand in them.
func fullView(ctx context.Context, c *client.Client, lockspace, resource string, all *everywhere) (client.Inspection,
	error) {
	in, err := c.Inspect(ctx, lockspace, resource)
	if err != nil && len(all.Locks) == 0 {
		return in, err
	}
	complete := func(in *client.Inspection) bool { return in.Complete != nil && *in.Complete }
	ask := []uint32{in.Master}
	for _, l := range all.Locks {
		if l.Lockspace == lockspace && l.Resource == resource {
			ask = append(ask, l.Node)
		}
	}
	asked := map[uint32]bool{0: true}
	for len(ask) > 0 && !complete(&in) {
		node := ask[0]
		ask = ask[1:]
		if asked[node] {
			continue
		}
		asked[node] = true
		there, err := c.InspectNode(ctx, node, lockspace, resource)
		switch {
		case err != nil:
			in.Missing = append(in.Missing, err.Error())
		case complete(&there):
			in.Granted, in.Converting, in.Waiting, in.Waits = there.Granted, there.Converting, there.Waiting, there.Waits
			in.Complete, in.Master, in.Missing = there.Complete, there.Master, there.Missing
		default:
			ask = append([]uint32{there.Master}, ask...)
		}
	}
	nameWaits(in.Waits, lockspace, resource, all)
	return in, nil
}

// nameWaits says who waits and is waited for where the master does not know it, but the service of
// that node does. Of several in the same mode on one node nobody can tell which is meant.
func nameWaits(waits []client.Wait, lockspace, resource string, all *everywhere) {
	who := func(node uint32, waits, holds string) string {
		var found []string
		for _, l := range all.Locks {
			if l.Node == node && l.Lockspace == lockspace && l.Resource == resource &&
				(waits != "" && l.Wanted == waits || holds != "" && (l.Mode == holds || l.Wanted == holds)) {
				found = append(found, cmp.Or(l.Owner, l.Label, fmt.Sprintf("uid %d", l.UID)))
			}
		}
		if slices.Sort(found); len(slices.Compact(found)) == 1 {
			return found[0]
		}
		return ""
	}
	for i := range waits {
		w := &waits[i]
		w.Who = cmp.Or(who(w.Node, w.Mode, ""), w.Who)
		w.ForWho = cmp.Or(who(w.ForNode, "", w.ForMode), w.ForWho)
	}
}

// inspectedAll is inspect --all-nodes.
type inspectedAll struct {
	Inspection client.Inspection `json:"inspection"`
	everywhere
}

func (a *app) inspectAll(ctx context.Context, c *client.Client, lockspace, resource string) error {
	all, err := askNodes(ctx, c, client.Filter{Lockspace: lockspace, Resource: resource})
	if err != nil {
		return about(err, lockspace, resource)
	}
	in, err := fullView(ctx, c, lockspace, resource, all)
	if err != nil {
		return about(err, lockspace, resource)
	}
	forgetPIDs(ctx, c, in.Locks)
	a.tellMissing(all)
	return a.show(inspectedAll{in, *all}, func() {
		a.inspection(lockspace, resource, &in, all.names())
		for _, n := range all.Nodes {
			var locks []client.Lock
			for _, l := range all.Locks {
				if l.Node == n.ID && !n.Self {
					locks = append(locks, l.Lock)
				}
			}
			if len(locks) > 0 {
				a.printf("\nLocks of the service on %s:\n", all.names().node(n.ID))
				a.lockTable(locks, inspectColumns, false).write(a.out)
			}
		}
	})
}

// treeAll is tree --all-nodes: each resource with a waiter on any node is looked at where its
// queues are kept.
type treeAllOut struct {
	Waits []waitOn      `json:"waits"`
	Nodes []client.Node `json:"nodes"`
}

func (a *app) treeAll(ctx context.Context, c *client.Client, f client.Filter) error {
	all, err := askNodes(ctx, c, f)
	if err != nil {
		return about(err, f.Lockspace, f.Resource)
	}
	var locks []client.Lock
	for _, l := range all.Locks {
		locks = append(locks, l.Lock)
	}
	contended, _ := resourcesOf(locks)
	waits, names := []waitOn{}, all.names()
	for _, r := range contended {
		in, err := fullView(ctx, c, r[0], r[1], all)
		if err != nil {
			return about(err, r[0], r[1])
		}
		for _, w := range in.Waits {
			waits = append(waits, names.wait(r[0], r[1], w))
		}
	}
	forest := growForest(waits)
	a.tellMissing(all)
	return a.show(treeAllOut{waits, all.Nodes}, func() {
		if len(waits) == 0 {
			fmt.Fprintln(a.err, "Nobody waits.")
			return
		}
		forest.write(a.out)
	})
}
