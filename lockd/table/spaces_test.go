package table

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// simWith returns a started sim of a node of its own, at rest.
func simWith(t *testing.T, spaces ...string) (*sim, *local.Cluster) {
	cluster := local.NewCluster("c")
	s := newSim(t, cluster.AddNode(1), spaces...)
	s.start()
	s.rest()
	return s, cluster
}

// failing makes one operation of the lock manager fail.
func failing(cluster *local.Cluster, op string, errno syscall.Errno) {
	cluster.Fail(func(a local.Attempt) syscall.Errno {
		if a.Op == op {
			return errno
		}
		return 0
	})
}

// agree checks that table, lock manager and state file tell the same.
func (s *sim) agree(resources ...string) {
	checkIntegrity(s.t, s.tab)
	checkEngine(s.t, s.tab, s.engine, resources, func(string) bool { return false })
	checkRecords(s.t, s.tab, s.journal.Contents("").Locks)
}

func vm(name string) (api.AcquireOptions, api.Selector) {
	return api.AcquireOptions{Owner: name, HasOwner: true}, api.Selector{Owner: name, HasOwner: true}
}

// The anchor is made again when another process removes it, the locks of the
// lockspace stay usable, and the next start finds them.
func TestAnchorIsMadeAgain(t *testing.T) {
	s, _ := simWith(t, "vms")
	o, sel := vm("vm1")
	g := s.acquire(root, o, wantOf("vms", "x", dlm.EX))
	require.NoError(t, s.done(g))
	require.True(t, s.node.Unlock("vms", s.tab.spaces.byName["vms"].anchor.id))
	s.rest()
	s.agree("x")
	require.NoError(t, s.done(s.convert(root, wantOf("vms", "x", dlm.PR), sel, 0)))
	s.restart()
	s.agree("x")
	require.NoError(t, s.done(s.acquire(root, o, wantOf("vms", "x", dlm.PR))))
	require.Equal(t, g.grants[0].LockID, s.calls[0].grants[0].LockID)
}

// An anchor that can't be made again at once is made later.
func TestAnchorIsTriedAgain(t *testing.T) {
	for _, op := range []string{"lock", "convert"} {
		t.Run(op, func(t *testing.T) {
			s, cluster := simWith(t, "vms")
			o, _ := vm("vm1")
			require.NoError(t, s.done(s.acquire(root, o, wantOf("vms", "x", dlm.EX))))
			failing(cluster, op, syscall.ENOMEM)
			require.True(t, s.node.Unlock("vms", s.tab.spaces.byName["vms"].anchor.id))
			s.rest()
			require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public())
			cluster.Fail(nil)
			s.pass(retryMax)
			s.agree("x")
			s.restart()
			require.Equal(t, 1, s.tab.locks.count())
			s.agree("x")
		})
	}
}

// Removed while the records are adopted: the locks are not taken for void.
func TestAnchorEndsWhileAdopting(t *testing.T) {
	s, _ := simWith(t, "vms")
	o, _ := vm("vm1")
	require.NoError(t, s.done(s.acquire(root, o, wantOf("vms", "x", dlm.EX))))
	s.kill()
	s.start()
	for s.tab.spaces.byName["vms"].state != spaceAdopting {
		require.True(t, s.deliver() || s.write() || s.toil(0))
	}
	require.True(t, s.node.Unlock("vms", s.tab.spaces.byName["vms"].anchor.id))
	s.rest()
	require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public())
	s.agree("x")
}

// Whatever fails while a lockspace is activated, it is tried again, and no lock
// is lost or left behind by it.
func TestActivationIsTriedAgain(t *testing.T) {
	for _, op := range []string{"open", "adopt"} {
		t.Run(op, func(t *testing.T) {
			s, cluster := simWith(t, "vms")
			o, sel := vm("vm1")
			want := []api.Want{wantOf("vms", "x", dlm.EX), wantOf("vms", "y", dlm.PR), wantOf("vms", "z", dlm.NL)}
			require.NoError(t, s.done(s.acquire(root, o, want...)))
			s.onLost = func(l api.Lost) { require.Fail(t, "lost", "%v", l) }
			n := 0
			cluster.Fail(func(a local.Attempt) syscall.Errno {
				if a.Op != op {
					return 0
				}
				if n++; n == 3 || op == "open" { // of adoptions: the anchor, one lock and the last work
					return syscall.ENOMEM
				}
				return 0
			})
			s.restart()
			require.True(t, s.tab.ready, "nobody waits for a lockspace that can't be had now")
			require.Equal(t, api.SpaceFailed, s.tab.spaces.byName["vms"].public())
			require.ErrorIs(t, s.done(s.release(root, "vms", "x", sel)), api.KernelError)
			cluster.Fail(nil)
			s.pass(retryMax)
			require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public())
			s.agree("x", "y", "z")
			require.Equal(t, 3, s.tab.locks.count())
			require.Len(t, s.handles(), 1, "a handle is left open")
		})
	}
}

