package varlink

import (
	"errors"
	"time"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// lookEvery is how often the locks are looked at whose callers want to know what
// becomes of them: the service tells a holder of a loss, but not of a release by
// somebody else.
const lookEvery = 2 * time.Second

// hold has c hear of what becomes of a lock. It is called where the service's
// notices come from as well, so none is missed.
func (d *Door) hold(ref api.Ref, c *call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.holders[ref] == nil {
		d.holders[ref] = make(map[*call]struct{})
	}
	d.holders[ref][c] = struct{}{}
	if len(d.holders) == 1 && len(d.holders[ref]) == 1 && !d.looking {
		d.looking = true
		d.work.Add(1)
		go d.look()
	}
}

// unhold ends what hold began.
func (d *Door) unhold(ref api.Ref, c *call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if delete(d.holders[ref], c); len(d.holders[ref]) == 0 {
		delete(d.holders, ref)
	}
}

// holding returns the calls that want to hear of a lock; with end, they do so for
// the last time.
func (d *Door) holding(ref api.Ref, end bool) []*call {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := make([]*call, 0, len(d.holders[ref]))
	for c := range d.holders[ref] {
		calls = append(calls, c)
	}
	if end {
		delete(d.holders, ref)
	}
	return calls
}

// look finds the locks that were released by somebody else, while there are
// callers who want to hear of that.
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
		refs := make([]api.Ref, 0, len(d.holders))
		for ref := range d.holders {
			refs = append(refs, ref)
		}
		d.looking = len(refs) > 0
		d.mu.Unlock()
		if len(refs) == 0 {
			return
		}
		for _, ref := range refs {
			d.cfg.Core.Service().Lock(ref, func(_ api.LockInfo, err error) {
				if errors.Is(err, api.NotHeld) {
					d.released(ref)
				}
			})
		}
	}
}

func (d *Door) released(ref api.Ref) {
	for _, c := range d.holding(ref, true) {
		c.reply(acquireOut{Released: some(true)})
	}
}

// event takes what the service says unasked. It never blocks.
func (d *Door) event(e frontend.Event) {
	switch n := e.(type) {
	case api.LockLost:
		for _, c := range d.holding(n.Ref, true) {
			c.reply(acquireOut{Lost: some(lostOf(&n.Lost))})
		}
		d.loseDescriptor(n.Ref)
	case api.BlockingNotice:
		for _, c := range d.holding(n.Ref, false) {
			c.tell(acquireOut{Blocking: blockingOf(&n)})
		}
	case api.StatusChanged:
		d.serviceChanged()
	}
}

func (d *Door) loseDescriptor(ref api.Ref) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for p := range d.pipes {
		if p.ref == ref {
			p.lose()
		}
	}
}
