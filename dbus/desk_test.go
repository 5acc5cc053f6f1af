package dbus

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// testDesk is a desk whose time the test passes.
type testDesk struct {
	*desk
	mu  sync.Mutex
	now time.Time
}

func newTestDesk() *testDesk {
	d := &testDesk{desk: newDesk(), now: time.Unix(1e9, 0)}
	d.desk.now = func() time.Time {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.now
	}
	d.desk.closed = true // no timer: the test wakes it
	return d
}

func (d *testDesk) pass(t time.Duration) {
	d.mu.Lock()
	d.now = d.now.Add(t)
	d.mu.Unlock()
	d.wake()
}

// waiting is how many wait for the turn of a share.
func (d *testDesk) waiting(s *share) int {
	d.desk.mu.Lock()
	defer d.desk.mu.Unlock()
	return len(s.line)
}

// queue has a call wait, and returns when it does.
func (d *testDesk) queue(t *testing.T, s *share, room int, then func()) {
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
func TestDeskCredit(t *testing.T) {
	d := newTestDesk()
	greedy, other := d.newShare(1000), d.newShare(1001)
	spent := 0
	for greedy.credit.left > 0 {
		require.NoError(t, d.enter(t.Context(), greedy, 0, userRate.each))
		d.leave(greedy, 0, 64<<10)
		spent += 64 << 10
	}
	require.InDelta(t, userRate.burst, spent, 256<<10)
	turns := make(chan int, 1000)
	d.queue(t, greedy, 0, func() { turns <- 0 })
	require.NoError(t, d.enter(t.Context(), other, longAnswer, userRate.each))
	d.leave(other, longAnswer, longAnswer)
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
func (d *testDesk) queueOrGo(t *testing.T, s *share, then func()) {
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
func TestDeskRoom(t *testing.T) {
	d := newTestDesk()
	d.total = 3 * userRate.room / 2
	a, b := d.newShare(1), d.newShare(2)
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
	require.NoError(t, d.enter(t.Context(), d.newShare(3), 0, userRate.each), "a short answer needs no room")
	var got []string
	for _, s := range []*share{a, a, b} {
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
	for _, s := range []*share{a, a, b} {
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

// A long message costs more than its bytes, and root has a bound as well.
func TestDeskCosts(t *testing.T) {
	require.EqualValues(t, 100, costOf(100))
	require.EqualValues(t, longAnswer, costOf(longAnswer))
	require.EqualValues(t, 16*longAnswer, costOf(4*longAnswer))
	d := newTestDesk()
	root := d.newShare(0)
	for range rootRate.burst / longAnswer {
		require.NoError(t, d.enter(t.Context(), root, longAnswer, 0))
		d.leave(root, longAnswer, longAnswer)
	}
	ran := make(chan bool, 1)
	d.queue(t, root, longAnswer, func() { ran <- true })
	require.Empty(t, ran)
	d.pass(time.Second)
	receive(t, ran)
}