// handles returns what the engine's process has open, by closing it.
func (s *sim) handles() []string {
	var open []string
	for name, sp := range s.tab.spaces.byName {
		if sp.open() {
			open = append(open, name)
		}
	}
	return open
}

// Joining that fails half-way leaves no second handle behind: what it held must
// be there for the next attempt.
func TestJoinIsTriedAgain(t *testing.T) {
	for _, op := range []string{"lock", "convert"} {
		t.Run(op, func(t *testing.T) {
			s, cluster := simWith(t)
			failing(cluster, op, syscall.ENOMEM)
			require.ErrorIs(t, s.done(s.join(root, "vms")), api.KernelError)
			cluster.Fail(nil)
			s.pass(retryMax)
			require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public())
			q, err := s.engine.Queues(context.Background(), "vms", s.tab.spaces.byName["vms"].anchor.name)
			require.NoError(t, err)
			require.Len(t, q.Granted, 1, "anchors of attempts that failed")
			s.agree()
		})
	}
}

// A lockspace removed by somebody else just as it is opened is joined again.
func TestRemovedWhileOpening(t *testing.T) {
	s, _ := simWith(t, "vms")
	s.kill()
	s.start()
	require.True(t, s.toil(0)) // opened, and the table does not know yet
	require.NoError(t, s.node.Engine().Remove(context.Background(), "vms"))
	s.inbox[0], s.inbox[1] = s.inbox[1], s.inbox[0] // the two may overtake each other
	s.rest()
	s.pass(retryMax)
	require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public())
	s.agree()
}

// A leave cut short by a crash is finished, and then a lockspace of the
// configuration is joined again, as at every start.
func TestUnfinishedLeave(t *testing.T) {
	s, _ := simWith(t, "vms")
	require.NoError(t, s.done(s.join(root, "pool")))
	s.leave(root, "vms", false)
	s.leave(root, "pool", false)
	for s.toil(0) || s.deliver() { // the looks
	}
	s.write() // "leaving", and no more
	s.restart()
	require.Equal(t, []string{"vms"}, s.tab.LockspaceNames())
	require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public())
	names, err := s.engine.Lockspaces(context.Background())
	require.NoError(t, err)
	require.Equal(t, []string{"vms"}, names)
	require.NoError(t, s.done(s.leave(root, "vms", false)))
	require.Empty(t, s.tab.spaces.byName, "left by a caller, it is not joined again")
}

// A leave that fails is tried again; its locks are not usable and not lost
// before it is done.
func TestLeaveIsTriedAgain(t *testing.T) {
	s, cluster := simWith(t, "vms")
	o, _ := vm("vm1")
	require.NoError(t, s.done(s.acquire(root, o, wantOf("vms", "x", dlm.EX))))
	lost := 0
	s.onLost = func(api.Lost) { lost++ }
	failing(cluster, "remove", syscall.EBUSY)
	require.ErrorIs(t, s.done(s.leave(root, "vms", true)), api.KernelError)
	require.ErrorIs(t, s.done(s.acquire(root, o, wantOf("vms", "x", dlm.EX))), api.KernelError)
	require.Zero(t, lost)
	join := s.join(root, "vms") // who changes his mind gets the lockspace anew
	cluster.Fail(nil)
	require.NoError(t, s.done(join))
	require.Equal(t, 1, lost)
	require.Zero(t, s.tab.locks.count())
	s.agree("x")
}

