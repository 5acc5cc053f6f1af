package client

import (
	"context"
	"errors"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/dlm"
)

// The lifetimes: what ends a lock besides a release.
const (
	Persistent = "persistent" // nothing
	Connection = "connection" // the end of the connection that asked for it last
	Process    = "process"    // the end of a process
)

// MaxWait is how long one call may queue ("wait-usec" in org.example.DlmLock.xml).
const MaxWait = 20 * time.Second

// Want is one lock to take. Mode is NL, CR, CW, PR, PW or EX in any case, or
// "shared" or "exclusive".
type Want struct {
	Lockspace, Resource, Mode string
}

// Options are the options of locks. Zero fields mean the service's defaults.
type Options struct {
	// Owner is who the lock is for. Asking again for what the owner holds
	// returns the same lock. "": every call makes a lock of its own.
	Owner string
	// OwnerUnique says that nobody else uses Owner, so Hold may release all locks of this
	// owner if it is not known what was granted.
	OwnerUnique bool
	Label       string // a text for people: what the lock is for
	Lifetime    string // Persistent, Connection or Process
	// PID, with Process, is the process whose end ends the lock; 0: this one. Its
	// start time as seen here is sent along, and the service refuses the pid if it
	// means another process there, as between a container and its host.
	PID uint32
	// OnLost is the configured helper that is run if the lock is lost, and
	// OnLostData its DLM_DATA.
	OnLost, OnLostData string
	// Value, in a lockspace for raw values, is what to write into the lock value
	// block, at most 32 bytes. nil: nothing. Not for AcquireMany.
	Value []byte
	// Wait is how long to wait in the queue. 0: the error is WouldBlock if the lock
	// can't be granted at once, except that Lock and LockAll wait without limit.
	// Negative: without limit. For several locks, a wait that is
	// longer than MaxWait is made of several calls, each of which joins the queue at
	// its end.
	Wait time.Duration

	// sure: a call whose context has ended returns when its request is withdrawn.
	sure bool
}

// LockName is the service's name of a lock, which is never used again. It is the same
// over D-Bus and over Varlink, and survives a restart of the service. Its text, the
// path of an object on the bus, has no meaning for a client.
type LockName = godbus.ObjectPath

// Grant is a lock that was granted and recorded.
type Grant struct {
	Lockspace string   `json:"lockspace"`
	Resource  string   `json:"resource"`
	Mode      string   `json:"mode"`
	LockID    uint32   `json:"lockid"`
	Token     uint64   `json:"token,omitempty"` // fencing token; 0: none
	Lock      LockName `json:"lock"`            // never reused
}

// Selector says which lock of a resource is meant. Zero fields match any.
type Selector struct {
	Owner  string
	LockID uint32
	Token  uint64
	Lock   LockName
}

// Matches reports whether a lock is one of those that s selects.
func (s *Selector) Matches(l *Lock) bool {
	return (s.Owner == "" || s.Owner == l.Owner) && (s.LockID == 0 || s.LockID == l.LockID) &&
		(s.Token == 0 || s.Token == l.Token) && (s.Lock == "" || s.Lock == l.Lock)
}

// Acquire takes one lock (member Acquire, or Request for a long wait).
func (c *Client) Acquire(ctx context.Context, w Want, o Options) (Grant, error) {
	if o.Wait < 0 || o.Wait > MaxWait {
		if g, err := c.acquireLong(ctx, w, o); !errors.Is(err, Unknown) {
			return g, err
		}
	}
	var g Grant
	err := again(ctx, o.Wait, o.Owner != "", func(wait time.Duration) (err error) {
		g, err = c.transport().acquire(ctx, w, o, wait)
		return err
	})
	return g, c.waitOver(ctx, err, []Want{w}, Selector{}, o.Wait)
}

