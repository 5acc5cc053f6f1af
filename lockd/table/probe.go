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

// readValue reads the value block of a resource with a null lock, which contends
// with nobody, and releases it again. to gets an event without a value where that
// can't be done.
func (t *Table) readValue(sp *lockspace, resource string, to valueReader) {
	if !sp.open || t.locks.own() >= maxProbes {
		to.valueRead(dlm.Event{})
		return
	}
	l := &lock{ref: t.locks.nextRef(), sp: sp, resource: resource, mode: dlm.None, wanted: dlm.NL, blocked: dlm.None,
		kind: valueProbe, state: lockLocking}
	t.locks.add(l)
	t.probes[l] = to
	t.do(LockAction{Lockspace: sp.id, Cookie: l.cookie, Resource: resource, Mode: dlm.NL,
		Flags: dlm.Expedite | dlm.ValueBlock})
}

// probeEvent takes the end of the operation of one of the table's own locks.
func (l *lock) probeEvent(ev dlm.Event) {
	t := l.sp.t
	to := t.probes[l]
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
	delete(t.probes, l)
	to.valueRead(ev)
}

// keepUnknown makes the entry of an orphan that was adopted and that no record
// explains.
func (t *Table) keepUnknown(sp *lockspace, ck dlm.Cookie, resource string, id dlm.LockID, m dlm.Mode) *lock {
	l := &lock{ref: t.locks.nextRef(), cookie: ck, sp: sp, resource: resource, lockid: id, mode: m, wanted: dlm.None,
		blocked: dlm.None, kind: unknownOrphan, state: lockHeld}
	t.locks.add(l)
	sp.unknown[id] = l
	return l
}

// takeUnknown adopts orphans of the name and mode of o until o itself is there; the
// others stay unknown. then gets nil if it is gone.
func (t *Table) takeUnknown(sp *lockspace, o dlm.Orphan, then func(*lock)) {
	if l := sp.unknown[o.LockID]; l != nil || !sp.open {
		then(l)
		return
	}
	ck := dlm.Cookie(t.locks.nextRef())
	sp.others[ck] = func(ev dlm.Event) {
		if !ev.Status.OK() {
			then(nil)
			return
		}
		t.keepUnknown(sp, ck, o.Resource, ev.LockID, o.Mode)
		t.takeUnknown(sp, o, then) // perhaps another one than o
	}
	t.do(AdoptAction{Lockspace: sp.id, Cookie: ck, Resource: o.Resource, Mode: o.Mode})
}

// publishedBy is what the holder of an orphan has published; ok is false where the
// value block tells of another lock.
func (t *Table) publishedBy(o dlm.Orphan, ev dlm.Event) (h api.Holder, ok bool) {
	h, ok = api.DecodeHolder(ev.Value)
	if ok && ev.HasValue && !ev.ValueInvalid && h.Node == t.conf.Node.ID && h.Mode == o.Mode && h.Token < maxToken {
		return h, true
	}
	return api.Holder{}, false
}
