package dlm

import "context"

// Looker is what an engine has in addition if it can look at lock tables
// without asking for a lock. What it can't see it leaves out and names in
// Queues.Missing: a poorer answer, never a wrong one. Methods may block like
// those of Engine.
type Looker interface {
	// Queues returns the queues of one resource as far as this node knows them.
	Queues(ctx context.Context, lockspace, resource string) (Queues, error)
	// Orphans lists the persistent locks on this node that no process has.
	Orphans(ctx context.Context, lockspace string) ([]Orphan, error)
	// Health tells how a lockspace of this node does.
	Health(ctx context.Context, lockspace string) (Health, error)
}

// Queues are the three queues of a resource, each in the DLM's order.
type Queues struct {
	Master     uint32 // the node that keeps the queues; 0 unknown
	Complete   bool   // this node is the master: locks of all nodes are here
	Granted    []Held
	Converting []Held
	Waiting    []Held
	Value      Value
	HasValue   bool
	Missing    string // why something is left out, for people; "" if nothing is
}

// Held is one lock in a queue.
type Held struct {
	LockID LockID // on the node that looks
	Node   uint32 // whose lock it is
	Mode   Mode   // granted; None while it waits for its first grant
	Wanted Mode   // what it waits for; None in the granted queue
}

// Health is the state of a lockspace on this node, and of the cluster below it.
type Health struct {
	Stopped  bool     // the lockspace grants nothing now
	Quorate  bool     // the cluster has quorum
	Known    bool     // whether Quorate was really asked
	Reason   string   // why it is stopped, for people: "fencing node 2", ...
	Members  []uint32 // nodes in the lockspace, sorted
	Recovery uint32   // the kernel's recover_status, 0 where there is none
}

// Orphan is a persistent lock on this node that no process has.
type Orphan struct {
	LockID   LockID
	Resource string
	Mode     Mode
}
