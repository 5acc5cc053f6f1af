package table

import (
	"log/slog"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// The order of events of a conversion, and what a crash between two lines
// leaves. Adoption tries the recorded mode first and the others after it, so
// the DLM's answer is the truth in every case:
//
//	startConvert  Convert, PERSISTENT repeated   the old mode, or the new one
//	converted     upward to PW or EX: Convert in place, writes the value block
//	published     append the new mode            the new mode
//	written       reply
//
// The new mode comes out of the spare room of the state file; once that can't
// grow any more, conversions are refused before anything is asked. A new mode
// that can't be written down all the same is taken back if it is a stronger one.
// A conversion upward that comes too late is taken back.

func (t *Table) startConvert(c *call) {
	w := c.want[0]
	if _, e := t.checkWant(c, w); e != nil {
		t.refuse(c, e)
		return
	}
	l, parked, e := t.findLock(c, w.Lockspace, w.Resource)
	switch {
	case parked:
		return
	case e != nil:
		t.refuse(c, e)
		return
	}
	c.locks = []*lock{l}
	c.from, c.written, c.token = l.mode, l.mode, l.token
	if e := t.checkValue(c, max(l.mode, w.Mode)); e != nil {
		t.refuse(c, e)
		return
	}
	if l.mode == w.Mode && c.value == nil {
		t.converted(c, l)
		return
	}
	if t.degraded != "" {
		t.refuse(c, c.error(api.StateWriteFailed, w.Lockspace, w.Resource, w.Mode, t.degraded))
		return
	}
	l.busy, l.state, l.wanted = c, api.Converting, w.Mode
	t.tell(l)
	t.convert(c, l, w.Mode, c.wait == 0)
}

// convert asks the DLM. Going down is granted at once, with NOQUEUE or without.
func (t *Table) convert(c *call, l *lock, to dlm.Mode, noQueue bool) {
	c.stage = stageConverting
	flags := dlm.Persistent
	if noQueue {
		flags |= dlm.NoQueue
	}
	more, value := t.publishing(c, l, to)
	l.flying = true
	t.do(ConvertAction{Lockspace: l.sp.id, Cookie: l.cookie, Mode: to, Flags: flags | more, Value: value})
}

func (t *Table) convertDone(c *call, l *lock, ev dlm.Event) {
	if !ev.Status.OK() {
		l.noteMode(ev)
		if c.err == nil {
			if c.late != nil && ev.Status == dlm.StatusCanceled {
				c.fail(c.late)
			}
			c.fail(c.statusError(l, c.want[0].Mode, ev.Status))
		}
		if l.mode != dlm.None && l.mode != c.written { // taking it back has failed
			t.recordMode(c, l)
			return
		}
		t.endConvert(c, l)
		return
	}
	from := l.mode
	l.mode = ev.Mode
	l.noteValue(ev)
	t.renewToken(l, from, ev)
	t.extend(c)
	switch {
	case t.takeBack(c, l):
	case l.mode >= dlm.PW && dlm.Stronger(l.mode, from) && (!l.sp.raw || c.value != nil):
		t.publish(c, l)
	case l.mode == c.written && c.err == nil: // in place, to write a value
		t.converted(c, l)
	case l.mode == c.written: // taken back
		l.token = c.token
		t.endConvert(c, l)
	default:
		t.recordMode(c, l)
	}
}

// renewToken gives a lock that was converted up its token: before anything else
// is done, because also the way back down writes it into the value block, where
// it must never be smaller than what is there. In a shared mode it is the current
// one, since others may have had the resource while the lock was weaker.
func (t *Table) renewToken(l *lock, from dlm.Mode, ev dlm.Event) {
	switch {
	case l.sp.raw, !renewsToken(from, l.mode):
	case l.mode >= dlm.PW:
		l.token = t.token(l.sp, l.mode, ev)
	case ev.HasValue:
		l.token = max(l.token, t.token(l.sp, l.mode, ev))
	}
}

// renewsToken reports whether a conversion between two modes gives the lock a new
// token.
func renewsToken(from, to dlm.Mode) bool {
	return dlm.Stronger(to, from) || to < dlm.PW && to > from
}

// publish writes the holder and the token of the lock into the value block.
func (t *Table) publish(c *call, l *lock) {
	c.stage, l.flying = stagePublishing, true
	flags, value := t.publishing(c, l, l.mode)
	t.do(ConvertAction{Lockspace: l.sp.id, Cookie: l.cookie, Mode: l.mode, Flags: dlm.Persistent | flags, Value: value})
}

// withdraw cancels a conversion whose time is over, and leaves the answer to
// the lock manager for a moment: a conversion that was granted after all must
// not be called a failure, and only one upward can be taken back. It is false
// where that can't be waited for.
func (t *Table) withdraw(c *call) bool {
	if c.kind != callConvert || c.stage != stageConverting || c.late != nil || c.locks[0].sp.stopped() {
		return false
	}
	c.late = t.lateError(c)
	t.cancelFlying(c)
	t.arm(c, settleTime)
	return true
}

// takeBack undoes a conversion upward that was granted after the call was given
// up: the lock goes back to the mode that the client knows of.
func (t *Table) takeBack(c *call, l *lock) bool {
	if !c.answered || !dlm.Stronger(l.mode, c.from) {
		return false
	}
	l.wanted = c.from
	t.convert(c, l, c.from, false)
	return true
}

func (t *Table) publishDone(c *call, l *lock, ev dlm.Event) {
	if !ev.Status.OK() {
		// Only the name of the holder is missing; the lock is what it should be.
		l.noteMode(ev)
		t.logLock(slog.LevelWarn, "value block not written after conversion", l, slog.String("err", ev.Status.String()))
	}
	switch {
	case l.mode == dlm.None:
		t.endConvert(c, l)
	case t.takeBack(c, l):
	default:
		t.recordMode(c, l)
	}
}

func (t *Table) recordMode(c *call, l *lock) {
	c.stage, c.written = stageMarking, l.mode
	t.append(true, []state.Change{state.Mark{ID: uint64(l.ref), Mode: l.mode, HasMode: true, Token: l.token}}, func(err error) {
		switch {
		case l.mode == dlm.None:
			t.endConvert(c, l)
			return
		case t.takeBack(c, l):
			return
		case err != nil && dlm.Stronger(l.mode, c.from):
			c.fail(c.writeError(l.sp.name, l.resource, "the lock keeps its mode, because the new one can't be recorded: ", err))
			l.wanted = c.from
			t.convert(c, l, c.from, false)
			return
		case err != nil:
			c.fail(c.writeError(l.sp.name, l.resource, "the lock is converted, but its new mode can't be recorded yet: ", err))
		}
		t.converted(c, l)
	})
}

// converted ends a conversion well.
func (t *Table) converted(c *call, l *lock) {
	c.stage = stageDone
	if c.err == nil {
		c.grants = []api.Grant{l.grant()}
		t.counters.Converted++
		t.logHistory("converted", l, slog.String("session", string(c.caller.Session)),
			slog.Duration("waited", t.now.Sub(c.begun)))
	}
	t.reply(c)
	t.idle(l)
}

// endConvert ends a conversion that failed: the lock is what it was, or lost.
func (t *Table) endConvert(c *call, l *lock) {
	c.stage = stageDone
	if l.mode == dlm.None {
		c.fail(c.error(api.NotHeld, l.sp.name, l.resource, c.want[0].Mode, "the lock was lost while it was being converted"))
	}
	t.logRefused(c)
	if c.err != nil && c.err.Kind == api.WouldBlock && !c.answered {
		t.nameHolder(c)
	} else {
		t.reply(c)
	}
	if l.mode == dlm.None {
		t.lose(l, "the lock manager no longer knows it")
		return
	}
	t.idle(l)
}
