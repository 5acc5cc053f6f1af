package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// How often each lock is asked about, without and with a complete watch; the shortest pause between
// two locks; and how long an answer may take.
const (
	askHeldEvery    = 2 * time.Second
	askWatchedEvery = time.Minute
	askHeldPause    = 50 * time.Millisecond
	heldAskedTime   = 10 * time.Second
)

// ask asks about one lock after the other: about each every askHeldEvery, or every askWatchedEvery
// if the service reports all changes of all of them and has answered the last question about each,
// but with a pause of at least askHeldPause between two. So a holder of many locks costs the service
// 20 calls a second at most. It also asks at once about locks that were reported as changed.
func (k *keeper) ask(ctx context.Context, c *Client, wake <-chan struct{}) {
	due := time.Now().Add(askHeldEvery)
	timer := time.NewTimer(askHeldEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
			k.mu.Lock()
			soon, pause := k.soon, k.pause()
			k.soon = nil
			k.mu.Unlock()
			for _, h := range soon {
				k.askAbout(ctx, c, h)
			}
			if next := time.Now().Add(pause); next.Before(due) {
				due = next
			}
		case <-timer.C:
			h, pause := k.turn()
			if h != nil {
				k.askAbout(ctx, c, h)
			}
			due = time.Now().Add(pause)
		}
		timer.Reset(time.Until(due))
	}
}

// turn returns the lock to be asked about now, nil if there is none, and how long to wait after that.
func (k *keeper) turn() (h *Held, pause time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := len(k.held); n > 0 {
		k.next = (k.next + 1) % n
		h = k.held[k.next]
	}
	return h, k.pause()
}

// pause is how long to wait between two locks. k.mu is held.
func (k *keeper) pause() time.Duration {
	every := askWatchedEvery
	for _, w := range k.watches {
		if !w.complete.Load() {
			every = askHeldEvery
		}
	}
	if slices.ContainsFunc(k.held, func(h *Held) bool { return h.unsure }) {
		every = askHeldEvery
	}
	return max(every/time.Duration(max(len(k.held), 1)), askHeldPause)
}

// answered notes whether the service has said if the locks are held. If it has not, as while it
// starts, ask soon asks about them again, because the service does not report losses that it finds
// while it starts.
func (k *keeper) answered(h *Held, sure bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h.unsure = !sure; !sure {
		k.waken()
	}
}

// askAll asks about all locks of a watch.
func (k *keeper) askAll(ctx context.Context, c *Client, w *heldWatch) {
	for _, h := range k.all() {
		if h.of == w.of {
			k.askAbout(ctx, c, h)
		}
	}
}

// askAbout finds out whether locks are still held. Only an answer that a lock is not held
// ends them; any other failure proves nothing.
func (k *keeper) askAbout(ctx context.Context, c *Client, h *Held) {
	ctx, cancel := context.WithTimeout(ctx, heldAskedTime)
	defer cancel()
	h.mu.Lock()
	grants, changes := slices.Clone(h.grants), h.changes
	h.mu.Unlock()
	sure := true
	defer func() { k.answered(h, sure) }()
	for _, g := range grants {
		l, err := c.transport().held(ctx, g)
		var e *LossError
		if errors.Is(err, NotHeld) && c.missing(ctx, h.owner, g) { // a service that is ending may say NotHeld, too
			e = c.whyGone(ctx, g)
		} else if sure = sure && err == nil; err == nil {
			e = h.changedBy(g, l, changes)
		}
		if e != nil {
			h.lose(e)
			return
		}
	}
}

// changedBy compares what the service says of one of the locks with the grant. It returns how
// somebody else has converted it; nil if nobody has, or if the holder has converted a lock since
// h.changes had the value changes, or another question has brought the grant up to date. A conversion
// up to PW or EX gives a lock a new token; one to a weaker mode gives it the token of the last lock
// in PW or EX (docs/tokens.md). So the token shows that a lock in PW or EX was converted down and up
// again, and that a weaker one made room for a writer.
func (h *Held) changedBy(g Grant, l Lock, changes int) *LossError {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case changes%2 == 1 || h.changes != changes || h.grants[h.index(g.Lock)] != g:
	case h.unsettled[g.Lock] && l.State == "converting": // it may be on its way back
	case l.Mode != g.Mode:
		return &LossError{g, LossConverted, "somebody else converted it to " + l.Mode}
	case h.unsettled[g.Lock]:
		delete(h.unsettled, g.Lock)
		h.grants[h.index(g.Lock)].Token = l.Token
	case otherToken(l.Token, g.Token):
		return &LossError{g, LossConverted, fmt.Sprintf("somebody else converted it to another mode and back: "+
			"its token was %d and is now %d", g.Token, l.Token)}
	}
	return nil
}

// otherToken reports whether two fencing tokens are known and differ.
func otherToken(a, b uint64) bool { return a != b && a != 0 && b != 0 }

// missing asks a second time, in another way, whether a lock no longer exists.
func (c *Client) missing(ctx context.Context, owner string, g Grant) bool {
	locks, err := c.Locks(ctx, Filter{Lockspace: g.Lockspace, Resource: g.Resource, Owner: owner})
	there := func(l Lock) bool { return l.Lock == g.Lock && l.State != "releasing" }
	return err == nil && !slices.ContainsFunc(locks, there)
}

// whyGone says whether a lock was lost, which the bus does not report to everybody, or
// released by somebody else. Lost also works when the lockspace has been left; an older service does
// not have it.
func (c *Client) whyGone(ctx context.Context, g Grant) *LossError {
	lost, err := c.Lost(ctx, Filter{Lockspace: g.Lockspace, Resource: g.Resource})
	if err != nil {
		in, err := c.Inspect(ctx, g.Lockspace, g.Resource)
		if err != nil {
			return &LossError{g, LossUnknown, "it no longer exists"}
		}
		lost = in.Lost
	}
	for _, l := range lost {
		if l.Lock == g.Lock {
			return &LossError{g, LossReported, l.Reason}
		}
	}
	return releasedByOthers(g)
}

func releasedByOthers(g Grant) *LossError {
	return &LossError{g, LossReleased, "somebody else released it"}
}
