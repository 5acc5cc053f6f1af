package client

import (
	"cmp"
	"context"
	"time"
)

// Lock takes one lock, waiting for it without limit, or for o.Wait if that is not zero.
// The end of ctx withdraws the call. Mode "" is EX.
//
// The context that it returns is for the work that the lock protects: it ends when the
// lock is lost, for example because this node has left the lockspace or somebody has
// released the lock, and context.Cause then says why (ErrLost). It ends with ctx and
// with unlock, too. It ends a moment after the loss (over D-Bus up to two seconds after
// a release by somebody else), and work needs a moment to stop; where another node must not
// begin before that, the storage has to check Token.
//
// unlock releases the lock. It has to be called in any case; a second call does
// nothing. Without it the lock stays until this process ends.
func (c *Client) Lock(ctx context.Context, w Want, o Options) (held context.Context, unlock func() error, err error) {
	return c.LockAll(ctx, []Want{w}, o)
}

// TryLock is Lock without waiting: if somebody else holds the lock, the error is of kind
// WouldBlock.
func (c *Client) TryLock(ctx context.Context, w Want, o Options) (held context.Context, unlock func() error,
	err error) {
	o.Wait = 0
	return c.lock(ctx, []Want{w}, o)
}

// LockAll is Lock for several locks, all or none. They are taken in one fixed order, so
// two callers can't deadlock each other. The context ends when one of them is lost.
func (c *Client) LockAll(ctx context.Context, want []Want, o Options) (held context.Context, unlock func() error,
	err error) {
	o.Wait = cmp.Or(o.Wait, -1)
	return c.lock(ctx, want, o)
}

func (c *Client) lock(ctx context.Context, want []Want, o Options) (context.Context, func() error, error) {
	wanted := make([]Want, len(want))
	for i, w := range want {
		w.Mode = cmp.Or(w.Mode, "EX")
		wanted[i] = w
	}
	h, err := c.Hold(ctx, wanted, o)
	if err != nil {
		return nil, nil, err
	}
	return context.WithValue(h.Context(), heldKey{}, h), h.unlock, nil
}

type heldKey struct{}

// HeldBy returns the locks of a context that Lock, TryLock, LockAll, an RWLock, an
// Election or a Semaphore has returned, for their fencing tokens and for Convert; nil for
// any other context.
func HeldBy(ctx context.Context) *Held {
	h, _ := ctx.Value(heldKey{}).(*Held)
	return h
}

// unlock is Release with a limit of its own: the context of the caller may have ended.
func (h *Held) unlock() error {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	return h.Release(ctx)
}

// RWLock is a lock that one writer holds, or any number of readers, on all nodes
// together. It has no state of its own. Waiters are served in the order of arrival, so
// readers don't starve a writer.
type RWLock struct {
	Client              *Client
	Lockspace, Resource string
	Options             Options // Wait is ignored
}

// Lock takes the lock for writing (EX), as Client.Lock does.
func (l *RWLock) Lock(ctx context.Context) (held context.Context, unlock func() error, err error) {
	return l.take(ctx, "EX", -1)
}

// RLock takes the lock for reading (PR).
func (l *RWLock) RLock(ctx context.Context) (held context.Context, unlock func() error, err error) {
	return l.take(ctx, "PR", -1)
}

// TryLock is Lock without waiting.
func (l *RWLock) TryLock(ctx context.Context) (held context.Context, unlock func() error, err error) {
	return l.take(ctx, "EX", 0)
}

// TryRLock is RLock without waiting.
func (l *RWLock) TryRLock(ctx context.Context) (held context.Context, unlock func() error, err error) {
	return l.take(ctx, "PR", 0)
}

func (l *RWLock) take(ctx context.Context, mode string, wait time.Duration) (context.Context, func() error, error) {
	o := l.Options
	o.Wait = wait
	return l.Client.lock(ctx, []Want{{l.Lockspace, l.Resource, mode}}, o)
}
