package table

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// bob is another connection of alice's uid.
var bob = user(1000, ":1.11")

// A caller who asks for several locks, of which he has one already, is told
// "granted" only if he still has that one at the end.
func TestAcquireAgainNotices(t *testing.T) {
	for name, end := range map[string]func(s *sim, held api.Grant){
		"a release":       func(s *sim, _ api.Grant) { s.release(bob, "vms", "x", api.Selector{}) },
		"a conversion":    func(s *sim, _ api.Grant) { s.convert(bob, wantOf("vms", "x", dlm.PR), api.Selector{}, 0) },
		"another process": func(s *sim, g api.Grant) { s.node.Unlock("vms", g.LockID) },
	} {
		t.Run(name, func(t *testing.T) {
			s, cluster := simWith(t, "vms")
			h, err := cluster.AddNode(2).Engine().Create(t.Context(), "vms", func(dlm.Event) {})
			require.NoError(t, err)
			o, _ := vm("vm1")
			first := s.acquire(alice, o, wantOf("vms", "x", dlm.EX))
			require.NoError(t, s.done(first))
			h.Lock(1, "y", dlm.EX, 0)
			o.Wait = 10 * time.Second
			again := s.acquire(alice, o, wantOf("vms", "x", dlm.EX), wantOf("vms", "y", dlm.EX))
			s.rest()
			require.Zero(t, again.answers)
			end(s, first.grants[0])
			s.rest()
			h.Unlock(1, nil)
			require.ErrorIs(t, s.done(again), api.NotHeld)
			s.agree("x", "y")
			_, there := s.recordOf(api.Ref(3))
			require.False(t, there, "what was taken for the call is given back")
		})
	}
}

// A lock that another process removes while the state file is written is never
// answered, written or called converted.
func TestLostBetweenTwoOperations(t *testing.T) {
	for _, step := range []int{1, 2, 3, 4, 5} {
		s, _ := simWith(t, "vms")
		c := s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "x", dlm.EX), wantOf("vms", "y", dlm.EX))
		for range step {
			_ = s.deliver() || s.write()
		}
		s.node.Unlock("vms", 2)
		err := s.done(c)
		if err == nil {
			require.Equal(t, 1, s.tab.locks.count(), "answered, and then lost")
		} else {
			require.Zero(t, s.tab.locks.count())
		}
		s.agree("x", "y")
	}
	lost := 0
	for _, step := range []int{0, 1, 2} {
		s, _ := simWith(t, "vms")
		s.onLost = func(api.Lost) { lost++ }
		require.NoError(t, s.done(s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "x", dlm.PR))))
		c := s.convert(alice, wantOf("vms", "x", dlm.EX), api.Selector{}, 0)
		for range step {
			require.True(t, s.deliver())
		}
		s.node.Unlock("vms", 2)
		require.ErrorIs(t, s.done(c), api.NotHeld, "after %d steps", step)
		require.Zero(t, s.tab.locks.count())
		s.agree("x")
	}
	require.Equal(t, 3, lost)
}

// The error of a wait that is over, or of a Request that was withdrawn, names the holder.
func TestWaitThatIsOverNamesTheHolder(t *testing.T) {
	s, _ := simWith(t, "vms")
	x := wantOf("vms", "x", dlm.EX)
	require.NoError(t, s.done(s.acquire(alice, api.AcquireOptions{Label: "the disk"}, x)))
	late := s.acquire(bob, api.AcquireOptions{Wait: time.Second}, x)
	s.rest()
	s.pass(2 * time.Second)
	request := s.request(bob, api.AcquireOptions{}, x)
	s.rest()
	for ref := range s.tab.calls.requests {
		s.turn(func() { require.NoError(t, s.tab.CancelRequest(bob, ref)) })
	}
	for c, kind := range map[*simCall]api.Kind{late: api.Timeout, request: api.Canceled} {
		err := s.done(c)
		require.ErrorIs(t, err, kind)
		require.ErrorContains(t, err, " vms/x EX: ")
		require.ErrorContains(t, err, `held by this node (EX, uid 1000, "the disk")`)
	}
	require.ErrorContains(t, late.err, "; wait for a longer time; ")
}

