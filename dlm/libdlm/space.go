package libdlm

import (
	"cmp"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// space is one open handle of a lockspace: a dlm.Lockspace.
//
// An operation goes through up to three stages: it waits in a lane, it is in a
// call into the kernel, it is with the kernel until the result comes. The
// result can come before the call has returned.
type space struct {
	name   string
	node   uint32
	device device
	gate   gate
	log    *slog.Logger
	onEnd  func(*space) // the handle is closed or gone

	calls     *lane // what the kernel can put to sleep
	adoptions *lane // what it answers at once
	workers   sync.WaitGroup

	mu     sync.Mutex
	sink   dlm.Sink
	locks  map[dlm.Cookie]*lock
	purges int // under way
	closed bool

	shutting chan struct{} // closed by shut
	released chan struct{} // closed when the device is
}

// gate tells whether the lockspace is stopped, so that nothing more is sent to
// sleep in the kernel.
type gate interface {
	Stopped() bool
	Close() error
}

var _ dlm.Lockspace = (*space)(nil)

// lock is one lock of a space, from the request to its end.
type lock struct {
	cookie dlm.Cookie
	id     dlm.LockID
	mode   dlm.Mode  // granted; None before the first grant
	flags  dlm.Flags // of the last operation that the kernel took, also if it refused it then

	// The operation under way.
	op       dlm.Op // OpNone: there is none
	seq      uint32 // counts operations, so that late requests can be told
	stage    stage
	want     dlm.Mode
	asked    dlm.Flags
	canceled bool
	unlock   *release // Unlock was called while a new lock waits

	early []dlm.Event // notifications before the adoption has been reported

	unheard  bool     // adopted, and the kernel has reported nothing of it yet: see unheard.go
	recalled bool     // the kernel was asked to cancel the operation under way
	late     bool     // the answer to a cancel may be under way still: see late.go
	tested   *request // the conversion that comes after the test
}

type stage uint8

const (
	queued    stage = iota // in a lane
	calling                // in a call into the kernel
	pending                // with the kernel
	hearing                // pending: the test before a conversion
	demoting               // in the call for the first step of an Unlock, see unlocking
	unlocking              // pending: the last step of an Unlock
)

// release is what Unlock was told.
type release struct {
	value    dlm.Value
	hasValue bool
}

// newSpace takes over an open device and its gate, and starts to serve them.
func newSpace(name string, node uint32, d device, g gate, sink dlm.Sink, log *slog.Logger, onEnd func(*space)) *space {
	s := &space{
		name: name, node: node, device: d, gate: g, sink: sink, onEnd: onEnd,
		log:       log.With("lockspace", name),
		calls:     newLane(),
		adoptions: newLane(),
		locks:     make(map[dlm.Cookie]*lock),
		shutting:  make(chan struct{}),
		released:  make(chan struct{}),
	}
	s.workers.Go(func() {
		s.calls.run(func(r *request) {
			s.hold()
			s.serve(r)
		})
	})
	s.workers.Go(func() { s.adoptions.run(s.serve) })
	s.workers.Go(s.listen)
	return s
}

func (s *space) Name() string { return s.name }

// Lock implements dlm.Lockspace.
func (s *space) Lock(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) {
	s.begin(dlm.OpLock, c, resource, m, f)
}

// Adopt implements dlm.Lockspace.
func (s *space) Adopt(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) {
	s.begin(dlm.OpAdopt, c, resource, m, f)
}

func (s *space) begin(op dlm.Op, c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return
	case s.locks[c] != nil:
		s.refuse(op, c, dlm.StatusBusy)
		return
	case c == 0, dlm.CheckResource(resource) != nil, !dlm.LockAllowed(m, f):
		s.refuse(op, c, dlm.StatusInvalid)
		return
	}
	l := &lock{cookie: c, mode: dlm.None}
	s.locks[c] = l
	l.start(op, m, f)
	r := request{lock: l, seq: l.seq, call: callRequest, name: resource, mode: m, flags: f}
	if op == dlm.OpAdopt {
		r.call = callAdopt
		s.adoptions.put(r)
		return
	}
	s.calls.put(r)
}

