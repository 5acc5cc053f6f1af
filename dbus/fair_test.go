package dbus

import (
	"fmt"
	"slices"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Beyond the bound of unanswered calls of all his connections a user is told
// so; others, and root, are not concerned. When answers are out he may go on.
func TestUserBound(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		const bound, each = 50, 20
		r := newRig(t, b, rigConfig{user: bound})
		root := r.dial(testbus.Root)
		_, lock := root.acquire("busy", opt())
		done := make(chan *godbus.Call, 1000)
		wait := opt("wait-usec", uint64(20e6))
		refused := 0
		var greedy []*client
		for range 4 {
			c := r.dial(member)
			greedy = append(greedy, c)
			for range each {
				c.obj.Go(Name+".Acquire", 0, done, "vms", "busy", "PR", wait)
			}
			c.ok(ifacePeer + ".Ping") // all of them have come
		}
		for range 4*each - bound {
			err := receive(t, done).Err
			require.Error(t, err)
			require.Equal(t, errLimits, err.(godbus.Error).Name)
			refused++
		}
		require.Empty(t, done)
		greedy[0].refused(errLimits, "ListLockspaces")
		r.dial(member).refused(errLimits, "ListLockspaces") // also as the first call
		r.dial(stranger).ok("ListLockspaces")
		for range 2 * bound {
			root.obj.Go(Name+".Acquire", 0, make(chan *godbus.Call, 1), "vms", "busy", "NL", wait)
		}
		root.at(lock).ok(lockIfaceName+".Release", opt())
		for range bound {
			require.NoError(t, receive(t, done).Err)
		}
		greedy[0].ok("ListLockspaces")

		// What a user's connections leave behind counts for nobody.
		for _, c := range greedy {
			require.NoError(t, c.conn.Close())
		}
		require.Eventually(t, func() bool {
			return r.core.Usage(member.UID).Unanswered == 0
		}, patience, time.Millisecond)
	})
}

// A user who has used up what he may have, and goes on asking, does not make
// another's calls slow: the numbers are printed, the bound is generous. It is that of the
// same calls to a service of their own, made at the same time, on the same busy machine.
func TestCapDoesNotSlowOthers(t *testing.T) {
	limits := api.DefaultLimits()
	limits.LocksPerUID, limits.WaitingPerUID = 20_000, 5_000
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{limits: limits})
		root, greedy := r.dial(testbus.Root), r.dial(member)
		calm := newRig(t, testbus.Start(t, b.Kind), rigConfig{}).dial(testbus.Root)
		pair := func(c *client) time.Duration {
			began := time.Now()
			_, lock := c.acquire("other", opt())
			c.at(lock).ok(lockIfaceName+".Release", opt())
			return time.Since(began)
		}
		// The median of pairs, that of pairs in between to the calm service, and the longest.
		measure := func() (median, alone, worst time.Duration) {
			took, beside := make([]time.Duration, 300), make([]time.Duration, 300)
			for i := range took {
				took[i], beside[i] = pair(root), pair(calm)
			}
			slices.Sort(took)
			slices.Sort(beside)
			return took[len(took)/2], beside[len(beside)/2], took[len(took)-1]
		}

		root.acquire("busy", opt())
		greedy.pipeline(limits.WaitingPerUID, func(_ int, ch chan *godbus.Call) *godbus.Call {
			return greedy.obj.Go(Name+".Request", 0, ch, "vms", "busy", "EX", opt())
		})
		greedy.refused(ErrorPrefix+"LimitExceeded", "Request", "vms", "busy", "EX", opt())
		many := make([]wantRow, 1000)
		for n := limits.WaitingPerUID; n+len(many) <= limits.LocksPerUID; n += len(many) {
			for i := range many {
				many[i] = wantRow{"vms", fmt.Sprint(n + i), "EX"}
			}
			greedy.ok("AcquireMany", many, opt())
		}
		greedy.refused(ErrorPrefix+"LimitExceeded", "Acquire", "vms", "more", "EX", opt())
		atCap, alone, _ := measure()

		stop, stopped := make(chan struct{}), make(chan int)
		go func() {
			n := 0
			for ; ; n++ {
				select {
				case <-stop:
					stopped <- n
					return
				default:
					greedy.call("Acquire", "vms", "more", "EX", opt())
				}
			}
		}()
		asking, aloneToo, worst := measure()
		close(stop)
		t.Logf("acquire and release of another user: median %v with a user at his caps, %v to a service of their "+
			"own; %v (worst %v) and %v while he asks on (%d calls)",
			atCap, alone, asking, worst, aloneToo, receive(t, stopped))
		require.Less(t, atCap, 5*alone+5*time.Millisecond)
		require.Less(t, asking, 10*aloneToo+10*time.Millisecond)
	})
}
