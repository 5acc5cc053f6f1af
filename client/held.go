package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// ErrLost is the kind of error with which the context of a lock ends if its holder has
// not released it:
//
//	errors.Is(context.Cause(held), client.ErrLost)
var ErrLost = errors.New("the lock is lost")

// ErrReleased is the cause with which the context of a lock ends when its holder releases
// it.
var ErrReleased = errors.New("the lock is released")

// ErrClosed is the cause with which the contexts of locks end when the Client is closed:
// a loss would no longer be noticed. The locks are still held, until they are released or
// this process ends.
var ErrClosed = errors.New("the client is closed")

// LossError says how a lock was lost. It is an ErrLost.
type LossError struct {
	Grant  Grant
	How    Loss
	Reason string // for people
}

// Loss is a way to lose a lock.
type Loss int

// The ways to lose a lock.
const (
	// LossReported: the service says that the lock manager no longer has the lock.
	LossReported Loss = iota + 1
	// LossReleased: somebody else released it.
	LossReleased
	// LossConverted: somebody else converted it to another mode, and perhaps back. A conversion down
	// and up again of a lock in CR, CW or PR goes unnoticed if no lock in PW or EX was granted
	// meanwhile, because its token is the same then.
	LossConverted
	// LossUnknown: the lock no longer exists, for a reason that is not known.
	LossUnknown
)

func (e *LossError) Error() string {
	return fmt.Sprintf("the lock on %s/%s is lost: %s", e.Grant.Lockspace, e.Grant.Resource, e.Reason)
}

// Is makes every LossError an ErrLost.
func (e *LossError) Is(target error) bool { return target == ErrLost }

// Held is one or more locks, taken together, that this program watches until it releases
// them.
//
// The order of events: the watch for losses starts first, then the locks are taken, then
// each is compared with the losses that have been reported meanwhile. So no loss falls
// between the grant and the watch. If this program dies before the grant, the call ends
// with its connection; if it dies afterwards, the service releases the locks, because
// they are tied to the process. A restart of the service or of the bus ends no such lock:
// the watch goes on with the next one, and asks first whether the locks are still there.
type Held struct {
	c        *Client
	owner    string
	ownOwner bool   // nobody else has this owner
	uid      int    // the effective user of this process when it took the locks, which belong to that user
	of       owners // that the watch is for, at least this owner
	unsure   bool   // the service did not answer the last question about the locks; guarded by c.kept.mu
	lifetime string // the one that take has found to be known to the service

	ctx  context.Context         // ends with the locks
	end  context.CancelCauseFunc // of ctx
	lost chan struct{}           // closed by lose

	mu     sync.Mutex
	grants []Grant // in the order of Hold; Convert changes modes and tokens
	// changes counts the beginnings and ends of Convert: what was asked before a change
	// says nothing afterwards.
	changes int
	// unsettled are the locks whose last Convert failed. That may have given them another token, as
	// when an older service carries a conversion out and then takes it back.
	unsettled map[LockName]bool
	loss      *LossError // nil: not lost
	over      bool       // lost or released; whichever comes first counts
}

// ownerPrefix is the beginning of the owners that Hold makes up.
const ownerPrefix = "go-"

// Hold takes the locks, all or none, and watches them. Without o.Owner, each call
// makes locks of its own. Without o.Lifetime, the locks end with the process o.PID (0:
// this one) if they are not released before. The context is the parent of that of the
// locks, and its end withdraws the call; it does not release locks that are held.
//
// The locks belong to the effective user of this process at the time of this call. If the program
// changes its user afterwards, as with setuid(2), Release fails unless the new user is root, and the
// locks end with the process. Losses are still noticed. But once the service has been restarted, that
// can take seconds over Varlink: the lock is then asked about every two seconds, because the service
// reports the changes of locks only to their user.
//
// The error is that of Acquire. Then no lock is left behind, unless the service did not
// answer.
func (c *Client) Hold(ctx context.Context, want []Want, o Options) (*Held, error) {
	return c.hold(ctx, ctx, want, o)
}

// hold is Hold with another context for the call than for the locks.
func (c *Client) hold(ctx, parent context.Context, want []Want, o Options) (*Held, error) {
	if ctx.Err() != nil { // the end of ctx could otherwise come after the call
		return nil, tooLate(want, wrap("Acquire", ctx.Err()))
	}
	h := &Held{c: c, owner: o.Owner, uid: os.Geteuid(), ownOwner: o.OwnerUnique, lost: make(chan struct{})}
	h.of = owners{name: o.Owner, uid: h.uid}
	if h.owner == "" {
		h.ownOwner = true
		h.owner, h.of = c.kept.ownerFor()
	}
	if c.Conn() != nil {
		h.of = owners{} // over D-Bus one watch is for all locks
	}
	o.Owner, o.OwnerUnique = h.owner, h.ownOwner
	if err := c.kept.begin(c, h.of); err != nil {
		return nil, err
	}
	var err error
	if h.grants, err = h.take(ctx, want, o); err != nil {
		if h.ownOwner && (errors.Is(err, NoAnswer) || errors.Is(err, Canceled)) {
			h.withdraw(ctx)
		}
		c.kept.leave(h.of)
		if ctx.Err() != nil {
			err = tooLate(want, err)
		}
		return nil, err
	}
	h.ctx, h.end = context.WithCancelCause(parent)
	c.kept.add(h)
	return h, nil
}

