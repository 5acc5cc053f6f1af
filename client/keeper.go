package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// keeper watches the locks of a Client that Hold has taken. Two goroutines do that, as
// long as there are such locks: one reads the events of the service and finds it again
// after a restart of the bus, the other asks for one lock after the other whether it is
// still held, since the service reports losses, but no releases by others, and not
// everybody may see all losses.
type keeper struct {
	// starting is held while a run starts, so that it has started for all who need it.
	starting sync.Mutex

	mu    sync.Mutex
	users int // locks that are held or being taken
	held  []*Held
	next  int // the place in held of the one to be asked about next
	// lost are the losses that were reported lately: one may be reported before Hold
	// knows the name of its lock.
	lost    map[LockName]Event
	stopRun context.CancelFunc // ends the run; nil: none goes on
	done    sync.WaitGroup     // of the goroutines of a run
	closed  bool               // by Client.Close; no further run begins
	notice  func(string)       // of Notify; nil: not set
}

// How often each lock is asked about, and how many calls a second that may cost.
const (
	askHeldEvery  = 2 * time.Second
	askHeldPause  = 50 * time.Millisecond
	heldAskedTime = 10 * time.Second
	redialEvery   = time.Second
	// mostLost is how many reported losses are remembered.
	mostLost = 1000
)

// Notify sets a function that is called with a text for people when the connection to the
// bus has ended, or has come back, while locks are held. It must be called before Hold.
func (c *Client) Notify(f func(text string)) {
	c.kept.mu.Lock()
	defer c.kept.mu.Unlock()
	c.kept.notice = f
}

// begin starts the watch unless it runs already. leave, or the end of the lock that is
// then added, undoes that.
func (k *keeper) begin(c *Client) error {
	k.starting.Lock()
	defer k.starting.Unlock()
	k.mu.Lock()
	k.users++
	first, closed := k.users == 1, k.closed
	k.mu.Unlock()
	var err error
	switch {
	case closed:
		err = &Error{Op: "Watch", Kind: Canceled, Message: ErrClosed.Error(), Err: ErrClosed}
	case first:
		err = k.start(c)
	}
	if err != nil {
		k.leave()
	}
	return err
}

// start begins a run. Its context is not that of Hold, because the end of one Hold must
// not end the watch of other locks.
func (k *keeper) start(c *Client) error {
	k.done.Wait() // the last run ends with its last lock
	ctx, stop := context.WithCancel(context.Background())
	events, err := c.Watch(ctx)
	if err != nil {
		stop()
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		stop() // the goroutines end at once
	}
	k.stopRun, k.lost = stop, map[LockName]Event{}
	k.done.Go(func() { k.watch(ctx, c, events) })
	k.done.Go(func() { k.ask(ctx, c) })
	return nil
}

// leave ends the watch of the last user.
func (k *keeper) leave() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left()
}

// left is leave with k.mu held.
func (k *keeper) left() {
	if k.users--; k.users == 0 && k.stopRun != nil {
		k.stopRun()
		k.stopRun = nil
	}
}

// add watches a lock that was granted. The lock takes over the place among the users that
// begin has made for the call.
func (k *keeper) add(h *Held) {
	k.mu.Lock()
	k.held = append(k.held, h)
	closed := k.closed
	var early *LossError
	for _, g := range h.grants {
		if e, ok := k.lost[g.Lock]; ok {
			early = &LossError{g, LossReported, e.Reason}
		}
	}
	k.mu.Unlock()
	switch {
	case early != nil:
		h.lose(early)
	case closed:
		h.end(ErrClosed)
	}
}

// remove ends the watch of a lock; a second call does nothing.
func (k *keeper) remove(h *Held) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if i := slices.Index(k.held, h); i >= 0 {
		k.held = slices.Delete(k.held, i, i+1)
		k.left()
	}
}

// stop ends the watch when the Client is closed. Contexts of locks end then, though the
// locks themselves do not: nobody would notice their loss any more.
func (k *keeper) stop() {
	k.mu.Lock()
	if k.closed = true; k.stopRun != nil {
		k.stopRun()
	}
	held := slices.Clone(k.held)
	k.mu.Unlock()
	for _, h := range held {
		h.end(ErrClosed)
	}
	k.done.Wait()
}

// all returns a copy, so that no call is made with k.mu held.
func (k *keeper) all() []*Held {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.held)
}

func (k *keeper) say(text string) {
	k.mu.Lock()
	f := k.notice
	k.mu.Unlock()
	if f != nil {
		f(text)
	}
}

