package table

import (
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Raw values: in lockspaces that the configuration names, the 32 bytes of the
// value block are the clients'. The service writes there what a client asks for,
// in the conversion that the call makes anyway, and nothing else.

// checkValue checks that the value of a call can be written by a lock that has
// mode before or after it.
func (t *Table) checkValue(c *call, mode dlm.Mode) *api.Error {
	w := c.want[0]
	switch sp := t.spaces[w.Lockspace]; {
	case c.value == nil:
		return nil
	case !sp.raw:
		return c.error(api.InvalidArgs, w.Lockspace, w.Resource, w.Mode, "the value blocks of this lockspace hold fencing tokens; "+
			"to have the raw value, name the lockspace under raw-value-lockspaces in /etc/dlmlockd.toml, on every node")
	case mode < dlm.PW:
		return c.error(api.InvalidArgs, w.Lockspace, w.Resource, w.Mode, "a value can be written in mode PW or EX only")
	}
	return nil
}

// publishing returns the flags and the value of a conversion of l to a mode, for
// what it does with the value block. What a call that was given up wanted to
// write is not written any more.
//
// A raw value that is to stay is written again, if it is known: only locks whose
// last conversion had VALBLK keep the block when the node that has the queues dies
// (recover_lvb in fs/dlm/recover.c).
func (t *Table) publishing(c *call, l *lock, to dlm.Mode) (dlm.Flags, *dlm.Value) {
	if !l.sp.raw {
		v := t.holder(l, to).Encode()
		return dlm.ValueBlock, &v
	}
	if dlm.TransferOf(l.mode, to) != dlm.Writes {
		return dlm.ValueBlock, nil
	}
	if c.value != nil && !c.answered {
		l.value = c.value
	}
	if l.value == nil {
		return 0, nil
	}
	return dlm.ValueBlock, l.value
}

// noteValue takes the raw value that came with a grant. One that is not valid is
// not written again, because that would make it valid.
func (l *lock) noteValue(ev dlm.Event) {
	if !l.sp.raw || !ev.HasValue {
		return
	}
	l.value = nil
	if !ev.ValueInvalid {
		v := ev.Value
		l.value = &v
	}
}

// rewrite writes the value of an acquire whose lock is there already: a client
// that asks again does not know whether its value was written.
func (t *Table) rewrite(c *call) {
	l := c.locks[0]
	if l.busy != nil {
		c.fail(c.error(api.NotHeld, l.sp.name, l.resource, c.want[0].Mode, "another call was made for the lock meanwhile; ask again"))
		c.stage = stageDone
		t.reply(c)
		return
	}
	c.stage = stageRewriting
	l.busy, l.flying, l.value = c, true, c.value
	t.do(ConvertAction{Lockspace: l.sp.id, Cookie: l.cookie, Mode: l.mode, Flags: dlm.Persistent | dlm.ValueBlock, Value: c.value})
}

func (t *Table) rewritten(c *call, l *lock, ev dlm.Event) {
	if ev.Status.OK() {
		t.granted(c)
		t.idle(l)
		return
	}
	l.noteMode(ev)
	c.fail(c.statusError(l, c.want[0].Mode, ev.Status))
	c.stage = stageDone
	t.reply(c)
	if l.mode == dlm.None {
		t.lose(l, "the lock manager no longer knows it")
		return
	}
	t.idle(l)
}
