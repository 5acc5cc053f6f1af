package table

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

// A process that could not be examined does not count as ended. After a restart the
// locks that are tied to one stay, an ERROR in the log and Degraded say so, and it is
// examined again until its state is known:
//
//	state Held, watch asked for   the record and the lock stay as they are
//	Undetermined                  nothing is written, nothing is unlocked
//	Alive                         the same; from here on its end is seen
//	Ended                         a release like any other (release.go)
//
// Killed anywhere before Ended, the next start begins at the first line.

// lifetimes are the sessions and processes that locks hang on.
type lifetimes struct {
	t *Table
	// Each session and process that a lock hangs on.
	bindings map[bindKey]*binding
	// The processes of which it is not known whether they live.
	undetermined map[*binding]struct{}
	// The one of them that Degraded names; see firstUndetermined.
	example   *binding
	examineAt time.Time     // when they are examined again
	pause     time.Duration // how long that is after the last time
}

// binding is what a lock of lifetime connection or process hangs on: a session or a
// process. When that ends, so do the locks.
type binding struct {
	bindKey
	// The locks that hang on it. The binding goes with the last of them.
	locks map[*lock]struct{}
	// Its end is known. Locks that could not be released yet still hang on it, and no new
	// lock may.
	dead         bool
	undetermined string // why it is not known whether the process lives; "" if it is
}

type bindKey struct {
	session api.Session // lifetime connection
	proc    process.ID  // lifetime process
}

// bind hangs l on its session or process, as its lifetime says.
func (l *lock) bind(proc process.ID) {
	t := l.sp.t
	k := bindKey{}
	switch l.lifetime {
	case state.Connection:
		k.session = l.session
	case state.Process:
		k.proc = proc
	default:
		return
	}
	b := t.lifetimes.bindings[k]
	if b == nil {
		b = &binding{bindKey: k, locks: map[*lock]struct{}{}}
		t.lifetimes.bindings[k] = b
		if k.proc != (process.ID{}) {
			t.do(WatchAction{k.proc, l.uid})
		}
	}
	b.locks[l] = struct{}{}
	l.bound = b
}

// unbind takes l off what it hangs on; a process that nothing hangs on any more is not watched
// any more.
func (l *lock) unbind() {
	t := l.sp.t
	b := l.bound
	if b == nil {
		return
	}
	l.bound = nil
	delete(b.locks, l)
	if len(b.locks) > 0 {
		return
	}
	delete(t.lifetimes.bindings, b.bindKey)
	delete(t.lifetimes.undetermined, b)
	if b.proc != (process.ID{}) {
		t.do(UnwatchAction{b.proc})
	}
}

// endBinding releases everything that hangs on a session or process that is gone.
// Locks of a lockspace that is not ready are released when it is.
func (x *lifetimes) endBinding(k bindKey, why string) {
	t := x.t
	b := x.bindings[k]
	if b == nil || b.dead {
		return
	}
	b.dead = true
	in := slices.SortedFunc(maps.Keys(b.locks), byRef)
	var idle []*lock
	release := func() {
		x.releaseEnded(idle, why)
		idle = nil
	}
	t.slices(len(in), func(i int) {
		l := in[i]
		switch {
		case !t.locks.has(l) || l.bound != b: // gone by now
		case l.public() == api.Acquiring && l.busy != nil:
			l.busy.stopWaiting(l.busy.errorOf(api.Canceled, l.sp.name, l.resource, l.wanted, why))
		case !l.sp.ready():
		case l.busy != nil:
			l.endOf().follow(l.busy, l)
		default:
			idle = append(idle, l)
		}
		if (i+1)%sliceLength == 0 {
			release()
		}
	}, release)
}

// releaseEnded releases locks whose lifetime is over, in one call.
func (x *lifetimes) releaseEnded(in []*lock, why string) {
	t := x.t
	for _, l := range in {
		t.logLock(slog.LevelInfo, "lifetime over, releasing", l, slog.String("err", why))
	}
	t.releaseAll(in, releaseOp{lifetimeOver: true})
}

// Sessions returns those that locks hang on, for the front ends, which know which
// of them are still there.
func (x *lifetimes) Sessions() []api.Session {
	var out []api.Session
	for k := range x.bindings {
		if k.session != "" {
			out = append(out, k.session)
		}
	}
	slices.Sort(out)
	return out
}

// ProcessState takes what is known of a process that locks are tied to.
func (x *lifetimes) ProcessState(proc process.ID, state process.State, err error) {
	t := x.t
	b := x.bindings[bindKey{proc: proc}]
	if b == nil || b.dead {
		return
	}
	known := func() {
		b.undetermined = ""
		delete(x.undetermined, b)
	}
	switch {
	case state == process.Ended:
		known()
		x.endBinding(b.bindKey, "the process has ended")
	case state == process.Undetermined:
		x.isUndetermined(b, err)
	case b.undetermined != "":
		known()
		t.log(slog.LevelInfo, msgProcessAlive.String(),
			slog.Uint64("pid", uint64(b.proc.PID)), slog.Int("locks", len(b.locks)))
	}
}

// The pause before processes are examined again doubles up to examineMax.
const (
	examineFirst = time.Second
	examineMax   = 30 * time.Second
)

// isUndetermined notes that it is not known whether a process lives.
func (x *lifetimes) isUndetermined(b *binding, err error) {
	t := x.t
	if b.undetermined == "" {
		t.log(slog.LevelError, msgProcessUnknown.String(),
			slog.Uint64("pid", uint64(b.proc.PID)), slog.Int("locks", len(b.locks)), slog.String("err", err.Error()))
	}
	b.undetermined = err.Error() + process.Advice(err)
	if len(x.undetermined) == 0 {
		x.pause = examineFirst
		x.examineAt = t.now.Add(x.pause)
	}
	x.undetermined[b] = struct{}{}
}

// examineAgain examines again the processes whose state is not known.
func (x *lifetimes) examineAgain() {
	t := x.t
	if len(x.undetermined) == 0 || t.now.Before(x.examineAt) {
		return
	}
	x.pause = min(2*x.pause, examineMax)
	x.examineAt = t.now.Add(x.pause)
	for _, b := range x.undeterminedInOrder() {
		uid := uint32(0)
		for l := range b.locks {
			uid = max(uid, l.uid) // whichever: one that is not root's is bounded
		}
		t.do(WatchAction{b.proc, uid})
	}
}

// undeterminedInOrder lists the processes whose state is not known, in a fixed order.
func (x *lifetimes) undeterminedInOrder() []*binding {
	return slices.SortedFunc(maps.Keys(x.undetermined), func(a, b *binding) int {
		return cmp.Or(cmp.Compare(a.proc.PID, b.proc.PID), cmp.Compare(a.proc.Start, b.proc.Start))
	})
}

// firstUndetermined is one of them. It stays the same while its state is not known,
// because it is asked for after every turn.
func (x *lifetimes) firstUndetermined() *binding {
	if _, ok := x.undetermined[x.example]; !ok {
		x.example = x.undeterminedInOrder()[0]
	}
	return x.example
}

// degradation says what is out of order, for people; "" if nothing is.
func (t *Table) degradation() string {
	text, n := t.degraded, len(t.lifetimes.undetermined)
	if n == 0 {
		return text
	}
	if text != "" {
		text += "; "
	}
	what := "the locks of a process are kept, because the service can't tell whether it is alive"
	if n > 1 {
		what = fmt.Sprintf("the locks of %d processes are kept, because the service can't tell whether they are alive", n)
	}
	return text + what + ": " + t.lifetimes.firstUndetermined().undetermined
}
