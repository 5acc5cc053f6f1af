package libdlm

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/dlm"
)

// whim is a device that accepts every call, sleeps in some, refuses some, and lets results come
// before or after the call returns, or never for adopted locks. Now and then it unlocks a lock
// without being asked. Some cancels come too late, with the kernel's behaviour in that case
// (late.go). It only knows of each lock whether it is granted.
type whim struct {
	mu      sync.Mutex
	rnd     *rand.Rand
	locks   map[dlm.Cookie]*whimLock
	next    dlm.LockID
	results chan result
	stop    chan struct{}
	once    sync.Once
}

type whimLock struct {
	id      dlm.LockID
	granted bool
	busy    bool // an operation waits for its result
	deaf    bool // no result is ever reported
	ends    dlm.Status
	ops     int // so far
	recalls int // the number of the last operation whose cancel came too late
	answers int // the same, until that cancel is answered
}

func newWhim(seed uint64) *whim {
	return &whim{rnd: rand.New(rand.NewPCG(seed, 1)), locks: make(map[dlm.Cookie]*whimLock),
		results: make(chan result, 1<<16), stop: make(chan struct{})}
}

func (w *whim) nap() {
	w.mu.Lock()
	d := time.Duration(w.rnd.IntN(20)) * time.Millisecond
	w.mu.Unlock()
	time.Sleep(d)
}

// later ends the operation of a lock after a while, unless it has ended.
func (w *whim) later(c dlm.Cookie, l *whimLock, status dlm.Status) {
	l.busy, l.ends = true, status
	l.ops++
	time.AfterFunc(time.Duration(w.rnd.IntN(30))*time.Millisecond, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.report(c, l)
	})
}

func (w *whim) report(c dlm.Cookie, l *whimLock) {
	if l.answers < l.ops {
		l.answer() // comes first, because the cancel did
	}
	if !l.busy {
		return
	}
	l.busy = false
	if l.ends == dlm.StatusOK {
		l.granted = true
	}
	if l.ends == dlm.StatusUnlocked || !l.granted {
		delete(w.locks, c)
	}
	if !l.deaf {
		w.results <- result{cookie: c, id: l.id, status: l.ends}
	}
}

func (w *whim) request(c dlm.Cookie, _ string, _ dlm.Mode, f dlm.Flags) (dlm.LockID, error) {
	defer w.nap()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rnd.IntN(10) == 0 {
		return 0, syscall.EINVAL
	}
	w.next++
	l := &whimLock{id: w.next}
	w.locks[c] = l
	status := dlm.StatusOK
	if f&dlm.NoQueue != 0 && w.rnd.IntN(2) == 0 {
		status = dlm.StatusAgain
	}
	w.later(c, l, status)
	return l.id, nil
}

func (w *whim) adopt(c dlm.Cookie, _ string, _ dlm.Mode, _ dlm.Flags) (dlm.LockID, error) {
	defer w.nap()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rnd.IntN(3) == 0 {
		return 0, syscall.ENOENT
	}
	w.next++
	l := &whimLock{id: w.next, granted: true, deaf: w.rnd.IntN(2) == 0}
	w.locks[c] = l
	if !l.deaf && w.rnd.IntN(2) == 0 {
		w.results <- result{cookie: c, id: w.next, blocking: true, mode: dlm.EX}
	}
	return w.next, nil
}

func (w *whim) operate(c dlm.Cookie, status dlm.Status) error {
	defer w.nap()
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.locks[c]
	switch {
	case l == nil:
		return syscall.ENOENT
	case l.busy || w.rnd.IntN(5) == 0:
		return syscall.EBUSY
	case w.rnd.IntN(20) == 0: // somebody else is faster
		l.busy, l.ends = true, dlm.StatusUnlocked
		w.report(c, l)
		return syscall.ENOENT
	}
	w.later(c, l, status)
	return nil
}

func (w *whim) convert(c dlm.Cookie, _ dlm.LockID, _ dlm.Mode, _ dlm.Flags, _ *dlm.Value) error {
	return w.operate(c, []dlm.Status{dlm.StatusOK, dlm.StatusOK, dlm.StatusAgain,
		dlm.StatusDeadlock}[time.Now().Nanosecond()/1000%4])
}

func (w *whim) unlock(c dlm.Cookie, _ dlm.LockID) error {
	return w.operate(c, dlm.StatusUnlocked)
}

func (w *whim) cancel(c dlm.Cookie, id dlm.LockID) error {
	defer w.nap()
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.locks[c]
	if l == nil || l.id != id || !l.busy || l.ends != dlm.StatusOK {
		return nil
	}
	if w.rnd.IntN(3) > 0 {
		l.ends = dlm.StatusCanceled
		w.report(c, l)
	} else if l.granted {
		w.tooLate(l)
	}
	return nil
}

// tooLate has the cancel of the operation under way answered after a while.
func (w *whim) tooLate(l *whimLock) {
	l.recalls = l.ops
	if l.answers != 0 {
		return
	}
	l.answers = l.ops
	time.AfterFunc(time.Duration(w.rnd.IntN(100))*time.Millisecond, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		l.answer()
	})
}

// answer is taken for the reply to the cancel of a later operation, if there was one, and the
// result of that operation is lost.
func (l *whimLock) answer() {
	if l.answers != 0 && l.answers < l.ops && l.recalls == l.ops {
		l.busy = false
	}
	l.answers = 0
}

