package frontend

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// testScheduler is a scheduler whose time the test passes.
type testScheduler struct {
	*scheduler
	mu  sync.Mutex
	now time.Time
}

func newTestScheduler() *testScheduler {
	d := &testScheduler{scheduler: newScheduler(nil), now: time.Unix(1e9, 0)}
	d.scheduler.now = func() time.Time {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.now
	}
	d.scheduler.closed = true // no timer: the test wakes it
	return d
}

func (d *testScheduler) pass(t time.Duration) {
	d.mu.Lock()
	d.now = d.now.Add(t)
	d.mu.Unlock()
	d.wake()
}

// waiting is how many wait for the turn of an account.
func (d *testScheduler) waiting(s *account) int {
	d.scheduler.mu.Lock()
	defer d.scheduler.mu.Unlock()
	return len(s.queue)
}

// queue has a call wait, and returns when it does.
func (d *testScheduler) queue(t *testing.T, s *account, room int, then func()) {
	before := d.waiting(s)
	go func() {
		if d.enter(t.Context(), s, room, userRate.each) == nil {
			then()
		}
	}()
	require.Eventually(t, func() bool { return d.waiting(s) == before+1 }, patience, time.Millisecond)
}

// Who has spent what is saved up waits until it has grown again, and not longer;
// others do not wait.
func TestSchedulerCredit(t *testing.T) {
	d := newTestScheduler()
	greedy, other := d.open(1000), d.open(1001)
	spent := 0
	for greedy.credit.left > 0 {
		require.NoError(t, d.enter(t.Context(), greedy, 0, userRate.each))
		d.leave(greedy, 0, 64<<10)
		spent += 64 << 10
	}
	require.InDelta(t, userRate.burst, spent, 256<<10)
	turns := make(chan int, 1000)
	d.queue(t, greedy, 0, func() { turns <- 0 })
	require.NoError(t, d.enter(t.Context(), other, LongAnswer, userRate.each))
	d.leave(other, LongAnswer, LongAnswer)
	require.Empty(t, turns)

	// In ten seconds he gets what is his, however many wait.
	n := 0
	for end := d.now.Add(10 * time.Second); d.now.Before(end); {
		d.pass(10 * time.Millisecond)
		for d.waiting(greedy) == 0 {
			receive(t, turns)
			d.leave(greedy, 0, 64<<10)
			n++
			d.queueOrGo(t, greedy, func() { turns <- 0 })
		}
	}
	require.InDelta(t, 10*userRate.perSecond, n*(64<<10+int(userRate.each)), float64(userRate.perSecond)/10)

	// Nothing is saved up beyond the bound, in however long a time.
	d.pass(1000 * time.Hour)
	require.LessOrEqual(t, greedy.credit.left, userRate.burst)
	require.True(t, d.rested(other))
}

// queueOrGo has a call enter, whether it must wait or not.
func (d *testScheduler) queueOrGo(t *testing.T, s *account, then func()) {
	entered := make(chan struct{})
	go func() {
		if d.enter(t.Context(), s, 0, userRate.each) == nil {
			then()
		}
		close(entered)
	}()
	require.Eventually(t, func() bool {
		select {
		case <-entered:
			return true
		default:
			return d.waiting(s) > 0
		}
	}, patience, 10*time.Microsecond)
}

// So many bytes of long answers are on their way for one user, and so many in
// all; those who wait are served in turns.
func TestSchedulerRoom(t *testing.T) {
	d := newTestScheduler()
	d.total = 3 * userRate.room / 2
	a, b := d.open(1), d.open(2)
	half := userRate.room / 2
	for range 2 {
		require.NoError(t, d.enter(t.Context(), a, half, userRate.each))
	}
	turns := make(chan string, 100)
	for range 3 {
		d.queue(t, a, half, func() { turns <- "a" })
	}
	require.NoError(t, d.enter(t.Context(), b, half, userRate.each)) // all is taken now
	for range 2 {
		d.queue(t, b, half, func() { turns <- "b" })
	}
	require.Empty(t, turns)
	require.NoError(t, d.enter(t.Context(), d.open(3), 0, userRate.each), "a short answer needs no room")
	var got []string
	for _, s := range []*account{a, a, b} {
		d.leave(s, half, 0)
		got = append(got, receive(t, turns))
	}
	require.Equal(t, []string{"a", "b", "a"}, got)
	require.Equal(t, d.total, d.taken)

	// A caller who goes away gives back what he waited for, and what he has.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, d.enter(ctx, a, half, 0), context.Canceled)
	require.Equal(t, 1, d.waiting(a))
	d.leave(a, half, 0)
	require.Equal(t, "b", receive(t, turns))
	d.leave(b, half, 0)
	require.Equal(t, "a", receive(t, turns))
	for _, s := range []*account{a, a, b} {
		d.leave(s, half, 0)
	}
	require.Zero(t, d.taken)
	require.Zero(t, a.taken+b.taken)
	require.Empty(t, d.users)

	// An answer that is longer than all the room goes when it is alone.
	require.NoError(t, d.enter(t.Context(), a, 10*d.total, userRate.each))
	d.queue(t, b, 1, func() { turns <- "b" })
	d.leave(a, 10*d.total, 0)
	require.Equal(t, "b", receive(t, turns))
}

// Root is limited as well.
func TestSchedulerCosts(t *testing.T) {
	d := newTestScheduler()
	root := d.open(0)
	for range rootRate.burst / LongAnswer {
		require.NoError(t, d.enter(t.Context(), root, LongAnswer, 0))
		d.leave(root, LongAnswer, LongAnswer)
	}
	ran := make(chan bool, 1)
	d.queue(t, root, LongAnswer, func() { ran <- true })
	require.Empty(t, ran)
	d.pass(time.Second)
	receive(t, ran)
}