// A conversion upward that is granted when its caller has given up is taken back,
// at whichever step.
func TestConversionIsTakenBack(t *testing.T) {
	for step := range 5 {
		s, _ := simWith(t, "vms")
		require.NoError(t, s.done(s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "x", dlm.PR))))
		c := s.convert(alice, wantOf("vms", "x", dlm.EX), api.Selector{}, time.Second)
		for range step {
			_ = s.deliver() || s.write()
		}
		if c.answers > 0 {
			require.NoError(t, c.err)
			continue
		}
		s.turn(func() { s.tab.SessionGone(alice.Session) })
		require.ErrorIs(t, s.done(c), api.Canceled)
		page, _ := s.tab.list(api.Filter{})
		require.Equal(t, dlm.PR, page[0].Mode, "after %d steps", step)
		require.Equal(t, api.Held, page[0].State)
		s.agree("x")
	}
}

// Where it can't be taken back, table and state file say what the lock manager has.
func TestConversionCantBeTakenBack(t *testing.T) {
	s, cluster := simWith(t, "vms")
	require.NoError(t, s.done(s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "x", dlm.PR))))
	c := s.convert(alice, wantOf("vms", "x", dlm.EX), api.Selector{}, time.Second)
	s.turn(func() { s.tab.SessionGone(alice.Session) })
	failing(cluster, "convert", syscall.ENOMEM)
	require.ErrorIs(t, s.done(c), api.Canceled)
	cluster.Fail(nil)
	page, _ := s.tab.list(api.Filter{})
	require.Equal(t, dlm.EX, page[0].Mode)
	s.agree("x")
}

// An unlock that nobody waits for is tried until it succeeds.
func TestUnlockIsTriedAgain(t *testing.T) {
	for name, begin := range map[string]func(s *sim) *simCall{
		"undo": func(s *sim) *simCall {
			return s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "x", dlm.EX), wantOf("vms", "z", dlm.EX))
		},
		"undo a wait": func(s *sim) *simCall {
			return s.acquire(alice, api.AcquireOptions{Wait: time.Second}, wantOf("vms", "x", dlm.EX),
				wantOf("vms", "z", dlm.EX))
		},
		"inspect": func(s *sim) *simCall { return s.inspect("vms", "x") },
	} {
		t.Run(name, func(t *testing.T) {
			s, cluster := simWith(t, "vms")
			require.NoError(t, s.done(s.acquire(root, api.AcquireOptions{}, wantOf("vms", "z", dlm.EX))))
			failing(cluster, "unlock", syscall.ENOMEM)
			c := begin(s)
			s.pass(3 * time.Second)
			require.Equal(t, 1, c.answers, "the answer does not wait for it")
			require.NotEmpty(t, s.tab.retries.unlocks)
			cluster.Fail(nil)
			s.pass(retryInterval)
			require.Empty(t, s.tab.retries.unlocks)
			require.Equal(t, 1, s.tab.locks.count())
			s.agree("x", "z")
		})
	}
}

// A release of whose failure nobody hears does not leave the lock held.
func TestReleaseOfTheDeadIsTriedAgain(t *testing.T) {
	s, cluster := simWith(t, "vms")
	require.NoError(t, s.done(s.acquire(alice, api.AcquireOptions{Lifetime: state.Connection},
		wantOf("vms", "x", dlm.EX))))
	failing(cluster, "unlock", syscall.ENOMEM)
	s.turn(func() { s.tab.SessionGone(alice.Session) })
	s.pass(time.Minute)
	require.Equal(t, 1, s.tab.locks.count())
	require.ErrorIs(t, s.done(s.acquire(alice, api.AcquireOptions{Lifetime: state.Connection},
		wantOf("vms", "y", dlm.EX))), api.InvalidArgs)
	cluster.Fail(nil)
	s.pass(retryInterval)
	require.Zero(t, s.tab.locks.count())
	require.Empty(t, s.tab.lifetimes.bindings)
	s.agree("x", "y")
}

// A lock whose connection ends while it is converted is released after that.
func TestConnectionEndsWhileConverting(t *testing.T) {
	s, _ := simWith(t, "vms")
	require.NoError(t, s.done(s.acquire(alice, api.AcquireOptions{Lifetime: state.Connection},
		wantOf("vms", "x", dlm.PR))))
	c := s.convert(bob, wantOf("vms", "x", dlm.EX), api.Selector{}, 0)
	s.turn(func() { s.tab.SessionGone(alice.Session) })
	require.NoError(t, s.done(c))
	require.Zero(t, s.tab.locks.count())
	require.Empty(t, s.tab.lifetimes.bindings)
	s.agree("x")
}