// What leaves or loses a lockspace does not call a release unfinished at the
// last crash a lost lock.
func TestReleasedIsNotLost(t *testing.T) {
	s, cluster := simWith(t, "vms")
	o, sel := vm("vm1")
	require.NoError(t, s.done(s.acquire(root, o, wantOf("vms", "x", dlm.EX))))
	s.release(root, "vms", "x", sel)
	s.write() // "releasing", and no more
	s.kill()
	s.onLost = func(l api.Lost) { require.Fail(t, "lost", "%v", l) }
	failing(cluster, "adopt", syscall.ENOMEM)
	s.start()
	s.rest()
	cluster.Fail(nil)
	require.NoError(t, s.done(s.leave(root, "vms", true)))
	require.Empty(t, s.tab.spaces.byName)
	require.Empty(t, s.journal.Contents("").Locks)
}

// A call that is between two operations when its lockspace goes away is
// answered, and leaves nothing behind in a lockspace that stays.
func TestLockspaceGoesUnderneath(t *testing.T) {
	for writes := range 4 {
		s, _ := simWith(t, "pool", "vms")
		o, _ := vm("vm1")
		c := s.acquire(root, o, wantOf("pool", "x", dlm.EX), wantOf("vms", "y", dlm.EX))
		for range writes {
			for s.deliver() {
			}
			s.write()
		}
		require.NoError(t, s.node.Engine().Remove(context.Background(), "pool"))
		s.rest()
		require.Equal(t, 1, c.answers)
		s.pass(retryMax)
		if c.err != nil {
			require.Zero(t, s.tab.locks.count(), "after %d writes", writes)
		}
		s.agree("x", "y")
	}
}

// While the state file can't be written nothing is joined, and what was
// attempted is not joined behind the caller's back.
func TestJoinWithoutStateFile(t *testing.T) {
	s, _ := simWith(t)
	s.journal.SetFail(syscall.ENOSPC)
	require.ErrorIs(t, s.done(s.join(root, "vms")), api.StateWriteFailed)
	require.NotEmpty(t, s.tab.degraded)
	s.journal.SetFail(0)
	s.retryJournal()
	s.pass(retryMax)
	require.Empty(t, s.tab.degraded)
	require.Empty(t, s.tab.spaces.byName)
	require.Empty(t, s.journal.Contents("").Spaces)
	require.NoError(t, s.done(s.join(root, "vms")))
}

// A state file that can be written again ends the refusal, whoever wrote first.
func TestDegradedEnds(t *testing.T) {
	s, _ := simWith(t, "vms")
	o, sel := vm("vm1")
	require.NoError(t, s.done(s.acquire(root, o, wantOf("vms", "x", dlm.EX))))
	s.journal.SetFail(syscall.ENOSPC)
	require.ErrorIs(t, s.done(s.acquire(root, api.AcquireOptions{}, wantOf("vms", "y", dlm.EX))), api.StateWriteFailed)
	require.ErrorIs(t, s.done(s.acquire(root, api.AcquireOptions{}, wantOf("vms", "z", dlm.EX))), api.StateWriteFailed)
	require.NoError(t, s.done(s.acquire(root, o, wantOf("vms", "x", dlm.EX))), "what is held is still known")
	require.NoError(t, s.done(s.acquire(root, api.AcquireOptions{})), "nothing needs no room")
	require.NoError(t, s.done(s.release(root, "vms", "x", sel)), "releases are served")
	require.Zero(t, s.tab.locks.count())
	s.journal.SetFail(0)
	s.retryJournal()
	s.rest()
	require.Empty(t, s.tab.degraded)
	require.NoError(t, s.done(s.acquire(root, api.AcquireOptions{}, wantOf("vms", "y", dlm.EX))))
	s.agree("x", "y", "z")
}

