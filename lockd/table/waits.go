package table

import (
	"fmt"
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// maxWaits bounds the waits that an Inspection shows.
const maxWaits = 100

// waits finds out who waits for whom from the queues of the resource's master or,
// where another node has them, from what this instance knows. The rules are those
// of fs/dlm (_can_be_granted): a conversion waits for modes that it can't live
// with, else for the conversion before it; a new lock for the one before it, the
// first one for the modes that it can't live with, else for the conversions.
func (t *Table) waits(sp *lockspace, in *api.Inspection) []api.Wait {
	if !in.HasQueues || !in.Queues.Complete {
		return t.localWaits(sp, in)
	}
	q := &in.Queues
	holders := slices.Concat(q.Granted, q.Converting)
	naming := t.naming(sp, in)
	party := func(h dlm.Held) api.Party {
		p := api.Party{Node: h.Node, LockID: h.LockID, Mode: h.Mode, Who: naming[h.LockID]}
		if h.Mode == dlm.None {
			p.Mode = h.Wanted
		}
		if v := in.Holder; p.Who == "" && in.HasHolder && v.Node == h.Node && v.Mode == h.Mode {
			p.Who = v.Who
		}
		return p
	}
	var out []api.Wait
	add := func(h dlm.Held, behind []dlm.Held) {
		waiter := party(h)
		waiter.Mode = h.Wanted
		found := false
		for _, o := range holders {
			if len(out) >= maxWaits {
				break
			}
			if o != h && o.Mode != dlm.None && !dlm.Compatible(o.Mode, h.Wanted) {
				out, found = append(out, api.Wait{Waiter: waiter, For: party(o)}), true
			}
		}
		if !found && len(behind) > 0 {
			out = append(out, api.Wait{Waiter: waiter, For: party(behind[len(behind)-1])})
		}
	}
	for i, h := range q.Converting {
		if len(out) >= maxWaits {
			break
		}
		add(h, q.Converting[:i])
	}
	for i, h := range q.Waiting {
		if len(out) >= maxWaits {
			break
		}
		if i == 0 {
			add(h, q.Converting)
			continue
		}
		waiter := party(h)
		waiter.Mode = h.Wanted
		out = append(out, api.Wait{Waiter: waiter, For: party(q.Waiting[i-1])})
	}
	return out[:min(len(out), maxWaits)]
}

// localWaits are those of this instance's locks: each waits for a lock here, or
// for whoever has published that they hold the resource.
func (t *Table) localWaits(sp *lockspace, in *api.Inspection) []api.Wait {
	var out []api.Wait
	here, _ := sp.holding(in.Resource)
	for _, l := range queuedHere(here) {
		w := api.Wait{Waiter: api.Party{Node: t.conf.Node.ID, LockID: l.lockid, Mode: l.wanted, Who: l.who()},
			For: api.Party{Mode: dlm.None}}
		if h := in.Holder; in.HasHolder && h.Node != 0 && h.Node != t.conf.Node.ID {
			w.For = api.Party{Node: h.Node, Mode: h.Mode, Who: h.Who}
		}
		for _, o := range here {
			if w.For.Node != 0 {
				break
			}
			if o != l && o.mode != dlm.None && !dlm.Compatible(o.mode, l.wanted) {
				w.For = api.Party{Node: t.conf.Node.ID, LockID: o.lockid, Mode: o.mode, Who: o.who()}
			}
		}
		if out = append(out, w); len(out) == maxWaits {
			break
		}
	}
	return out
}

// queuedHere returns those locks of a resource that wait, in the order in which
// they were asked for.
func queuedHere(here []*lock) []*lock {
	var out []*lock
	for _, l := range here {
		if l.queued() {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, byRef)
	return out
}

// naming tells who is behind the lockids of this node in the queues. A lock that
// waits for its first grant has no lockid here yet: those stand in the queue in
// the order in which they were asked for.
func (t *Table) naming(sp *lockspace, in *api.Inspection) map[dlm.LockID]string {
	names := map[dlm.LockID]string{}
	here, all := sp.holding(in.Resource)
	for _, l := range here {
		if l.mode != dlm.None {
			names[l.lockid] = l.who()
		}
	}
	var new []*lock
	for _, l := range queuedHere(here) {
		if l.mode == dlm.None {
			new = append(new, l)
		}
	}
	own := slices.DeleteFunc(slices.Clone(in.Queues.Waiting), func(h dlm.Held) bool { return h.Node != t.conf.Node.ID })
	if !all || !slices.EqualFunc(new, own, func(l *lock, h dlm.Held) bool { return l.wanted == h.Wanted }) {
		return names // the queues are from another moment, or too long
	}
	for i, h := range own {
		names[h.LockID] = new[i].who()
	}
	return names
}

// who says for people whom a lock is for.
func (l *lock) who() string {
	switch {
	case l.owner != "":
		return l.owner
	case l.label != "":
		return l.label
	case l.pid == 0:
		return fmt.Sprintf("uid %d", l.uid)
	}
	return fmt.Sprintf("process %d", l.pid)
}
