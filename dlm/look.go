package dlm

import (
	"context"
	"fmt"
)

// Looker is what an engine has in addition if it can look at lock tables
// without asking for a lock. What it can't see it leaves out and names in
// Queues.Missing: a poorer answer, never a wrong one. Methods may block like
// those of Engine.
type Looker interface {
	// Queues returns the queues of one resource as far as this node knows them.
	Queues(ctx context.Context, lockspace, resource string) (Queues, error)
	// Orphans lists the persistent locks on this node that no process has.
	Orphans(ctx context.Context, lockspace string) ([]Orphan, error)
	// Users lists the processes of this node, other than this one, that have
	// the lockspace open or a lock in it that is no orphan, sorted by pid. Who
	// can't be looked at is an error, unless another user was found: never take
	// an error for "nobody".
	Users(ctx context.Context, lockspace string) ([]User, error)
	// Health tells how a lockspace of this node does.
	Health(ctx context.Context, lockspace string) (Health, error)
}

// QuorumLooker is what an engine has in addition if it can tell whether the
// cluster has quorum, also where this node is in no lockspace. An error means
// that nobody knows. Quorum may block like the methods of Engine.
type QuorumLooker interface {
	Quorum(ctx context.Context) (quorate bool, err error)
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

// User is a process that uses a lockspace of this node.
type User struct {
	PID    int    // 0: not known, or not a process of its own
	Name   string // of its program, for people
	Locked bool   // it has locks, and does not have the lockspace open: the kernel itself, or a thread that has ended
}

// String says what the process does, for an error message.
func (u User) String() string {
	name := u.Name
	if name == "" {
		name = "unknown"
	}
	if u.Locked {
		return fmt.Sprintf("thread %d (%s) has locks in it", u.PID, name)
	}
	return fmt.Sprintf("process %d (%s) has it open", u.PID, name)
}
