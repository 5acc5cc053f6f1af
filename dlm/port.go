package dlm

import "context"

// Sink receives the events of one Lockspace, one at a time and in order. It is called on a
// goroutine of the engine or from within a method of the Lockspace; it must not block and must not
// call the Lockspace.
type Sink func(Event)

// Engine is one process's access to the lock manager of its node.
//
// Its methods may be called from any goroutine and may block for as long as the cluster takes (ten
// seconds and more while devices appear or a lockspace recovers): never call them on a goroutine
// that must answer promptly. The context bounds how long the caller waits, not what the kernel goes
// on to do. Errors are *Error.
type Engine interface {
	// Name is the engine's name in --engine: "dlm" or "local".
	Name() string
	// Node says which node of which cluster this is. It returns ErrClusterUnavailable while there
	// is no cluster.
	Node(context.Context) (NodeInfo, error)
	// Open opens a lockspace that this node is a member of. It returns ErrNoLockspace if this node
	// is not a member; it never creates one.
	Open(ctx context.Context, name string, sink Sink) (Lockspace, error)
	// Create makes this node join a lockspace that it is not a member of, and opens it. It returns
	// ErrLockspaceExists if this node is a member already.
	Create(ctx context.Context, name string, sink Sink) (Lockspace, error)
	// Remove makes this node leave a lockspace. Every lock of this node in it ends, no matter whose
	// it is (dlm_release_lockspace with force). Handles of the lockspace get Closed. It returns
	// ErrNoLockspace if this node is not a member.
	Remove(ctx context.Context, name string) error
	// Lockspaces lists the lockspaces that this node is a member of, sorted.
	Lockspaces(context.Context) ([]string, error)
	// Close closes every handle as Lockspace.Close does, and releases the engine's other resources
	// in this process.
	Close() error
}

// NodeInfo is this node's place in the cluster.
type NodeInfo struct {
	ID      uint32 // the cluster's number for this node, from 1
	Name    string // the node's name in the cluster, or its host name
	Cluster string // the cluster's name, or "" if the engine has none
}

// Lockspace is one open handle of a lockspace. A lock belongs to the handle that requested or
// adopted it.
//
// Lock, Convert, Unlock, Cancel, Adopt and Purge never block, return no error and may be called
// from any goroutine; operations on one lock must be called in order. Each of them, except Cancel,
// ends with exactly one Completed event, possibly before the call returns. Only one operation on a
// lock may be under way at a time, apart from Cancel: a second one ends with StatusBusy.
//
// The cookie is free again after Lock or Adopt has ended without OK (except a Lock with
// StatusBusy), after Unlock has ended with OK, and after Ended.
type Lockspace interface {
	Name() string
	// Lock requests a new lock of resource in mode m. With ValueBlock the block is read when the
	// lock is granted.
	Lock(c Cookie, resource string, m Mode, f Flags)
	// Convert changes the granted mode, up or down, or only the flags and the value block if m is
	// the granted mode. Persistent and ValueBlock must be repeated. With ValueBlock the rules of
	// the DLM decide whether value is written or the block is read (dlm_lvb_operations in
	// fs/dlm/lock.c): conversions from EX and PW to the same or a weaker mode write, upward
	// conversions read. nil writes 32 zero bytes.
	Convert(c Cookie, m Mode, f Flags, value *Value)
	// Unlock ends the lock, whether it is granted or waiting. With a non-nil value a lock in PW or
	// EX writes the value block first.
	Unlock(c Cookie, value *Value)
	// Cancel withdraws the Lock or Convert under way. That operation ends with StatusCanceled (a
	// conversion keeps the granted mode), or, if the cancel came too late, as it would have ended
	// without it. Cancel has no event of its own, and does nothing if no operation is waiting.
	Cancel(c Cookie)
	// Adopt takes over an orphan of this node, found by its resource and exact granted mode. With
	// OK, LockID is the original one. StatusNotFound: there is no orphan. StatusAgain: there are
	// orphans only in other modes. If there are several, it adopts one, and a different one each
	// time.
	Adopt(c Cookie, resource string, m Mode, f Flags)
	// Purge removes every orphan of this node in the lockspace, no matter whose it was. It leaves
	// held and adopted locks alone.
	Purge()
	// Close releases the handle. Locks without Persistent end, the others become orphans. No event
	// is delivered after Close has returned.
	Close() error
}
