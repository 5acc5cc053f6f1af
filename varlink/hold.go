package varlink

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// lookEvery is how often the locks are looked at whose callers want to know what
// becomes of them: the service tells a holder of a loss, but not of a release by
// somebody else.
const lookEvery = 2 * time.Second

// Three things end a lock without its holder's doing: a loss, which the service reports;
// a release by somebody else; and a move, when the owner asks for the lock again on
// another connection. The last two are found by looking (look), and a move by a call of
// this door at once (asked).

// hold has c hear of what becomes of a lock. It is called where the service's
// notices come from as well, so none is missed.
func (d *Door) hold(ref api.Ref, c *call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addHolder(ref, c)
}

// holdOn is hold for the call from before the restart that i is the connection of. It tells the call
// the last blocking notice about the lock that came since, which is kept for that call alone: the
// owner may have asked for the lock on another connection in the meantime. d.mu is held until it is
// told, so that it comes before any later notice.
func (d *Door) holdOn(i *inheritance, c *call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if missed := d.resuming[i.ref][i]; missed != nil {
		c.tell(acquireOut{Blocking: blockingOf(missed)})
	}
	d.dropResumed(i)
	d.addHolder(i.ref, c)
}

// addHolder adds a call to those that hear of what becomes of a lock. d.mu is held.
func (d *Door) addHolder(ref api.Ref, c *call) {
	if d.holders[ref] == nil {
		d.holders[ref] = make(map[*call]struct{})
	}
	d.holders[ref][c] = struct{}{}
	d.startLooking()
}

// unhold ends what hold began.
func (d *Door) unhold(ref api.Ref, c *call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if delete(d.holders[ref], c); len(d.holders[ref]) == 0 {
		delete(d.holders, ref)
	}
}

// takeHolders returns the calls that want to hear of a lock that has ended, and forgets them.
func (d *Door) takeHolders(ref api.Ref) []*call {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := slices.Collect(maps.Keys(d.holders[ref]))
	delete(d.holders, ref)
	return calls
}

// startLooking has look run while there are locks to look at. d.mu is held. Without any
// there is no goroutine and no timer, so an idle service does not wake up.
func (d *Door) startLooking() {
	if d.looking || d.ending.Err() != nil {
		return
	}
	d.looking = true
	d.work.Add(1)
	go d.look()
}

// look finds the locks that were released by somebody else or have moved, while
// there are callers who want to hear of that, or have a descriptor.
func (d *Door) look() {
	defer d.work.Done()
	every := time.NewTicker(lookEvery)
	defer every.Stop()
	for {
		select {
		case <-every.C:
		case <-d.ending.Done():
			return
		}
		d.mu.Lock()
		refs := slices.AppendSeq(slices.Collect(maps.Keys(d.holders)), maps.Keys(d.pipes))
		d.looking = len(refs) > 0
		d.mu.Unlock()
		if len(refs) == 0 {
			return
		}
		for _, ref := range refs {
			d.check(ref)
		}
	}
}

// check finds out whether a lock is still there, and what it hangs on. Any other error
// says nothing about the lock, which is then looked at again later.
func (d *Door) check(ref api.Ref) {
	d.cfg.Core.Service().Lock(ref, func(l api.LockInfo, err error) {
		switch {
		case errors.Is(err, api.NotHeld):
			d.released(ref)
		case err == nil:
			d.losePipes(ref, l.Session)
		}
	})
}

// asked takes a grant. A lock that its owner held already hangs on what it was
// asked for with last, so an earlier descriptor ends.
func (d *Door) asked(g *api.Grant) {
	if g.New {
		return
	}
	d.mu.Lock()
	piped := len(d.pipes[g.Ref]) > 0
	d.mu.Unlock()
	if piped {
		d.check(g.Ref)
	}
}

func (d *Door) released(ref api.Ref) {
	for _, c := range d.takeHolders(ref) {
		c.reply(acquireOut{Released: some(true)})
	}
	d.losePipes(ref, "")
}

// event takes what the service says unasked. It never blocks.
func (d *Door) event(e frontend.Event) {
	switch n := e.(type) {
	case api.LockLost:
		for _, c := range d.takeHolders(n.Ref) {
			c.reply(acquireOut{Lost: some(lostOf(&n.Lost))})
		}
		d.losePipes(n.Ref, "")
	case api.BlockingNotice:
		for _, c := range d.blocked(&n) {
			c.tell(acquireOut{Blocking: blockingOf(&n)})
		}
	case api.StatusChanged:
		d.serviceChanged()
	}
}

// blocked returns the calls that want to hear of a notice. For each call from before the restart that
// is about that lock and has not gone on yet, the notice is kept.
func (d *Door) blocked(n *api.BlockingNotice) []*call {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.resuming[n.Ref] {
		d.resuming[n.Ref][i] = n
	}
	return slices.Collect(maps.Keys(d.holders[n.Ref]))
}

// losePipes ends the descriptors of a lock, but for that of the session that it
// hangs on; "" if there is none.
func (d *Door) losePipes(ref api.Ref, but api.Session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for p := range d.pipes[ref] {
		if p.session.Name() != but {
			p.lose()
		}
	}
}
