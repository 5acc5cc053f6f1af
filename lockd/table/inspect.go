package table

import (
	"fmt"
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// inspectOp tells what this instance, the value block and the engine's tables know
// of a resource. It changes nothing:
//
//	look at the engine's tables, and read the value block with a null lock
//	both have ended: reply
type inspectOp struct {
	call
	lockspace, resource string
	sp                  *lockspace
	// What was found so far; in.Missing gathers what could not be found out, and why.
	in api.Inspection
	// Of the look and the value block, how many have not ended.
	pending int
}

// result leaves out what was found where the call has failed.
func (o *inspectOp) result() Reply {
	if o.err != nil {
		return InspectionReply{}
	}
	return InspectionReply{o.in}
}

// waitsFor is the lockspace: both the look and the null lock wait if it is stopped.
func (o *inspectOp) waitsFor() obstacle {
	return o.t.obstacleOf(nil, o.lockspace, o.resource, dlm.None)
}

// start asks for the look and the value block at the same time. A lockspace that can't be used
// is described all the same, without its value block.
func (o *inspectOp) start() {
	e := o.checkName(o.lockspace, o.resource)
	if e == nil {
		if o.sp = o.t.spaces.byName[o.lockspace]; o.sp == nil {
			e = o.errorOf(api.NoSuchLockspace, o.lockspace, "", dlm.None, "the lockspace is not joined here").
				WithHint(api.HintListLockspaces)
		}
	}
	if e != nil {
		o.refuse(e)
		return
	}
	o.known()
	o.pending = 1
	switch sp := o.sp; {
	case !sp.ready():
		o.missing("the lockspace is " + sp.public().String())
	case sp.stopped():
		o.missing("the value block can't be read while the lockspace is stopped")
	default:
		o.pending++
		o.t.probes.read(sp, o.resource, o)
	}
	o.t.look(o.sp, Question{Resource: o.resource}, o)
}

func (o *inspectOp) missing(text ...string) { o.in.Missing = append(o.in.Missing, text...) }

// known gathers what the table itself knows of the resource. Of very many locks it
// shows a page.
func (o *inspectOp) known() {
	t, sp := o.t, o.sp
	o.in = api.Inspection{Lockspace: sp.name, Resource: o.resource, Health: sp.health.Health, HasHealth: sp.health.known}
	here, all := sp.holding(o.resource)
	if most := min(t.conf.Limits.PageSize, inspectedShown); len(here) > most || !all {
		o.missing("this service has more locks of the resource than are shown; a list of its locks has all")
		here = here[:min(len(here), most)]
	}
	o.in.Locks = infos(here)
	for _, l := range t.losses.lately {
		if l.Lockspace == sp.name && l.Resource == o.resource {
			o.in.Lost = append(o.in.Lost, l)
		}
	}
}

// valueRead takes the value block. In a raw lockspace it has no holder to be shown.
func (o *inspectOp) valueRead(ev dlm.Event) {
	if in := &o.in; ev.HasValue {
		in.Value, in.HasValue, in.ValueInvalid = ev.Value, true, ev.ValueInvalid
		in.Holder, in.HasHolder = api.DecodeHolder(ev.Value)
		in.HasHolder = in.HasHolder && !o.sp.raw
	} else {
		o.missing("the value block could not be read")
	}
	o.end()
}

// looked takes the queues. They are from a moment later than the rest, as waits has to know.
func (o *inspectOp) looked(k Looked) {
	in := &o.in
	in.Queues, in.HasQueues = k.Queues, k.HasQueues
	in.Queues.Granted = o.withoutProbes(in.Queues.Granted)
	if k.HasHealth {
		in.Health, in.HasHealth = k.Health, true
	}
	o.missing(k.Missing...)
	o.end()
}

// end answers when both have ended.
func (o *inspectOp) end() {
	if o.pending--; o.pending > 0 {
		return
	}
	o.in.Waits = waits(o.t, o.sp, &o.in)
	o.shorten()
	o.reply()
}

// inspectedMost is how many locks of a resource an Inspect looks at, and
// inspectedShown how many of each kind it shows.
const (
	inspectedMost  = 1000
	inspectedShown = 256
)

// shorten leaves of each queue what an Inspection shows.
func (o *inspectOp) shorten() {
	q := &o.in.Queues
	for _, queue := range []*[]dlm.Held{&q.Granted, &q.Converting, &q.Waiting} {
		if n := len(*queue); n > inspectedShown {
			*queue = slices.Clone((*queue)[:inspectedShown])
			o.missing(fmt.Sprintf("only the first %d of %d locks of a queue are shown", inspectedShown, n))
		}
	}
}

// withoutProbes takes out the null locks of this node that no entry explains:
// they are this instance's own, made to read a value block and perhaps gone by
// now. Nobody else locks here, and a null lock is in nobody's way.
func (o *inspectOp) withoutProbes(granted []dlm.Held) []dlm.Held {
	here, all := o.sp.holding(o.resource)
	if !all {
		return granted
	}
	ours := make(map[dlm.LockID]bool, len(here))
	for _, l := range here {
		ours[l.lockid] = true
	}
	return slices.DeleteFunc(granted, func(h dlm.Held) bool {
		return h.Mode == dlm.NL && h.Node == o.t.conf.Node.ID && !ours[h.LockID]
	})
}

// holding returns the locks of this instance that a resource has, the youngest
// first, but not more than are looked at; all is whether that was all of them.
func (sp *lockspace) holding(resource string) (in []*lock, all bool) {
	for l := sp.byResource[resource]; l != nil; l = l.nextRes {
		if len(in) == inspectedMost {
			return in, false
		}
		in = append(in, l)
	}
	return in, true
}

// infos describes locks for front ends, the oldest first.
func infos(in []*lock) []api.LockInfo {
	out := make([]api.LockInfo, len(in))
	slices.SortFunc(in, byRef)
	for i, l := range in {
		out[i] = l.info()
	}
	return out
}
