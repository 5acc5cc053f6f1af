package table

import (
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// CancelRequest withdraws a Request that still waits. Only its own uid or a
// privileged caller may.
func (b *calls) CancelRequest(who api.Caller, ref api.Ref) error {
	t := b.t
	c := b.requests[ref]
	if c == nil {
		return &api.Error{Op: "cancel", Kind: api.NotHeld, Text: "the request does not wait any more"}
	}
	if c.caller.UID != who.UID && !who.Privileged {
		return &api.Error{Op: "cancel", Kind: api.AccessDenied, Lockspace: c.want[0].Lockspace,
			Resource: c.want[0].Resource, Mode: c.want[0].Mode,
			Text: "the request belongs to another user"}
	}
	w := c.want[0]
	e := c.errorOf(api.Canceled, w.Lockspace, w.Resource, w.Mode, "the request was canceled")
	if sp := t.spaces.byName[w.Lockspace]; sp != nil {
		e.Holder = sp.localHolder(w.Resource, w.Mode, c.base())
	}
	c.stopWaiting(e)
	return nil
}

// positionLimit is how many locks are looked at to find a place, so that the
// cost does not grow with the queue.
const positionLimit = 1000

// Position counts the older ones in the chain of the resource, which begins
// with the youngest.
func (b *calls) Position(ref api.Ref) int { return b.place(ref, nil) }

// place is Position. Places that are known save the rest of the way, and what is found
// is added to them.
func (b *calls) place(ref api.Ref, known map[*lock]int) int {
	c := b.requests[ref]
	if c == nil || c.stage != acquireLocking || len(c.fresh) != 1 {
		return 0
	}
	place, seen := 1, 0
	for l := c.fresh[0].nextRes; l != nil; l = l.nextRes {
		if before, ok := known[l]; ok && before > 0 {
			place += before
			break
		}
		if seen++; seen > positionLimit {
			return 0
		}
		if l.state == lockLocking && l.busy.wait > 0 {
			place++
		}
	}
	if known != nil {
		known[c.fresh[0]] = place
	}
	return place
}
