package dlmtest

import (
	"testing"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Rig is the place in which the suite runs: one or more nodes on which processes with an engine can
// be started. Nodes are numbered from 0.
type Rig interface {
	// Nodes returns how many nodes there are; rules across nodes run if there
	// are two or more.
	Nodes() int
	// Process starts a process on a node. The suite ends it with Close or Kill.
	Process(t testing.TB, node int) Process
	// Lockspace returns the name of a lockspace that all nodes are members of
	// when it returns. It may be the same one every time.
	Lockspace(t testing.TB) string
	// FreshLockspace returns a valid name of a lockspace that no node is a
	// member of, a different one every time.
	FreshLockspace(t testing.TB) string
	// Timing says how long things may take.
	Timing() Timing
}

// Timing says how long things take in a Rig.
type Timing struct {
	// Wait is the longest that an expected event may take. It costs time only if a rule is broken.
	Wait time.Duration
	// Settle is how long the suite waits until something without an event, such as a request that
	// has to queue, has taken effect everywhere, and until it believes that something does not
	// happen. It is 0 if operations are done when their call returns.
	Settle time.Duration
	// Settled, if it is given, waits for that, and Settle is ignored: no time is long enough on every
	// machine.
	Settled func()
}

// Process is an engine in a process of its own.
type Process interface {
	dlm.Engine
	// Kill ends the process as SIGKILL does and returns when it is gone.
	Kill()
}

// Crasher is a Rig that can crash a node. The rules that do that run last, and leave the node as it
// is.
type Crasher interface {
	Crash(t testing.TB, node int)
}

// Stopper is a Rig that can stop a lockspace, as the loss of quorum does.
type Stopper interface {
	Stop(t testing.TB, lockspace string)
	Resume(t testing.TB, lockspace string)
}

// Intruder is a Rig in which a process that is not the owner can unlock a lock
// by its lockid.
type Intruder interface {
	Unlock(t testing.TB, node int, lockspace string, id dlm.LockID)
}
