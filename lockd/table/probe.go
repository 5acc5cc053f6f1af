package table

import (
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// The table's own locks: null locks that only read a value block, and orphans that
// no record explains and that were adopted for an AdoptOrphan or a Purge, or by
// accident. No index of clients' locks has them, and no limit counts them.

// valueReader is what a value block is read for.
type valueReader interface{ valueRead(ev dlm.Event) }

// maxProbes bounds the null locks that are under way, because no caller's limit
// counts them.
const maxProbes = 1024

// probes are the table's own locks that have an operation in flight, with those whom its
// end is for.
type probes struct {
	t       *Table
	readers map[*lock]valueReader
}

// read reads the value block of a resource with a null lock, which contends
// with nobody, and releases it again. to gets an event without a value where that
// can't be done.
func (x *probes) read(sp *lockspace, resource string, to valueReader) {
	t := x.t
	if !sp.open() || t.locks.own() >= maxProbes {
		to.valueRead(dlm.Event{})
		return
	}
	l := &lock{ref: t.locks.nextRef(), sp: sp, resource: resource, mode: dlm.None, wanted: dlm.NL, blocked: dlm.None,
		kind: valueProbe, state: lockLocking}
	t.locks.add(l)
	x.readers[l] = to
	t.do(LockAction{Lockspace: sp.id, Cookie: l.cookie, Resource: resource, Mode: dlm.NL,
		Flags: dlm.Expedite | dlm.ValueBlock})
}

// probeEvent takes the end of the operation of one of the table's own locks.
func (l *lock) probeEvent(ev dlm.Event) {
	t := l.sp.t
	to := t.probes.readers[l]
	switch {
	case to == nil && unlocked(ev.Status):
		l.remove()
		return
	case to == nil:
		l.unlockLater(ev.Status)
		return
	case l.kind == unknownOrphan: // the unlock that a Purge asked for
		if l.state = lockHeld; unlocked(ev.Status) {
			l.remove()
		}
	case ev.Status.OK():
		l.mode, l.lockid, l.state = dlm.NL, ev.LockID, lockUnlocking
		t.do(UnlockAction{Lockspace: l.sp.id, Cookie: l.cookie})
	default:
		l.remove()
	}
	delete(t.probes.readers, l)
	to.valueRead(ev)
}

// publishedBy is what the holder of an orphan in mode m has published; ok is false where
// the value block tells of another lock.
func (t *Table) publishedBy(m dlm.Mode, ev dlm.Event) (h api.Holder, ok bool) {
	h, ok = api.DecodeHolder(ev.Value)
	if ok && ev.HasValue && !ev.ValueInvalid && h.Node == t.conf.Node.ID && h.Mode == m && h.Token < maxToken {
		return h, true
	}
	return api.Holder{}, false
}
