package table

import (
	"log/slog"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// convertOp changes the mode of a lock in place. It also gives a lock a new token
// whose conversion a crash has cut short.
//
// The order of events of a conversion, and what a crash after each line leaves.
// Adoption tries the recorded mode first and the others after it, so the lock manager's
// answer is the truth in every case:
//
//	start      Convert, PERSISTENT repeated         the old mode, or the new one
//	converted  upward to PW or EX: Convert in place,
//	           which writes the value block         the new mode
//	published  append the new mode                  the new mode
//	written    reply                                the new mode
//
// The new mode comes out of the spare room of the state file; once that can't grow
// any more, conversions are refused before anything is asked.
//
// If the time of a conversion is over it is canceled, and the answer waits for what
// the lock manager says to that. One upward that was granted after the call was
// answered, or whose new mode can't be written down, is taken back. The lock then has
// the mode and the token that its client knows of, and the value block the token that
// it had before. If the new mode was written, or may still be, the old mode and token
// are written before the lock is converted back, because the next start could not know
// the token: converting first would leave the old mode with a token that no client was
// given. A crash
//
//   - before the old mode is written leaves the new mode, which was written with its
//     token, or gets a new one (see lock.renew);
//   - between the two leaves the new mode with a record of the old one, as a crash
//     after the grant does, and so it gets a new token;
//   - after the lock was converted back leaves what the client knows of. Only if the
//     old mode could not be written, and the new one could, the lock has the new token.
//
// CW and PR are in each other's way, and neither is the stronger. So the way back from one
// to the other, unlike that from upward, may be refused, because somebody else may have been
// granted the new mode meanwhile. It is gone, in the same order, for who has given up, and
// without queuing; if it is refused, the lock keeps the new mode, which is then written
// again. The token is the same in both modes, because each keeps PW and EX out. A new mode
// that can't be written down stays, as that of a conversion downward does, and the answer
// says so. Whoever gets an answer before the end of a conversion that may not be taken back
// is told that it may still take effect.
type convertOp struct {
	call
	// The lock's names and the mode that it is to have.
	want api.Want
	// Which of the caller's locks of the resource; it is looked up again each time the
	// call has followed another one.
	sel   api.Selector
	value *dlm.Value // what the client wants to be written into the value block
	// What has to come next, as in an acquire.
	stage convertStage
	l     *lock // nil until it is found

	// The mode that the client knows of: where taking the conversion back leads to.
	from dlm.Mode
	// The token that goes with it. A conversion that is taken back must not leave the
	// client with a token that it was never given.
	token uint64
	// The token that taking the conversion back leaves in the value block, known with the
	// grant.
	block uint64
	// Taking the conversion back has failed, so the lock keeps its new mode.
	stays bool
	// The mode that the state file has by now. While it differs from the lock's, a crash
	// would adopt in another mode than recorded, so no path ends without making them
	// equal.
	recorded dlm.Mode
	// Why the conversion was withdrawn: the answer, if the lock manager says that the
	// cancel came in time. Nil while it was not withdrawn.
	overdue *api.Error
	// The answer, once the new mode is written.
	grants []api.Grant
}

type convertStage uint8

const (
	convertFinding     convertStage = iota // nothing is done yet
	convertConverting                      // Convert is in flight
	convertPublishing                      // Convert in place, to write the value block, is in flight
	convertRecording                       // the new mode is being written
	convertUnrecording                     // taking back: the old mode is being written
	convertReturning                       // taking back: Convert to the old mode is in flight
	convertReading                         // the value block is being read: for a token, or to name who is in the way
	convertDone
)

func (o *convertOp) ordered() bool { return o.id != 0 }
func (o *convertOp) result() Reply { return GrantedReply{o.grants} }

// resources is the one resource that the lock is of, whichever lock that is.
func (o *convertOp) resources() ([]resourceKey, bool) {
	return []resourceKey{{o.want.Lockspace, o.want.Resource}}, false
}

// involved is the lock, once start has found it.
func (o *convertOp) involved() []*lock {
	if o.l == nil {
		return nil
	}
	return []*lock{o.l}
}

// waitsFor also says what may still come of a conversion that may not be taken back. Before withdraw
// it does not, because the answer then says what has come of it.
func (o *convertOp) waitsFor() obstacle {
	w := o.t.obstacleOf(o.involved(), o.want.Lockspace, o.want.Resource, o.want.Mode)
	w.queued = o.stage == convertFinding || o.stage == convertConverting
	w.recording = o.stage == convertRecording || o.stage == convertUnrecording
	stopped := w.sp != nil && w.sp.stopped()
	if o.stage == convertConverting && stopped || o.stage == convertRecording {
		w.noted = o.mayStay()
	}
	return w
}

// mayStay is what an answer adds that comes before the end of the conversion. One upward is taken back
// then in any case.
func (o *convertOp) mayStay() string {
	if dlm.Stronger(o.want.Mode, o.from) {
		return ""
	}
	return "; the conversion may still take effect, see the mode of the lock"
}

// late is what withdraw has noted as long as the lock manager has not answered the cancel: the
// reason from before, and not that the lock manager is slow.
func (o *convertOp) late() *api.Error {
	if o.overdue != nil && o.stage == convertConverting {
		e := *o.overdue
		e.Text += o.mayStay()
		return &e
	}
	return o.call.late()
}

// start finds the lock, unless the call has to follow another one, and asks for the
// conversion.
func (o *convertOp) start() {
	w := o.want
	e := o.checkWant(w)
	var l *lock
	if e == nil {
		l, e = o.findLock(w.Lockspace, w.Resource, o.sel, w.Mode)
	}
	if o.postponed() {
		return
	}
	if e == nil {
		o.from, o.recorded, o.token = l.mode, l.mode, l.token
		e = o.checkValue(o.value, w, max(l.mode, w.Mode))
	}
	changes := e == nil && (l.mode != w.Mode || o.value != nil)
	if changes && o.t.degraded != "" {
		e = o.errorOf(api.StateWriteFailed, w.Lockspace, w.Resource, w.Mode, o.t.degraded)
	}
	if e != nil {
		o.stage = convertDone
		o.refuse(e)
		return
	}
	o.l = l
	if !changes {
		o.end()
		return
	}
	l.busy, l.state, l.wanted = &o.call, lockChanging, w.Mode
	l.tell()
	o.convert(w.Mode, o.wait == 0)
}

// convert asks the lock manager. Going down is granted at once, with NOQUEUE or
// without.
func (o *convertOp) convert(to dlm.Mode, noQueue bool) {
	o.stage = convertConverting
	flags := dlm.Persistent
	if noQueue {
		flags |= dlm.NoQueue
	}
	o.ask(to, flags)
}

// publish writes the holder and the token of the lock into the value block.
func (o *convertOp) publish() {
	o.stage = convertPublishing
	o.ask(o.l.mode, dlm.Persistent)
}

// ask has the lock converted; the value block goes with every conversion that may write it.
func (o *convertOp) ask(to dlm.Mode, flags dlm.Flags) {
	l := o.l
	more, value := l.publishing(&o.call, o.value, to)
	if o.stage == convertReturning && !l.sp.raw {
		h := l.holder(to)
		h.Token = o.block
		v := h.Encode()
		value = &v
	}
	l.state = lockConverting
	o.t.do(ConvertAction{Lockspace: l.sp.id, Cookie: l.cookie(), Mode: to, Flags: flags | more, Value: value})
}

// completed takes the end of a Convert.
func (o *convertOp) completed(l *lock, ev dlm.Event) {
	switch {
	case o.stage == convertPublishing:
		o.published(ev)
	case o.stage == convertReturning:
		o.returned(ev)
	case !ev.Status.OK():
		o.notConverted(ev)
	default:
		o.converted(ev)
	}
}

// notConverted ends a conversion that the lock manager has refused.
func (o *convertOp) notConverted(ev dlm.Event) {
	l := o.l
	l.noteMode(ev)
	if o.err == nil {
		if o.overdue != nil && ev.Status == dlm.StatusCanceled {
			o.fail(o.overdue)
		}
		o.fail(o.statusError(l, o.want.Mode, ev.Status))
	}
	o.endFailed()
}

// converted goes on with a conversion that was granted. The token comes first: whatever
// follows may write the value block, which must never fall behind a token that was given.
func (o *convertOp) converted(ev dlm.Event) {
	l := o.l
	from := l.mode
	l.mode = ev.Mode
	l.noteValue(ev)
	l.renewToken(from, ev)
	o.block = o.blockBefore(ev)
	o.extend()
	switch {
	case o.takeBack():
	case l.mode >= dlm.PW && dlm.Stronger(l.mode, from) && (!l.sp.raw || o.value != nil):
		o.publish()
	case l.mode == o.recorded && o.err == nil: // in place, to write a value
		o.end()
	case l.mode == o.recorded:
		o.endFailed()
	default:
		o.record()
	}
}

// blockBefore is the token that was in the value block when a conversion was granted, whose event
// is ev. Taking the conversion back leaves that there and not the new token, which nobody has been
// given: a reader would share it, and storage that has seen it then would refuse the token that
// the lock goes back to. If the block was gone or not valid, others may have been given more than
// is known here, so it gets the new token.
func (o *convertOp) blockBefore(ev dlm.Event) uint64 {
	h, ok := holderIn(ev)
	if !ok || ev.ValueInvalid {
		return o.l.token
	}
	return max(h.Token, o.token)
}

// takeBack undoes a conversion that was granted after the call was given up: the lock
// goes back to the mode that the client knows of, unless that is stronger.
func (o *convertOp) takeBack() bool {
	if !o.answered || o.stays || o.l.mode == o.from || dlm.Stronger(o.from, o.l.mode) {
		return false
	}
	o.goBack()
	return true
}

// goBack has the old mode written, unless the state file has it, and then asks the lock manager.
// If it can't be written now, the journal keeps it, and the lock goes back all the same: others
// may wait for it.
func (o *convertOp) goBack() {
	l := o.l
	l.wanted = o.from
	if o.recorded != o.from {
		o.stage, o.recorded = convertUnrecording, o.from
		o.t.append(true, []state.Change{state.Mark{ID: uint64(l.ref), Mode: o.from, HasMode: true, Token: o.token}}, o)
		return
	}
	o.stage = convertReturning
	flags := dlm.Persistent
	if !dlm.Stronger(l.mode, o.from) {
		flags |= dlm.NoQueue // between CW and PR
	}
	o.ask(o.from, flags)
}

// returned takes the end of the way back. If it has failed, the lock has a mode that may not be
// recorded.
func (o *convertOp) returned(ev dlm.Event) {
	l := o.l
	if ev.Status.OK() {
		l.mode, l.token = ev.Mode, o.token
		o.endFailed()
		return
	}
	l.noteMode(ev)
	if l.mode == dlm.None {
		o.endFailed()
		return
	}
	o.stays = true
	o.record()
}

// published goes on once the value block is written. A failure is no reason to give up what is
// granted.
func (o *convertOp) published(ev dlm.Event) {
	l := o.l
	if !ev.Status.OK() {
		// Only the name of the holder is missing; the lock is what it should be.
		l.noteMode(ev)
		o.t.logLock(slog.LevelWarn, "value block not written after conversion", l, slog.String("err", ev.Status.String()))
	}
	switch {
	case l.mode == dlm.None:
		o.endFailed()
	case o.takeBack():
	default:
		o.record()
	}
}

// record writes down the mode and the token. It must be written, since the lock manager has
// granted the mode already.
func (o *convertOp) record() {
	l := o.l
	o.stage, o.recorded = convertRecording, l.mode
	o.t.append(true, []state.Change{state.Mark{ID: uint64(l.ref), Mode: l.mode, HasMode: true, Token: l.token}}, o)
}

// written takes the end of writing the mode.
func (o *convertOp) written(err error) {
	l := o.l
	switch {
	case l.mode == dlm.None:
		o.endFailed()
		return
	case o.stage == convertUnrecording:
		o.goBack()
		return
	case o.takeBack():
		return
	case err != nil && dlm.Stronger(l.mode, o.from) && !o.stays:
		o.fail(o.writeError(l.sp.name, l.resource, "the lock keeps its mode, because the new one can't be recorded: ", err))
		o.goBack()
		return
	case err != nil:
		o.fail(o.writeError(l.sp.name, l.resource, "the lock is converted, but its new mode can't be recorded yet: ", err))
	}
	o.end()
}

// end ends a conversion whose lock has the mode that was wanted. The caller gets an error all the
// same if that can't be recorded yet, or has one already.
func (o *convertOp) end() {
	t, l := o.t, o.l
	o.stage = convertDone
	if o.err == nil {
		o.grants = []api.Grant{l.grant()}
	}
	if o.err == nil || l.mode != o.from {
		t.counters.Converted++
		t.logHistory(msgConverted.String(), l, slog.String("session", string(o.caller.Session)),
			slog.Duration("waited", t.now.Sub(o.begun)))
	}
	o.reply()
	l.idle()
}

// endFailed ends a conversion that failed: the lock is what it was, or lost.
func (o *convertOp) endFailed() {
	l := o.l
	o.stage = convertDone
	if l.mode == dlm.None {
		o.fail(o.errorOf(api.NotHeld, l.sp.name, l.resource, o.want.Mode, "the lock was lost while it was being converted"))
	}
	o.logRefused()
	if o.err != nil && o.err.Kind == api.WouldBlock && !o.answered {
		o.stage = convertReading
		o.nameHolder()
	} else {
		o.reply()
	}
	if l.mode == dlm.None {
		l.lose("the lock manager no longer knows it")
		return
	}
	l.idle()
}

// valueRead takes the value block that tells who is in the way or, where a crash
// has cut a conversion short, which token was the last.
func (o *convertOp) valueRead(ev dlm.Event) {
	l := o.l
	switch {
	case o.id != 0:
		o.stage = convertDone
		o.nameFrom(ev)
		o.reply()
	case l.mode == dlm.None:
		o.endFailed()
	case l.mode < dlm.PW:
		l.token = max(l.token, o.t.clock.token(l.sp, l.mode, ev))
		o.record()
	default:
		l.token = o.t.clock.token(l.sp, l.mode, ev)
		o.publish()
	}
}

// giveUp cancels the conversion.
func (o *convertOp) giveUp() {
	if o.stage == convertConverting {
		o.cancelWaits(o.involved())
	}
}

// withdraw cancels a conversion whose time is over, and leaves the answer to the
// lock manager for a moment: a conversion that was granted after all must not be
// called a failure, and only one upward can be taken back in any case. It is false where
// that can't be waited for.
func (o *convertOp) withdraw() bool {
	if o.stage != convertConverting || o.overdue != nil || o.l.sp.stopped() {
		return false
	}
	o.overdue = o.late()
	o.cancelWaits(o.involved())
	o.t.calls.arm(&o.call, o.t.now.Add(settleTime))
	return true
}

// renewToken gives a lock that was converted up its token: before anything else
// is done, because whatever follows may write it into the value block, where it
// must never be smaller than what others were given. In a shared mode it is the
// current one, since others may have had the resource while the lock was weaker.
func (l *lock) renewToken(from dlm.Mode, ev dlm.Event) {
	switch {
	case l.sp.raw, !renewsToken(from, l.mode):
	case l.mode >= dlm.PW:
		l.token = l.sp.t.clock.token(l.sp, l.mode, ev)
	case ev.HasValue:
		l.token = max(l.token, l.sp.t.clock.token(l.sp, l.mode, ev))
	}
}

// renewsToken reports whether a conversion between two modes gives the lock a new
// token.
func renewsToken(from, to dlm.Mode) bool {
	return dlm.Stronger(to, from) || to < dlm.PW && to > from
}

// renew gives a lock whose conversion upward a crash has cut short a new token: the
// old one may be smaller than what others were given since. In an exclusive mode it
// would go into the value block when the lock is released; in a shared one storage
// would refuse the reader.
func (l *lock) renew() {
	o := &convertOp{want: api.Want{Lockspace: l.sp.name, Resource: l.resource, Mode: l.mode}, l: l,
		from: l.mode, recorded: l.mode, token: l.token, stage: convertReading}
	o.call = l.sp.t.ownCall("convert")
	o.call.op, o.answered = o, true
	l.busy, l.state, l.wanted = &o.call, lockChanging, l.mode
	l.sp.t.probes.read(l.sp, l.resource, o)
}
