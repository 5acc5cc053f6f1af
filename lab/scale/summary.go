package scale

import (
	"context"
	"math/rand/v2"
)

// Summary is what a workload means for its nodes.
type Summary struct {
	Workload
	// DirectoryEntries and Masters are the smallest and the largest number of a node: names that it
	// is the directory of, and resources whose queues it keeps.
	DirectoryEntries, Masters [2]int
	// Objects is what the kernel of the fullest node has.
	Objects Objects
	// Free and Taken are the shares of requests of any node that take 0, 1 and 2 round trips: for a
	// resource that is free, and for one that another node is the master of.
	Free, Taken [3]float64
	// Recovery is that after the last node has left.
	Recovery Recovery
}

// Objects are the kernel's structures for locks on a node.
type Objects struct {
	Resources int // struct dlm_rsb: resources with locks of the node, and its part of the directory
	Locks     int // struct dlm_lkb for locks of the node
	Copies    int // struct dlm_lkb for other nodes' locks on resources that this node is the master of
}

// Summarize places a workload and counts.
func Summarize(ctx context.Context, w Workload) (Summary, error) {
	s := Summary{Workload: w}
	c, err := Place(ctx, w)
	if err != nil {
		return s, err
	}
	resources, err := c.Resources(ctx)
	if err != nil {
		return s, err
	}
	members := Members(w.Nodes)
	s.count(NewDirectory(members), resources)
	s.requests(NewDirectory(members), resources)
	s.Recovery = Leave(members, uint32(w.Nodes), resources)
	return s, nil
}

// count counts what each node keeps.
func (s *Summary) count(d Directory, resources []Resource) {
	entries, masters := make([]int, s.Nodes+1), make([]int, s.Nodes+1)
	objects := make([]Objects, s.Nodes+1)
	for _, r := range resources {
		directory := d.Node(r.Name)
		entries[directory]++
		masters[r.Master]++
		known := map[uint32]bool{directory: true, r.Master: true}
		for _, h := range r.Holders {
			known[h] = true
			objects[h].Locks++
			if h != r.Master {
				objects[r.Master].Copies++
			}
		}
		for n := range known {
			objects[n].Resources++
		}
	}
	s.DirectoryEntries, s.Masters = extremes(entries[1:]), extremes(masters[1:])
	for _, o := range objects {
		if o.Resources+o.Locks+o.Copies > s.Objects.Resources+s.Objects.Locks+s.Objects.Copies {
			s.Objects = o
		}
	}
}

func extremes(counts []int) [2]int {
	e := [2]int{counts[0], counts[0]}
	for _, c := range counts {
		e[0], e[1] = min(e[0], c), max(e[1], c)
	}
	return e
}

// requests has a random node request each resource: while nobody has it, and while its holders have.
func (s *Summary) requests(d Directory, resources []Resource) {
	rnd := rand.New(rand.NewPCG(s.Seed, 1))
	one := 1 / float64(len(resources))
	for _, r := range resources {
		request := Request{Asker: uint32(rnd.IntN(s.Nodes) + 1), Directory: d.Node(r.Name)}
		s.Free[request.RoundTrips()] += one
		request.Master = r.Master
		for request.Asker == r.Master {
			request.Asker = uint32(rnd.IntN(s.Nodes) + 1)
		}
		s.Taken[request.RoundTrips()] += one
	}
}
