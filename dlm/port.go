package dlm

import "context"

// Sink takes the events of one Lockspace, one at a time and in order. It is
// called on a goroutine of the engine or from inside a method of the
// Lockspace; it must not block and must not call the Lockspace.
type Sink func(Event)

// Engine is one process's way to the lock manager of its node.
//
// Its methods may be called from any goroutine and may block for as long as
// the cluster takes (ten seconds and more while devices appear or a lockspace
// recovers): never call them where an answer is owed. The context bounds how
// long the caller waits, not what the kernel goes on to do. Errors are *Error.
type Engine interface {
	// Name is what --engine calls it: "dlm" or "local".
	Name() string
	// Node tells who this node is in which cluster. ErrClusterUnavailable
	// while there is none.
	Node(context.Context) (NodeInfo, error)
	// Open opens a lockspace that this node is a member of, and makes none:
	// ErrNoLockspace if it is not there.
	Open(ctx context.Context, name string, sink Sink) (Lockspace, error)
	// Create makes this node join a lockspace that it is not a member of, and
	// opens it. ErrLockspaceExists if it is a member already.
	Create(ctx context.Context, name string, sink Sink) (Lockspace, error)
	// Remove makes this node leave a lockspace. Every lock of this node in it
	// ends, whoever's it is (dlm_release_lockspace with force). Handles of it
	// get Closed. ErrNoLockspace if it is not there.
	Remove(ctx context.Context, name string) error
	// Lockspaces lists the lockspaces that this node is a member of, sorted.
	Lockspaces(context.Context) ([]string, error)
	// Close closes every handle as Lockspace.Close does, and lets go of what
	// the engine holds in this process.
	Close() error
}

// NodeInfo is this node's place in the cluster.
type NodeInfo struct {
	ID      uint32 // the cluster's number for this node, 1 and up
	Name    string // the node's name in the cluster, or its host name
	Cluster string // the cluster's name, or "" where the engine has none
}

// Lockspace is one open handle of a lockspace. A lock belongs to the handle
// that asked for it or adopted it.
//
// Lock, Convert, Unlock, Cancel, Adopt and Purge never block, do not fail and
// may be called from any goroutine; operations of one lock must be called in
// order. Each but Cancel ends with exactly one Completed event, possibly
// before the call returns. Of one lock only one operation may be under way at
// a time, Cancel excepted: a further one ends with StatusBusy.
//
// The cookie is free again after Lock or Adopt has ended without OK (except a
// Lock with StatusBusy), after Unlock has ended OK, and after Ended.
type Lockspace interface {
	Name() string
	// Lock asks for a new lock of resource in mode m. With ValueBlock the block
	// is read when the lock is granted.
	Lock(c Cookie, resource string, m Mode, f Flags)
	// Convert changes the granted mode, up or down, or only the flags and the
	// value block when m is the granted mode. Persistent and ValueBlock must
	// be repeated. With ValueBlock the rules of the DLM decide whether value
	// is written or the block is read (dlm_lvb_operations in fs/dlm/lock.c):
	// EX and PW converted to the same or a weaker mode write, conversions
	// upward read. nil writes 32 zero bytes.
	Convert(c Cookie, m Mode, f Flags, value *Value)
	// Unlock ends the lock, granted or waiting. With a non-nil value a lock in
	// PW or EX writes the value block first.
	Unlock(c Cookie, value *Value)
	// Cancel withdraws the Lock or Convert under way. That operation ends with
	// StatusCanceled (a conversion keeps the granted mode), or, where the
	// cancel came too late, as it would have ended. Cancel has no event of
	// its own, and does nothing if no operation waits.
	Cancel(c Cookie)
	// Adopt takes over an orphan of this node by resource and exact granted
	// mode. OK: LockID is the original one. StatusNotFound: there is none.
	// StatusAgain: only in other modes. Of several, one of them, a different
	// one each time.
	Adopt(c Cookie, resource string, m Mode, f Flags)
	// Purge removes every orphan of this node in the lockspace, whoever's it
	// was, and leaves live and adopted locks alone.
	Purge()
	// Close lets go of the handle. Locks without Persistent end, those with it
	// become orphans. No event is delivered after Close has returned.
	Close() error
}
