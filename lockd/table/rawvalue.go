package table

import (
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Raw values: in lockspaces that the configuration names, the 32 bytes of the
// value block are the clients'. The service writes there what a client asks for,
// in the conversion that the call makes anyway, and nothing else.

// checkValue checks that a value can be written by a lock that has mode before or
// after the call.
func (c *call) checkValue(value *dlm.Value, w api.Want, mode dlm.Mode) *api.Error {
	switch sp := c.t.spaces.byName[w.Lockspace]; {
	case value == nil:
		return nil
	case !sp.raw:
		return c.errorOf(api.InvalidArgs, w.Lockspace, w.Resource, w.Mode,
			"the value blocks of this lockspace hold fencing tokens; "+
				"to have the raw value, name the lockspace under raw-value-lockspaces in /etc/dlmlockd.toml, on every node").
			WithArgument(api.ArgValue)
	case mode < dlm.PW:
		return c.errorOf(api.InvalidArgs, w.Lockspace, w.Resource, w.Mode,
			"a value can be written in mode PW or EX only").WithArgument(api.ArgValue)
	}
	return nil
}

// holder is what the value block says while l is held in mode.
func (l *lock) holder(mode dlm.Mode) api.Holder {
	h := api.Holder{Mode: dlm.None, Token: l.token}
	if mode >= dlm.PW {
		h.Mode, h.Node, h.Owner, h.Who = mode, l.sp.t.conf.Node.ID, api.OwnerHash(l.uid, l.owner), l.label
		if h.Who == "" {
			h.Who = l.owner
		}
	}
	return h
}

// publishing returns the flags and the value of a conversion of l to a mode, for
// what it does with the value block. value is what the client wants to be written;
// after the call has been given up it is not written any more.
//
// A raw value that is to stay is written again, if it is known: only locks whose
// last conversion had VALBLK keep the block when the node that has the queues dies
// (recover_lvb in fs/dlm/recover.c).
func (l *lock) publishing(c *call, value *dlm.Value, to dlm.Mode) (dlm.Flags, *dlm.Value) {
	if !l.sp.raw {
		v := l.holder(to).Encode()
		return dlm.ValueBlock, &v
	}
	if dlm.TransferOf(l.mode, to) != dlm.Writes {
		return dlm.ValueBlock, nil
	}
	if value != nil && !c.answered {
		l.more().value = value
	}
	v := l.value()
	if v == nil {
		return 0, nil
	}
	return dlm.ValueBlock, v
}

// noteValue takes the raw value that came with a grant. One that is not valid is
// not written again, because that would make it valid.
func (l *lock) noteValue(ev dlm.Event) {
	if !l.sp.raw || !ev.HasValue {
		return
	}
	var known *dlm.Value
	if !ev.ValueInvalid {
		v := ev.Value
		known = &v
	}
	l.more().value = known
}

// rewrite writes the value of an acquire whose lock is there already: a client
// that asks again does not know whether its value was written.
func (o *acquireOp) rewrite() {
	l := o.locks[0]
	if l.busy != nil {
		o.fail(o.errorOf(api.NotHeld, l.sp.name, l.resource, o.want[0].Mode,
			"another call was made for the lock meanwhile; ask again"))
		o.stage = acquireDone
		o.reply()
		return
	}
	o.stage = acquireRewriting
	l.busy, l.state = &o.call, lockConverting
	l.more().value = o.opts.Value
	o.t.do(ConvertAction{Lockspace: l.sp.id, Cookie: l.cookie(), Mode: l.mode,
		Flags: dlm.Persistent | dlm.ValueBlock, Value: o.opts.Value})
}

// rewritten ends the acquire once the value is written, or could not be.
func (o *acquireOp) rewritten(l *lock, ev dlm.Event) {
	if ev.Status.OK() {
		o.granted()
		l.idle()
		return
	}
	l.noteMode(ev)
	o.fail(o.statusError(l, o.want[0].Mode, ev.Status))
	o.stage = acquireDone
	o.reply()
	if l.mode == dlm.None {
		l.lose("the lock manager no longer knows it")
		return
	}
	l.idle()
}
