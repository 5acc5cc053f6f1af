package table

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

func (s *sim) adopt(c api.Caller, space string, id dlm.LockID, o api.AdoptOptions) *simCall {
	return s.call(AdoptOrphan{Caller: c, Lockspace: space, LockID: id, Options: o})
}

func (s *sim) purge(space string, some bool, ids ...dlm.LockID) *simCall {
	return s.call(Purge{Caller: root, Lockspace: space, Expect: ids, Some: some})
}

func (s *sim) listOrphans(space string) []api.Orphan {
	c := s.call(Orphans{Lockspace: space})
	require.NoError(s.t, s.done(c))
	return c.orphans
}

// The locks of a lost state file are listed with what their value blocks tell, and
// are taken over one by one, under the same lockid and fencing token, or let go of.
func TestAdoptOrphan(t *testing.T) {
	s, _ := simWith(t, "vms")
	o, sel := vm("vm1")
	o.Label = "disk.img"
	want := []api.Want{wantOf("vms", "x", dlm.EX), wantOf("vms", "y", dlm.PR), wantOf("vms", "z", dlm.PW),
		wantOf("vms", "zz", dlm.PR)}
	c := s.acquire(root, o, want...)
	require.NoError(t, s.done(c))
	g := c.grants
	other, _ := vm("vm2")
	require.NoError(t, s.done(s.acquire(root, other, wantOf("vms", "y", dlm.PR))))
	s.lose()
	found := s.listOrphans("vms")
	require.Len(t, found, 5)
	require.Equal(t, "x", found[0].Resource)
	require.True(t, found[0].HasHolder)
	require.Equal(t, "disk.img", found[0].Holder.Who)
	require.Equal(t, g[0].Token, found[0].Holder.Token)
	require.False(t, found[1].HasHolder, "a shared lock publishes nothing")

	require.ErrorIs(t, s.done(s.adopt(root, "vms", 99, api.AdoptOptions{})), api.NotHeld)
	require.ErrorIs(t, s.done(s.adopt(root, "vms", g[0].LockID, api.AdoptOptions{Resource: "y"})), api.InvalidArgs)
	require.ErrorIs(t, s.done(s.adopt(root, "vms", g[0].LockID, api.AdoptOptions{Mode: dlm.PR, HasMode: true})),
		api.InvalidArgs)
	s.now = s.now.Add(1 << 20)
	for _, want := range g[:3] {
		a := s.adopt(root, "vms", want.LockID, api.AdoptOptions{Owner: "vm1", HasOwner: true, Label: "disk.img",
			Resource: want.Resource})
		require.NoError(t, s.done(a))
		require.Equal(t, want.LockID, a.grants[0].LockID)
		if want.Resource != "y" {
			require.Equal(t, want.Token, a.grants[0].Token, want.Resource)
		}
	}
	require.ErrorIs(t, s.done(s.adopt(root, "vms", g[0].LockID, api.AdoptOptions{})), api.NotHeld,
		"it is no orphan any more")
	s.agree("x", "y", "z")
	s.restart()
	s.agree("x", "y", "z")
	require.Equal(t, 3, s.tab.locks.count())
	again := s.acquire(root, o, want[0])
	require.NoError(t, s.done(again))
	require.Equal(t, g[0].Token, again.grants[0].Token)
	require.NoError(t, s.done(s.release(root, "vms", "x", sel)))

	require.ErrorIs(t, s.done(s.purge("vms", true, g[3].LockID, 99)), api.InvalidArgs)
	one := s.purge("vms", true, g[3].LockID)
	require.NoError(t, s.done(one))
	require.EqualValues(t, 1, one.count)
	require.Len(t, s.listOrphans("vms"), 1, "the other shared one")
	s.agree("x", "y", "z")
}

// An orphan whose record can't be written stays one, and so does one whose new owner
// has the resource, or may have no more locks.
func TestAdoptionRefused(t *testing.T) {
	s, _ := simWith(t, "vms")
	p := strange(t, s.node, "vms")
	id := p.lock("x", dlm.PR, dlm.Persistent)
	p.end()
	o, sel := vm("vm1")
	require.NoError(t, s.done(s.acquire(root, o, wantOf("vms", "x", dlm.PR))))
	mine := api.AdoptOptions{Owner: "vm1", HasOwner: true}
	require.ErrorIs(t, s.done(s.adopt(root, "vms", id, mine)), api.AlreadyHeld)
	s.tab.conf.Limits.LocksPerUID = 1
	require.ErrorIs(t, s.done(s.adopt(root, "vms", id, api.AdoptOptions{})), api.LimitExceeded)
	s.tab.conf.Limits = api.DefaultLimits()
	require.NoError(t, s.done(s.release(root, "vms", "x", sel)))
	s.journal.SetFail(syscall.ENOSPC)
	require.ErrorIs(t, s.done(s.adopt(root, "vms", id, mine)), api.StateWriteFailed)
	require.Equal(t, []api.Orphan{{Orphan: dlm.Orphan{LockID: id, Resource: "x", Mode: dlm.PR}}}, s.listOrphans("vms"))
	s.journal.SetFail(0)
	s.retryJournal()
	s.rest()
	s.agree("x")
	require.NoError(t, s.done(s.adopt(user(7, ":1.7"), "vms", id, api.AdoptOptions{UID: 5, HasUID: true})))
	_, l := s.recordOf(0)
	require.False(t, l)
	require.Equal(t, uint32(5), s.journal.Contents("").Locks[0].UID)
	s.agree("x")
}

// Died at any point of taking an orphan over, it is an orphan or the owner's.
func TestAdoptionMeetsTheEnd(t *testing.T) {
	for steps := 1; ; steps++ {
		s, _ := simWith(t, "vms")
		p := strange(t, s.node, "vms")
		id := p.lock("x", dlm.EX, dlm.Persistent)
		p.end()
		c := s.adopt(root, "vms", id, api.AdoptOptions{Owner: "vm1", HasOwner: true})
		for range steps {
			if !s.deliver() && !s.write() && !s.toil(0) {
				require.NoError(t, c.err)
				return
			}
		}
		answered := c.answers == 1
		s.onLost = func(l api.Lost) { require.Fail(t, "lost", "%v", l) }
		s.restart()
		held := s.tab.locks.count() == 1
		require.True(t, held || !answered, "after %d steps", steps)
		require.Equal(t, !held, len(s.listOrphans("vms")) == 1, "after %d steps", steps)
		s.agree("x")
		if held {
			require.Equal(t, id, s.journal.Contents("").Locks[0].LockID)
		}
	}
}
