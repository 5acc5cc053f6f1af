package table

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// retries are what is asked for again and again until it succeeds.
type retries struct {
	t       *Table
	cancels map[*lock]struct{}      // waits that were canceled, and whose end has not come yet
	unlocks map[*lock]struct{}      // locks whose unlock has failed
	overdue map[*lock]struct{}      // locks whose lifetime is over, which could not be written down
	unmarks map[*acquireOp]struct{} // acquires whose undoing could not be written down
	next    time.Time               // when all of them are asked for again
}

// retryInterval is how often that is. The kernel ignores a cancel that meets an
// operation in the middle of a message.
const retryInterval = 2 * time.Second

func newRetries(t *Table) retries {
	return retries{t: t, cancels: map[*lock]struct{}{}, unlocks: map[*lock]struct{}{}, overdue: map[*lock]struct{}{},
		unmarks: map[*acquireOp]struct{}{}}
}

// pending is how much is asked for again.
func (r *retries) pending() int {
	return len(r.cancels) + len(r.unlocks) + len(r.overdue) + len(r.unmarks)
}

// drop forgets a lock that is gone.
func (r *retries) drop(l *lock) {
	delete(r.cancels, l)
	delete(r.unlocks, l)
	delete(r.overdue, l)
}

// retry asks again for what has not succeeded, if it is time for that: for a slice of each
// kind in this turn, because there may be as many as there are locks.
func (r *retries) retry() {
	t := r.t
	if r.pending() == 0 || t.now.Before(r.next) {
		return
	}
	r.next = t.now.Add(retryInterval)
	r.unmarkAgain()
	r.releaseAgain()
	cancels := slices.SortedFunc(maps.Keys(r.cancels), byRef)
	t.slices(len(cancels), func(i int) {
		if l := cancels[i]; has(r.cancels, l) {
			t.do(CancelAction{Lockspace: l.sp.id, Cookie: l.cookie()})
		}
	}, func() {})
	unlocks := slices.SortedFunc(maps.Keys(r.unlocks), byRef)
	t.slices(len(unlocks), func(i int) {
		if l := unlocks[i]; has(r.unlocks, l) {
			delete(r.unlocks, l)
			l.unlock()
		}
	}, func() {})
}

// has reports whether a set has a member. One that was to be tried again in a later turn may
// have succeeded meanwhile.
func has[K comparable](set map[K]struct{}, k K) bool {
	_, ok := set[k]
	return ok
}

// unmarkAgain takes marks "held" back that could not be taken back before.
func (r *retries) unmarkAgain() {
	byFirst := func(a, b *acquireOp) int { return cmp.Compare(a.fresh[0].ref, b.fresh[0].ref) }
	unmarks := slices.SortedFunc(maps.Keys(r.unmarks), byFirst)
	r.t.slices(len(unmarks), func(i int) {
		if o := unmarks[i]; has(r.unmarks, o) {
			delete(r.unmarks, o)
			o.unmark()
		}
	}, func() {})
}

// releaseAgain releases locks whose lifetime is over, and whose release could not be written
// down before: those of a slice in one call.
func (r *retries) releaseAgain() {
	overdue := slices.SortedFunc(maps.Keys(r.overdue), byRef)
	var in []*lock
	release := func() {
		r.t.releaseAll(in, releaseOp{lifetimeOver: true, again: true})
		in = nil
	}
	r.t.slices(len(overdue), func(i int) {
		switch l := overdue[i]; {
		case !has(r.overdue, l):
		case l.bound == nil || !l.bound.dead, !l.sp.ready():
			delete(r.overdue, l) // it hangs on something else now, or is released when the lockspace is back
		case l.busy == nil:
			delete(r.overdue, l)
			in = append(in, l)
		}
		if (i+1)%sliceLength == 0 {
			release()
		}
	}, release)
}

// unlockLater has an unlock that failed tried again, for as long as it takes:
// nobody else knows of the lock, or its holder has the answer that it is released.
func (l *lock) unlockLater(st dlm.Status) {
	l.sp.t.logLock(slog.LevelError, "unlock failed, it is tried again", l, slog.String("err", st.String()))
	l.sp.t.retries.unlocks[l] = struct{}{}
}