// Nor does it when a release that somebody waits for has failed before.
func TestReleaseOfTheDeadAfterOneThatFailed(t *testing.T) {
	s, cluster := simWith(t, "vms")
	require.NoError(t, s.done(s.acquire(alice, api.AcquireOptions{Lifetime: state.Connection},
		wantOf("vms", "x", dlm.EX))))
	failing(cluster, "unlock", syscall.ENOMEM)
	c := s.release(root, "vms", "x", api.Selector{})
	s.turn(func() { s.tab.SessionGone(alice.Session) })
	require.ErrorIs(t, s.done(c), api.KernelError)
	require.Equal(t, 1, s.tab.locks.count())
	cluster.Fail(nil)
	s.pass(retryInterval)
	require.Zero(t, s.tab.locks.count())
	require.Empty(t, s.tab.lifetimes.bindings)
	s.agree("x")
}

// A release that its caller no longer waits for goes on, also one that has not
// begun.
func TestReleaseOutlivesItsCaller(t *testing.T) {
	s, _ := simWith(t, "vms")
	s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "x", dlm.PR))
	require.NoError(t, s.done(s.calls[0]))
	s.convert(root, wantOf("vms", "x", dlm.EX), api.Selector{}, 0)
	c := s.release(alice, "vms", "x", api.Selector{})
	s.turn(func() { s.tab.SessionGone(alice.Session) })
	require.NoError(t, s.done(c))
	require.Zero(t, s.tab.locks.count())
	s.agree("x")
}

// ReleaseOwner does not call done what is not: locks in a lockspace that can't be
// used now are named.
func TestReleaseOwnerTellsWhatItCant(t *testing.T) {
	s, cluster := simWith(t, "pool", "vms")
	o, _ := vm("vm1")
	require.NoError(t, s.done(s.acquire(alice, o, wantOf("vms", "x", dlm.EX), wantOf("pool", "x", dlm.EX))))
	failing(cluster, "remove", syscall.EBUSY)
	require.Error(t, s.done(s.leave(root, "pool", true)))
	c := s.releaseOwner(alice, "", "vm1")
	require.ErrorIs(t, s.done(c), api.KernelError)
	require.ErrorContains(t, c.err, "pool/x")
	require.EqualValues(t, 1, c.count)
	require.Equal(t, 1, s.tab.locks.count())
	c = s.releaseOwner(alice, "vms", "vm1")
	require.NoError(t, s.done(c))
	require.Zero(t, c.count)
}

// ReleaseOwner waits for what its own connection asked for before, and not for
// what others ask for at the same time.
func TestReleaseOwnerAndAcquire(t *testing.T) {
	s, cluster := simWith(t, "vms")
	h, err := cluster.AddNode(2).Engine().Create(t.Context(), "vms", func(dlm.Event) {})
	require.NoError(t, err)
	h.Lock(1, "x", dlm.EX, 0)
	o, _ := vm("vm1")
	require.NoError(t, s.done(s.acquire(alice, o, wantOf("vms", "y", dlm.EX))))
	o.Wait = 15 * time.Second
	s.acquire(alice, o, wantOf("vms", "x", dlm.EX))
	c := s.releaseOwner(bob, "", "vm1")
	require.NoError(t, s.done(c))
	require.EqualValues(t, 1, c.count)
	c = s.releaseOwner(alice, "", "vm1")
	s.rest()
	require.Zero(t, c.answers)
	h.Unlock(1, nil)
	require.NoError(t, s.done(c))
	require.EqualValues(t, 1, c.count)
	s.agree("x", "y")
}

// A call that waits behind another one is answered at its deadline, and nothing
// of it stays: a stopped lockspace must not fill the memory.
func TestParkedCallsAreForgotten(t *testing.T) {
	s, cluster := simWith(t, "vms")
	o, sel := vm("vm1")
	require.NoError(t, s.done(s.acquire(alice, o, wantOf("vms", "x", dlm.PR))))
	cluster.Stop("vms", "fencing")
	s.convert(alice, wantOf("vms", "x", dlm.EX), sel, api.MaxWait)
	calls := []*simCall{
		s.release(alice, "vms", "x", sel), s.releaseOwner(alice, "", "vm1"),
		s.acquire(alice, o, wantOf("vms", "x", dlm.PR)), s.convert(alice, wantOf("vms", "x", dlm.EX), sel, time.Second),
	}
	require.Equal(t, 4, s.tab.calls.following)
	s.pass(testOpTimeout)
	for _, c := range calls {
		require.Equal(t, 1, c.answers, c.name)
		require.ErrorIs(t, c.err, api.Timeout, c.name)
	}
	require.Zero(t, s.tab.calls.following)
	checkIntegrity(t, s.tab)
	cluster.Resume("vms")
	s.pass(api.MaxWait)
	require.Equal(t, 1, s.tab.locks.count(), "what was not begun is not done later")
	s.agree("x")
}

