package table

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

func infos(in []*lock) []api.LockInfo {
	out := make([]api.LockInfo, len(in))
	for i, l := range in {
		out[i] = l.info()
	}
	slices.SortFunc(out, func(a, b api.LockInfo) int { return cmp.Compare(a.Ref, b.Ref) })
	return out
}

func (t *Table) lockCount() int { return len(t.order) - t.holes }

func (t *Table) LockspaceNames() []string {
	names := make([]string, 0, len(t.spaces))
	for n := range t.spaces {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// inspect answers with what this instance, the value block and the engine's
// tables know of a resource.
func (t *Table) inspect(c *call) {
	if e := c.checkName(c.space, c.resource); e != nil {
		t.refuse(c, e)
		return
	}
	sp := t.spaces[c.space]
	if sp == nil {
		t.refuse(c, c.error(api.NoSuchLockspace, c.space, "", dlm.None, "the lockspace is not joined here").WithHint(api.HintListLockspaces))
		return
	}
	in := t.known(sp, c.resource)
	c.inspection = in
	c.stage, c.pending = stageProbing, 1
	end := func() {
		if c.pending--; c.pending == 0 {
			c.stage = stageDone
			in.Waits = t.waits(sp, in)
			shorten(in)
			t.reply(c)
		}
	}
	switch {
	case sp.state != api.SpaceReady:
		in.Missing = append(in.Missing, "the lockspace is "+sp.state.String())
	case sp.stopped():
		in.Missing = append(in.Missing, "the value block can't be read while the lockspace is stopped")
	default:
		c.pending++
		t.readValue(sp, c.resource, func(ev dlm.Event) {
			if ev.HasValue {
				in.Value, in.HasValue, in.ValueInvalid = ev.Value, true, ev.ValueInvalid
				in.Holder, in.HasHolder = api.DecodeHolder(ev.Value)
				in.HasHolder = in.HasHolder && !sp.raw
			} else {
				in.Missing = append(in.Missing, "the value block could not be read")
			}
			end()
		})
	}
	t.look(sp, Question{Resource: c.resource}, func(k Looked) {
		in.Queues, in.HasQueues = k.Queues, k.HasQueues
		in.Queues.Granted = t.withoutProbes(sp, c.resource, in.Queues.Granted)
		if k.HasHealth {
			in.Health, in.HasHealth = k.Health, true
		}
		in.Missing = append(in.Missing, k.Missing...)
		end()
	})
}

// withoutProbes takes out the null locks of this node that no entry explains:
// they are this instance's own, made to read a value block and perhaps gone by
// now. Nobody else locks here, and a null lock is in nobody's way.
func (t *Table) withoutProbes(sp *space, resource string, granted []dlm.Held) []dlm.Held {
	here, all := sp.holding(resource)
	if !all {
		return granted
	}
	ours := make(map[dlm.LockID]bool, len(here))
	for _, l := range here {
		ours[l.lockid] = true
	}
	return slices.DeleteFunc(granted, func(h dlm.Held) bool {
		return h.Mode == dlm.NL && h.Node == t.node.ID && !ours[h.LockID]
	})
}

// inspectedMost is how many locks of a resource an Inspect looks at, and
// inspectedShown how many of each kind it shows.
const (
	inspectedMost  = 1000
	inspectedShown = 256
)

// holding returns the locks of this instance that a resource has, the youngest
// first, but not more than are looked at; all is whether that was all of them.
func (sp *space) holding(resource string) (in []*lock, all bool) {
	for l := sp.byResource[resource]; l != nil; l = l.nextRes {
		if len(in) == inspectedMost {
			return in, false
		}
		in = append(in, l)
	}
	return in, true
}

// shorten leaves of each queue what an Inspection shows.
func shorten(in *api.Inspection) {
	q := &in.Queues
	for _, queue := range []*[]dlm.Held{&q.Granted, &q.Converting, &q.Waiting} {
		if n := len(*queue); n > inspectedShown {
			*queue = slices.Clone((*queue)[:inspectedShown])
			in.Missing = append(in.Missing, fmt.Sprintf("only the first %d of %d locks of a queue are shown", inspectedShown, n))
		}
	}
}

// known returns what the table itself knows of a resource. Of very many locks
// it shows a page.
func (t *Table) known(sp *space, resource string) *api.Inspection {
	in := &api.Inspection{Lockspace: sp.name, Resource: resource, Health: sp.health, HasHealth: sp.hasHealth}
	here, all := sp.holding(resource)
	if most := min(t.limits.PageSize, inspectedShown); len(here) > most || !all {
		in.Missing = append(in.Missing, "this service has more locks of the resource than are shown; a list of its locks has all")
		here = here[:min(len(here), most)]
	}
	in.Locks = infos(here)
	for _, l := range t.lost {
		if l.Lockspace == sp.name && l.Resource == resource {
			in.Lost = append(in.Lost, l)
		}
	}
	return in
}

func (l *lock) matches(f *api.Filter) bool {
	return (f.Lockspace == "" || l.sp.name == f.Lockspace) &&
		(f.Resource == "" || l.resource == f.Resource) &&
		(!f.HasOwner || l.hasOwner && l.owner == f.Owner) &&
		(!f.HasUID || l.uid == f.UID) &&
		(!f.HasMode || l.mode == f.Mode) &&
		(f.State == 0 || l.state == f.State) &&
		(!f.Granted || l.granted)
}

func (t *Table) Lockspaces() []api.LockspaceInfo {
	out := make([]api.LockspaceInfo, 0, len(t.spaces))
	for _, n := range t.LockspaceNames() {
		out = append(out, t.spaceInfo(t.spaces[n]))
	}
	return out
}

func (t *Table) Status() api.Status {
	s := api.Status{Ready: t.ready, Engine: t.engine, Node: t.node, Quorum: t.knownQuorum(), Locks: t.lockCount(),
		Lockspaces: len(t.spaces), Degraded: t.degradation(), Counters: t.counters, Helpers: len(t.runs)}
	for _, u := range t.perUID {
		s.Waiting += u.waiting
	}
	return s
}

// knownQuorum is what the node and each of its lockspaces were told last. Of two
// answers the bad one counts: they are of different moments.
func (t *Table) knownQuorum() api.Quorum {
	q := t.quorum
	for _, sp := range t.spaces {
		switch {
		case !sp.hasHealth || !sp.health.Known:
		case !sp.health.Quorate:
			return api.Inquorate
		case q == api.QuorumUnknown:
			q = api.Quorate
		}
	}
	return q
}

// listOrphans answers with the orphans that no record explains.
func (t *Table) listOrphans(c *call, then func([]dlm.Orphan, *api.Error)) {
	sp, e := t.usable(c, c.space, "")
	if e != nil {
		then(nil, e)
		return
	}
	t.look(sp, Question{}, func(k Looked) {
		if !k.HasOrphans {
			sp.orphans = -1
			text := "the lock manager's tables can't be read"
			if len(k.Missing) > 0 {
				text += ": " + k.Missing[0]
			}
			then(nil, c.error(api.NotSupported, c.space, "", dlm.None, text))
			return
		}
		out := t.unknown(sp, k.Orphans)
		sp.orphans = len(out)
		then(out, nil)
	})
}

// purge removes the orphans that the caller has seen, if they still are exactly
// those; with some, if those are still there. Each is adopted and then unlocked: the
// kernel's purge takes whatever is there, and meets a kernel bug if a ghost is among
// it.
func (t *Table) purge(c *call, expect []dlm.LockID, some bool) {
	t.listOrphans(c, func(found []dlm.Orphan, e *api.Error) {
		if e != nil {
			t.refuse(c, e)
			return
		}
		ids := slices.Sorted(slices.Values(expect))
		if some {
			ids = slices.Compact(ids)
			found = slices.DeleteFunc(found, func(o dlm.Orphan) bool {
				_, meant := slices.BinarySearch(ids, o.LockID)
				return !meant
			})
		}
		if !slices.EqualFunc(ids, found, func(id dlm.LockID, o dlm.Orphan) bool { return id == o.LockID }) {
			t.refuse(c, c.error(api.InvalidArgs, c.space, "", dlm.None, "the orphans are not those that were named").WithHint(api.HintListOrphans))
			return
		}
		c.stage = stageUnlocking
		t.purgeNext(&purging{c: c, sp: t.spaces[c.space], left: found})
	})
}

// purging is a Purge on its way, one orphan at a time.
type purging struct {
	c    *call
	sp   *space
	left []dlm.Orphan
}

func (t *Table) purgeNext(p *purging) {
	if !p.sp.open {
		p.c.fail(p.c.error(api.NoSuchLockspace, p.sp.name, "", dlm.None, "the lockspace went away while its orphans were removed"))
		p.left = nil
	}
	if len(p.left) == 0 || p.c.answered {
		p.c.stage = stageDone
		t.countOrphans(p.sp)
		t.reply(p.c)
		return
	}
	o := p.left[0]
	p.left = p.left[1:]
	t.takeStray(p.sp, o, func(l *lock) {
		if l == nil || l.flying { // gone by itself; another Purge is at it
			t.purgeNext(p)
			return
		}
		t.purgeStray(p, l)
	})
}

func (t *Table) purgeStray(p *purging, l *lock) {
	l.flying = true
	t.probes[l] = func(ev dlm.Event) {
		if ev.Status.OK() {
			p.c.released++
		} else {
			p.c.fail(p.c.statusError(l, dlm.None, ev.Status))
		}
		t.purgeNext(p)
	}
	t.do(UnlockAction{Lockspace: l.sp.id, Cookie: l.cookie})
}
