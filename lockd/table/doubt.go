package table

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/dlmlock/dlmlockd/process"
)

// A process that could not be examined does not count as ended. After a restart the
// locks that are tied to one stay, an ERROR in the log and Degraded say so, and it is
// examined again until its state is known:
//
//	state Held, watch asked for   the record and the lock stay as they are
//	Unknown                       nothing is written, nothing is unlocked
//	Alive                         the same; from here on its end is seen
//	Ended                         a release like any other (release.go)
//
// Killed anywhere before Ended, the next start begins at the first line.

// ProcessState takes what is known of a process that locks are tied to.
func (t *Table) ProcessState(proc process.ID, state process.State, err error) {
	b := t.bindings[bindKey{proc: proc}]
	if b == nil || b.dead {
		return
	}
	switch {
	case state == process.Ended:
		b.doubt = ""
		delete(t.doubts, b)
		t.endBinding(b.key(), "the process has ended")
	case state == process.Unknown:
		t.doubt(b, err)
	case b.doubt != "":
		b.doubt = ""
		delete(t.doubts, b)
		t.log(slog.LevelInfo, "the process that locks are tied to is alive", slog.Uint64("pid", uint64(b.proc.PID)), slog.Int("locks", len(b.locks)))
	}
}

// The pause before processes in doubt are looked at again doubles up to doubtMax.
const (
	doubtFirst = time.Second
	doubtMax   = 30 * time.Second
)

// doubt notes that it is not known whether a process lives.
func (t *Table) doubt(b *binding, err error) {
	if b.doubt == "" {
		t.log(slog.LevelError, "can't tell whether a process that locks are tied to is alive; its locks are kept",
			slog.Uint64("pid", uint64(b.proc.PID)), slog.Int("locks", len(b.locks)), slog.String("err", err.Error()))
	}
	b.doubt = err.Error() + process.Advice(err)
	if len(t.doubts) == 0 {
		t.doubtPause = doubtFirst
		t.lookAgain = t.now.Add(t.doubtPause)
	}
	t.doubts[b] = struct{}{}
}

// resolveDoubts examines again the processes whose state is not known.
func (t *Table) resolveDoubts() {
	if len(t.doubts) == 0 || t.now.Before(t.lookAgain) {
		return
	}
	t.doubtPause = min(2*t.doubtPause, doubtMax)
	t.lookAgain = t.now.Add(t.doubtPause)
	for _, b := range t.doubted() {
		uid := uint32(0)
		for l := range b.locks {
			uid = max(uid, l.uid) // whichever: one that is not root's is bounded
		}
		t.do(WatchAction{b.proc, uid})
	}
}

// doubted lists the processes whose state is not known, in a fixed order.
func (t *Table) doubted() []*binding {
	return slices.SortedFunc(maps.Keys(t.doubts), func(a, b *binding) int {
		return cmp.Or(cmp.Compare(a.proc.PID, b.proc.PID), cmp.Compare(a.proc.Start, b.proc.Start))
	})
}

// degradation says what is out of order, for people; "" if nothing is.
func (t *Table) degradation() string {
	text := t.degraded
	if len(t.doubts) == 0 {
		return text
	}
	if text != "" {
		text += "; "
	}
	what := "the locks of a process are kept, because the service can't tell whether it is alive"
	if n := len(t.doubts); n > 1 {
		what = fmt.Sprintf("the locks of %d processes are kept, because the service can't tell whether they are alive", n)
	}
	return text + what + ": " + t.firstDoubt().doubt
}

// firstDoubt is one of doubted. It stays the same while it is in doubt, because it
// is asked for after every turn.
func (t *Table) firstDoubt() *binding {
	if _, ok := t.doubts[t.exampleDoubt]; !ok {
		t.exampleDoubt = t.doubted()[0]
	}
	return t.exampleDoubt
}