// Convert implements dlm.Lockspace.
func (s *space) Convert(c dlm.Cookie, m dlm.Mode, f dlm.Flags, value *dlm.Value) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.locks[c]
	switch {
	case s.closed:
		return
	case l == nil:
		s.refuse(dlm.OpConvert, c, dlm.StatusNotFound)
		return
	case l.op != dlm.OpNone:
		s.refuseHeld(dlm.OpConvert, l, dlm.StatusBusy)
		return
	case !dlm.ConvertAllowed(l.mode, m, f):
		s.refuseHeld(dlm.OpConvert, l, dlm.StatusInvalid)
		return
	}
	l.start(dlm.OpConvert, m, f)
	r := request{lock: l, seq: l.seq, call: callConvert, mode: m, flags: f}
	// Where the block is read, the kernel reads into the bytes that were sent
	// and leaves them as they are if the resource has none: send zeros.
	if value != nil && dlm.TransferOf(l.mode, m) == dlm.Writes {
		r.value = *value
	}
	if l.unheard || l.late {
		s.testFirst(l, r)
		return
	}
	s.calls.put(r)
}

// Unlock implements dlm.Lockspace. See unlocking for the order of events.
func (s *space) Unlock(c dlm.Cookie, value *dlm.Value) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.locks[c]
	var rel release
	if value != nil {
		rel = release{value: *value, hasValue: true}
	}
	switch {
	case s.closed:
	case l == nil:
		s.refuse(dlm.OpUnlock, c, dlm.StatusNotFound)
	case l.op == dlm.OpNone:
		s.unlocking(l, rel)
	case l.op == dlm.OpLock && l.unlock == nil:
		// It waits: withdraw it, and unlock it should it be granted first.
		l.unlock = &rel
		s.cancel(l)
	default:
		s.refuseHeld(dlm.OpUnlock, l, dlm.StatusBusy)
	}
}

// unlocking begins an Unlock, which takes two operations of the kernel where
// the lock value block is concerned: a conversion to NL, which writes the
// block, and then the unlock. One would do for the kernel, but dlm_ls_unlock
// sends uninitialised memory as the block, and fs/dlm takes it if either the
// unlock or the last conversion had VALBLK (validate_unlock_args adds its flags
// to those of the lock). So a lock in PW or EX whose last flags had VALBLK goes
// through NL also when no value is to be written. The second step does not wait
// for the result of the first: a conversion down is done when its call returns,
// also where another node keeps the queue (send_convert).
//
// The conversion is made without PERSISTENT. The lock is to go, so if the
// process dies between the two steps, the kernel should end it with the
// process: an activation that finds the record of an unfinished release is then
// told that there is no orphan, which is what it wanted. A persistent lock in NL
// would be found only by trying all the modes.
func (s *space) unlocking(l *lock, rel release) {
	l.start(dlm.OpUnlock, dlm.None, 0)
	if l.mode < dlm.PW || !rel.hasValue && l.flags&dlm.ValueBlock == 0 {
		s.calls.put(request{lock: l, seq: l.seq, call: callUnlock})
		return
	}
	r := request{lock: l, seq: l.seq, call: callDemote, mode: dlm.NL, value: rel.value}
	if rel.hasValue {
		r.flags = dlm.ValueBlock
	}
	s.calls.put(r)
}

// Cancel implements dlm.Lockspace.
func (s *space) Cancel(c dlm.Cookie) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.locks[c]; l != nil && !s.closed {
		s.cancel(l)
	}
}

// cancel withdraws a new lock or a conversion. What is with the kernel can only
// be asked back once, and only if it may wait: a request with NOQUEUE ends by
// itself, and its lockid may be another lock's by the time the cancel arrives.
func (s *space) cancel(l *lock) {
	if l.canceled || l.op != dlm.OpLock && l.op != dlm.OpConvert {
		return
	}
	switch l.stage {
	case queued:
		l.tested = nil
		s.finish(l, dlm.Event{Status: dlm.StatusCanceled})
	case calling, hearing:
		l.canceled = true // seen to when the call has returned, or the test has ended
	case pending:
		l.canceled = true
		s.sendCancel(l)
	}
}

func (s *space) sendCancel(l *lock) {
	if l.asked&dlm.NoQueue == 0 {
		s.calls.put(request{lock: l, seq: l.seq, call: callCancel})
	}
}

// Purge implements dlm.Lockspace. It lets the adoptions that were asked for
// before it go first: hence the way through their lane.
func (s *space) Purge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.purges++
	s.adoptions.put(request{call: callForward})
}

