package libdlm

import (
	"cmp"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/internal/queue"
)

// lockspace is one open handle of a lockspace: a dlm.Lockspace.
//
// An operation goes through up to three stages: it waits in a call queue, it is in a call into the
// kernel, and it is with the kernel until the result comes. The result can come before the call has
// returned.
type lockspace struct {
	name   string
	node   uint32
	device device
	gate   gate
	log    *slog.Logger
	onEnd  func(*lockspace) // called when the handle is closed or its lockspace gone

	calls     *queue.Queue[kernelCall] // calls during which the kernel can sleep
	adoptions *queue.Queue[kernelCall] // calls that the kernel answers at once
	workers   sync.WaitGroup

	mu     sync.Mutex
	sink   dlm.Sink
	locks  map[dlm.Cookie]*lock
	purges int // purges under way
	// scouts keep cancels from leaving a resource without a master: see cancel.go.
	scouts    map[dlm.Cookie]*scout
	lastScout dlm.Cookie
	closed    bool

	masterless masterless  // belongs to the goroutine that serves calls
	doubtful   atomic.Bool // a cancel may have left a resource without a master

	shutting chan struct{} // closed by shut
	released chan struct{} // closed when the device is
}

// gate tells whether the lockspace is stopped, so that no more calls are sent to sleep in the
// kernel.
//
// Changed and Masterless are for masterless.go.
type gate interface {
	Stopped() bool
	Changed() bool
	Masterless() (map[string]bool, error)
	Close() error
}

var _ dlm.Lockspace = (*lockspace)(nil)

// lock is one lock of a lockspace, from the first call to its end.
type lock struct {
	cookie dlm.Cookie
	// resource is kept until the first request has ended.
	resource string
	id       dlm.LockID
	mode     dlm.Mode // granted; None before the first grant
	// flags are those of the last operation that the kernel accepted, even if it then refused the
	// mode.
	flags dlm.Flags

	// The operation under way.
	op       dlm.Op // OpNone if there is none
	seq      uint32 // counts operations, so that outdated calls can be recognised
	stage    opStage
	want     dlm.Mode
	asked    dlm.Flags
	canceled bool
	// unlock is set if Unlock was called while a new lock waits.
	unlock *release

	early []dlm.Event // notifications that came before the adoption was reported

	// unconfirmed says that the lock was adopted and the kernel has reported nothing about it yet,
	// so its completions may be lost: see completion.go.
	unconfirmed bool
	// cancelSent says that the kernel was asked to cancel the operation under way.
	cancelSent bool
	// cancelReplyDue says that the reply to a cancel may still be outstanding: see late.go.
	cancelReplyDue bool
	afterProbe     *kernelCall // the conversion that follows the probe
}

type opStage uint8

const (
	queued    opStage = iota // in a call queue
	calling                  // in a call into the kernel
	pending                  // with the kernel
	probing                  // pending: the probe before a conversion
	demoting                 // in the call for the first step of an Unlock, see beginUnlock
	unlocking                // pending: the last step of an Unlock
)

// release holds the arguments of an Unlock.
type release struct {
	value    dlm.Value
	hasValue bool
}

// newLockspace takes over an open device and its gate, and starts the goroutines that serve them.
func newLockspace(name string, node uint32, d device, g gate, sink dlm.Sink, log *slog.Logger,
	onEnd func(*lockspace)) *lockspace {
	s := &lockspace{
		name: name, node: node, device: d, gate: g, sink: sink, onEnd: onEnd,
		log:       log.With("lockspace", name),
		calls:     queue.New[kernelCall](0),
		adoptions: queue.New[kernelCall](0),
		locks:     make(map[dlm.Cookie]*lock),
		scouts:    make(map[dlm.Cookie]*scout),
		shutting:  make(chan struct{}),
		released:  make(chan struct{}),
	}
	s.workers.Go(func() {
		serveQueue(s.calls, func(c *kernelCall) {
			s.hold()
			s.serve(c)
		})
	})
	s.workers.Go(func() { serveQueue(s.adoptions, s.serve) })
	s.workers.Go(s.listen)
	return s
}

