package table

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// tokenRig is two nodes whose value blocks are forgotten with the last lock, so
// that the clocks alone decide.
type tokenRig struct {
	t     *testing.T
	nodes map[int]*sim
	last  uint64
}

func newTokenRig(t *testing.T, ahead time.Duration) *tokenRig {
	r := &tokenRig{t: t, nodes: map[int]*sim{}}
	cluster := local.NewCluster("test")
	for n := 1; n <= 2; n++ {
		s := newSim(t, cluster.AddNode(uint32(n)), "vms")
		if n == 1 {
			s.stepped = ahead
		}
		r.nodes[n] = s
		s.start()
		s.rest()
	}
	return r
}

// settle has both nodes come to rest.
func (r *tokenRig) settle() {
	for range 10 {
		r.nodes[1].rest()
		r.nodes[2].rest()
	}
}

func (r *tokenRig) sleep(d time.Duration) {
	for _, s := range r.nodes {
		s.pass(d)
	}
}

func (r *tokenRig) take(node int) uint64 {
	c := r.nodes[node].acquire(root, api.AcquireOptions{}, wantOf("vms", "disk", dlm.EX))
	r.settle()
	require.NoError(r.t, c.err)
	require.Len(r.t, c.grants, 1)
	return c.grants[0].Token
}

func (r *tokenRig) release(node int) {
	c := r.nodes[node].release(root, "vms", "disk", api.Selector{})
	r.settle()
	require.NoError(r.t, c.err)
}

// grows takes the resource and lets go of it; its token must be the largest yet.
func (r *tokenRig) grows(node int, when string) {
	r.t.Helper()
	token := r.take(node)
	require.Greater(r.t, token, r.last, "node %d, %s: smaller by %s", node, when,
		time.Duration(r.last-token)*time.Microsecond)
	r.last = token
	r.release(node)
}

// The clock of a node is set back while the service runs, again and again: the
// tokens go on.
func TestTokenClockIsSetBack(t *testing.T) {
	r := newTokenRig(t, 0)
	r.grows(2, "before")
	r.nodes[2].stepped = -time.Hour
	for range 4 {
		r.grows(2, "after the clock was set back")
		r.sleep(3 * time.Second)
		r.grows(1, "3 s later")
		r.sleep(time.Millisecond)
	}
	r.nodes[2].stepped = -2 * time.Hour
	r.sleep(time.Second)
	r.grows(2, "set back once more")
}

// A restart after the clock was set back, and a kill: the epoch is noted.
func TestTokenClockIsSetBackBeforeARestart(t *testing.T) {
	r := newTokenRig(t, 0)
	r.grows(2, "before")
	r.nodes[2].stepped = -time.Hour
	r.nodes[2].restart()
	for range 4 {
		r.sleep(time.Second)
		r.grows(2, "after the restart")
		r.sleep(time.Second)
		r.grows(1, "a second later")
	}
	r.nodes[2].restart()
	r.nodes[2].restart()
	r.sleep(time.Second)
	r.grows(2, "after two more")
}

// A clock that was ahead for a moment and was put right: the tokens of that
// moment stay below those that come later, over a restart as well.
func TestTokenClockWasAheadForAMoment(t *testing.T) {
	r := newTokenRig(t, 0)
	r.nodes[1].stepped = 24 * time.Hour
	r.grows(1, "ahead by a day")
	r.nodes[1].stepped = 0
	r.sleep(time.Second)
	r.grows(1, "put right")
	r.nodes[1].restart()
	r.sleep(time.Second)
	r.grows(1, "put right, and restarted")
}

// A node whose clock is behind learns that from the first token that it reads,
// of whatever resource in whatever mode, and keeps it over a restart.
func TestTokenClockIsLearned(t *testing.T) {
	r := newTokenRig(t, time.Hour)
	hold := r.nodes[1].acquire(root, api.AcquireOptions{}, wantOf("vms", "other", dlm.PW))
	r.settle()
	require.NoError(t, hold.err)
	require.NoError(t, r.nodes[1].convert(root, wantOf("vms", "other", dlm.CR), api.Selector{}, 0).err)
	r.settle()
	r.grows(1, "ahead by an hour")
	r.sleep(time.Second)
	read := r.nodes[2].acquire(root, api.AcquireOptions{}, wantOf("vms", "other", dlm.CR))
	r.settle()
	require.NoError(t, read.err)
	r.sleep(time.Second)
	r.grows(2, "it has read a token of node 1")
	r.nodes[2].restart()
	r.sleep(time.Second)
	r.grows(1, "in turns")
	r.sleep(time.Second)
	r.grows(2, "restarted")
}

// A token that says more than any clock can is not believed.
func TestTokenClockTakesNoDamage(t *testing.T) {
	tab := testTable()
	tab.SetTime(time.UnixMicro(1000), 0)
	tab.clock.see(maxToken)
	tab.clock.see(maxToken + 5)
	tab.clock.see(maxToken - 1)
	tab.clock.see(1000 + maxAhead + 1)
	require.Equal(t, uint64(1000), tab.clock.read())
	tab.clock.see(2000)
	require.Equal(t, uint64(2000), tab.clock.read())
	tab.SetTime(time.UnixMicro(500), time.Second)
	require.Equal(t, uint64(1_002_000), tab.clock.read())
	tab.SetTime(time.UnixMicro(-5_000_000), 2*time.Second)
	require.Equal(t, uint64(2_002_000), tab.clock.read(), "a clock before 1970")
}