// Inspect and refused calls read the value block through a null lock of their
// own; a client can't fill the table with them.
func TestProbesAreBounded(t *testing.T) {
	s, cluster := simWith(t, "vms")
	cluster.Stop("vms", "fencing") // and the table does not know yet
	for i := range maxProbes + 10 {
		s.inspect("vms", fmt.Sprint(i))
	}
	for s.deliver() || s.toil(0) {
	}
	require.LessOrEqual(t, len(s.tab.locks.own), maxProbes)
	s.pass(testOpTimeout)
	for _, c := range s.calls {
		require.Equal(t, 1, c.answers)
	}
	cluster.Resume("vms")
	s.pass(time.Second)
	require.Empty(t, slices.Collect(s.tab.locks.each))
	require.Empty(t, s.tab.probes.readers)
}

// An acquire of several locks that waits for one holds none of those that come
// after it in the fixed order: two callers never wait crosswise, on whichever
// nodes the queues are kept.
func TestManyWaitInOrder(t *testing.T) {
	s, _ := simWith(t, "vms")
	first := s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "b", dlm.EX))
	require.NoError(t, s.done(first))
	o := api.AcquireOptions{Wait: 10 * time.Second}
	many := s.acquire(alice, o, wantOf("vms", "c", dlm.EX), wantOf("vms", "b", dlm.EX), wantOf("vms", "a", dlm.EX))
	s.rest()
	require.ErrorIs(t, s.done(s.acquire(bob, api.AcquireOptions{}, wantOf("vms", "a", dlm.EX))), api.WouldBlock,
		"it comes before b")
	behind := s.acquire(bob, api.AcquireOptions{}, wantOf("vms", "c", dlm.EX))
	require.NoError(t, s.done(behind), "it comes after b")
	require.Equal(t, 1, s.tab.Status().Waiting)

	require.NoError(t, s.done(s.release(alice, "vms", "b", api.Selector{LockID: first.grants[0].LockID})))
	require.Zero(t, many.answers, "now it waits for c")
	require.NoError(t, s.done(s.release(bob, "vms", "c", api.Selector{LockID: behind.grants[0].LockID})))
	require.NoError(t, s.done(many))
	require.Equal(t, []string{"c", "b", "a"}, []string{many.grants[0].Resource, many.grants[1].Resource,
		many.grants[2].Resource})
	require.Zero(t, s.tab.Status().Waiting)
	s.agree("a", "b", "c")
}

