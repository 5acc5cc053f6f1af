package table

import (
	"math"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
)

// Operation is what a call wants: one of the types below. api.API says what each
// does.
type Operation interface {
	// Name names the operation in errors.
	Name() string
	// call makes the table's entry of it.
	call() (c *call, start func(*Table, *call))
}

// The operations.
type (
	// Acquire takes all of Want or nothing.
	Acquire struct {
		Caller  api.Caller
		Want    []api.Want
		Options api.AcquireOptions
		Process process.ID // with lifetime process: the process that Options.PID means
	}
	// Request queues for a lock without a deadline.
	Request struct {
		Caller  api.Caller
		Want    api.Want
		Options api.AcquireOptions
		Process process.ID
	}
	// Convert changes the mode of a lock in place.
	Convert struct {
		Caller   api.Caller
		Want     api.Want
		Selector api.Selector
		Options  api.ConvertOptions
	}
	// Release releases one lock.
	Release struct {
		Caller              api.Caller
		Lockspace, Resource string
		Selector            api.Selector
	}
	// ReleaseOwner releases everything of one owner.
	ReleaseOwner struct {
		Caller           api.Caller
		Lockspace, Owner string
	}
	// ReleaseMany releases what one owner holds of some resources, and with some
	// labels.
	ReleaseMany struct {
		Caller    api.Caller
		Resources []api.Want
		Owner     string
		Labels    []string
	}
	// Inspect tells all that is known of one resource.
	Inspect struct{ Lockspace, Resource string }
	// List gives a page of locks.
	List struct{ Filter api.Filter }
	// Join joins a lockspace.
	Join struct {
		Caller    api.Caller
		Lockspace string
	}
	// Leave leaves a lockspace.
	Leave struct {
		Caller    api.Caller
		Lockspace string
		Force     bool
	}
	// Orphans lists the orphans that no record explains.
	Orphans struct{ Lockspace string }
	// AdoptOrphan makes one of the orphans the lock of an owner.
	AdoptOrphan struct {
		Caller    api.Caller
		Lockspace string
		LockID    dlm.LockID
		Options   api.AdoptOptions
	}
	// Purge removes orphans.
	Purge struct {
		Caller    api.Caller
		Lockspace string
		Expect    []dlm.LockID
		Some      bool
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
func (Join) Name() string         { return "join" }
func (Leave) Name() string        { return "leave" }
func (Orphans) Name() string      { return "list-orphans" }
func (AdoptOrphan) Name() string  { return "adopt" }
func (Purge) Name() string        { return "purge" }

func (o Acquire) call() (*call, func(*Table, *call)) {
	return &call{kind: callAcquire, caller: o.Caller, want: o.Want, opts: o.Options, wait: o.Options.Wait,
		value: o.Options.Value, proc: o.Process}, nil
}

func (o Request) call() (*call, func(*Table, *call)) {
	c := &call{kind: callAcquire, caller: o.Caller, want: []api.Want{o.Want}, opts: o.Options, wait: math.MaxInt64,
		value: o.Options.Value, proc: o.Process, isRequest: true}
	return c, nil
}

func (o Convert) call() (*call, func(*Table, *call)) {
	return &call{kind: callConvert, caller: o.Caller, want: []api.Want{o.Want}, sel: o.Selector,
		wait: o.Options.Wait, value: o.Options.Value}, nil
}

func (o Release) call() (*call, func(*Table, *call)) {
	return &call{kind: callRelease, caller: o.Caller, space: o.Lockspace, resource: o.Resource, sel: o.Selector}, nil
}

func (o ReleaseOwner) call() (*call, func(*Table, *call)) {
	return &call{kind: callRelease, caller: o.Caller, space: o.Lockspace, owner: o.Owner, all: true}, nil
}

func (o ReleaseMany) call() (*call, func(*Table, *call)) {
	resources := o.Resources
	if resources == nil {
		resources = []api.Want{}
	}
	return &call{kind: callRelease, caller: o.Caller, want: resources, owner: o.Owner,
		opts: api.AcquireOptions{Labels: o.Labels}, all: true}, nil
}

func (o Inspect) call() (*call, func(*Table, *call)) {
	return &call{kind: callInspect, space: o.Lockspace, resource: o.Resource}, (*Table).inspect
}

func (o List) call() (*call, func(*Table, *call)) {
	return &call{kind: callList}, func(t *Table, c *call) { t.listPage(c, o.Filter) }
}

// spaceTimeout is how long joining and leaving a lockspace may take before the
// call is answered; both go on after that.
const spaceTimeout = 20 * time.Second

func (o Join) call() (*call, func(*Table, *call)) {
	return &call{kind: callSpace, caller: o.Caller, space: o.Lockspace}, func(t *Table, c *call) {
		t.rearm(c, spaceTimeout)
		t.join(c)
	}
}

func (o Leave) call() (*call, func(*Table, *call)) {
	return &call{kind: callSpace, caller: o.Caller, space: o.Lockspace}, func(t *Table, c *call) {
		t.rearm(c, spaceTimeout)
		t.leave(c, o.Force)
	}
}

func (o Orphans) call() (*call, func(*Table, *call)) {
	return &call{kind: callOrphans, space: o.Lockspace}, (*Table).orphansOf
}

func (o AdoptOrphan) call() (*call, func(*Table, *call)) {
	return &call{kind: callConvert, caller: o.Caller, space: o.Lockspace},
		func(t *Table, c *call) { t.adoptOrphan(c, o.LockID, o.Options) }
}

func (o Purge) call() (*call, func(*Table, *call)) {
	return &call{kind: callSpace, caller: o.Caller, space: o.Lockspace},
		func(t *Table, c *call) { t.purge(c, o.Expect, o.Some) }
}

// Submit takes a new call. Its answer is a ReplyAction with that id.
func (t *Table) Submit(id CallID, o Operation) { t.enter(id, o) }

func (t *Table) enter(id CallID, o Operation) *call {
	c, start := o.call()
	c.id, c.op, c.heapIdx = id, o.Name(), -1
	if c.isRequest {
		c.request = t.ref()
	}
	t.begin(c, start)
	if c.isRequest && !c.answered {
		t.announce(c)
	}
	return c
}

// announce says that a Request is under way.
func (t *Table) announce(c *call) {
	if !c.announced {
		c.announced = true
		t.do(StartedAction{c.id, c.request})
	}
}

// begin takes a new call; start is nil for those that submit knows.
func (t *Table) begin(c *call, start func(*Table, *call)) {
	switch {
	case start == nil:
		t.submit(c)
	case c.kind == callList: // takes nothing on, and needs nobody's answer
		start(t, c)
	case t.stopping:
		t.refuseStopping(c)
	default:
		t.arm(c, t.opTime)
		start(t, c)
	}
}

func (t *Table) refuseStopping(c *call) {
	c.stage = stageDone
	c.fail(&api.Error{Op: c.op, Kind: api.ShuttingDown, Text: "the service is stopping; it keeps its locks, ask again when it is back"})
	t.reply(c)
}

// result is what the call is answered with.
func (c *call) result() Reply {
	switch c.kind {
	case callAcquire, callConvert:
		return GrantedReply{c.grants}
	case callRelease:
		return ReleasedReply{c.released}
	case callInspect:
		if c.inspection != nil && c.err == nil {
			return InspectionReply{*c.inspection}
		}
		return InspectionReply{}
	case callOrphans:
		return OrphansReply{c.orphans}
	case callList:
		return PageReply{c.page}
	}
	if c.op == "purge" {
		return ReleasedReply{c.released}
	}
	return DoneReply{}
}
