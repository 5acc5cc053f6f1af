package client

import (
	"context"
	"crypto/rand"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// keeper watches the locks of a Client that Hold has taken. As long as there are such locks, one
// goroutine asks about one lock after the other whether it is still held. One more for each watch
// reads the events of the service and finds the service again after a restart of the bus.
//
// Over Varlink a watch gets the events of the locks of one owner, or of all owners that this Client
// has made up, so it costs the service nothing when other locks change. It reports every change of
// these locks. Over D-Bus one watch gets the losses of all locks. It does not report releases by
// others, and not everybody may see all losses, so the keeper asks about each lock often.
type keeper struct {
	// starting is held while a run or a watch starts: whoever needs it, too, waits until it has started.
	starting sync.Mutex

	mu      sync.Mutex
	users   int // locks that are held or being taken
	held    []*Held
	next    int                  // the place in held of the one to be asked about next
	byLock  map[LockName][]*Held // held, by lock; calls with the same Options.Owner may share one
	watches map[owners]*heldWatch
	prefix  string // of the owners that are made up; "": there are none yet
	made    uint64 // how many owners have been made up
	// lost are the ends of locks that were reported lately: one may be reported before Hold
	// knows the name of its lock. touched are the other changes.
	lost    map[LockName]Event
	touched map[LockName]struct{}
	soon    []*Held            // to be asked about at once
	wake    chan struct{}      // signals that soon is not empty, or that the pause has changed; one element
	run     context.Context    // of the goroutines
	stopRun context.CancelFunc // ends the run; nil: none goes on
	done    sync.WaitGroup     // of the goroutines of a run
	closed  bool               // by Client.Close; no further run begins
	notice  func(string)       // of Notify; nil: not set
}

// heldWatch is the watch over the locks of some owners.
type heldWatch struct {
	of       owners
	users    int                // locks that are held or being taken; guarded by keeper.mu
	end      context.CancelFunc // ends the watch
	complete atomic.Bool        // the service reports every change of the locks
}

const (
	redialEvery = time.Second
	// mostLost is how many reported ends of locks, and how many other changes, are remembered.
	mostLost = 1000
)

// Notify sets a function that is called with a text for people when the connection to the
// bus has ended, or has come back, while locks are held. It must be called before Hold.
func (c *Client) Notify(f func(text string)) {
	c.kept.mu.Lock()
	defer c.kept.mu.Unlock()
	c.kept.notice = f
}

// ownerFor makes up an owner that nobody else has, and returns the owners that the watch for it
// covers. All owners that one Client makes up have the same prefix, so one watch is enough for them.
func (k *keeper) ownerFor() (owner string, of owners) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.prefix == "" {
		k.prefix = ownerPrefix + rand.Text() + "-"
	}
	k.made++
	return k.prefix + strconv.FormatUint(k.made, 10), owners{k.prefix, true, os.Geteuid()}
}

// begin starts the watch over the locks of some owners unless it runs already. leave, or the end of
// the lock that is then added, undoes that.
func (k *keeper) begin(c *Client, of owners) error {
	k.starting.Lock()
	defer k.starting.Unlock()
	k.mu.Lock()
	k.users++
	first, closed := k.users == 1, k.closed
	k.mu.Unlock()
	var err error
	if closed {
		err = &Error{Op: "Watch", Kind: Canceled, Message: ErrClosed.Error(), Err: ErrClosed}
	} else {
		if first {
			k.start(c)
		}
		err = k.cover(c, of)
	}
	if err != nil {
		k.leave(of)
	}
	return err
}

// start begins a run. Its context is not that of Hold, because the end of one Hold must
// not end the watch of other locks.
func (k *keeper) start(c *Client) {
	k.done.Wait() // the last run ends with its last lock
	ctx, stop := context.WithCancel(context.Background())
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		stop() // the goroutines end at once
	}
	k.run, k.stopRun, k.wake = ctx, stop, make(chan struct{}, 1)
	k.lost, k.touched, k.soon = map[LockName]Event{}, map[LockName]struct{}{}, nil
	k.watches = map[owners]*heldWatch{}
	k.done.Go(func() { k.ask(ctx, c, k.wake) })
}

// cover starts the watch over the locks of some owners, or joins the one that runs. k.starting is
// held.
func (k *keeper) cover(c *Client, of owners) error {
	k.mu.Lock()
	w, run := k.watches[of], k.run
	if w != nil {
		w.users++
	}
	k.mu.Unlock()
	if w != nil {
		return nil
	}
	w = &heldWatch{of: of, users: 1}
	var ctx context.Context
	ctx, w.end = context.WithCancel(run)
	events, err := c.transport().watchOwners(ctx, of, &w.complete)
	if err != nil {
		w.end()
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.watches[of] = w
	k.done.Go(func() { k.watch(ctx, c, w, events) })
	return nil
}

// leave ends the watch of the last user.
func (k *keeper) leave(of owners) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left(of)
}