// acquireLong acquires a lock with a wait that is too long for the member Acquire.
func (c *Client) acquireLong(ctx context.Context, w Want, o Options) (Grant, error) {
	g, err := c.transport().queued(ctx, w, o)
	return g, c.waitOver(ctx, err, []Want{w}, Selector{}, o.Wait)
}

// AcquireMany takes all the locks or none (member AcquireMany). The grants come
// in the order of want.
func (c *Client) AcquireMany(ctx context.Context, want []Want, o Options) ([]Grant, error) {
	var grants []Grant
	err := again(ctx, o.Wait, o.Owner != "", func(wait time.Duration) (err error) {
		grants, err = c.transport().acquireMany(ctx, want, o, wait)
		return err
	})
	if err != nil {
		return nil, c.waitOver(ctx, err, want, Selector{}, o.Wait)
	}
	for i := range grants {
		if i < len(want) {
			grants[i].Mode = dlm.Canonical(want[i].Mode)
		}
	}
	return grants, nil
}

// Convert changes the mode of a lock of the caller without releasing it (member
// Convert), and returns its fencing token. wait is as Options.Wait.
func (c *Client) Convert(ctx context.Context, w Want, s Selector, wait time.Duration) (token uint64, err error) {
	return c.ConvertValue(ctx, w, s, wait, nil)
}

// ConvertValue is Convert that also writes the lock value block, in a lockspace
// for raw values.
func (c *Client) ConvertValue(ctx context.Context, w Want, s Selector, wait time.Duration,
	value []byte) (token uint64, err error) {
	err = again(ctx, wait, true, func(wait time.Duration) (err error) {
		token, err = c.transport().convert(ctx, w, s, wait, value)
		return err
	})
	return token, c.waitOver(ctx, err, []Want{w}, s, wait)
}

// Release releases one lock (member Release).
func (c *Client) Release(ctx context.Context, lockspace, resource string, s Selector) error {
	return c.transport().release(ctx, lockspace, resource, s)
}

// ReleaseOwner releases all locks of one owner, in one lockspace or, with "", in all
// (member ReleaseOwner). It returns how many it released.
func (c *Client) ReleaseOwner(ctx context.Context, lockspace, owner string) (released uint32, err error) {
	return c.transport().releaseOwner(ctx, lockspace, owner)
}

// ReleaseMany releases the locks of the owner on these resources, in any mode (member
// ReleaseMany). It returns how many it released.
func (c *Client) ReleaseMany(ctx context.Context, resources []Want, owner string) (released uint32, err error) {
	return c.transport().releaseMany(ctx, resources, owner)
}

// retryPause is the time between two calls while the service restarts.
const retryPause = 200 * time.Millisecond

// again makes one call after the other, each at most MaxWait long, until wait is over.
// Each joins the queue at its end, which is why a Request is better where there is one.
// If the service restarts meanwhile, the call is made again, unless it may have been
// carried out and is not idempotent.
func again(ctx context.Context, wait time.Duration, idempotent bool, ask func(time.Duration) error) error {
	if wait == 0 {
		return ask(0)
	}
	end := time.Now().Add(wait)
	there := false
	for {
		slice := MaxWait
		if left := time.Until(end); wait > 0 && left < slice {
			// 0 would mean not to wait.
			slice = max(left, time.Microsecond)
		}
		err := ask(slice)
		var e *Error
		if !errors.As(err, &e) || wait > 0 && !time.Now().Before(end) {
			return err
		}
		// A service that has never been there is not restarting.
		there = there || e.Kind != NotRunning
		switch {
		case e.Kind == Timeout:
			continue
		case there && e.NotTaken():
		case idempotent && e.Kind == NoAnswer && ctx.Err() == nil:
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryPause):
		}
	}
}

// Patiently calls do again and again while the service restarts, until the context
// ends. do must be idempotent.
func Patiently(ctx context.Context, do func() error) error {
	for {
		err := do()
		var e *Error
		if !errors.As(err, &e) || !e.NotTaken() && e.Kind != NoAnswer || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryPause):
		}
	}
}
