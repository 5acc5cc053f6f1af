package table

import (
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// queuesView reads off the queues of a resource's master who is in whose way. The
// rules are those of fs/dlm (_can_be_granted): a conversion waits for modes that it
// can't live with, else for the conversion before it; a new lock for the one before
// it, the first one for the modes that it can't live with, else for the conversions.
type queuesView struct {
	*dlm.Queues
	in      *api.Inspection
	names   map[dlm.LockID]string
	holders []dlm.Held // granted and converting
}

func viewQueues(t *Table, sp *lockspace, in *api.Inspection) *queuesView {
	q := &in.Queues
	return &queuesView{q, in, naming(t, sp, in), slices.Concat(q.Granted, q.Converting)}
}

// party describes a lock of the queues.
func (v *queuesView) party(h dlm.Held) api.Party {
	p := api.Party{Node: h.Node, LockID: h.LockID, Mode: h.Mode, Who: v.names[h.LockID], Queued: h.Wanted != dlm.None}
	if h.Mode == dlm.None {
		p.Mode = h.Wanted
	}
	if o := &v.in.Holder; p.Who == "" && v.in.HasHolder && o.Node == h.Node && o.Mode == h.Mode {
		p.Who = o.Who
	}
	return p
}

// waiter describes a lock of the queues that waits.
func (v *queuesView) waiter(h dlm.Held) api.Party {
	p := v.party(h)
	p.Mode = h.Wanted
	return p
}

// conflicts are the holders that h can't live with or, where there is none, the last
// of those before it; at most so many.
func (v *queuesView) conflicts(h dlm.Held, before []dlm.Held, most int) []api.Party {
	var found []api.Party
	for _, o := range v.holders {
		if len(found) == most {
			return found
		}
		if o != h && o.Mode != dlm.None && !dlm.Compatible(o.Mode, h.Wanted) {
			found = append(found, v.party(o))
		}
	}
	if len(found) == 0 && len(before) > 0 {
		found = append(found, v.party(before[len(before)-1]))
	}
	return found
}

// converting and waiting tell what those at a place in these queues wait for.
func (v *queuesView) converting(i, most int) []api.Party {
	return v.conflicts(v.Converting[i], v.Converting[:i], most)
}

func (v *queuesView) waiting(i, most int) []api.Party {
	if i == 0 {
		return v.conflicts(v.Waiting[0], v.Converting, most)
	}
	return []api.Party{v.party(v.Waiting[i-1])}
}
