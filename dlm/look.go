package dlm

import (
	"context"
	"fmt"
)

// Looker is implemented by engines that can look at lock tables without requesting a lock. What
// they can't see they leave out and name in Queues.Missing: an incomplete answer, never a wrong
// one. Methods may block like those of Engine.
type Looker interface {
	// Queues returns the queues of one resource as far as this node knows them.
	Queues(ctx context.Context, lockspace, resource string) (Queues, error)
	// QueuesOf returns the queues of several resources in their order. It looks once, so it costs
	// about as much as Queues.
	QueuesOf(ctx context.Context, lockspace string, resources []string) ([]Queues, error)
	// Orphans lists the persistent locks on this node that belong to no process.
	Orphans(ctx context.Context, lockspace string) ([]Orphan, error)
	// Users lists the processes of this node, other than this one, that have the lockspace open or
	// a lock in it that is not an orphan, sorted by pid. If a process can't be examined, the result
	// is an error, unless another user was found: never take an error for "nobody".
	Users(ctx context.Context, lockspace string) ([]User, error)
	// Health returns the state of a lockspace of this node.
	Health(ctx context.Context, lockspace string) (Health, error)
}

// QuorumLooker is implemented by engines that can tell whether the cluster has quorum, even if this
// node is in no lockspace. An error means that it is not known. Quorum may block like the methods
// of Engine.
type QuorumLooker interface {
	Quorum(ctx context.Context) (quorate bool, err error)
}

// NameLooker is implemented by engines that know what the administrator calls the nodes. A node
// without a name is not in the map. An error means that the names are not known, not that there
// are none. NodeNames may block like the methods of Engine.
type NameLooker interface {
	NodeNames(ctx context.Context) (map[uint32]string, error)
}

// MemberLooker is implemented by engines that know the members of the cluster, even if this node is
// in no lockspace. An error means that they are not known. Members may block like the methods of
// Engine.
type MemberLooker interface {
	Members(ctx context.Context) ([]uint32, error)
}

// Queues are the three queues of a resource, each in the DLM's order.
type Queues struct {
	Master     uint32 // the node that keeps the queues; 0 if unknown
	Complete   bool   // this node is the master, so locks of all nodes are included
	Granted    []Held
	Converting []Held
	Waiting    []Held
	Value      Value
	HasValue   bool
	Missing    string // why something was left out, for people; "" if nothing was
}

// Held is one lock in a queue.
type Held struct {
	LockID LockID // on the node that looks
	Node   uint32 // the node whose lock it is
	Mode   Mode   // granted; None while it waits for its first grant
	Wanted Mode   // the requested mode; None in the granted queue
}

// Health is the state of a lockspace on this node, and of the cluster below it.
type Health struct {
	Stopped  bool     // the lockspace grants nothing at present
	Quorate  bool     // the cluster has quorum
	Known    bool     // whether Quorate is known
	Reason   string   // why it is stopped, for people: "fencing node 2", ...
	Members  []uint32 // nodes in the lockspace, sorted
	Recovery uint32   // the kernel's recover_status; 0 if it has none
}

// Orphan is a persistent lock on this node that belongs to no process.
type Orphan struct {
	LockID   LockID
	Resource string
	Mode     Mode
}

// User is a process that uses a lockspace of this node.
type User struct {
	PID  int    // 0 if it is not known, or not a process of its own
	Name string // the name of its program, for people
	// Locked says that it has locks but not the lockspace open: the kernel itself, or a thread that
	// has ended.
	Locked bool
}

// String describes what the process does, for an error message.
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
