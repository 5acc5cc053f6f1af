package table

import (
	"time"

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
	sent    []sentProbe // in the order in which they were asked for; some may have ended
}

// sentProbe is a null lock that is canceled if it has not been granted by then. Nothing is
// in the way of a null lock, but the kernel may have forgotten it, and a request that stays
// keeps the resource from being freed (dlm/libdlm/stuck.go).
type sentProbe struct {
	lock     *lock
	deadline time.Time
}

// read reads the value block of a resource with a null lock, which contends
// with nobody, and releases it again. to gets an event without a value where that
// can't be done.
func (x *probes) read(sp *lockspace, resource string, to valueReader) {
	t := x.t
	if !sp.open() || len(t.locks.own) >= maxProbes {
		to.valueRead(dlm.Event{})
		return
	}
	l := &lock{ref: t.locks.nextRef(), sp: sp, resource: resource, mode: dlm.None, wanted: dlm.NL, blocked: dlm.None,
		kind: valueProbe, state: lockLocking}
	t.locks.add(l)
	x.readers[l] = to
	x.dropEnded()
	x.sent = append(x.sent, sentProbe{l, t.now.Add(t.conf.OpTimeout)})
	t.do(LockAction{Lockspace: sp.id, Cookie: l.cookie(), Resource: resource, Mode: dlm.NL,
		Flags: dlm.Expedite | dlm.ValueBlock})
}

// dropEnded forgets the probes at the head that have ended.
func (x *probes) dropEnded() {
	for len(x.sent) > 0 && !x.t.locks.has(x.sent[0].lock) {
		x.sent[0] = sentProbe{}
		x.sent = x.sent[1:]
	}
}

// cancelLate cancels the probes that were not granted in time.
func (x *probes) cancelLate() {
	for x.dropEnded(); len(x.sent) > 0 && !x.sent[0].deadline.After(x.t.now); x.dropEnded() {
		l := x.sent[0].lock
		x.sent[0] = sentProbe{}
		x.sent = x.sent[1:]
		if l.state == lockLocking {
			x.t.do(CancelAction{Lockspace: l.sp.id, Cookie: l.cookie()})
			x.t.retries.cancels[l] = struct{}{}
		}
	}
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
		t.do(UnlockAction{Lockspace: l.sp.id, Cookie: l.cookie()})
	default:
		l.remove()
	}
	delete(t.probes.readers, l)
	to.valueRead(ev)
}

// publishedBy is what the holder of an orphan in mode m has published; ok is false where
// the value block tells of another lock.
func (t *Table) publishedBy(m dlm.Mode, ev dlm.Event) (h api.Holder, ok bool) {
	h, ok = holderIn(ev)
	if ok && !ev.ValueInvalid && h.Node == t.conf.Node.ID && h.Mode == m {
		return h, true
	}
	return api.Holder{}, false
}
