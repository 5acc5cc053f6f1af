package client

import (
	"context"
	"sync/atomic"
	"time"
)

// transport is one way to the service. Its methods are members of the service's
// interface, each called once: what takes several calls is the Client's. The errors
// are an *Error.
type transport interface {
	acquire(ctx context.Context, w Want, o Options, wait time.Duration) (Grant, error)
	// queued takes one lock and keeps its place in the queue for as long as o.Wait says.
	// The error is of kind Unknown if the service can't do that.
	queued(ctx context.Context, w Want, o Options) (Grant, error)
	acquireMany(ctx context.Context, want []Want, o Options, wait time.Duration) ([]Grant, error)
	convert(ctx context.Context, w Want, s Selector, wait time.Duration, value []byte) (token uint64, err error)
	release(ctx context.Context, lockspace, resource string, s Selector) error
	releaseOwner(ctx context.Context, lockspace, owner string) (released uint32, err error)
	releaseMany(ctx context.Context, resources []Want, owner string) (released uint32, err error)

	// locks returns one page of the locks: those after one, limit at most.
	locks(ctx context.Context, f Filter, after LockName, limit int) ([]Lock, error)
	// lost returns locks that were lost, the last one first; of the filter it takes
	// Lockspace, Resource, Owner, UID and Limit.
	lost(ctx context.Context, f Filter) ([]Lost, error)
	// waits returns one page of the locks that wait, as locks does; of the filter it takes
	// Lockspace, Resource, Owner and UID.
	waits(ctx context.Context, f Filter, after LockName, limit int) ([]Waiter, error)
	// held returns at least the mode, the state and the fencing token of a lock.
	held(ctx context.Context, g Grant) (Lock, error)
	// inspect inspects a resource on a node; 0: on this one.
	inspect(ctx context.Context, node uint32, lockspace, resource string) (Inspection, error)
	nodes(ctx context.Context) ([]Node, error)
	lockspaces(ctx context.Context) ([]Lockspace, error)
	join(ctx context.Context, lockspace string) error
	leave(ctx context.Context, lockspace string, force bool) error
	orphans(ctx context.Context, lockspace string) ([]Orphan, error)
	adopt(ctx context.Context, lockspace string, orphan Orphan, a Adoption) (token uint64, err error)
	purge(ctx context.Context, lockspace string, lockids []uint32, some bool) (purged uint32, err error)
	status(ctx context.Context) (map[string]any, error)
	watch(ctx context.Context) (<-chan Event, error)
	// watchOwners reports the losses of these locks, and the ends and starts of the service, as
	// watch does; of the locks of another user, it may report nothing. While complete is true, it
	// also reports every other change of the locks as lockTouched or lockRemoved.
	watchOwners(ctx context.Context, of owners, complete *atomic.Bool) (<-chan Event, error)
	seesPIDs(ctx context.Context) bool
	view(ctx context.Context) (BusView, error)

	// with returns the same connection with other settings.
	with(s settings) transport
	close() error
	// done is closed when the connection has ended and no call can succeed any more.
	done() <-chan struct{}
}

// settings are how calls are made.
type settings struct {
	interaction bool // polkit may ask a person
	noAutoStart bool // do not start the service
}
