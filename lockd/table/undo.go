package table

import (
	"log/slog"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// The order of events when an acquire is undone, and what a crash after each line
// leaves:
//
//	giveUp     cancel what waits              as before; a grant that comes anyway is undone
//	unmark     append "releasing", if "held"  record and orphan: released at the next start
//	           may be written
//	undo       Unlock                         a record without a lock: dropped
//	forget     append "gone", if recorded     nothing
//	endUndone  reply, if nothing was answered nothing
//
// Until "releasing" is written the locks stay, and the call waits for its deadline: an
// earlier answer would not be true if the process died.

// giveUp withdraws what the acquire waits for; the stage that is under way ends in
// undo, because err is set. That is also for a request that can't wait: the kernel may
// have forgotten it (dlm/libdlm/stuck.go).
func (o *acquireOp) giveUp() {
	if o.stage == acquireLocking {
		o.cancelWaits(o.locks)
	}
}

// unmark takes the marks "held" back, which are written or may be: unlocking before
// that would leave records of held locks without their locks, which the next start
// reports as lost.
func (o *acquireOp) unmark() {
	o.stage = acquireUnmarking
	o.t.append(false, marks(o.fresh, state.Releasing), o)
}

// undo releases everything that a failed acquire got.
func (o *acquireOp) undo() {
	o.stage = acquireUnlocking
	if o.pending = unlockGranted(o.fresh); o.pending == 0 {
		o.forget()
	}
}

// unlocked takes the end of one Unlock.
func (o *acquireOp) unlocked(l *lock, ev dlm.Event) {
	if !unlocked(ev.Status) {
		l.unlockLater(ev.Status)
		o.reply() // why is known, and how long it takes is not
		return
	}
	l.mode = dlm.None
	if o.pending--; o.pending == 0 {
		o.forget()
	}
}

// forget takes the records back.
func (o *acquireOp) forget() {
	o.stage = acquireForgetting
	if !o.recorded {
		o.endUndone()
		return
	}
	o.t.append(true, marks(o.fresh, state.Gone), o)
}

// endUndone answers an acquire that has failed, with who is in the way if that is
// why.
func (o *acquireOp) endUndone() {
	o.stage = acquireDone
	o.logRefused()
	if o.err.Kind == api.WouldBlock && !o.answered && o.err.Holder == nil {
		o.stage = acquireNaming
		o.nameHolder()
	} else {
		o.reply()
	}
	for _, l := range o.fresh {
		l.remove()
	}
}

// valueRead takes the value block that tells who is in the way.
func (o *acquireOp) valueRead(ev dlm.Event) {
	o.stage = acquireDone
	o.nameFrom(ev)
	o.reply()
}

// writeFailed notes that the state file can't be written.
func (o *acquireOp) writeFailed(err error) {
	text := "nothing was locked, because the state file can't be written: "
	if o.recorded {
		text = "the lock is not granted, because the state file can't be written, and is released as soon as it can be: "
	}
	o.fail(o.writeError("", "", text, err))
}

// logRefused writes the line of a call that has failed.
func (c *call) logRefused() {
	if c.err != nil {
		c.logWait()
	}
	if !c.t.debug || c.err == nil {
		return
	}
	c.t.log(slog.LevelDebug, c.name+" refused", slog.String("lockspace", c.err.Lockspace),
		slog.String("resource", api.Printable(c.err.Resource)), slog.Uint64("uid", uint64(c.caller.UID)),
		slog.String("session", string(c.caller.Session)), slog.String("err", c.err.Error()))
}

// nameHolder finds out who is in the way, and answers the refused call, or has the
// value block read that may tell.
func (c *call) nameHolder() {
	e := c.err
	sp := c.t.spaces.byName[e.Lockspace]
	if sp == nil {
		c.reply()
		return
	}
	e.Holder = sp.localHolder(e.Resource, e.Mode, c)
	if e.Holder != nil || !sp.ready() || sp.stopped() {
		c.reply()
		return
	}
	c.t.probes.read(sp, e.Resource, c.op)
}

// nameFrom takes the holder from a value block.
func (c *call) nameFrom(ev dlm.Event) {
	sp := c.t.spaces.byName[c.err.Lockspace]
	h, ok := api.DecodeHolder(ev.Value)
	if ok && ev.HasValue && h.Node != c.t.conf.Node.ID && (sp == nil || !sp.raw) {
		c.err.Holder = h.By()
	}
}