// left is leave with k.mu held.
func (k *keeper) left(of owners) {
	if w := k.watches[of]; w != nil {
		if w.users--; w.users == 0 {
			w.end()
			delete(k.watches, of)
		}
	}
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
	if k.byLock == nil {
		k.byLock = map[LockName][]*Held{}
	}
	closed := k.closed
	var early *LossError
	for _, g := range h.grants {
		k.byLock[g.Lock] = append(k.byLock[g.Lock], h)
		if e, ok := k.lost[g.Lock]; ok {
			early = e.loss(g)
		}
		if _, ok := k.touched[g.Lock]; ok {
			k.hurry(h)
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
		for _, g := range h.Grants() {
			others := slices.DeleteFunc(k.byLock[g.Lock], func(other *Held) bool { return other == h })
			if k.byLock[g.Lock] = others; len(others) == 0 {
				delete(k.byLock, g.Lock)
			}
		}
		k.left(h.of)
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
func (k *keeper) watch(ctx context.Context, c *Client, w *heldWatch, events <-chan Event) {
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-events:
			switch {
			case ok:
				k.event(ctx, c, w, e)
			case ctx.Err() != nil:
				return
			default:
				if events = k.reconnect(ctx, c, w); events == nil {
					return
				}
				k.askAll(ctx, c, w)
			}
		}
	}
}

// event reads one event. A new service has adopted the locks or found them gone, and what it
// found before the watch saw it was reported to nobody here: hence the questions.
func (k *keeper) event(ctx context.Context, c *Client, w *heldWatch, e Event) {
	switch e.Kind {
	case LockLost, lockRemoved:
		k.reported(e)
	case lockTouched:
		k.touch(e)
	case ServiceStarted:
		k.askAll(ctx, c, w)
		k.mu.Lock()
		defer k.mu.Unlock()
		k.waken() // the watch may be less complete than before
	}
}

// touch has ask look at a lock that was changed, unless it is now as it should be, or the change may
// be the holder's own conversion, at the end of which Convert calls converted. It remembers the
// changes of locks that Hold has not returned yet.
func (k *keeper) touch(e Event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	holders := k.byLock[e.Lock]
	for _, h := range holders {
		g := h.grant(e.Lock)
		same := e.Mode == g.Mode && !otherToken(e.token, g.Token)
		own := e.State == "converting" || e.State == "held" && (same || h.changing())
		if !own {
			k.hurry(h)
		}
	}
	if len(holders) > 0 {
		return
	}
	if len(k.touched) >= mostLost {
		clear(k.touched)
	}
	k.touched[e.Lock] = struct{}{}
}

// converted has ask look at a lock that its holder has converted or tried to convert, because touch
// could not judge the changes that were reported meanwhile.
func (k *keeper) converted(h *Held) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w := k.watches[h.of]; w != nil && w.complete.Load() {
		k.hurry(h)
	}
}

// hurry has ask look at a lock at once. k.mu is held.
func (k *keeper) hurry(h *Held) {
	if !slices.Contains(k.soon, h) {
		k.soon = append(k.soon, h)
	}
	k.waken()
}

// waken wakes the goroutine of ask. k.mu is held.
func (k *keeper) waken() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// reported ends the locks that an event is about. It asks nothing first: what the service itself says
// of a lock is certain, and it may be impossible to ask, as when the socket has been renamed. A loss
// is reported before the removal that follows from it, so the first of the two decides.
func (k *keeper) reported(e Event) {
	k.mu.Lock()
	if len(k.lost) >= mostLost {
		clear(k.lost)
	}
	if _, known := k.lost[e.Lock]; !known {
		k.lost[e.Lock] = e
	}
	holders := slices.Clone(k.byLock[e.Lock])
	k.mu.Unlock()
	for _, h := range holders {
		h.lose(e.loss(h.grant(e.Lock)))
	}
}

// loss is what the event that a lock has ended means to its holder.
func (e *Event) loss(g Grant) *LossError {
	if e.Kind == lockRemoved {
		return releasedByOthers(g)
	}
	return &LossError{g, LossReported, e.Reason}
}

// reconnect waits for the bus to come back. It returns nil at the end of ctx, or if it
// can't connect again; then losses are no longer noticed.
func (k *keeper) reconnect(ctx context.Context, c *Client, w *heldWatch) <-chan Event {
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
		if events, err := c.swap(t).transport().watchOwners(ctx, w.of, &w.complete); err == nil {
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
