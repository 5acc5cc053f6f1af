package client

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A thousand programs hold locks over Varlink at once, each with a Client of its own. Each
// notices the loss of its own lock, and of no other, also while it reconnects to a service that was
// killed and started again.
func TestThousandHolders(t *testing.T) {
	r := startReal(t)
	held := make([]context.Context, 1000)
	slots := make(chan struct{}, 16)
	var work sync.WaitGroup
	for i := range held {
		c := OpenVarlink(r.socket)
		t.Cleanup(func() { _ = c.Close() })
		work.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			o := Options{}
			if i%2 == 1 {
				o = Options{Owner: fmt.Sprint("owner-", i), OwnerUnique: true}
			}
			ctx, _, err := c.TryLock(t.Context(), Want{"vms", fmt.Sprint("r", i), "EX"}, o)
			if err != nil {
				t.Error(err)
				return
			}
			held[i] = ctx
		})
	}
	work.Wait()
	require.False(t, t.Failed())
	admin := r.open(true)
	begun := time.Now()
	for i := 0; i < len(held); i += 10 {
		require.NoError(t, admin.Release(t.Context(), "vms", fmt.Sprint("r", i), Selector{}))
	}
	for i := 0; i < len(held); i += 10 {
		require.Equal(t, LossReleased, lossOf(t, held[i]).How)
	}
	t.Logf("%d holders knew after %v that their locks were released", len(held)/10, time.Since(begun))
	for i, ctx := range held {
		require.Equal(t, i%10 == 0, ctx.Err() != nil, i)
	}
	r.end(syscall.SIGKILL)
	r.start()
	begun = time.Now()
	require.NoError(t, admin.Leave(t.Context(), "vms", true))
	for i, ctx := range held {
		loss := lossOf(t, ctx)
		require.Equal(t, fmt.Sprint("r", i), loss.Grant.Resource)
		if i%10 != 0 {
			require.Equal(t, LossReported, loss.How)
		}
	}
	t.Logf("%d holders knew after %v that their locks were lost", len(held)*9/10, time.Since(begun))
}

// One Client has one watch for all locks whose owner it has made up, and one for each other owner.
// Each ends with its last lock.
func TestWatchesOfOneClient(t *testing.T) {
	both(t, func(t *testing.T, r *real, c *Client) {
		watches := func() int {
			c.kept.mu.Lock()
			defer c.kept.mu.Unlock()
			return len(c.kept.watches)
		}
		wants := []int{1, 1, 2, 2, 3}
		if c.Conn() != nil {
			wants = []int{1, 1, 1, 1, 1}
		}
		var all []*Held
		var owners []string
		for i, owner := range []string{"", "", "a", "a", "b"} {
			h, err := c.Hold(t.Context(), []Want{{"vms", fmt.Sprint("r", i), "EX"}}, Options{Owner: owner})
			require.NoError(t, err)
			require.Equal(t, wants[i], watches())
			all, owners = append(all, h), append(owners, h.Owner())
		}
		require.NotEqual(t, owners[0], owners[1])
		slices.Reverse(wants)
		for i, h := range slices.Backward(all) {
			require.Equal(t, wants[len(all)-1-i], watches())
			require.NoError(t, h.Release(t.Context()))
		}
		require.Zero(t, watches())
	})
}

// The keeper also asks at once about a lock that somebody else releases or converts before Hold has
// returned it.
func TestLossesBeforeHoldReturns(t *testing.T) {
	k := keeper{lost: map[LockName]Event{}, touched: map[LockName]struct{}{}, wake: make(chan struct{}, 1)}
	k.touch(Event{Kind: lockTouched, Lock: "other"})
	k.touch(Event{Kind: lockTouched, Lock: "l"})
	h := &Held{grants: []Grant{{Lock: "l", Mode: "EX"}}}
	k.add(h)
	require.Equal(t, []*Held{h}, k.soon)
	k.soon = nil
	for _, own := range []Event{{Lock: "l", State: "held", Mode: "EX"}, {Lock: "l", State: "converting", Mode: "EX"},
		{Lock: "other"}} {
		k.touch(own)
		require.Empty(t, k.soon, own)
	}
	for _, theirs := range []Event{{Lock: "l"}, {Lock: "l", State: "releasing", Mode: "EX"},
		{Lock: "l", State: "held", Mode: "PR"}} {
		k.touch(theirs)
		require.Equal(t, []*Held{h}, k.soon, theirs)
		k.soon = nil
	}
	k.watches = map[owners]*heldWatch{{}: {}}
	k.watches[owners{}].complete.Store(true)
	require.Equal(t, askWatchedEvery, k.pause())
	k.answered(h, false)
	require.Equal(t, askHeldEvery, k.pause(), "a question that had no answer is asked again soon")
	k.answered(h, true)
	require.Equal(t, askWatchedEvery, k.pause())
	k.watches[owners{}].complete.Store(false)
	require.Equal(t, askHeldEvery, k.pause())
	h.changes++
	k.touch(Event{Lock: "l", State: "held", Mode: "PR"})
	require.Empty(t, k.soon, "it may be the holder's own conversion")
}

// With a service that is older than the parameters for owners, a Client watches the losses of all
// locks, and asks about each of its locks often.
func TestOlderServiceIsWatched(t *testing.T) {
	path, calls := olderService(t)
	v := newVarlink(path)
	defer v.close()
	ctx, cancel := context.WithCancel(t.Context())
	var w heldWatch
	events, err := v.watchOwners(ctx, owners{"go-", true, os.Geteuid()}, &w.complete)
	require.NoError(t, err)
	require.False(t, w.complete.Load())
	require.Contains(t, <-calls, "ownerPrefix")
	require.NotContains(t, <-calls, "owner")
	cancel()
	for range events {
	}
}

// Connections without a call are closed after a while.
func TestIdleConnectionsEnd(t *testing.T) {
	path, ended := answering(t)
	v := newVarlink(path)
	defer v.close()
	require.NoError(t, v.call(t.Context(), "Ping", "test.Ping", parameters{}, nil))
	v.pool.mu.Lock()
	require.Len(t, v.pool.idle, 1)
	v.pool.idle[0].used = time.Now().Add(-idleTime)
	v.pool.mu.Unlock()
	v.pool.closeUnused()
	<-ended
	require.Empty(t, v.pool.idle)
	require.NoError(t, v.call(t.Context(), "Ping", "test.Ping", parameters{}, nil))
}