// start begins an operation on l.
func (l *lock) start(op dlm.Op, want dlm.Mode, asked dlm.Flags) {
	l.op, l.want, l.asked = op, want, asked
	l.stage, l.canceled = queued, false
	l.seq++
}

// refuse reports the end of an operation on a lock that does not exist.
func (s *space) refuse(op dlm.Op, c dlm.Cookie, status dlm.Status) {
	s.sink(dlm.Event{Kind: dlm.Completed, Op: op, Cookie: c, Status: status, Mode: dlm.None})
}

// refuseHeld reports the end of an operation that left l as it was.
func (s *space) refuseHeld(op dlm.Op, l *lock, status dlm.Status) {
	s.sink(dlm.Event{Kind: dlm.Completed, Op: op, Cookie: l.cookie, Status: status, LockID: l.id, Mode: l.mode})
}

// finish ends the operation under way on l with what ev says about status and
// value. It fills in the rest, updates the lock and reports.
func (s *space) finish(l *lock, ev dlm.Event) {
	op := l.op
	l.op = dlm.OpNone
	l.settle(ev.Status)
	if ev.Status.OK() {
		l.mode = l.want
	}
	ends := l.mode == dlm.None || op == dlm.OpUnlock && ev.Status.OK()
	if ends {
		delete(s.locks, l.cookie)
		l.mode = dlm.None
	}
	ev.Kind, ev.Op, ev.Cookie, ev.LockID, ev.Mode = dlm.Completed, op, l.cookie, l.id, l.mode
	s.sink(ev)
	for _, e := range l.early {
		s.sink(e)
	}
	l.early = nil
	if rel := l.unlock; rel != nil {
		l.unlock = nil
		s.afterLock(l, *rel, ev.Status)
	}
}

// afterLock carries out the Unlock that came while the lock was waiting.
func (s *space) afterLock(l *lock, rel release, status dlm.Status) {
	switch {
	case l.mode != dlm.None:
		s.unlocking(l, rel)
	case status == dlm.StatusCanceled:
		s.refuse(dlm.OpUnlock, l.cookie, dlm.StatusUnlocked)
	case status == dlm.StatusGone:
		s.refuse(dlm.OpUnlock, l.cookie, dlm.StatusGone)
	default:
		s.refuse(dlm.OpUnlock, l.cookie, dlm.StatusNotFound)
	}
}

// lose ends everything because the lockspace is gone underneath.
func (s *space) lose() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.log.Warn("this node has left the lockspace: its locks are gone", "locks", len(s.locks))
	locks := make([]*lock, 0, len(s.locks))
	for _, l := range s.locks {
		locks = append(locks, l)
	}
	slices.SortFunc(locks, func(a, b *lock) int { return cmp.Compare(a.cookie, b.cookie) })
	for _, l := range locks {
		l.mode, l.early = dlm.None, nil
		if l.op != dlm.OpNone {
			s.finish(l, dlm.Event{Status: dlm.StatusGone})
		}
	}
	for ; s.purges > 0; s.purges-- {
		s.sink(dlm.Event{Kind: dlm.Completed, Op: dlm.OpPurge, Status: dlm.StatusGone, Mode: dlm.None})
	}
	s.sink(dlm.Event{Kind: dlm.Closed, Mode: dlm.None})
	s.shut()
}

// Close implements dlm.Lockspace. Closing the device can sleep like every call
// into the kernel: Close waits for it, but not for long, because the locks of a
// lockspace that is stopped can't end before it resumes.
func (s *space) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.shut()
	select {
	case <-s.released:
	case <-time.After(closeWait):
		s.log.Warn("the lockspace is stopped: its locks end, or become orphans, when it resumes")
	}
	return nil
}

// closeWait is how long Close waits for the kernel.
const closeWait = 2 * time.Second

// shut ends a handle: no event after it. It is called with the mutex held and
// releases it.
func (s *space) shut() {
	s.closed = true
	s.locks = nil
	s.mu.Unlock()
	close(s.shutting)
	s.calls.shut()
	s.adoptions.shut()
	s.device.interrupt()
	go func() {
		// The handle of the library is freed by close: nobody may be in it.
		s.workers.Wait()
		if err := errors.Join(s.gate.Close(), s.device.close()); err != nil {
			s.log.Error("closing the lockspace device", "err", err)
		}
		close(s.released)
	}()
	s.onEnd(s)
}