// tooLate has an error that the end of the context has brought say so. Nothing is wrong
// with the service then, it just had no answer yet.
func tooLate(want []Want, err error) error {
	var e *Error
	if !errors.As(err, &e) || e.Kind != NoAnswer && e.Kind != Canceled {
		return err
	}
	return &Error{Op: e.Op, Kind: e.Kind, Name: e.Name, Err: e.Err,
		Message: "acquire " + namesOf(want) + ": not granted before the context ended"}
}

// take takes the locks with the best lifetime that the service has: an older one knows
// fewer.
func (h *Held) take(ctx context.Context, want []Want, o Options) (grants []Grant, err error) {
	lifetimes := []string{o.Lifetime}
	if o.Lifetime == "" {
		lifetimes = []string{Process, Connection, Persistent}
	}
	pid := o.PID
	for _, h.lifetime = range lifetimes {
		if o.Lifetime, o.PID = h.lifetime, 0; h.lifetime == Process {
			if o.PID = pid; pid == 0 {
				o.PID = uint32(os.Getpid())
			}
		}
		if grants, err = h.c.takeAll(ctx, want, o); !errors.Is(err, NotSupported) && !errors.Is(err, InvalidArgs) {
			break
		}
	}
	return grants, err
}

// takeAll takes the locks by a call that the end of ctx withdraws.
func (c *Client) takeAll(ctx context.Context, want []Want, o Options) ([]Grant, error) {
	switch {
	case len(want) == 1 && o.Wait == 0:
		g, err := c.Acquire(ctx, want[0], o)
		return []Grant{g}, err
	case len(want) == 1:
		o.sure = true
		g, err := c.acquireLong(ctx, want[0], o)
		if errors.Is(err, Unknown) {
			g, err = c.Acquire(ctx, want[0], o)
		}
		return []Grant{g}, err
	case o.Wait != 0 && c.redial != nil && (o.Lifetime != Connection || c.Conn() != nil && o.OwnerUnique):
		return c.takeAside(ctx, want, o)
	}
	return c.AcquireMany(ctx, want, o)
}

// takeAside takes locks by a call on a separate connection, because closing that withdraws the
// call. Over D-Bus it then asks for the locks again on the connection of c. From then on they are
// tied to that connection, or it at least gets the notices about them. What the owner has already
// is tied to the separate connection as soon as the first call begins, and would end with it if
// the call is given up. So a lock of lifetime connection needs an owner who has nothing yet. If
// this program dies in between, both connections end.
func (c *Client) takeAside(ctx context.Context, want []Want, o Options) (grants []Grant, err error) {
	err = c.aside(ctx, func(other *Client) (err error) {
		if grants, err = other.AcquireMany(ctx, want, o); err != nil || c.Conn() == nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTime)
		defer cancel()
		o.Wait = 0
		if _, err = c.AcquireMany(ctx, want, o); o.Lifetime != Connection {
			return nil // the lock is held; a loss that is not reported is found by asking
		}
		return err
	})
	return grants, err
}

// aside calls do with a client on a separate connection, and closes that at the end.
func (c *Client) aside(ctx context.Context, do func(*Client) error) error {
	t, err := c.redial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = t.close() }()
	return do(&Client{base: t.with(c.settings())})
}

func (c *Client) settings() settings {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set
}

// How long it may take to release locks whose call was not answered, how much of that a
// caller that does not wait spends, and when to look again for a call that still waits.
const (
	releaseTime   = 30 * time.Second
	withdrawTime  = 2 * time.Second
	withdrawPause = 5 * time.Millisecond
)