// Purge removes what nobody knows, tells how many, and stops when the lock
// manager refuses.
func TestPurge(t *testing.T) {
	s, cluster := simWith(t, "vms")
	o, _ := vm("vm1")
	require.NoError(t, s.done(s.acquire(root, o, wantOf("vms", "x", dlm.PR))))
	e := s.node.Engine()
	var ids []dlm.LockID
	h, err := e.Open(context.Background(), "vms", func(ev dlm.Event) { ids = append(ids, ev.LockID) })
	require.NoError(t, err)
	for i := range 3 {
		h.Lock(dlm.Cookie(i+1), "x", dlm.PR, dlm.NoQueue|dlm.Persistent)
	}
	require.NoError(t, e.Close())
	purge := func(expect ...dlm.LockID) *simCall {
		c := s.call(Purge{Caller: root, Lockspace: "vms", Expect: expect, Some: false})
		s.rest()
		return c
	}
	require.ErrorIs(t, purge(ids[:2]...).err, api.InvalidArgs)
	failing(cluster, "unlock", syscall.ENOMEM)
	c := purge(ids...)
	require.ErrorIs(t, c.err, api.KernelError)
	require.Zero(t, c.count)
	cluster.Fail(nil)
	// They are this process's now, and still nobody's locks.
	one, two := purge(ids...), (*simCall)(nil)
	require.NoError(t, one.err)
	require.EqualValues(t, 3, one.count)
	two = purge()
	require.NoError(t, two.err)
	require.Zero(t, two.count)
	s.agree("x")
	require.Equal(t, 1, s.tab.locks.count())
	s.restart()
	s.agree("x")
}

// Two purges of the same orphans at the same time both come to an end.
func TestPurgeTwiceAtOnce(t *testing.T) {
	s, _ := simWith(t, "vms")
	e := s.node.Engine()
	var id dlm.LockID
	h, err := e.Open(context.Background(), "vms", func(ev dlm.Event) { id = ev.LockID })
	require.NoError(t, err)
	h.Lock(1, "x", dlm.EX, dlm.NoQueue|dlm.Persistent)
	require.NoError(t, e.Close())
	var calls []*simCall
	for range 2 {
		calls = append(calls, s.call(Purge{Caller: root, Lockspace: "vms", Expect: []dlm.LockID{id}, Some: false}))
	}
	s.rest()
	for _, c := range calls {
		require.Equal(t, 1, c.answers)
		if c.err != nil { // there was nothing left to find
			require.ErrorIs(t, c.err, api.InvalidArgs)
		}
	}
	require.EqualValues(t, 1, calls[0].count+calls[1].count)
	s.agree("x")
}

// A lockspace that goes away ends the Purge in it.
func TestPurgeMeetsTheEnd(t *testing.T) {
	s, _ := simWith(t, "vms")
	e := s.node.Engine()
	var id dlm.LockID
	h, err := e.Open(context.Background(), "vms", func(ev dlm.Event) { id = ev.LockID })
	require.NoError(t, err)
	h.Lock(1, "x", dlm.EX, dlm.NoQueue|dlm.Persistent)
	require.NoError(t, e.Close())
	c := s.call(Purge{Caller: root, Lockspace: "vms", Expect: []dlm.LockID{id}, Some: false})
	for len(s.tab.spaces.byName["vms"].orphans.adoptions) == 0 {
		require.True(t, s.deliver() || s.toil(0))
	}
	s.inbox = nil // the adoption is not heard of any more
	s.turn(func() { s.tab.Event(s.tab.spaces.byName["vms"].id, dlm.Event{Kind: dlm.Closed}) })
	require.Equal(t, 1, c.answers)
	require.ErrorIs(t, c.err, api.NoSuchLockspace)
	require.Empty(t, s.tab.spaces.byName["vms"].orphans.adoptions)
	s.pass(time.Minute)
}

// A record of the state file that was not marked held belongs to a call that
// ended badly for its client: it is let go of.
func TestUnansweredAcquireIsUndone(t *testing.T) {
	s, _ := simWith(t, "vms")
	c := s.acquire(root, api.AcquireOptions{}, wantOf("vms", "x", dlm.EX), wantOf("vms", "y", dlm.EX))
	for len(s.journal.Contents("").Locks) == 0 {
		require.True(t, s.deliver() || s.write())
	}
	require.True(t, s.deliver()) // the two conversions are asked for and done
	require.Equal(t, state.Granted, s.journal.Contents("").Locks[0].Phase)
	require.Zero(t, c.answers)
	s.onLost = func(l api.Lost) { require.Fail(t, "lost", "%v", l) }
	s.restart()
	require.Zero(t, s.tab.locks.count())
	s.agree("x", "y")
	orphans, err := s.engine.Orphans(context.Background(), "vms")
	require.NoError(t, err)
	require.Empty(t, orphans)
}
