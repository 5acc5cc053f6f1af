package table

import (
	"fmt"
	"log/slog"
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// adoptOp makes an orphan that no record explains the persistent lock of an owner.
//
// The order of events, and what a crash after each line leaves. The lock stays held
// throughout:
//
//	look at the engine's tables   the orphan, as before
//	Adopt                         an orphan, as before
//	read the value block          the same
//	append "held"                 record and orphan: joined again, held by the owner
//	PW or EX: Convert in place,   the same
//	which writes the value block
//	append the token              the same
//	reply                         the same
//
// The lock keeps its fencing token if the value block has it, because whoever works
// under the lock may have given it to storage. Otherwise it gets a new one. If the
// call is given up before the record is written, the orphan stays what it was; after
// that the adoption goes on to its end.
type adoptOp struct {
	call
	lockspace string
	// Which orphan; the caller has it from a list that may be out of date.
	id dlm.LockID
	// For whom the lock is to be, and what the caller expects it to be.
	opts api.AdoptOptions
	// What has to come next.
	stage adoptStage
	// The lockspace; set once it is known to be usable.
	sp *lockspace
	// The orphan's, known after the look.
	resource string
	orphan   *lock // adopted, and not the owner's yet
	l        *lock // the owner's
	grants   []api.Grant
}

type adoptStage uint8

const (
	adoptLooking    adoptStage = iota // nothing is done yet
	adoptAdopting                     // Adopt is in flight
	adoptReading                      // the value block is being read
	adoptRecording                    // the record is being written
	adoptPublishing                   // Convert in place is in flight
	adoptMarking                      // the token is being written
	adoptDone
)

func (o *adoptOp) result() Reply { return GrantedReply{o.grants} }

// involved is the lock of the owner, once there is one: nothing can follow the call before
// that, because nobody can name the lock.
func (o *adoptOp) involved() []*lock {
	if o.l == nil {
		return nil
	}
	return []*lock{o.l}
}

// waitsFor is the lock while it is the owner's, and the lockspace before that.
func (o *adoptOp) waitsFor() obstacle {
	w := o.t.obstacleOf(o.involved(), o.lockspace, o.resource, dlm.None)
	w.recording = o.stage == adoptRecording || o.stage == adoptMarking
	return w
}

// start checks what does not need a look, and looks for the orphan.
func (o *adoptOp) start() {
	var e *api.Error
	if o.t.degraded != "" {
		e = o.errorOf(api.StateWriteFailed, o.lockspace, "", dlm.None, o.t.degraded)
	}
	if e == nil {
		e = o.checkOwner(o.lockspace, o.opts.Owner, o.opts.HasOwner, o.opts.Label)
	}
	if e == nil {
		o.sp, e = o.lookForOrphans(o.lockspace)
	}
	if e != nil {
		o.refuse(e)
	}
}

// looked finds the orphan and adopts it.
func (o *adoptOp) looked(k Looked) {
	found, e := o.unknownIn(o.sp, k)
	i := slices.IndexFunc(found, func(orphan dlm.Orphan) bool { return orphan.LockID == o.id })
	switch opts := &o.opts; {
	case e != nil:
	case i < 0:
		e = o.errorOf(api.NotHeld, o.lockspace, "", dlm.None,
			fmt.Sprintf("no orphan has the lockid %d", o.id)).WithHint(api.HintListOrphans)
	case opts.Resource != "" && opts.Resource != found[i].Resource && opts.Resource != api.Printable(found[i].Resource):
		e = o.errorOf(api.InvalidArgs, o.lockspace, found[i].Resource, dlm.None,
			"the orphan with that lockid has another resource").WithArgument(api.ArgResource).WithHint(api.HintListOrphans)
	case opts.HasMode && opts.Mode != found[i].Mode:
		e = o.errorOf(api.InvalidArgs, o.lockspace, found[i].Resource, dlm.None,
			"the orphan with that lockid has another mode").WithArgument(api.ArgMode).WithHint(api.HintListOrphans)
	}
	if e != nil {
		o.refuse(e)
		return
	}
	o.stage, o.resource = adoptAdopting, found[i].Resource
	o.sp.orphans.take(found[i], o)
}

// orphanTaken reads the value block of the orphan, once it is adopted.
func (o *adoptOp) orphanTaken(l *lock) {
	if l == nil {
		o.refuse(o.gone())
		return
	}
	o.stage, o.orphan = adoptReading, l
	o.t.probes.read(l.sp, l.resource, o)
}

// gone is the refusal where the orphan has ended, or somebody else has taken it, since the
// caller listed it.
func (o *adoptOp) gone() *api.Error {
	return o.errorOf(api.NotHeld, o.lockspace, o.resource, dlm.None, "the orphan is gone").WithHint(api.HintListOrphans)
}

// valueRead makes the orphan the lock of the owner, once it is known what its value
// block tells, and writes that down.
func (o *adoptOp) valueRead(ev dlm.Event) {
	t, orphan := o.t, o.orphan
	uid := o.caller.UID
	if o.opts.HasUID {
		uid = o.opts.UID
	}
	e := o.checkTake(uid)
	switch {
	case o.answered:
		return // the orphan stays what it was
	case e != nil:
		o.refuse(e)
		return
	}
	orphan.remove()
	l := &lock{ref: t.locks.nextRef(), sp: o.sp, resource: o.resource, lockid: orphan.lockid,
		mode: orphan.mode, wanted: orphan.mode, blocked: orphan.blocked, state: lockChanging, busy: &o.call,
		since: t.now.UnixMicro(), phase: state.Held, asked: o.seq,
		client: client{owner: o.opts.Owner, hasOwner: o.opts.HasOwner, label: o.opts.Label,
			lifetime: state.Persistent, uid: uid}}
	if uid == o.caller.UID {
		l.pid, l.session = o.caller.PID, o.caller.Session
	}
	if h, ok := t.publishedBy(l.mode, ev); ok && !o.sp.raw {
		l.token = h.Token
		o.sp.highToken = max(o.sp.highToken, h.Token)
	} else {
		l.token = t.clock.token(o.sp, l.mode, ev)
	}
	l.knownAs(orphan.cookie())
	t.locks.add(l)
	o.stage, o.orphan, o.l = adoptRecording, nil, l
	t.append(false, []state.Change{l.record(state.Held)}, o)
}

// checkTake checks that the orphan is still there, and that the owner may have it.
func (o *adoptOp) checkTake(uid uint32) *api.Error {
	t, l := o.t, o.orphan
	var u usage
	if p := t.locks.perUID[uid]; p != nil {
		u = *p
	}
	limit := t.conf.Limits.LocksPerUID
	switch {
	case o.sp.orphans.adopted[l.lockid] != l || l.inFlight():
		return o.gone()
	case o.opts.HasOwner && t.locks.findOwned(o.sp, l.resource, uid, o.opts.Owner) != nil:
		return o.errorOf(api.AlreadyHeld, o.lockspace, l.resource, dlm.None,
			fmt.Sprintf("owner %q already has a lock on the resource; name another owner", o.opts.Owner))
	case u.locks >= limit:
		return o.errorOf(api.LimitExceeded, o.lockspace, l.resource, dlm.None,
			fmt.Sprintf("uid %d has %d locks and may have %d (limits.locks-per-uid)", uid, u.locks, limit))
	}
	return nil
}

// written goes on once the record is written, or could not be, and ends once the
// token is.
func (o *adoptOp) written(err error) {
	t, l := o.t, o.l
	switch {
	case o.stage == adoptMarking:
		o.marked(err)
	case err != nil:
		o.notRecorded(err)
	case l.mode == dlm.None:
		o.lost()
	default:
		o.sp.orphans.unexplained = max(o.sp.orphans.unexplained-1, 0)
		t.logLock(slog.LevelInfo, msgOrphanAdopted.String(), l, slog.String("session", string(o.caller.Session)))
		if l.mode < dlm.PW || o.sp.raw {
			o.end()
			return
		}
		o.stage, l.state = adoptPublishing, lockConverting
		flags, value := l.publishing(&o.call, nil, l.mode)
		t.do(ConvertAction{Lockspace: o.sp.id, Cookie: l.cookie(), Mode: l.mode, Flags: dlm.Persistent | flags, Value: value})
	}
}

// notRecorded makes the lock an orphan again.
func (o *adoptOp) notRecorded(err error) {
	t, l := o.t, o.l
	l.phase = 0
	t.append(true, marks([]*lock{l}, state.Gone), nil) // without effect, and ends the state
	l.remove()
	o.l = nil
	if l.mode != dlm.None {
		o.sp.orphans.keep(l.cookie(), l.resource, l.lockid, l.mode).blocked = l.blocked
	}
	e := o.errorOf(api.StateWriteFailed, o.lockspace, o.resource, dlm.None,
		"the orphan was not adopted, because the state file can't be written: "+err.Error())
	e.Err = err
	o.refuse(e)
}

// completed takes the end of the Convert that writes the value block.
func (o *adoptOp) completed(l *lock, ev dlm.Event) {
	if !ev.Status.OK() {
		// Only the name of the holder is missing; the lock is what it should be.
		l.noteMode(ev)
		o.t.logLock(slog.LevelWarn, "value block not written after adoption", l, slog.String("err", ev.Status.String()))
	}
	if l.mode == dlm.None {
		o.lost()
		return
	}
	o.stage = adoptMarking
	o.t.append(true, []state.Change{state.Mark{ID: uint64(l.ref), Mode: l.mode, HasMode: true, Token: l.token}}, o)
}

// marked ends the call once the token is written. If it could not be written, the owner has
// the lock all the same, and the error says so.
func (o *adoptOp) marked(err error) {
	if o.l.mode == dlm.None {
		o.lost()
		return
	}
	if err != nil {
		o.fail(o.writeError(o.lockspace, o.resource, "the orphan is adopted, but its token can't be recorded yet: ", err))
	}
	o.end()
}

// end ends an adoption whose lock is the owner's. The caller gets an error all the same if the token
// can't be recorded yet.
func (o *adoptOp) end() {
	o.stage = adoptDone
	if o.err == nil {
		o.grants = []api.Grant{o.l.grant()}
		o.t.counters.Converted++
	}
	o.reply()
	o.l.idle()
}

// lost ends an adoption whose lock has ended meanwhile.
func (o *adoptOp) lost() {
	o.stage = adoptDone
	o.fail(o.errorOf(api.NotHeld, o.lockspace, o.resource, o.l.mode, "the lock was lost while it was being adopted"))
	o.logRefused()
	o.reply()
	o.l.lose("the lock manager no longer knows it")
}