// The token in the value block never goes back: not when a conversion upward is
// taken back, and not when a crash has cut one short and the lock is found in the
// stronger mode.
func TestConversionKeepsTheToken(t *testing.T) {
	for name, interrupt := range map[string]func(s *sim){
		"taken back": func(s *sim) { s.turn(func() { s.tab.SessionGone(alice.Session) }) },
		"crash": func(s *sim) {
			s.kill()
			s.start()
		},
		"crash, and another before the token is renewed": func(s *sim) {
			for range 2 {
				s.kill()
				s.start()
				for s.tab.spaces.byName["vms"].public() != api.SpaceReady {
					_ = s.deliver() || s.write() || s.toil(0)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := simWith(t, "vms")
			o, sel := vm("vm1")
			require.NoError(t, s.done(s.acquire(alice, o, wantOf("vms", "x", dlm.NL))))
			s.now = s.now.Add(time.Second)
			other := s.acquire(bob, api.AcquireOptions{}, wantOf("vms", "x", dlm.EX))
			require.NoError(t, s.done(other))
			newest := other.grants[0].Token
			require.NoError(t, s.done(s.release(bob, "vms", "x", api.Selector{LockID: other.grants[0].LockID})))
			s.convert(alice, wantOf("vms", "x", dlm.EX), sel, time.Second)
			interrupt(s)
			s.rest()
			again := s.acquire(alice, o, wantOf("vms", "x", dlm.EX))
			if err := s.done(again); err == nil {
				require.Greater(t, again.grants[0].Token, newest, "in EX, so larger")
			} else {
				require.ErrorIs(t, err, api.AlreadyHeld, "it is in NL again")
			}
			require.NoError(t, s.done(s.convert(alice, wantOf("vms", "x", dlm.NL), sel, 0)))
			reader := s.acquire(bob, api.AcquireOptions{}, wantOf("vms", "x", dlm.PR))
			require.NoError(t, s.done(reader))
			require.GreaterOrEqual(t, reader.grants[0].Token, newest)
			s.agree("x")
		})
	}
}

// A conversion from NL to PR that a crash has cut short leaves no reader with a token
// that is older than what a writer was given before: storage would refuse it.
func TestConversionToSharedRenewsTheToken(t *testing.T) {
	for _, crashes := range []int{1, 2} {
		s, _ := simWith(t, "vms")
		o, sel := vm("vm1")
		require.NoError(t, s.done(s.acquire(alice, o, wantOf("vms", "x", dlm.NL))))
		s.now = s.now.Add(time.Second)
		writer := s.acquire(bob, api.AcquireOptions{}, wantOf("vms", "x", dlm.EX))
		require.NoError(t, s.done(writer))
		newest := writer.grants[0].Token
		require.NoError(t, s.done(s.release(bob, "vms", "x", api.Selector{LockID: writer.grants[0].LockID})))
		s.convert(alice, wantOf("vms", "x", dlm.PR), sel, time.Second)
		for range crashes {
			s.kill()
			s.start()
			for s.tab.spaces.byName["vms"].public() != api.SpaceReady {
				_ = s.deliver() || s.write() || s.toil(0)
			}
		}
		s.rest()
		again := s.acquire(alice, o, wantOf("vms", "x", dlm.PR))
		require.NoError(t, s.done(again))
		require.GreaterOrEqual(t, again.grants[0].Token, newest)
		s.kill()
		s.start()
		s.rest()
		again = s.acquire(alice, o, wantOf("vms", "x", dlm.PR))
		require.NoError(t, s.done(again))
		require.GreaterOrEqual(t, again.grants[0].Token, newest, "it is written down")
		s.agree("x")
	}
}

// That a lock hangs on another connection now is answered only when it is
// written down: else the next start lets go of it with the old one.
func TestRebindNotWritten(t *testing.T) {
	s, _ := simWith(t, "vms")
	o, _ := vm("gui")
	o.Lifetime = state.Connection
	require.NoError(t, s.done(s.acquire(alice, o, wantOf("vms", "x", dlm.EX))))
	again := alice
	again.Session = busSession(":1.99")
	s.journal.SetFail(syscall.EIO)
	err := s.done(s.acquire(again, o, wantOf("vms", "x", dlm.EX)))
	require.ErrorIs(t, err, api.StateWriteFailed)
	require.ErrorContains(t, err, "the lock is held")
	s.journal.SetFail(0)
	s.retryJournal()
	s.rest()
	require.NoError(t, s.done(s.acquire(again, o, wantOf("vms", "x", dlm.EX))))
	require.Equal(t, ":1.99", s.journal.Contents("").Locks[0].Session)
}

// forgetful is a lock manager that has forgotten every request: only a cancel ends one.
type forgetful struct {
	dlm.Lockspace
	asked    map[dlm.Cookie]dlm.Flags
	canceled map[dlm.Cookie]dlm.Flags
}

func (f *forgetful) Lock(c dlm.Cookie, _ string, _ dlm.Mode, flags dlm.Flags) { f.asked[c] = flags }

func (f *forgetful) Cancel(c dlm.Cookie) { f.canceled[c] = f.asked[c] }

// A request that can't wait, and a null lock that only reads, are canceled as well when
// their time is over: the kernel may have forgotten them, and as long as they are there
// nobody on the node can lock the resource.
func TestForgottenRequestsAreCanceled(t *testing.T) {
	s, _ := simWith(t, "vms")
	sp := s.tab.spaces.byName["vms"]
	f := &forgetful{Lockspace: s.opened[sp.id], asked: map[dlm.Cookie]dlm.Flags{},
		canceled: map[dlm.Cookie]dlm.Flags{}}
	s.opened[sp.id] = f
	acquire := s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "x", dlm.EX))
	inspect := s.inspect("vms", "y")
	s.rest()
	require.Len(t, f.asked, 2)
	s.pass(testOpTimeout)
	require.Error(t, acquire.err)
	require.Equal(t, 1, inspect.answers)
	require.Equal(t, f.asked, f.canceled)
	at, ok := s.tab.Next()
	require.True(t, ok)
	require.False(t, at.After(s.now.Add(retryInterval)), "and canceled again if that was ignored")
	for c := range f.asked {
		s.turn(func() {
			s.tab.Event(sp.id, dlm.Event{Kind: dlm.Completed, Op: dlm.OpLock, Cookie: c, Status: dlm.StatusCanceled,
				Mode: dlm.None})
		})
	}
	s.rest()
	require.Empty(t, slices.Collect(s.tab.locks.each))
	require.Empty(t, s.tab.probes.readers)
	checkIntegrity(t, s.tab)
}