func (s *lockspace) Name() string { return s.name }

// Lock implements dlm.Lockspace.
func (s *lockspace) Lock(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) {
	s.begin(dlm.OpLock, c, resource, m, f)
}

// Adopt implements dlm.Lockspace.
func (s *lockspace) Adopt(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) {
	s.begin(dlm.OpAdopt, c, resource, m, f)
}

func (s *lockspace) begin(op dlm.Op, c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) {
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
	l := &lock{cookie: c, resource: resource, mode: dlm.None}
	s.locks[c] = l
	l.start(op, m, f)
	r := kernelCall{lock: l, seq: l.seq, kind: callRequest, name: resource, mode: m, flags: f}
	if op == dlm.OpAdopt {
		r.kind = callAdopt
		s.adoptions.Add(r)
		return
	}
	s.calls.Add(r)
}

// Convert implements dlm.Lockspace.
func (s *lockspace) Convert(c dlm.Cookie, m dlm.Mode, f dlm.Flags, value *dlm.Value) {
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
	r := kernelCall{lock: l, seq: l.seq, kind: callConvert, mode: m, flags: f}
	// If the block is read, the kernel reads it into the bytes that were sent, and leaves them as
	// they are if the resource has no block: send zeros.
	if value != nil && dlm.TransferOf(l.mode, m) == dlm.Writes {
		r.value = *value
	}
	if l.unconfirmed || l.cancelReplyDue {
		s.probeFirst(l, r)
		return
	}
	s.calls.Add(r)
}

// Unlock implements dlm.Lockspace. See beginUnlock for the order of events.
func (s *lockspace) Unlock(c dlm.Cookie, value *dlm.Value) {
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
		s.beginUnlock(l, rel)
	case l.op == dlm.OpLock && l.unlock == nil:
		// The lock is still waiting: withdraw it, and unlock it if it is granted before that.
		l.unlock = &rel
		s.cancel(l)
	default:
		s.refuseHeld(dlm.OpUnlock, l, dlm.StatusBusy)
	}
}

// beginUnlock begins an Unlock, which takes two kernel operations if the lock value block is
// involved: a conversion to NL, which writes the block, and then the unlock. The kernel could do it
// in one, but dlm_ls_unlock sends uninitialised memory as the block, and fs/dlm uses it if either
// the unlock or the last conversion had VALBLK (validate_unlock_args adds its flags to those of the
// lock). So a lock in PW or EX whose last flags had VALBLK goes through NL even if no value is to
// be written. The second step does not wait for the result of the first: a downward conversion is
// done when its call returns, even if another node is the master (send_convert).
//
// The conversion is made without PERSISTENT. The lock is about to end, so if the process dies
// between the two steps, the kernel should end the lock with it: an activation that finds the
// record of the unfinished release then learns that there is no orphan. A persistent lock in NL
// would be found only by trying all the modes.
func (s *lockspace) beginUnlock(l *lock, rel release) {
	l.start(dlm.OpUnlock, dlm.None, 0)
	if l.mode < dlm.PW || !rel.hasValue && l.flags&dlm.ValueBlock == 0 {
		s.calls.Add(kernelCall{lock: l, seq: l.seq, kind: callUnlock})
		return
	}
	r := kernelCall{lock: l, seq: l.seq, kind: callDemote, mode: dlm.NL, value: rel.value}
	if rel.hasValue {
		r.flags = dlm.ValueBlock
	}
	s.calls.Add(r)
}

// Cancel implements dlm.Lockspace.
func (s *lockspace) Cancel(c dlm.Cookie) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.locks[c]; l != nil && !s.closed {
		s.cancel(l)
	}
}