// The epoch is noted once for each step, and not for what two readings differ by.
func TestTokenEpochIsNotedSeldom(t *testing.T) {
	tab := testTable()
	notes := 0
	pass := func(wall time.Time, up time.Duration) {
		tab.SetTime(wall, up)
		for _, a := range tab.out {
			if _, ok := a.(EpochAction); ok {
				notes++
			}
		}
		tab.out = nil
	}
	wall, up := time.UnixMicro(1_767_225_600_000_000), time.Hour
	for i := range 1000 {
		pass(wall, up+time.Duration(i%7)*time.Microsecond)
		wall, up = wall.Add(time.Millisecond), up+time.Millisecond
	}
	require.Equal(t, 1, notes)
	pass(wall.Add(time.Minute), up)
	pass(wall, up)
	require.Equal(t, 2, notes)
}

// passClocks looks at the health of both nodes, which passes the clocks around.
func (r *tokenRig) passClocks() {
	for _, n := range []int{1, 2, 1, 2} {
		r.nodes[n].clocks = true
		r.nodes[n].health()
		r.settle()
	}
}

// Clocks that differ when the services start: the nodes of a lockspace agree as
// soon as they have looked at it, and stay so over restarts, kills, and a clock
// that jumps ahead on either.
func TestTokenClockOfTheLockspace(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"node 1 ahead": time.Hour, "node 1 behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			r := newTokenRig(t, ahead)
			turns := func(when string) {
				t.Helper()
				r.passClocks()
				for range 3 {
					for _, n := range []int{1, 2} {
						r.sleep(time.Millisecond)
						r.grows(n, when)
					}
				}
			}
			turns("after the first look")
			for i := range 4 {
				r.nodes[1+i%2].restart()
				turns("after a restart")
			}
			r.sleep(clockInterval)
			r.nodes[2].stepped += 24 * time.Hour
			r.passClocks()
			turns("a clock went ahead by a day")
			r.sleep(clockInterval)
			r.nodes[1].stepped += 48 * time.Hour
			r.passClocks()
			turns("the other one went ahead by two")
		})
	}
}

// A node whose clock was set ahead asks for the clock of the lockspace at once, so the other one
// follows as soon as it asks.
func TestTokenClockAfterAStep(t *testing.T) {
	r := newTokenRig(t, 0)
	for range clockRounds + 1 {
		r.passClocks()
	}
	step := func(n int) clockStep { return r.nodes[n].tab.spaces.byName["vms"].clock.step }
	has, asks := 1, 2
	if step(1) != clockHeld {
		has, asks = 2, 1
	}
	require.Equal(t, clockHeld, step(has))
	r.nodes[asks].health()
	r.settle()
	require.Equal(t, clockIdle, step(asks), "it does not ask before its time")
	r.nodes[asks].stepped += time.Hour
	r.nodes[asks].health()
	r.settle()
	require.Equal(t, clockHeld, step(asks), "its clock was set ahead")
	require.Equal(t, clockIdle, step(has))
	r.sleep(clockInterval)
	r.nodes[has].health()
	r.settle()
	r.grows(asks, "before the other one")
	r.sleep(time.Millisecond)
	r.grows(has, "it has followed")
}

// The lock of the clock never gets stuck, whatever happens around it: after any
// kills, both nodes still take turns.
func TestTokenClockGoesOn(t *testing.T) {
	r := newTokenRig(t, 0)
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		s := r.nodes[1+random.IntN(2)]
		switch random.IntN(4) {
		case 0:
			s.kill()
			s.start()
		case 1:
			s.clocks = true
			s.health()
		case 2:
			s.deliver()
		case 3:
			s.pass(clockInterval / 2)
		}
	}
	r.settle()
	r.sleep(2 * clockInterval)
	for range 4 {
		r.passClocks()
		r.sleep(2 * clockInterval)
	}
	for i := range 6 {
		asks, has := r.nodes[1+i%2], r.nodes[2-i%2]
		before := has.tab.spaces.byName["vms"].clock.step
		asks.health()
		r.settle()
		require.Equal(t, clockHeld, asks.tab.spaces.byName["vms"].clock.step, "node %d asks and gets it", 1+i%2)
		require.Equal(t, clockIdle, has.tab.spaces.byName["vms"].clock.step)
		require.True(t, i == 0 || before == clockHeld, "node %d had it", 2-i%2)
		r.sleep(2 * clockInterval)
	}
}

// A lockspace that is a node's alone, or has raw values, costs nothing.
func TestTokenClockOfNobodyElse(t *testing.T) {
	tab := testTable()
	sp := tab.space("vms")
	sp.state = spaceReady
	asked := func() bool {
		out := tab.out
		tab.out = nil
		return slices.ContainsFunc(out, func(a Action) bool { _, ok := a.(ClockAction); return ok })
	}
	tab.SetHealth("vms", dlm.Health{Members: []uint32{1}}, true)
	require.False(t, asked())
	tab.SetHealth("vms", dlm.Health{Members: []uint32{1, 2}, Stopped: true}, true)
	require.False(t, asked())
	sp.raw = true
	tab.SetHealth("vms", dlm.Health{Members: []uint32{1, 2}}, true)
	require.False(t, asked())
	sp.raw = false
	tab.SetHealth("vms", dlm.Health{Members: []uint32{1, 2}}, true)
	require.True(t, asked())
	tab.SetHealth("vms", dlm.Health{Members: []uint32{1, 2}}, true)
	require.False(t, asked(), "it is under way")
}
