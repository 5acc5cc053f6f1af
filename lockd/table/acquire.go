package table

import (
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

// acquireOp takes locks, all or none (Acquire and Request).
//
// The order of events of an acquire, and what a crash after each line leaves:
//
//	start          Lock without PERSISTENT        the kernel drops the lock with the process
//	locked         all granted: append "granted"  a record without a lock: void, dropped
//	recordWritten  Convert in place, PERSISTENT   record and orphan: released at the next
//	                                              start, because the client has no answer
//	persisted      append "held"                  record and orphan: joined again
//	marked         reply                          the same
//
// The one append of all the marks "held" is what makes an acquire of several locks
// all or nothing. A refusal, a failed write, a deadline, a cancel or an end of the
// session at any point ends in undo (undo.go).
//
// An acquire of locks that the owner has already changes nothing but the session that
// they hang on (append, then reply) and the raw value (Convert in place, then reply).
type acquireOp struct {
	call
	// What is wanted, in the caller's order, which is also the order of the grants.
	want []api.Want
	opts api.AcquireOptions
	proc process.ID // with lifetime process: the process that opts.PID meant when the call came in
	// What has to come next; completed and written look at it, because an event says only
	// which lock or append it is about.
	stage acquireStage

	// Parallel to want: locks that the owner had already, and the fresh ones. An entry is
	// nil only while start looks for them. Two entries may be the same lock.
	locks []*lock
	// Those of locks that this call makes, in the order in which they are asked for. Only
	// they are undone if the call fails.
	fresh   []*lock
	asked   int // how many of fresh the lock manager was asked for
	pending int // operations in flight
	// The records are in the file, so undoing has to write that they are gone.
	recorded bool
	// The answer; it is made once all is written.
	grants []api.Grant

	announced bool // a Request: the front end knows the number
}

type acquireStage uint8

const (
	acquireChecking   acquireStage = iota // nothing is done yet
	acquireLocking                        // Lock is in flight, or to be asked for
	acquireRecording                      // the records are being written
	acquirePersisting                     // Convert in place with PERSISTENT is in flight
	acquireMarking                        // "held" is being written, or the session
	acquireRewriting                      // of what is held: Convert in place, to write the value, is in flight
	acquireUnmarking                      // undo: "releasing" is being written
	acquireUnlocking                      // undo: Unlock is in flight
	acquireForgetting                     // undo: "gone" is being written
	acquireNaming                         // undone: it is being found out who is in the way
	acquireDone
)

func (o *acquireOp) ordered() bool     { return true }
func (o *acquireOp) involved() []*lock { return o.locks }
func (o *acquireOp) result() Reply     { return GrantedReply{o.grants} }

// patience is that of any call, but for a Request, which waits for as long as it takes.
func (o *acquireOp) patience() time.Duration {
	if o.request != 0 {
		return 0
	}
	return o.call.patience()
}

// resources names each resource once, so that the call stands once in each line.
func (o *acquireOp) resources() ([]resourceKey, bool) {
	keys := make([]resourceKey, 0, len(o.want))
	for _, w := range o.want {
		if k := (resourceKey{w.Lockspace, w.Resource}); len(o.want) == 1 || !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return keys, false
}

// waitsFor names the lock that is in flight, or the first one that is wanted. Until all are
// granted the call waits for other holders, and after that for the state file.
func (o *acquireOp) waitsFor() obstacle {
	var w api.Want
	if w.Mode = dlm.None; len(o.want) > 0 {
		w = o.want[0]
	}
	b := o.t.obstacleOf(o.locks, w.Lockspace, w.Resource, w.Mode)
	b.queued = o.stage == acquireChecking || o.stage == acquireLocking
	b.recording = o.stage == acquireRecording || o.stage == acquireMarking || o.stage == acquireUnmarking ||
		o.stage == acquireForgetting
	return b
}

// start checks the call and asks for its locks.
func (o *acquireOp) start() {
	o.locks = make([]*lock, len(o.want))
	e := o.check()
	if e == nil {
		e = o.findOwn()
	}
	if o.postponed() {
		o.locks = nil
		return
	}
	if e == nil {
		e = o.checkRoom()
	}
	if e == nil {
		if e = o.makeLocks(); e != nil {
			for _, l := range o.fresh {
				l.remove()
			}
			o.fresh = nil
		}
	}
	if e != nil {
		o.locks = nil
		o.stage = acquireDone
		o.refuse(e)
		return
	}
	o.goOn()
}

// goOn asks for the locks that are to be made, or answers where all are there
// already.
func (o *acquireOp) goOn() {
	t := o.t
	again, hangs := o.rebind()
	if len(o.fresh) == 0 && hangs {
		o.stage = acquireMarking
		t.append(true, again, o)
		return
	}
	if len(again) > 0 {
		t.append(true, again, nil)
	}
	if len(o.fresh) == 0 {
		o.marked()
		return
	}
	if len(o.fresh) < len(o.locks) {
		t.calls.enterLines(&o.call, o.heldKeys(), false)
	}
	o.askAll()
}

// rebind notes that another session asks for what the owner has already: that session
// gets the notices about the lock from now on, and a connection lock hangs on it.
// hangs is whether there is one of those: then the call may be answered only when
// the changes are written.
func (o *acquireOp) rebind() (changes []state.Change, hangs bool) {
	session := o.caller.Session
	for _, l := range o.locks {
		if l == nil || session == "" || l.session == session {
			continue
		}
		if l.lifetime == state.Connection {
			l.unbind()
			l.session = session
			l.bind(process.ID{})
			hangs = true
		}
		l.session = session
		m := state.Mark{ID: uint64(l.ref)}
		m.Session, m.SessionBus = l.session.Recorded()
		changes = append(changes, m)
	}
	return changes, hangs
}

// heldKeys are the resources of the locks that the owner has already.
func (o *acquireOp) heldKeys() (keys []resourceKey) {
	for _, l := range o.locks {
		if k := l.key(); !slices.Contains(o.fresh, l) && !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return keys
}

// askAll asks for the locks, in one order for everybody: by lockspace, then
// resource. With wait they are asked for one by one, each after the one before
// is granted. In flight together the requests of two nodes to two masters would
// overtake each other, and two callers who want the same locks would each wait
// with one of them in hand.
func (o *acquireOp) askAll() {
	slices.SortStableFunc(o.fresh, func(a, b *lock) int {
		if a.sp != b.sp {
			return strings.Compare(a.sp.name, b.sp.name)
		}
		return strings.Compare(a.resource, b.resource)
	})
	o.stage = acquireLocking
	if o.wait > 0 {
		o.askNext(dlm.ValueBlock)
		return
	}
	for range o.fresh {
		o.askNext(dlm.ValueBlock | dlm.NoQueue)
	}
}

// askNext asks for the next lock of the call.
func (o *acquireOp) askNext(flags dlm.Flags) {
	t, l := o.t, o.fresh[o.asked]
	o.asked++
	o.pending++
	if o.wait > 0 {
		t.locks.usage(o.caller.UID).waiting++
		l.sp.waiters++
	}
	l.state = lockLocking
	t.do(LockAction{Lockspace: l.sp.id, Cookie: l.cookie(), Resource: l.resource, Mode: l.wanted, Flags: flags})
}

// completed takes the end of an operation of one of the locks.
func (o *acquireOp) completed(l *lock, ev dlm.Event) {
	switch o.stage {
	case acquireLocking:
		o.locked(l, ev)
	case acquirePersisting:
		o.persisted(l, ev)
	case acquireRewriting:
		o.rewritten(l, ev)
	case acquireUnlocking:
		o.unlocked(l, ev)
	}
}

// written takes the end of an append.
func (o *acquireOp) written(err error) {
	switch o.stage {
	case acquireRecording:
		o.recordWritten(err)
	case acquireMarking:
		o.marksWritten(err)
	case acquireUnmarking:
		if err != nil {
			o.t.retries.unmarks[o] = struct{}{}
			return
		}
		o.undo()
	case acquireForgetting:
		o.endUndone()
	}
}

// locked takes the end of one Lock.
func (o *acquireOp) locked(l *lock, ev dlm.Event) {
	t := o.t
	if o.wait > 0 {
		t.locks.usage(l.uid).waiting--
		l.sp.waiters--
	}
	o.pending--
	if ev.Status.OK() {
		l.lockid, l.mode, l.since = ev.LockID, ev.Mode, t.now.UnixMicro()
		l.token = t.clock.token(l.sp, l.mode, ev)
		l.noteValue(ev)
	} else if o.err == nil {
		o.fail(o.statusError(l, l.wanted, ev.Status))
		o.cancelWaits(o.locks)
	}
	switch {
	case o.pending > 0:
		return
	case o.err == nil && o.asked < len(o.fresh):
		next := o.fresh[o.asked]
		_, e := o.usable(next.sp.name, next.resource)
		if e == nil {
			o.askNext(dlm.ValueBlock)
			return
		}
		o.fail(e) // the lockspace was left, or went away, while the call waited
	}
	if o.failedMeanwhile() {
		return
	}
	o.extend()
	o.record()
}

// failedMeanwhile undoes the acquire if it has failed, or if one of its locks has
// ended between two operations.
func (o *acquireOp) failedMeanwhile() bool {
	for _, l := range o.fresh {
		if l.mode == dlm.None {
			o.fail(o.errorOf(api.NotHeld, l.sp.name, l.resource, l.wanted,
				"another process removed the lock, or the lockspace, while it was being taken"))
		}
	}
	if o.err == nil {
		return false
	}
	o.undo()
	return true
}

// settleTime is what a call gets at least, once its waiting has ended, to write
// down what it was granted. With MaxWait it stays below the patience of clients.
const settleTime = 3 * time.Second

// extend makes sure that a grant in the last moment is not given back for want
// of the time to write it down.
func (c *call) extend() {
	switch t := c.t; {
	case c.answered:
	case c.request != 0:
		t.calls.arm(c, t.now.Add(t.conf.OpTimeout))
	case c.deadline.Sub(t.now) < settleTime:
		t.calls.arm(c, t.now.Add(settleTime))
	}
}

// record has all the locks written down in one append: all of them are recorded, or none.
func (o *acquireOp) record() {
	o.stage = acquireRecording
	changes := make([]state.Change, len(o.fresh))
	for i, l := range o.fresh {
		l.phase = state.Granted
		changes[i] = l.record(state.Granted)
	}
	o.t.append(false, changes, o)
}

// recordWritten makes the locks persistent, once the records are written.
func (o *acquireOp) recordWritten(err error) {
	if err != nil {
		for _, l := range o.fresh {
			l.phase = 0
		}
		o.writeFailed(err)
		o.undo()
		return
	}
	o.recorded = true
	if o.failedMeanwhile() {
		return
	}
	o.stage, o.pending = acquirePersisting, len(o.fresh)
	for _, l := range o.fresh {
		l.state = lockPersisting
		flags, value := l.publishing(&o.call, o.opts.Value, l.mode)
		o.t.do(ConvertAction{Lockspace: l.sp.id, Cookie: l.cookie(), Mode: l.mode, Flags: dlm.Persistent | flags,
			Value: value})
	}
}

// persisted takes the end of one Convert, and has all the locks marked held.
func (o *acquireOp) persisted(l *lock, ev dlm.Event) {
	o.pending--
	if !ev.Status.OK() {
		l.noteMode(ev)
		o.fail(o.statusError(l, l.wanted, ev.Status))
	}
	if o.pending > 0 || o.failedMeanwhile() {
		return
	}
	o.stage = acquireMarking
	o.t.append(false, marks(o.fresh, state.Held), o)
}

// marksWritten goes on once the marks "held" are written, or, of locks that are
// there already, the session that they hang on now.
func (o *acquireOp) marksWritten(err error) {
	switch {
	case err == nil:
		o.marked()
	case len(o.fresh) == 0:
		o.fail(o.writeError("", "", "the lock is held, but its move to this connection can't be recorded: ", err))
		o.marked()
	default:
		o.writeFailed(err)
		o.unmark()
	}
}

// marked ends an acquire whose locks are marked held, unless something has come
// in between. Then the marks are taken back first, so that the next start does
// not take the locks for granted ones.
func (o *acquireOp) marked() {
	for i, l := range o.locks {
		if !o.t.locks.has(l) || l.mode != o.want[i].Mode {
			o.fail(o.errorOf(api.NotHeld, l.sp.name, l.resource, o.want[i].Mode,
				"the lock was released, converted or lost while the call was under way; ask again"))
		}
	}
	switch {
	case o.err == nil && len(o.fresh) == 0 && o.opts.Value != nil:
		o.rewrite()
	case o.err == nil:
		o.granted()
	case len(o.fresh) == 0:
		o.undo()
	default:
		o.unmark()
	}
}

// granted ends an acquire well.
func (o *acquireOp) granted() {
	t := o.t
	o.stage = acquireDone
	o.grants = make([]api.Grant, len(o.locks))
	for i, l := range o.locks {
		o.grants[i] = l.grant()
		o.grants[i].New = l.phase != state.Held
	}
	for _, l := range o.fresh {
		l.phase = state.Held
		t.counters.Granted++
		t.logHistory(msgAcquired.String(), l, slog.String("label", l.label), slog.String("session", string(l.session)),
			slog.Duration("waited", t.now.Sub(o.begun)))
	}
	o.reply()
	for _, l := range o.fresh {
		l.idle()
	}
}
