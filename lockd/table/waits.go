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
// where another node has them, from what this instance knows.
func waits(t *Table, sp *lockspace, in *api.Inspection) []api.Wait {
	if !in.HasQueues || !in.Queues.Complete {
		return localWaits(t, sp, in)
	}
	v := viewQueues(t, sp, in)
	var out []api.Wait
	add := func(h dlm.Held, blockers []api.Party) {
		for _, b := range blockers {
			out = append(out, api.Wait{Waiter: v.waiter(h), For: b})
		}
	}
	for i, h := range v.Converting {
		add(h, v.converting(i, maxWaits-len(out)))
		if len(out) >= maxWaits {
			return out
		}
	}
	for i, h := range v.Waiting {
		add(h, v.waiting(i, maxWaits-len(out)))
		if len(out) >= maxWaits {
			return out
		}
	}
	return out
}

// localWaits are those of this instance's locks: each waits for a lock here, or
// for whoever has published that they hold the resource.
func localWaits(t *Table, sp *lockspace, in *api.Inspection) []api.Wait {
	var out []api.Wait
	here, _ := sp.holding(in.Resource)
	for _, l := range queuedHere(here) {
		w := api.Wait{Waiter: api.Party{Node: t.conf.Node.ID, LockID: l.lockid, Mode: l.wanted, Who: l.who(), Queued: true},
			For: api.Party{Mode: dlm.None}}
		if b := localConflicts(t, l, here, in, 1); len(b) > 0 {
			w.For = b[0]
		}
		if out = append(out, w); len(out) == maxWaits {
			break
		}
	}
	return out
}

// localConflicts are what l waits for as far as this instance knows: the holder on
// another node that has published itself, or else locks here.
func localConflicts(t *Table, l *lock, here []*lock, in *api.Inspection, most int) []api.Party {
	if h := in.Holder; in.HasHolder && h.Node != 0 && h.Node != t.conf.Node.ID {
		return []api.Party{{Node: h.Node, Mode: h.Mode, Who: h.Who}}
	}
	var found []api.Party
	for _, o := range here {
		if len(found) == most {
			break
		}
		if o != l && o.mode != dlm.None && !dlm.Compatible(o.mode, l.wanted) {
			found = append(found, api.Party{Node: t.conf.Node.ID, LockID: o.lockid, Mode: o.mode, Who: o.who(),
				Queued: o.queued()})
		}
	}
	return found
}

// queuedHere returns the locks of a resource that wait, in the order in which they were
// asked for.
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
// waits for its first grant has no lockid here yet.
func naming(t *Table, sp *lockspace, in *api.Inspection) map[dlm.LockID]string {
	names := map[dlm.LockID]string{}
	here, _ := sp.holding(in.Resource)
	for _, l := range here {
		if l.mode != dlm.None {
			names[l.lockid] = l.who()
		}
	}
	fresh, places := ownQueue(t, sp, in)
	for i, l := range fresh {
		names[in.Queues.Waiting[places[i]].LockID] = l.who()
	}
	return names
}

// ownQueue finds the locks of this instance that wait for their first grant in the
// waiting queue, where they stand in the order in which they were asked for. It finds
// none if the queues are from another moment, or too long.
func ownQueue(t *Table, sp *lockspace, in *api.Inspection) (fresh []*lock, places []int) {
	here, all := sp.holding(in.Resource)
	for _, l := range queuedHere(here) {
		if l.mode == dlm.None {
			fresh = append(fresh, l)
		}
	}
	for i, h := range in.Queues.Waiting {
		if h.Node == t.conf.Node.ID {
			places = append(places, i)
		}
	}
	same := func(l *lock, place int) bool { return l.wanted == in.Queues.Waiting[place].Wanted }
	if !all || !slices.EqualFunc(fresh, places, same) {
		return nil, nil
	}
	return fresh, places
}

// who names the holder of a lock for people: the owner, the label, the process or the user,
// whichever is known.
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