func (w *whim) purge(uint32) error { w.nap(); return nil }

func (w *whim) read(r *result) error {
	select {
	case *r = <-w.results:
		return nil
	case <-w.stop:
		return os.ErrClosed
	}
}

func (w *whim) interrupt()   { w.once.Do(func() { close(w.stop) }) }
func (w *whim) close() error { w.interrupt(); return nil }

// tally checks the promises of dlm.Lockspace about events.
type tally struct {
	wrong string                        // the first broken promise
	open  map[dlm.Cookie]map[dlm.Op]int // operations that have not ended
	holds map[dlm.Cookie]dlm.Mode
}

func (a *tally) broken(format string, args ...any) {
	if a.wrong == "" {
		a.wrong = fmt.Sprintf(format, args...)
	}
}

func (a *tally) sink(ev dlm.Event) {
	switch ev.Kind {
	case dlm.Completed:
		a.open[ev.Cookie][ev.Op]--
		if a.open[ev.Cookie][ev.Op] < 0 {
			a.broken("cookie %d: %v ended that was not asked for, or twice", ev.Cookie, ev.Op)
		}
		if ev.Op == dlm.OpPurge {
			return
		}
		if ev.Status.OK() && ev.Op != dlm.OpUnlock && ev.LockID == 0 {
			a.broken("cookie %d: %v ended well without a lockid", ev.Cookie, ev.Op)
		}
		if ev.Status != dlm.StatusBusy {
			a.holds[ev.Cookie] = ev.Mode
		}
	case dlm.Blocking:
		if a.holds[ev.Cookie] == dlm.None {
			a.broken("cookie %d: told to let go of what it was not told it has", ev.Cookie)
		}
	case dlm.Ended:
		a.holds[ev.Cookie] = dlm.None
	}
}

func (a *tally) begin(c dlm.Cookie, op dlm.Op) {
	if a.open[c] == nil {
		a.open[c] = make(map[dlm.Op]int)
	}
	a.open[c][op]++
}

// Every operation ends exactly once, whatever the kernel does and whenever.
func TestEveryOperationEndsOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { everyOperationEndsOnce(rt, t, anyStep) })
}

// The same for one lock that is converted again and again, with a cancel each time.
func TestEveryCanceledConversionEndsOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { everyOperationEndsOnce(rt, t, convertStep) })
}

func everyOperationEndsOnce(rt *rapid.T, t *testing.T, play func(*lockspace, func(dlm.Cookie, dlm.Op), uint16)) {
	seed := rapid.Uint64().Draw(rt, "seed")
	steps := rapid.SliceOfN(rapid.Uint16(), 1, 120).Draw(rt, "steps")
	a := &tally{open: make(map[dlm.Cookie]map[dlm.Op]int), holds: make(map[dlm.Cookie]dlm.Mode)}
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		s := newLockspace("foo", 1, newWhim(seed), &door{}, func(ev dlm.Event) {
			mu.Lock()
			defer mu.Unlock()
			a.sink(ev)
		}, quiet, func(*lockspace) {})
		begin := func(c dlm.Cookie, op dlm.Op) {
			mu.Lock()
			defer mu.Unlock()
			a.begin(c, op)
		}
		for _, step := range steps {
			play(s, begin, step)
		}
		time.Sleep(2 * time.Minute)
		s.Close()
		synctest.Wait()
	})
	require.Empty(rt, a.wrong)
	for c, ops := range a.open {
		for op, n := range ops {
			require.Zero(rt, n, "cookie %d: %v has not ended", c, op)
		}
	}
}

// anyStep plays one step of a history of five locks.
func anyStep(s *lockspace, begin func(dlm.Cookie, dlm.Op), step uint16) {
	c := dlm.Cookie(step>>3%5 + 1)
	m := dlm.Modes[step>>6%6]
	v := &dlm.Value{1}
	if step>>9&1 == 0 {
		v = nil
	}
	f := []dlm.Flags{0, dlm.NoQueue, dlm.Persistent | dlm.ValueBlock, dlm.ValueBlock}[step>>10&3]
	switch step & 7 {
	case 0, 1:
		begin(c, dlm.OpLock)
		s.Lock(c, "disk", m, f)
	case 2:
		begin(c, dlm.OpConvert)
		s.Convert(c, m, f, v)
	case 3:
		begin(c, dlm.OpUnlock)
		s.Unlock(c, v)
	case 4:
		s.Cancel(c)
	case 5:
		begin(c, dlm.OpAdopt)
		s.Adopt(c, "disk", m, dlm.Persistent)
	case 6:
		begin(0, dlm.OpPurge)
		s.Purge()
	case 7:
		time.Sleep(time.Duration(step>>3%64) * time.Millisecond)
	}
}

// convertStep converts a lock, and cancels the conversion.
func convertStep(s *lockspace, begin func(dlm.Cookie, dlm.Op), step uint16) {
	const c = 1
	begin(c, dlm.OpLock)
	s.Lock(c, "disk", dlm.NL, 0) // unless it is there
	time.Sleep(time.Duration(step%64) * time.Millisecond)
	begin(c, dlm.OpConvert)
	s.Convert(c, dlm.Modes[step>>6%6], 0, nil)
	time.Sleep(time.Duration(step>>9%32) * time.Millisecond)
	s.Cancel(c)
}