// cancel withdraws a new lock or a conversion. An operation that is with the kernel can be canceled
// only once, and only if it may wait: what can't wait ends without help, and its lockid may belong
// to another lock by the time the cancel arrives. See stuck.go for a request that does not end.
func (s *lockspace) cancel(l *lock) {
	if l.canceled || l.op != dlm.OpLock && l.op != dlm.OpConvert {
		return
	}
	switch l.stage {
	case queued:
		l.afterProbe = nil
		s.finish(l, dlm.Event{Status: dlm.StatusCanceled})
	case calling, probing:
		l.canceled = true // handled when the call has returned or the probe has ended
	case pending:
		l.canceled = true
		s.sendCancel(l)
	}
}

func (s *lockspace) sendCancel(l *lock) {
	call := kernelCall{lock: l, seq: l.seq, kind: callCancel}
	switch {
	case l.op == dlm.OpLock && l.asked&dlm.NoQueue != 0:
		s.cancelIfStuck(call)
	case l.op == dlm.OpLock:
		s.sendScout(l)
	case l.asked&dlm.NoQueue == 0:
		s.calls.Add(call)
	}
}

// Purge implements dlm.Lockspace. Adoptions that were requested earlier go first: that is why it
// goes through their queue.
func (s *lockspace) Purge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.purges++
	s.adoptions.Add(kernelCall{kind: callForward})
}

// start begins an operation on l.
func (l *lock) start(op dlm.Op, want dlm.Mode, asked dlm.Flags) {
	l.op, l.want, l.asked = op, want, asked
	l.stage, l.canceled = queued, false
	l.seq++
}

// refuse reports the end of an operation on a lock that does not exist.
func (s *lockspace) refuse(op dlm.Op, c dlm.Cookie, status dlm.Status) {
	s.sink(dlm.Event{Kind: dlm.Completed, Op: op, Cookie: c, Status: status, Mode: dlm.None})
}

// refuseHeld reports the end of an operation that left l as it was.
func (s *lockspace) refuseHeld(op dlm.Op, l *lock, status dlm.Status) {
	s.sink(dlm.Event{Kind: dlm.Completed, Op: op, Cookie: l.cookie, Status: status, LockID: l.id, Mode: l.mode})
}

// finish ends the operation under way on l with the status and value in ev. It fills in the other
// fields, updates the lock and reports the event.
func (s *lockspace) finish(l *lock, ev dlm.Event) {
	op := l.op
	l.op = dlm.OpNone
	if op == dlm.OpLock && l.cancelSent && l.asked&dlm.NoQueue != 0 {
		s.doubtful.Store(true)
	}
	l.resource = ""
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
func (s *lockspace) afterLock(l *lock, rel release, status dlm.Status) {
	switch {
	case l.mode != dlm.None:
		s.beginUnlock(l, rel)
	case status == dlm.StatusCanceled:
		s.refuse(dlm.OpUnlock, l.cookie, dlm.StatusUnlocked)
	case status == dlm.StatusGone:
		s.refuse(dlm.OpUnlock, l.cookie, dlm.StatusGone)
	default:
		s.refuse(dlm.OpUnlock, l.cookie, dlm.StatusNotFound)
	}
}

// lose ends every lock and operation because the lockspace is gone.
func (s *lockspace) lose() {
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

// Close implements dlm.Lockspace. Closing the device can sleep like every call into the kernel.
// Close waits for it, but not for long, because the locks of a stopped lockspace can't end before
// it resumes.
func (s *lockspace) Close() error {
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

// shut ends a handle; no event follows. It is called with the mutex held and releases it.
func (s *lockspace) shut() {
	s.closed = true
	s.locks, s.scouts = nil, nil
	s.mu.Unlock()
	close(s.shutting)
	s.calls.Close()
	s.adoptions.Close()
	s.device.interrupt()
	go func() {
		// close frees the library's handle, so no goroutine may be using it.
		s.workers.Wait()
		if err := errors.Join(s.gate.Close(), s.device.close()); err != nil {
			s.log.Error("closing the lockspace device failed", "err", err)
		}
		close(s.released)
	}()
	s.onEnd(s)
}
