package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/client"
)

// waitOn is one wait, with the resource that it is for.
type waitOn struct {
	Lockspace string `json:"lockspace"`
	Resource  string `json:"resource"`
	client.Wait
	// The names of the nodes of the wait; "" where they are not known.
	NodeName    string `json:"node_name,omitempty"`
	ForNodeName string `json:"for_node_name,omitempty"`
	Deadlock    bool   `json:"deadlock,omitempty"` // it is part of a circle of waits
}

// defaultLooks is how many resources without a waiter of this node are looked at
// for waiters of others. Each look reads the tables of the lock manager.
const defaultLooks = 100

func (a *app) treeCmd() *cobra.Command {
	looks, all := defaultLooks, false
	cmd := &cobra.Command{
		Use:   "tree [LOCKSPACE [RESOURCE]] [--all-nodes] [--looks=N]",
		Short: "Show who waits for whom",
		Long: `Shows who waits for whom, over all resources on which the service has locks on
this node. Below each holder are the locks that wait for it, and below those the
locks that wait for them, also on other resources. Deadlocks, circles in which nobody
will ever get a lock, are marked.

To find waiters on other nodes, it looks at each resource with a waiter on this node
and at up to --looks others. The node that keeps the queues of a resource sees all its
waiters; others see their own. With --all-nodes it asks the services on all nodes,
which know every waiter, its owner and where the queues are kept.`,
		SuggestFor:        []string{"blockers", "graph"},
		Args:              needs(0, "LOCKSPACE", "RESOURCE"),
		ValidArgsFunction: a.complete(lockspaces, resources),
		RunE: func(cmd *cobra.Command, args []string) error {
			var f client.Filter
			f.Lockspace, f.Resource = scope(args)
			if looks < 0 {
				return wrongUsage("--looks=%d: use 0 or more", looks)
			}
			return a.with(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
				if all {
					return a.treeAll(ctx, c, f)
				}
				return a.tree(ctx, c, f, looks)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all-nodes", false, "ask the services on all nodes")
	cmd.Flags().IntVar(&looks, "looks", looks, "how many resources without a waiter on this node to look at")
	return cmd
}

func (a *app) tree(ctx context.Context, c *client.Client, f client.Filter, looks int) error {
	locks, err := c.Locks(ctx, f)
	if err == nil && len(locks) == 0 && f.Lockspace != "" {
		err = known(ctx, c, f.Lockspace)
	}
	if err != nil {
		return about(err, f.Lockspace, f.Resource)
	}
	contended, others := resourcesOf(locks)
	unseen := max(len(others)-looks, 0)
	waits, names := []waitOn{}, namesOf(ctx, c)
	for _, r := range append(contended, others[:len(others)-unseen]...) {
		in, err := c.Inspect(ctx, r[0], r[1])
		if err != nil {
			return about(err, r[0], r[1])
		}
		for _, w := range in.Waits {
			waits = append(waits, names.wait(r[0], r[1], w))
		}
	}
	forest := growForest(waits)
	if unseen > 0 && !a.quiet {
		fmt.Fprintf(a.err, "dlmlockctl: %s without a waiter on this node not looked at; see --looks\n", plural(unseen,
			"resource"))
	}
	return a.show(waits, func() {
		if len(waits) == 0 {
			fmt.Fprintln(a.err, "Nobody waits.")
			return
		}
		forest.write(a.out)
	})
}

// resourcesOf returns the resources of locks: those for which one of the locks
// waits, and the others.
func resourcesOf(locks []client.Lock) (contended, others [][2]string) {
	waits := map[[2]string]bool{}
	var order [][2]string
	for _, l := range locks {
		r := [2]string{l.Lockspace, l.Resource}
		if _, seen := waits[r]; !seen {
			order = append(order, r)
		}
		waits[r] = waits[r] || l.Wanted != ""
	}
	for _, r := range order {
		if waits[r] {
			contended = append(contended, r)
		} else {
			others = append(others, r)
		}
	}
	return contended, others
}

// forest is who waits for whom, by party: an owner on a node, as far as it is known.
type forest struct {
	names   map[string]string    // how each party is called
	below   map[string][]*waitOn // the waits for it
	waiting map[string][]*waitOn // its own waits
	queued  map[string]bool      // the locks that wait
	shown   map[string]bool
	b       strings.Builder
}

// growForest makes a forest of waits, and marks those that are part of a circle.
func growForest(waits []waitOn) *forest {
	f := &forest{names: map[string]string{}, below: map[string][]*waitOn{}, waiting: map[string][]*waitOn{},
		queued: map[string]bool{}, shown: map[string]bool{}}
	for i := range waits {
		w := &waits[i]
		from, to := w.parties()
		f.names[from] = partyName(w.Who, w.Node, w.NodeName)
		f.names[to] = partyName(w.ForWho, w.ForNode, w.ForNodeName)
		f.below[to] = append(f.below[to], w)
		f.waiting[from] = append(f.waiting[from], w)
		if w.LockID != 0 {
			f.queued[w.lock(w.LockID)] = true
		}
	}
	for i := range waits {
		from, to := waits[i].parties()
		waits[i].Deadlock = f.reaches(to, from, map[string]bool{})
	}
	return f
}

// lock identifies a lock on the resource of the wait.
func (w *waitOn) lock(id uint32) string {
	return fmt.Sprintf("%s\x00%s\x00%d", w.Lockspace, w.Resource, id)
}

// parties identifies the waiter and the one that it waits for. One that has no name
// is known by its lock.
func (w *waitOn) parties() (from, to string) {
	party := func(node uint32, who string, lockid uint32) string {
		if who == "" {
			who = "\x00" + w.lock(lockid)
		}
		return fmt.Sprintf("%d\x00%s", node, who)
	}
	return party(w.Node, w.Who, w.LockID), party(w.ForNode, w.ForWho, w.ForID)
}

// wait adds the resource and the names of the nodes to a wait.
func (n nodeNames) wait(lockspace, resource string, w client.Wait) waitOn {
	return waitOn{Lockspace: lockspace, Resource: resource, Wait: w, NodeName: n[w.Node], ForNodeName: n[w.ForNode]}
}

func partyName(who string, node uint32, name string) string {
	names := nodeNames{node: name}
	switch {
	case node == 0 && who == "":
		return "somebody on another node"
	case node == 0:
		return visible(who)
	case who == "":
		return "somebody on " + names.node(node)
	}
	return names.on(node, who)
}

// reaches reports whether one party waits for another, directly or through others.
func (f *forest) reaches(from, to string, seen map[string]bool) bool {
	if from == to {
		return true
	}
	if seen[from] {
		return false
	}
	seen[from] = true
	for _, w := range f.waiting[from] {
		if _, next := w.parties(); f.reaches(next, to, seen) {
			return true
		}
	}
	return false
}

// write draws the trees: first below those that wait for nobody, and then the
// circles, each from one of its parties.
func (f *forest) write(w io.Writer) {
	all := slices.SortedFunc(maps.Keys(f.below), func(a, b string) int { return strings.Compare(f.names[a], f.names[b]) })
	for _, root := range all {
		if len(f.waiting[root]) == 0 {
			f.root(root)
		}
	}
	for _, root := range all {
		if !f.shown[root] {
			f.root(root)
		}
	}
	_, _ = io.WriteString(w, f.b.String()) // output remembers an error
}

func (f *forest) root(party string) {
	f.b.WriteString(f.names[party] + "\n")
	f.shown[party] = true
	f.branch(party, "", []string{party})
}

// branch draws the waits for a party. path are the parties above.
func (f *forest) branch(party, indent string, path []string) {
	waits := f.below[party]
	for i, w := range waits {
		fork, deeper := "├─ ", "│  "
		if i == len(waits)-1 {
			fork, deeper = "└─ ", "   "
		}
		from, _ := w.parties()
		fmt.Fprintf(&f.b, "%s%s%s waits for %s/%s %s",
			indent, fork, f.names[from], visible(w.Lockspace), visible(w.Resource), visible(w.Mode))
		if f.queued[w.lock(w.ForID)] {
			f.b.WriteString(", behind " + visible(w.ForMode) + " in the queue")
		} else if w.ForMode != "" {
			f.b.WriteString(", held in " + visible(w.ForMode))
		}
		circle := slices.Contains(path, from)
		if circle {
			f.b.WriteString(" (DEADLOCK: it is waited for above)")
		}
		f.b.WriteByte('\n')
		f.shown[from] = true
		if !circle {
			f.branch(from, indent+deeper, append(slices.Clone(path), from))
		}
	}
}