// withdraw releases what was granted by a call whose answer did not arrive. It goes by
// the owner, since no name of a lock is known; hence only if nobody else has that owner.
// The service may not have noticed yet that the call was given up. While the call waits
// there is nothing to release, and it could still be granted, so withdraw looks again
// until the owner has no lock that is held or waits.
func (h *Held) withdraw(ctx context.Context) {
	patience := releaseTime
	if ctx.Err() != nil {
		patience = withdrawTime
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	for h.releaseAll(ctx) == nil { // otherwise the service releases it with the process
		left, err := h.c.Locks(ctx, Filter{Owner: h.owner, Limit: 1})
		if err != nil || len(left) == 0 {
			return
		}
		select {
		case <-time.After(withdrawPause):
		case <-ctx.Done():
			return
		}
	}
}

// releaseAll releases the locks, and tries again while the service restarts. Releasing
// what is not held is no error: the first try may have been carried out unanswered.
func (h *Held) releaseAll(ctx context.Context) error {
	quiet := h.c.settings()
	quiet.interaction = false // releasing one's own lock needs no password
	return Patiently(ctx, func() error {
		t := h.c.transport().with(quiet)
		if h.ownOwner && h.uid == os.Geteuid() { // for another user, ReleaseOwner would release nothing
			_, err := t.releaseOwner(ctx, "", h.owner)
			return err
		}
		for _, g := range h.Grants() {
			err := t.release(ctx, g.Lockspace, g.Resource, Selector{Lock: g.Lock})
			if err != nil && !errors.Is(err, NotHeld) {
				return err
			}
		}
		return nil
	})
}

// Context ends when the locks are no longer held, or when the context of Hold ends.
// context.Cause says why.
func (h *Held) Context() context.Context { return h.ctx }

// Lost is closed when one of the locks is lost, and only then.
func (h *Held) Lost() <-chan struct{} { return h.lost }

// Loss says how the locks were lost; nil if they were not.
func (h *Held) Loss() *LossError {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.loss
}

// Grants are the locks, in the order in which they were asked for, in their present
// modes and with their present tokens.
func (h *Held) Grants() []Grant {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.grants)
}

// Token is the fencing token of the first lock: larger than that of every earlier grant
// of the resource in PW or EX, on any node. Storage that refuses smaller tokens than
// the largest that it has seen is safe from a holder that does not know yet that it has
// lost the lock.
func (h *Held) Token() uint64 { return h.Grants()[0].Token }

// Owner is the owner that the locks have.
func (h *Held) Owner() string { return h.owner }

// Lifetime says what ends the locks if they are not released.
func (h *Held) Lifetime() string { return h.lifetime }

// Convert changes the mode of one of the locks without releasing it. wait is as
// Options.Wait. When it fails, the lock keeps its mode, unless the error says otherwise.
func (h *Held) Convert(ctx context.Context, to Want, wait time.Duration) error {
	h.mu.Lock()
	i := slices.IndexFunc(h.grants, func(g Grant) bool { return g.Lockspace == to.Lockspace && g.Resource == to.Resource })
	if i < 0 || h.over {
		h.mu.Unlock()
		return &Error{Op: "Convert", Kind: NotHeld, Message: "the lock is not held"}
	}
	lock := h.grants[i].Lock
	// The count is odd during the call, when the keeper can't know which mode is right.
	h.changes++
	h.mu.Unlock()
	token, err := h.convert(ctx, to, lock, wait)
	h.mu.Lock()
	h.changes++
	if err == nil {
		h.grants[i].Mode, h.grants[i].Token = dlm.Canonical(to.Mode), token
		delete(h.unsettled, lock)
	} else {
		h.unsettle(lock)
	}
	h.mu.Unlock()
	h.c.kept.converted(h)
	return err
}

// unsettle notes that Convert has failed for a lock. h.mu is held.
func (h *Held) unsettle(lock LockName) {
	if h.unsettled == nil {
		h.unsettled = map[LockName]bool{}
	}
	h.unsettled[lock] = true
}

// index is the place of one of the locks in h.grants. h.mu is held.
func (h *Held) index(lock LockName) int {
	return slices.IndexFunc(h.grants, func(g Grant) bool { return g.Lock == lock })
}

// grant returns the grant of one of the locks.
func (h *Held) grant(lock LockName) Grant {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.grants[h.index(lock)]
}

// changing reports whether the holder is converting one of the locks.
func (h *Held) changing() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changes%2 == 1
}

// convert makes the call of Convert. Over D-Bus a call that waits has a separate connection, as
// in takeAside: otherwise the lock could still be converted after the end of ctx.
func (h *Held) convert(ctx context.Context, to Want, lock LockName, wait time.Duration) (token uint64, err error) {
	call := func(c *Client) (err error) {
		token, err = c.Convert(ctx, to, Selector{Lock: lock}, wait)
		return err
	}
	if wait != 0 && h.c.redial != nil && h.c.Conn() != nil {
		return token, h.c.aside(ctx, call)
	}
	return token, call(h.c)
}

// Release releases the locks and ends their context. It tries again while the service
// restarts, until ctx ends. Locks that are lost are released as well, as far as they
// still exist; if the only one no longer does, the service isn't asked. A second call does nothing.
func (h *Held) Release(ctx context.Context) error {
	h.mu.Lock()
	first := !h.over
	h.over = true
	h.mu.Unlock()
	if first {
		h.end(ErrReleased)
		h.c.kept.remove(h)
	} else if loss := h.Loss(); loss == nil || loss.How != LossConverted && len(h.grants) == 1 {
		return nil
	}
	return h.releaseAll(ctx)
}

// lose ends the locks because one of them is lost. The others are still held: whoever
// holds several needs them all, and decides about the rest with Release.
func (h *Held) lose(e *LossError) {
	h.mu.Lock()
	if h.over {
		h.mu.Unlock()
		return
	}
	h.over, h.loss = true, e
	h.mu.Unlock()
	close(h.lost)
	h.end(e)
	h.c.kept.remove(h)
}
