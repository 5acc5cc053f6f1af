package table

import (
	"math"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
)

// Operation is what a call wants: one of the types below. api.API says what each
// does.
type Operation interface {
	// Name names the operation in errors.
	Name() string
	// operation makes the table's entry of it.
	operation(c call) operation
}

// The operations.
type (
	// Acquire takes all of Want or nothing.
	Acquire struct {
		Caller api.Caller
		// What to take: all of it, or nothing.
		Want []api.Want
		// The same for all of Want, but for the labels.
		Options api.AcquireOptions
		Process process.ID // with lifetime process: the process that Options.PID means
	}
	// Request queues for a lock without a deadline.
	Request struct {
		Caller api.Caller
		// One lock: a request of several would hold some of them while it waits for
		// others.
		Want    api.Want
		Options api.AcquireOptions
		// As with Acquire.
		Process process.ID
	}
	// Convert changes the mode of a lock in place.
	Convert struct {
		Caller api.Caller
		// The resource of the lock, and the mode that it is to have.
		Want api.Want
		// Which of the resource's locks; it must mean exactly one.
		Selector api.Selector
		Options  api.ConvertOptions
	}
	// Release releases one lock.
	Release struct {
		Caller              api.Caller
		Lockspace, Resource string
		// Which of the resource's locks; it must mean exactly one.
		Selector api.Selector
	}
	// ReleaseOwner releases everything of one owner.
	ReleaseOwner struct {
		Caller           api.Caller
		Lockspace, Owner string
	}
	// ReleaseMany releases what one owner holds of some resources, and with some
	// labels.
	ReleaseMany struct {
		Caller api.Caller
		// The modes don't count.
		Resources []api.Want
		Owner     string
		// Locks with one of these labels are released too, whatever their resource.
		Labels []string
	}
	// Inspect tells all that is known of one resource.
	Inspect struct{ Lockspace, Resource string }
	// List gives a page of locks.
	List struct{ Filter api.Filter }
	// Waits gives a page of those that wait, with what each waits for.
	Waits struct{ Filter api.Filter }
	// Join joins a lockspace.
	Join struct {
		Caller    api.Caller
		Lockspace string
	}
	// Leave leaves a lockspace.
	Leave struct {
		Caller    api.Caller
		Lockspace string
		// The service's locks in it may be lost.
		Force bool
	}
	// Orphans lists the orphans that no record explains.
	Orphans struct{ Lockspace string }
	// AdoptOrphan makes one of the orphans the lock of an owner.
	AdoptOrphan struct {
		Caller    api.Caller
		Lockspace string
		// Which orphan.
		LockID  dlm.LockID
		Options api.AdoptOptions
	}
	// Purge removes orphans.
	Purge struct {
		Caller    api.Caller
		Lockspace string
		// The orphans that the caller has seen. If there are others, or some are gone,
		// nothing is removed.
		Expect []dlm.LockID
		// Remove only those of Expect, and leave others alone.
		Some bool
	}
)

// Name implements Operation, here and below.
func (Acquire) Name() string      { return "acquire" }
func (Request) Name() string      { return "request" }
func (Convert) Name() string      { return "convert" }
func (Release) Name() string      { return "release" }
func (ReleaseOwner) Name() string { return "release-owner" }
func (ReleaseMany) Name() string  { return "release" }
func (Inspect) Name() string      { return "inspect" }
func (List) Name() string         { return "list" }
func (Waits) Name() string        { return "list-waits" }
func (Join) Name() string         { return "join" }
func (Leave) Name() string        { return "leave" }
func (Orphans) Name() string      { return "list-orphans" }
func (AdoptOrphan) Name() string  { return "adopt" }
func (Purge) Name() string        { return "purge" }

func (o Acquire) operation(c call) operation {
	c.caller, c.wait = o.Caller, o.Options.Wait
	return &acquireOp{call: c, want: o.Want, opts: o.Options, proc: o.Process}
}

func (o Request) operation(c call) operation {
	c.caller, c.wait, c.request = o.Caller, math.MaxInt64, c.t.locks.nextRef()
	return &acquireOp{call: c, want: []api.Want{o.Want}, opts: o.Options, proc: o.Process}
}

func (o Convert) operation(c call) operation {
	c.caller, c.wait = o.Caller, o.Options.Wait
	return &convertOp{call: c, want: o.Want, sel: o.Selector, value: o.Options.Value}
}

func (o Release) operation(c call) operation {
	c.caller = o.Caller
	return &releaseOp{call: c, means: oneLock{o.Lockspace, o.Resource, o.Selector}}
}

func (o ReleaseOwner) operation(c call) operation {
	c.caller = o.Caller
	return &releaseOp{call: c, means: locksOfOwner{o.Lockspace, o.Owner}}
}

func (o ReleaseMany) operation(c call) operation {
	c.caller = o.Caller
	return &releaseOp{call: c, means: locksOfMany{o.Resources, o.Owner, o.Labels}}
}

func (o Inspect) operation(c call) operation {
	return &inspectOp{call: c, lockspace: o.Lockspace, resource: o.Resource}
}

func (o List) operation(c call) operation { return &listOp{call: c, filter: o.Filter} }

func (o Waits) operation(c call) operation {
	return &waitsOp{call: c, filter: o.Filter}
}

func (o Join) operation(c call) operation {
	c.caller = o.Caller
	return &joinOp{call: c, lockspace: o.Lockspace}
}

func (o Leave) operation(c call) operation {
	c.caller = o.Caller
	return &leaveOp{call: c, lockspace: o.Lockspace, force: o.Force}
}

func (o Orphans) operation(c call) operation { return &orphansOp{call: c, lockspace: o.Lockspace} }

func (o AdoptOrphan) operation(c call) operation {
	c.caller = o.Caller
	return &adoptOp{call: c, lockspace: o.Lockspace, id: o.LockID, opts: o.Options}
}

func (o Purge) operation(c call) operation {
	c.caller = o.Caller
	return &purgeOp{call: c, lockspace: o.Lockspace, expect: o.Expect, some: o.Some}
}
