package scale

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
)

// A Workload says which nodes have locks on what.
type Workload struct {
	Nodes, Resources int
	// Sharers is how many nodes have a lock on each resource: 1 for EX, more for PR.
	Sharers int
	Seed    uint64
}

// nameLength is that of the names of a Workload: a UUID without hyphens.
const nameLength = 32

// Name returns the name of a resource.
func Name(i int) string { return fmt.Sprintf("%0*x", nameLength, uint64(i)*0x9e3779b97f4a7c15) }

// Cluster is a simulated cluster with the locks of a Workload.
type Cluster struct {
	Workload
	local   *local.Cluster
	nodes   []*local.Node
	engines []*local.Engine
}

const space = "scale"

// Place lets the nodes of a simulated cluster take the locks of a workload.
func Place(ctx context.Context, w Workload) (*Cluster, error) {
	c := &Cluster{Workload: w, local: local.NewCluster("scale")}
	var failed error
	sink := func(e dlm.Event) {
		if e.Kind == dlm.Completed && !e.Status.OK() {
			failed = fmt.Errorf("a lock was not granted: %v", e.Status)
		}
	}
	var spaces []dlm.Lockspace
	for i := range w.Nodes {
		n := c.local.AddNode(uint32(i + 1))
		e := n.Engine()
		s, err := e.Create(ctx, space, sink)
		if err != nil {
			return nil, err
		}
		c.nodes, c.engines, spaces = append(c.nodes, n), append(c.engines, e), append(spaces, s)
	}
	mode := dlm.EX
	if w.Sharers > 1 {
		mode = dlm.PR
	}
	rnd := rand.New(rand.NewPCG(w.Seed, 0))
	for i := range w.Resources {
		// The sharers are neighbours, beginning with a random node, which becomes the master.
		first := rnd.IntN(w.Nodes)
		for k := range w.Sharers {
			spaces[(first+k)%w.Nodes].Lock(dlm.Cookie(i+1), Name(i), mode, dlm.NoQueue)
		}
	}
	return c, failed
}

// Resources returns what the nodes have locks on, in the order of the names.
func (c *Cluster) Resources(ctx context.Context) ([]Resource, error) {
	all := make([]Resource, c.Workload.Resources)
	for i := range all {
		r, err := c.resource(ctx, Name(i))
		if err != nil {
			return nil, err
		}
		all[i] = r
	}
	return all, nil
}

// resource asks nodes for a resource until one of them is its master, which knows all locks.
func (c *Cluster) resource(ctx context.Context, name string) (Resource, error) {
	asked := c.engines[0]
	for range 2 {
		q, err := asked.Queues(ctx, space, name)
		if err != nil {
			return Resource{}, err
		}
		if q.Complete {
			r := Resource{Name: name, Master: q.Master}
			for _, l := range q.Granted {
				r.Holders = append(r.Holders, l.Node)
			}
			return r, nil
		}
		asked = c.engines[q.Master-1]
	}
	return Resource{}, fmt.Errorf("the master of %s does not know it", name)
}

// Crash ends a node. Its engine must not be asked any more, so it must not be node 1.
func (c *Cluster) Crash(id uint32) { c.nodes[id-1].Crash() }
