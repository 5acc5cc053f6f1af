package table

import (
	"context"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// leaving is a service with a lock on x, whose forced leave is about to be written
// down.
func isLeft(t *testing.T, o api.AcquireOptions, c api.Caller) (*sim, *simCall) {
	s, _ := simWith(t, "vms")
	require.NoError(t, s.done(s.acquire(c, o, wantOf("vms", "x", dlm.EX))))
	l := s.leave(root, "vms", true)
	for s.tab.spaces.byName["vms"].state != spaceLeaving {
		require.True(t, s.deliver() || s.toil(0))
	}
	require.NotEmpty(t, s.appends)
	return s, l
}

// A lock whose connection ends while its lockspace is being left is released when the
// leave is refused after all.
func TestConnectionEndsWhileLeaving(t *testing.T) {
	alice := user(7, ":1.7")
	for _, unwritten := range []bool{false, true} {
		s, c := isLeft(t, api.AcquireOptions{Lifetime: state.Connection}, alice)
		s.turn(func() { s.tab.SessionGone(alice.Session) })
		if unwritten {
			s.journal.SetFail(syscall.EIO)
			s.write()
			s.journal.SetFail(0)
		} else {
			strange(t, s.node, "vms")
		}
		s.rest()
		require.Error(t, c.err)
		require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public())
		require.Zero(t, s.tab.locks.count(), "it is held for ever")
		s.agree("x")
	}
}

// A lockspace that somebody else removes while it is being left, and makes again, is
// his: it is not removed, and the locks that were in the old one are not taken for
// held ones.
func TestRemadeWhileLeaving(t *testing.T) {
	for _, uses := range []bool{false, true} {
		for _, unwritten := range []bool{false, true} {
			o, _ := vm("vm1")
			s, _ := isLeft(t, o, root)
			var lost []api.Lost
			s.onLost = func(l api.Lost) { lost = append(lost, l) }
			require.NoError(t, s.node.Engine().Remove(context.Background(), "vms"))
			p := strange(t, s.node, "vms")
			p.lock("x", dlm.EX, dlm.Persistent)
			if !uses {
				p.end()
			}
			for s.deliver() {
			}
			if unwritten {
				s.journal.SetFail(syscall.EIO)
				s.write()
				s.journal.SetFail(0)
			}
			s.rest()
			s.pass(2 * retryMax)
			require.Len(t, lost, 1)
			require.Zero(t, s.tab.locks.count())
			require.Equal(t, []string{"vms"}, s.memberOf(), "the other's lockspace is gone")
			refusedTo(t, s.node, "vms", "x", dlm.EX)
			require.Empty(t, s.journal.Contents("").Spaces)
		}
	}
}

// An orphan that is being adopted is no orphan any more, and is not lost by a leave
// that does not see it for that reason.
func TestLeaveMeetsAdoption(t *testing.T) {
	s, _ := simWith(t, "vms")
	p := strange(t, s.node, "vms")
	id := p.lock("x", dlm.EX, dlm.Persistent)
	p.end()
	o, _ := vm("vm1")
	adopted := s.adopt(root, "vms", id, api.AdoptOptions{Owner: o.Owner, HasOwner: true})
	require.True(t, s.toil(0) && s.deliver())
	left := s.leave(root, "vms", true)
	require.True(t, s.toil(0))
	slices.Reverse(s.inbox) // the look is told of before the adoption
	require.NoError(t, s.done(adopted))
	s.rest()
	require.ErrorIs(t, left.err, api.LockspaceInUse)
	require.Equal(t, 1, s.tab.locks.count())
	s.agree("x")
}

// Of a lock that can't be let go of, because that can't be written down, the log tells
// once, however often it is tried.
func TestOverdueIsSaidOnce(t *testing.T) {
	alice := user(7, ":1.7")
	s, _ := simWith(t, "vms")
	require.NoError(t, s.done(s.acquire(alice, api.AcquireOptions{Lifetime: state.Connection},
		wantOf("vms", "x", dlm.EX))))
	s.journal.SetFail(syscall.EIO)
	s.turn(func() { s.tab.SessionGone(alice.Session) })
	s.pass(10 * retryInterval)
	require.Equal(t, 1, s.tab.locks.count())
	require.Equal(t, 1,
		s.said["the lifetime of the lock is over, but its release can't be recorded; it is held until it can"])
	s.journal.SetFail(0)
	s.pass(retryInterval)
	require.Zero(t, s.tab.locks.count())
}
