package table

import (
	"fmt"
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// maxWaits bounds the waits that an Inspection shows.
const maxWaits = 100

// waitGraph finds out who waits for whom, from the queues of the resource's master or,
// where another node has them, from what this instance knows. The rules are those
// of fs/dlm (_can_be_granted): a conversion waits for modes that it can't live
// with, else for the conversion before it; a new lock for the one before it, the
// first one for the modes that it can't live with, else for the conversions.
type waitGraph struct {
	t     *Table
	sp    *lockspace
	in    *api.Inspection
	names map[dlm.LockID]string // who is behind the lockids of this node
	out   []api.Wait            // at most maxWaits
}

// waits returns the waits of an inspected resource.
func waits(t *Table, sp *lockspace, in *api.Inspection) []api.Wait {
	g := waitGraph{t: t, sp: sp, in: in}
	if !in.HasQueues || !in.Queues.Complete {
		g.local()
		return g.out
	}
	g.names = g.naming()
	q := &in.Queues
	for i, h := range q.Converting {
		g.blockedBy(h, q.Converting[:i])
	}
	for i, h := range q.Waiting {
		if i == 0 {
			g.blockedBy(h, q.Converting)
		} else {
			g.add(g.waiter(h), g.party(q.Waiting[i-1]))
		}
	}
	return g.out
}

// add adds a wait, if there is room for it.
func (g *waitGraph) add(waiter, for_ api.Party) {
	if len(g.out) < maxWaits {
		g.out = append(g.out, api.Wait{Waiter: waiter, For: for_})
	}
}

// party describes a lock of the queues.
func (g *waitGraph) party(h dlm.Held) api.Party {
	p := api.Party{Node: h.Node, LockID: h.LockID, Mode: h.Mode, Who: g.names[h.LockID]}
	if h.Mode == dlm.None {
		p.Mode = h.Wanted
	}
	if v := g.in.Holder; p.Who == "" && g.in.HasHolder && v.Node == h.Node && v.Mode == h.Mode {
		p.Who = v.Who
	}
	return p
}

// waiter describes a lock of the queues by the mode that it waits for.
func (g *waitGraph) waiter(h dlm.Held) api.Party {
	p := g.party(h)
	p.Mode = h.Wanted
	return p
}

// blockedBy adds the holders whose modes h can't live with; where there are none, h
// waits for the last of the locks before it.
func (g *waitGraph) blockedBy(h dlm.Held, before []dlm.Held) {
	if len(g.out) >= maxWaits {
		return
	}
	waiter, found := g.waiter(h), false
	for _, queue := range [][]dlm.Held{g.in.Queues.Granted, g.in.Queues.Converting} {
		for _, o := range queue {
			if len(g.out) < maxWaits && o != h && o.Mode != dlm.None && !dlm.Compatible(o.Mode, h.Wanted) {
				g.add(waiter, g.party(o))
				found = true
			}
		}
	}
	if !found && len(before) > 0 {
		g.add(waiter, g.party(before[len(before)-1]))
	}
}

// local adds the waits of this instance's locks: each waits for a lock here, or
// for whoever has published that they hold the resource.
func (g *waitGraph) local() {
	node := g.t.conf.Node.ID
	here, _ := g.sp.holding(g.in.Resource)
	for _, l := range queuedHere(here) {
		in := api.Party{Mode: dlm.None}
		if h := g.in.Holder; g.in.HasHolder && h.Node != 0 && h.Node != node {
			in = api.Party{Node: h.Node, Mode: h.Mode, Who: h.Who}
		}
		for _, o := range here {
			if in.Node != 0 {
				break
			}
			if o != l && o.mode != dlm.None && !dlm.Compatible(o.mode, l.wanted) {
				in = api.Party{Node: node, LockID: o.lockid, Mode: o.mode, Who: o.who()}
			}
		}
		g.add(api.Party{Node: node, LockID: l.lockid, Mode: l.wanted, Who: l.who()}, in)
		if len(g.out) == maxWaits {
			break
		}
	}
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
func (g *waitGraph) naming() map[dlm.LockID]string {
	names := map[dlm.LockID]string{}
	here, all := g.sp.holding(g.in.Resource)
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
	node := g.t.conf.Node.ID
	own := slices.DeleteFunc(slices.Clone(g.in.Queues.Waiting), func(h dlm.Held) bool { return h.Node != node })
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
