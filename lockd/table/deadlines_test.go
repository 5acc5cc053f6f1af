package table

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// A grant in the last moment of a wait is not given back for want of the time to
// write it down.
func TestGrantInTheLastMoment(t *testing.T) {
	s, cluster := simWith(t, "vms")
	h, err := cluster.AddNode(2).Engine().Create(t.Context(), "vms", func(dlm.Event) {})
	require.NoError(t, err)
	h.Lock(1, "x", dlm.EX, 0)
	c := s.acquire(alice, api.AcquireOptions{Wait: time.Second}, wantOf("vms", "x", dlm.EX))
	s.rest()
	s.now = s.now.Add(time.Second - time.Millisecond)
	h.Unlock(1, nil)
	for s.deliver() {
	}
	s.now = s.now.Add(2 * time.Millisecond) // the write takes long
	s.turn(s.tab.Tick)
	require.NoError(t, s.done(c))
	s.agree("x")
}

// Deadlines say what was waited for.
func TestLateErrors(t *testing.T) {
	s, cluster := simWith(t, "vms")
	require.NoError(t, s.done(s.acquire(root, api.AcquireOptions{Label: "web"}, wantOf("vms", "x", dlm.EX))))
	waits := s.acquire(alice, api.AcquireOptions{Wait: time.Second}, wantOf("vms", "y", dlm.PR),
		wantOf("vms", "x", dlm.PR))
	s.pass(time.Second)
	require.ErrorIs(t, waits.err, api.Timeout)
	require.ErrorContains(t, waits.err, "acquire vms/x", "the one that was not granted is named")
	require.ErrorContains(t, waits.err, `held by this node (EX, uid 0, "web")`)

	cluster.Stop("vms", "fencing node 2")
	hangs := s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "z", dlm.EX))
	s.pass(testOpTimeout)
	require.ErrorIs(t, hangs.err, api.LockspaceStopped)
	s.health()
	release := s.release(root, "vms", "x", api.Selector{})
	s.pass(testOpTimeout)
	require.ErrorIs(t, release.err, api.LockspaceStopped)
	require.ErrorContains(t, release.err, "fencing node 2")
	require.ErrorContains(t, release.err, "the release is recorded")
	cluster.SetQuorate(false)
	s.health()
	require.ErrorIs(t, s.done(s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "z", dlm.EX))), api.NotQuorate)
	cluster.SetQuorate(true)
	cluster.Resume("vms")
	s.health()
	s.pass(time.Minute)
	require.Zero(t, s.tab.locks.count())
	s.agree("x", "y", "z")

	slow := s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "x", dlm.EX))
	for s.deliver() {
	}
	s.now = s.now.Add(testOpTimeout) // a disk that hangs
	s.turn(s.tab.Tick)
	require.ErrorIs(t, slow.err, api.StateWriteFailed)
	s.pass(time.Minute)
	require.Zero(t, s.tab.locks.count())
	s.agree("x", "y", "z")
}

// A conversion whose wait ends in the moment of its grant is told the truth: a
// lock that has another mode is never called unchanged.
func TestLateConversion(t *testing.T) {
	for _, m := range [][2]dlm.Mode{{dlm.EX, dlm.PR}, {dlm.PR, dlm.NL}, {dlm.CW, dlm.PR}, {dlm.PR, dlm.CW},
		{dlm.PR, dlm.EX}} {
		s, _ := simWith(t, "vms")
		require.NoError(t, s.done(s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "x", m[0]))))
		c := s.convert(alice, wantOf("vms", "x", m[1]), api.Selector{}, time.Second)
		s.now = s.now.Add(time.Second) // the grant is there, but was not seen yet
		s.turn(s.tab.Tick)
		require.NoError(t, s.done(c), "%s to %s", m[0], m[1])
		page, _ := s.tab.list(api.Filter{})
		require.Equal(t, m[1], page[0].Mode)
		s.agree("x")
	}
}

// A lock manager that does not hear the cancel can't keep a conversion from
// being answered. What it grants after that is taken back.
func TestConversionTimesOutWithoutCompletion(t *testing.T) {
	s := newSim(t, local.NewCluster("c").AddNode(1), "vms")
	d := &deafSpace{deaf: true}
	s.wrap = func(h dlm.Lockspace) dlm.Lockspace { d.Lockspace = h; return d }
	s.start()
	s.rest()
	require.NoError(t, s.done(s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "x", dlm.PR))))
	other := s.acquire(bob, api.AcquireOptions{}, wantOf("vms", "x", dlm.PR))
	require.NoError(t, s.done(other))
	c := s.convert(alice, wantOf("vms", "x", dlm.EX), api.Selector{Ref: 2}, time.Second)
	s.pass(time.Second)
	require.Zero(t, c.answers)
	s.pass(settleTime)
	require.ErrorIs(t, c.err, api.Timeout)
	require.ErrorContains(t, c.err, "held by this node")
	require.NoError(t, s.done(s.release(bob, "vms", "x", api.Selector{Ref: other.grants[0].Ref})))
	s.pass(time.Minute)
	page, _ := s.tab.list(api.Filter{})
	require.Equal(t, dlm.PR, page[0].Mode)
	s.agree("x")
}

// A conversion that is answered before it has ended says that it may still take effect, unless it is one
// upward, which is taken back. If it does, the history has it.
func TestAnsweredBeforeTheEndOfAConversion(t *testing.T) {
	for _, m := range [][2]dlm.Mode{{dlm.EX, dlm.PR}, {dlm.CW, dlm.PR}, {dlm.PR, dlm.CW}, {dlm.PR, dlm.EX},
		{dlm.CR, dlm.PR}} {
		for _, hangs := range []string{"lock manager", "disk"} {
			t.Run(fmt.Sprintf("%s to %s, %s", m[0], m[1], hangs), func(t *testing.T) {
				s, _ := simWith(t, "vms")
				require.NoError(t, s.done(s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "x", m[0]))))
				c := s.convert(alice, wantOf("vms", "x", m[1]), api.Selector{}, time.Second)
				for hangs == "disk" && s.deliver() {
				}
				for c.answers == 0 {
					s.now = s.now.Add(settleTime)
					s.turn(s.tab.Tick)
				}
				upward := dlm.Stronger(m[1], m[0])
				require.Equal(t, !upward, strings.Contains(c.err.Error(), "the conversion may still take effect"), c.err)
				s.rest()
				page, _ := s.tab.list(api.Filter{})
				if page[0].Mode == m[0] {
					require.Zero(t, s.said[msgConverted.String()])
				} else {
					require.False(t, upward)
					require.Equal(t, 1, s.said[msgConverted.String()])
				}
				s.agree("x")
			})
		}
	}
}