// watch reads the events.
func (k *keeper) watch(ctx context.Context, c *Client, events <-chan Event) {
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-events:
			switch {
			case ok:
				k.event(ctx, c, e)
			case ctx.Err() != nil:
				return
			default:
				if events = k.reconnect(ctx, c); events == nil {
					return
				}
				k.askAll(ctx, c)
			}
		}
	}
}

// event reads one event. A new service has adopted the locks or found them gone, and what it
// found before the watch saw it was reported to nobody here: hence the questions.
func (k *keeper) event(ctx context.Context, c *Client, e Event) {
	switch e.Kind {
	case LockLost:
		k.reported(e)
	case ServiceStarted:
		k.askAll(ctx, c)
	}
}

// reported ends the locks that an event is about.
func (k *keeper) reported(e Event) {
	k.mu.Lock()
	if len(k.lost) >= mostLost {
		clear(k.lost)
	}
	k.lost[e.Lock] = e
	k.mu.Unlock()
	for _, h := range k.all() {
		for _, g := range h.Grants() {
			if g.Lock == e.Lock {
				h.lose(&LossError{g, LossReported, e.Reason})
			}
		}
	}
}

// reconnect waits for the bus to come back. It returns nil at the end of ctx, or if it
// can't connect again; then losses are no longer noticed.
func (k *keeper) reconnect(ctx context.Context, c *Client) <-chan Event {
	// The bus tells the service that this connection has ended, and the service releases.
	for _, h := range k.all() {
		if h.lifetime == Connection {
			h.lose(&LossError{h.Grants()[0], LossReported,
				"the connection to the message bus is gone, and the lock has ended with it"})
		}
	}
	if c.redial == nil {
		k.say("the connection to the message bus is gone; the lock is still held, but its loss would go unnoticed")
		return nil
	}
	k.say("the connection to the message bus is gone; the lock is still held")
	for pause(ctx, redialEvery) {
		t, err := c.redial(ctx)
		if err != nil {
			continue
		}
		if events, err := c.swap(t).Watch(ctx); err == nil {
			k.say("the connection to the message bus is back")
			return events
		}
	}
	return nil
}

// swap uses another connection from now on. Calls under way on the old one fail.
func (c *Client) swap(t transport) *Client {
	c.mu.Lock()
	old := c.base
	c.base = t.with(c.set)
	c.mu.Unlock()
	_ = old.close()
	return c
}

// ask asks about one lock after the other, each every askHeldEvery, unless there are so
// many that the pause between two calls sets the pace. So a holder of many locks costs the
// service 20 calls a second at most.
func (k *keeper) ask(ctx context.Context, c *Client) {
	wait := askHeldEvery
	for pause(ctx, wait) {
		k.mu.Lock()
		n := len(k.held)
		var h *Held
		if n > 0 {
			k.next = (k.next + 1) % n
			h = k.held[k.next]
		}
		k.mu.Unlock()
		if h != nil {
			k.askAbout(ctx, c, h)
		}
		wait = max(askHeldEvery/time.Duration(max(n, 1)), askHeldPause)
	}
}

func (k *keeper) askAll(ctx context.Context, c *Client) {
	for _, h := range k.all() {
		k.askAbout(ctx, c, h)
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
	for _, g := range grants {
		mode, err := c.Held(ctx, g)
		var e *LossError
		switch {
		case errors.Is(err, NotHeld) && c.missing(ctx, h.owner, g): // a service that is ending may say NotHeld, too
			e = c.whyGone(ctx, g)
		case err == nil && mode != g.Mode && changes%2 == 0:
			e = &LossError{g, LossConverted, "somebody else converted it to " + mode}
		default:
			continue
		}
		h.mu.Lock()
		same := h.changes == changes
		h.mu.Unlock()
		if same || e.How != LossConverted {
			h.lose(e)
			return
		}
	}
}

// missing asks a second time, in another way, whether a lock no longer exists.
func (c *Client) missing(ctx context.Context, owner string, g Grant) bool {
	locks, err := c.Locks(ctx, Filter{Lockspace: g.Lockspace, Resource: g.Resource, Owner: owner})
	there := func(l Lock) bool { return l.Lock == g.Lock && l.State != "releasing" }
	return err == nil && !slices.ContainsFunc(locks, there)
}

// whyGone says whether a lock was lost, which the bus does not report to everybody, or
// released by somebody else.
func (c *Client) whyGone(ctx context.Context, g Grant) *LossError {
	in, err := c.Inspect(ctx, g.Lockspace, g.Resource)
	if err != nil {
		return &LossError{g, LossUnknown, "it no longer exists"}
	}
	for _, l := range in.Lost {
		if l.Lock == g.Lock {
			return &LossError{g, LossReported, l.Reason}
		}
	}
	return &LossError{g, LossReleased, "somebody else released it"}
}
