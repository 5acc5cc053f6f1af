package table

import (
	"fmt"
	"log/slog"
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Event takes one event of a lockspace.
func (t *Table) Event(id LockspaceID, ev dlm.Event) {
	sp := t.byID[id]
	switch {
	case sp == nil:
		return
	case ev.Kind == dlm.Closed:
		t.closed(sp)
		return
	case !sp.open:
		return // of a handle that is closed
	case ev.Cookie == clockCookie:
		t.clockEvent(sp, ev)
		return
	case ev.Cookie == sp.anchorCk && ev.Kind != dlm.Blocking:
		t.anchorEvent(sp, ev)
		return
	case ev.Kind == dlm.Completed && ev.Op == dlm.OpAdopt:
		t.adopted(sp, ev)
		return
	}
	l := t.byCookie(ev.Cookie)
	if l == nil {
		return // a blocking notification may come after the end
	}
	switch ev.Kind {
	case dlm.Blocking:
		t.blocking(l, ev.Mode)
	case dlm.Ended:
		t.ended(l)
	case dlm.Completed:
		if l.flying {
			t.lockEvent(l, ev)
		}
	}
}

// lockEvent takes the end of the operation of l that was under way.
func (t *Table) lockEvent(l *lock, ev dlm.Event) {
	l.flying = false
	delete(t.doomed, l)
	if l.probe {
		t.probeEvent(l, ev)
		return
	}
	c := l.busy
	switch c.stage {
	case stageLocking:
		t.lockDone(c, l, ev)
	case stagePersisting:
		t.persistDone(c, l, ev)
	case stageConverting:
		t.convertDone(c, l, ev)
	case stagePublishing:
		t.publishDone(c, l, ev)
	case stageRewriting:
		t.rewritten(c, l, ev)
	case stageUnlocking:
		if c.kind == callAcquire {
			t.undoDone(c, l, ev)
		} else {
			t.unlockDone(c, l, ev)
		}
	}
}

// ended takes the news that somebody else removed the lock.
func (t *Table) ended(l *lock) {
	switch {
	case l.flying:
		t.lockEvent(l, dlm.Event{Kind: dlm.Completed, Cookie: l.cookie, Status: dlm.StatusNotFound, Mode: dlm.None})
	case l.probe:
		t.remove(l)
	case l.busy != nil:
		t.vanish(l)
	default:
		t.lose(l, "another process on this node unlocked it")
	}
}

// vanish notes that a lock is gone while its call is between two operations of
// the DLM. The call finds out at its next step.
func (t *Table) vanish(l *lock) {
	if _, ok := t.stuck[l]; ok {
		delete(t.stuck, l)
		t.lockEvent(l, dlm.Event{Kind: dlm.Completed, Cookie: l.cookie, Status: dlm.StatusNotFound, Mode: dlm.None})
		return
	}
	l.mode = dlm.None
}

// maxProbes bounds the null locks that are under way, because no caller's limit
// counts them.
const maxProbes = 1024

// readValue reads the value block of a resource with a null lock, which
// contends with nobody, and lets go of it again. then gets an event without a
// value where that can't be done.
func (t *Table) readValue(sp *space, resource string, then func(dlm.Event)) {
	if !sp.open || len(t.locks)-t.lockCount() >= maxProbes {
		then(dlm.Event{})
		return
	}
	l := &lock{ref: t.ref(), sp: sp, resource: resource, mode: dlm.None, wanted: dlm.NL, probe: true, flying: true}
	t.add(l)
	t.probes[l] = then
	t.do(LockAction{Lockspace: sp.id, Cookie: l.cookie, Resource: resource, Mode: dlm.NL, Flags: dlm.Expedite | dlm.ValueBlock})
}

func (t *Table) probeEvent(l *lock, ev dlm.Event) {
	then := t.probes[l]
	switch {
	case then == nil && ended(ev.Status):
		t.remove(l)
		return
	case then == nil:
		t.unlockLater(l, ev.Status)
		return
	case l.stray: // the unlock that a Purge asked for
		if ended(ev.Status) {
			t.remove(l)
		}
	case ev.Status.OK():
		l.mode, l.lockid, l.flying = dlm.NL, ev.LockID, true
		t.do(UnlockAction{Lockspace: l.sp.id, Cookie: l.cookie})
	default:
		t.remove(l)
	}
	delete(t.probes, l)
	then(ev)
}

// nameHolder finds out who is in the way, and answers the refused call.
func (t *Table) nameHolder(c *call) {
	e := c.err
	sp := t.spaces[e.Lockspace]
	if sp == nil {
		t.reply(c)
		return
	}
	if e.Holder = t.localHolder(sp, e.Resource, e.Mode, c); e.Holder != "" || sp.state != api.SpaceReady || sp.stopped() {
		t.reply(c)
		return
	}
	c.stage = stageProbing
	t.readValue(sp, e.Resource, func(ev dlm.Event) {
		c.stage = stageDone
		if h, ok := api.DecodeHolder(ev.Value); ok && !sp.raw && ev.HasValue && h.Node != t.node.ID {
			e.Holder = h.String()
		}
		t.reply(c)
	})
}

// localHolder names a lock of this instance that is in the way of mode.
func (t *Table) localHolder(sp *space, resource string, mode dlm.Mode, except *call) string {
	for l := sp.byResource[resource]; l != nil; l = l.nextRes {
		if l.mode == dlm.None || dlm.Compatible(l.mode, mode) || except != nil && l.busy == except {
			continue
		}
		who := l.label
		if who == "" {
			who = l.owner
		}
		s := fmt.Sprintf("this node (%s, uid %d", l.mode, l.uid)
		if who != "" {
			s += ", " + fmt.Sprintf("%q", who)
		}
		return s + ")"
	}
	return ""
}

// Stop begins an orderly shutdown: nothing new is taken, waits are withdrawn,
// and every persistent lock stays.
func (t *Table) Stop() {
	t.stopping = true
	for _, c := range t.unanswered() {
		if c.kind != callAcquire && c.kind != callConvert {
			continue
		}
		if c.stage == stageLocking || c.stage == stageConverting || c.stage == stageNew {
			t.giveUp(c, c.error(api.ShuttingDown, "", "", dlm.None, "the service is stopping; ask again when it is back"))
		}
	}
	t.log(slog.LevelInfo, "stopping", slog.Int("locks", t.lockCount()))
}

// unanswered returns the calls that somebody waits for.
func (t *Table) unanswered() []*call {
	out := slices.Clone([]*call(t.deadlines))
	for _, c := range t.requests {
		if c.heapIdx < 0 {
			out = append(out, c)
		}
	}
	return slices.DeleteFunc(out, func(c *call) bool { return c.answered })
}

// Stopping reports whether Stop was called.
func (t *Table) Stopping() bool { return t.stopping }

// Quiet reports whether no call and no helper is under way any more.
func (t *Table) Quiet() bool {
	for _, c := range t.unanswered() {
		if c.stage != stageNew {
			return false
		}
	}
	return len(t.runs) == 0
}
