package table

import (
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

const (
	// maxWaiters is how many of those that wait a page has: for each resource of it
	// whose queues another node keeps, a value block may have to be read.
	maxWaiters = 256
	// maxBlockers is how many a waiter is said to wait for.
	maxBlockers = 16
)

// waitsOp lists those that wait, and what each waits for. It changes nothing:
//
//	look at a slice of the locks in each turn, until a page of them wait
//	look at the engine's tables, once for each lockspace of the page
//	read the value blocks of resources whose holder is on another node
//	all of this has ended: reply
type waitsOp struct {
	call
	filter api.Filter
	locks  api.Page // those that waited when they were looked at
	// The resources that somebody on the page waits for: each is looked at once, however
	// many wait for it.
	waited map[resourceKey]*waitedFor
	// The answer, once pending is 0.
	page api.WaitsPage
	// How many looks and value blocks have not ended.
	pending int
}

// waitedFor is a resource that somebody waits for.
type waitedFor struct {
	o  *waitsOp
	sp *lockspace
	in api.Inspection // its queues, and what its holder has published
}

// result leaves out what was found where the call has failed.
func (o *waitsOp) result() Reply {
	if o.err != nil {
		return WaitsReply{}
	}
	return WaitsReply{o.page}
}

// start looks for locks that wait, a slice in each turn.
func (o *waitsOp) start() {
	f := o.filter
	f.Queued = true
	if f.Limit == 0 || f.Limit > maxWaiters {
		f.Limit = maxWaiters
	}
	g := o.t.newListing(f)
	o.t.chore(func() bool {
		if g.lookOn() {
			return true
		}
		o.page.Looked += g.page.Looked
		o.locks = g.page
		o.lookAll()
		return false
	})
}

// lookAll looks at the queues of the resources of the page.
func (o *waitsOp) lookAll() {
	o.waited = map[resourceKey]*waitedFor{}
	bySpace := map[*lockspace][]string{}
	for i := range o.locks.Locks {
		l := &o.locks.Locks[i]
		k := resourceKey{l.Lockspace, l.Resource}
		if sp := o.t.spaces.byName[l.Lockspace]; sp != nil && o.waited[k] == nil {
			o.waited[k] = &waitedFor{o, sp, api.Inspection{Lockspace: l.Lockspace, Resource: l.Resource}}
			bySpace[sp] = append(bySpace[sp], l.Resource)
		}
	}
	o.pending = 1 + len(bySpace)
	for _, name := range o.t.spaces.LockspaceNames() { // in an order that does not change
		sp := o.t.spaces.byName[name]
		if names := bySpace[sp]; len(names) > 0 {
			o.t.look(sp, Question{Resources: names}, &waitsLook{o, sp, names})
		}
	}
	o.end()
}

// waitsLook is a look at the queues of resources of one lockspace.
type waitsLook struct {
	o     *waitsOp
	sp    *lockspace
	names []string
}

func (w *waitsLook) looked(k Looked) {
	o, sp := w.o, w.sp
	for i, name := range w.names {
		r := o.waited[resourceKey{sp.name, name}]
		if i < len(k.Many) {
			r.in.Queues, r.in.HasQueues = k.Many[i], true
		} else if len(k.Missing) > 0 {
			r.in.Queues.Missing = k.Missing[0]
		}
		if q := &r.in.Queues; q.HasValue {
			r.in.Holder, r.in.HasHolder = api.DecodeHolder(q.Value)
			r.in.HasHolder = r.in.HasHolder && !sp.raw
		}
		if r.askHolder() {
			o.pending++
			o.t.probes.read(sp, name, r)
		}
	}
	o.end()
}

// askHolder reports whether the value block has to tell who is in the way: another
// node keeps the queues, and no lock here is in the way.
func (r *waitedFor) askHolder() bool {
	sp := r.sp
	if r.in.HasQueues && r.in.Queues.Complete || sp.raw || !sp.ready() || sp.stopped() {
		return false
	}
	here, _ := sp.holding(r.in.Resource)
	for _, l := range queuedHere(here) {
		if len(localConflicts(r.o.t, l, here, &r.in, 1)) == 0 {
			return true
		}
	}
	return false
}

// valueRead implements valueReader.
func (r *waitedFor) valueRead(ev dlm.Event) {
	if ev.HasValue {
		r.in.Holder, r.in.HasHolder = api.DecodeHolder(ev.Value)
	}
	r.o.end()
}

// end answers when everything has ended. Where all have been granted meanwhile, it
// looks further: an empty page would say that nobody else waits.
func (o *waitsOp) end() {
	if o.pending--; o.pending > 0 {
		return
	}
	views := map[resourceKey]*waitersView{}
	for i := range o.locks.Locks {
		l := o.t.locks.byRef(o.locks.Locks[i].Ref)
		if l == nil || !l.queued() {
			continue
		}
		v := views[l.key()]
		if v == nil {
			v = o.waited[l.key()].view()
			views[l.key()] = v
		}
		o.page.Waiters = append(o.page.Waiters, v.describe(l))
	}
	if o.page.Next = o.locks.Next; len(o.page.Waiters) == 0 && o.page.Next != 0 {
		o.filter.After = o.page.Next
		o.start()
		return
	}
	o.reply()
}

// waitersView tells of the waiters of a resource what they wait for.
type waitersView struct {
	r      *waitedFor
	here   []*lock // the locks of this instance
	queues *queuesView
	place  map[*lock]int // in the waiting queue, of those that wait for their first grant
}

func (r *waitedFor) view() *waitersView {
	t := r.o.t
	v := &waitersView{r: r}
	v.here, _ = r.sp.holding(r.in.Resource)
	if !r.in.HasQueues || !r.in.Queues.Complete {
		return v
	}
	v.queues = viewQueues(t, r.sp, &r.in)
	fresh, own := ownQueue(t, r.sp, &r.in)
	v.place = make(map[*lock]int, len(fresh))
	for i, l := range fresh {
		v.place[l] = own[i]
	}
	return v
}

// describe describes a waiter.
func (v *waitersView) describe(l *lock) api.Waiter {
	in := &v.r.in
	w := api.Waiter{LockInfo: l.info(), Who: l.who(), Master: in.Queues.Master, Missing: in.Queues.Missing}
	if v.queues != nil {
		if i, ok := v.place[l]; ok {
			w.For = v.queues.waiting(i, maxBlockers)
			return w
		}
		i := slices.IndexFunc(in.Queues.Converting, func(h dlm.Held) bool {
			return h.Node == v.r.o.t.conf.Node.ID && h.LockID == l.lockid
		})
		if l.mode != dlm.None && i >= 0 {
			w.For = v.queues.converting(i, maxBlockers)
			return w
		}
	}
	w.For = localConflicts(v.r.o.t, l, v.here, in, maxBlockers)
	return w
}
