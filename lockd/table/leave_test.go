package table

import (
	"context"
	"io/fs"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/internal/teststate"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// stranger is another process of the node that uses lockspaces.
type stranger struct {
	t      reporter
	engine *local.Engine
	space  dlm.Lockspace
	cookie dlm.Cookie
	ids    map[dlm.Cookie]dlm.LockID
}

// strange opens a lockspace in another process, which joins it if need be.
func strange(t reporter, n *local.Node, name string) *stranger {
	p := &stranger{t: t, engine: n.Engine(), ids: map[dlm.Cookie]dlm.LockID{}}
	sink := func(ev dlm.Event) {
		if ev.Status.OK() {
			p.ids[ev.Cookie] = ev.LockID
		}
	}
	var err error
	if p.space, err = p.engine.Open(context.Background(), name, sink); err != nil {
		p.space, err = p.engine.Create(context.Background(), name, sink)
	}
	require.NoError(t, err)
	return p
}

func (p *stranger) lock(resource string, m dlm.Mode, f dlm.Flags) dlm.LockID {
	p.cookie++
	p.space.Lock(p.cookie, resource, m, f|dlm.NoQueue)
	require.NotZero(p.t, p.ids[p.cookie], "%s %s is not granted", resource, m)
	return p.ids[p.cookie]
}

func (p *stranger) end() { p.engine.Kill() }

// refusedTo checks that a node is refused a lock.
func refusedTo(t reporter, n *local.Node, space, resource string, m dlm.Mode) {
	p := strange(t, n, space)
	defer p.end()
	p.space.Lock(1, resource, m, dlm.NoQueue)
	require.Empty(t, p.ids, "%s %s is granted to node %d", resource, m, n.ID())
}

func (s *sim) memberOf() []string {
	names, err := s.node.Engine().Lockspaces(context.Background())
	require.NoError(s.t, err)
	return names
}

// A lockspace of somebody else is only forgotten by a leave, forced or not, and what
// he holds in it is not granted to others.
func TestLeaveOfForeignLockspace(t *testing.T) {
	for _, force := range []bool{false, true} {
		cluster := local.NewCluster("c")
		s := newSim(t, cluster.AddNode(1), "lvm_x", "vms")
		other := cluster.AddNode(2)
		owner := strange(t, s.node, "lvm_x")
		owner.lock("VGLK", dlm.EX, 0)
		s.start()
		s.rest()
		require.ErrorIs(t, s.tab.spaces.byName["lvm_x"].err, api.LockspaceForeign)
		require.NoError(t, s.done(s.leave(root, "lvm_x", force)))
		require.Equal(t, []string{"vms"}, s.tab.LockspaceNames(), "it is forgotten")
		require.Equal(t, []string{"lvm_x", "vms"}, s.memberOf())
		refusedTo(t, other, "lvm_x", "VGLK", dlm.EX)
		s.pass(2 * retryMax)
		require.Equal(t, []string{"vms"}, s.tab.LockspaceNames(), "it is tried again")
		s.restart()
		refusedTo(t, other, "lvm_x", "VGLK", dlm.EX)
	}
}

// Whatever the state file says, a lockspace that nothing proves to be ours is never
// removed: not by a leave that is begun, and not by one that a crash has cut short.
func TestRecordIsNoProof(t *testing.T) {
	for _, phase := range []state.SpacePhase{state.Creating, state.Joined, state.Leaving} {
		for _, configured := range []bool{false, true} {
			cluster := local.NewCluster("c")
			s := newSim(t, cluster.AddNode(1))
			if configured {
				s.spaces = []string{"vms"}
			}
			other := cluster.AddNode(2)
			owner := strange(t, s.node, "vms")
			owner.lock("x", dlm.EX, 0)
			require.NoError(t, s.journal.Append([]state.Change{state.Lockspace{Name: "vms", Phase: phase, AnchorID: 77}}))
			s.start()
			s.rest()
			s.pass(2 * retryMax)
			if s.tab.spaces.byName["vms"] != nil {
				require.ErrorIs(t, s.tab.spaces.byName["vms"].err, api.LockspaceForeign)
				require.NoError(t, s.done(s.leave(root, "vms", true)))
			}
			require.Empty(t, s.tab.spaces.byName)
			require.Empty(t, s.journal.Contents("").Spaces)
			require.Equal(t, []string{"vms"}, s.memberOf(), "phase %d", phase)
			refusedTo(t, other, "vms", "x", dlm.EX)
		}
	}
}

// A lockspace that could not be opened is left only once its anchor is adopted.
func TestLeaveOfUnopenedLockspace(t *testing.T) {
	for _, theirs := range []bool{false, true} {
		s, cluster := simWith(t, "vms")
		s.kill()
		if theirs {
			require.NoError(t, s.node.Engine().Remove(context.Background(), "vms"))
			strange(t, s.node, "vms").lock("x", dlm.EX, 0)
		}
		failing(cluster, "open", syscall.ENOMEM)
		s.start()
		s.rest()
		require.Equal(t, api.SpaceFailed, s.tab.spaces.byName["vms"].public())
		cluster.Fail(nil)
		require.NoError(t, s.done(s.leave(root, "vms", true)))
		require.Empty(t, s.tab.spaces.byName)
		if theirs {
			require.Equal(t, []string{"vms"}, s.memberOf())
		} else {
			require.Empty(t, s.memberOf())
		}
	}
}

// While another process has the lockspace open, nothing is left, with force or
// without, and everything stays as it was.
func TestLeaveWhileOthersUseIt(t *testing.T) {
	s, _ := simWith(t, "vms")
	o, sel := vm("vm1")
	require.NoError(t, s.done(s.acquire(root, o, wantOf("vms", "x", dlm.EX))))
	p := strange(t, s.node, "vms")
	s.onLost = func(l api.Lost) { require.Fail(t, "lost", "%v", l) }
	require.ErrorIs(t, s.done(s.leave(root, "vms", true)), api.LockspaceInUse)
	require.NoError(t, s.done(s.release(root, "vms", "x", sel)))
	require.ErrorIs(t, s.done(s.leave(root, "vms", false)), api.LockspaceInUse)
	require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public())
	s.agree("x")
	s.restart()
	s.agree("x")
	p.end()
	require.NoError(t, s.done(s.leave(root, "vms", false)))
	require.Empty(t, s.memberOf())
}

// One who opens it after the first look is seen by the second one, and so is one
// who does while the service does not run.
func TestLeaveMeetsNewUser(t *testing.T) {
	for _, crash := range []bool{false, true} {
		s, _ := simWith(t, "vms")
		o, sel := vm("vm1")
		require.NoError(t, s.done(s.acquire(root, o, wantOf("vms", "x", dlm.EX))))
		s.onLost = func(l api.Lost) { require.Fail(t, "lost", "%v", l) }
		c := s.leave(root, "vms", true)
		for s.tab.spaces.byName["vms"].state != spaceRemoving || len(s.work) == 0 {
			require.True(t, s.deliver() || s.write() || s.toil(0))
		}
		p := strange(t, s.node, "vms")
		p.lock("y", dlm.EX, 0)
		if crash {
			s.restart()
		} else {
			s.rest()
			require.Equal(t, 1, c.answers)
			require.ErrorIs(t, c.err, api.LockspaceInUse)
		}
		require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public())
		require.Equal(t, state.Joined, s.journal.Contents("").Spaces[0].Phase)
		require.True(t, s.tab.spaces.byName["vms"].configured)
		s.agree("x", "y2")
		require.NoError(t, s.done(s.release(root, "vms", "x", sel)))
	}
}

// A look that fails is a refusal, and says what to do.
func TestLeaveWithoutLook(t *testing.T) {
	s, cluster := simWith(t, "vms")
	failing(cluster, "look", syscall.EACCES)
	for _, force := range []bool{false, true} {
		require.ErrorIs(t, s.done(s.leave(root, "vms", force)), api.LockspaceInUse)
	}
	require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public())
	cluster.Fail(nil)
	require.NoError(t, s.done(s.leave(root, "vms", false)))
}

// Orphans that nobody knows are not lost by a leave, with force or without.
func TestLeaveWithOrphans(t *testing.T) {
	s, _ := simWith(t, "vms")
	p := strange(t, s.node, "vms")
	id := p.lock("x", dlm.EX, dlm.Persistent)
	p.end()
	for _, force := range []bool{false, true} {
		require.ErrorIs(t, s.done(s.leave(root, "vms", force)), api.LockspaceInUse)
	}
	c := s.call(Purge{Caller: root, Lockspace: "vms", Expect: []dlm.LockID{id}, Some: false})
	require.NoError(t, s.done(c))
	require.NoError(t, s.done(s.leave(root, "vms", false)))
	require.Empty(t, s.memberOf())
}

// Somebody removed the anchor while the service was down: the recorded locks are
// there, and are not called lost.
func TestAnchorRemovedWhileDown(t *testing.T) {
	s, _ := simWith(t, "vms")
	o, sel := vm("vm1")
	g := s.acquire(root, o, wantOf("vms", "x", dlm.EX))
	require.NoError(t, s.done(g))
	anchor := s.tab.spaces.byName["vms"].anchor
	s.kill()
	require.True(t, s.node.Unlock("vms", anchor.id))
	s.start()
	s.onLost = func(l api.Lost) { require.Fail(t, "lost", "%v", l) }
	s.rest()
	require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public())
	s.agree("x")
	s.restart()
	s.agree("x")
	require.NoError(t, s.done(s.release(root, "vms", "x", sel)))
}

// A start that died between making the lockspace and its anchor finds it empty, and
// goes on.
func TestDiedBeforeTheAnchor(t *testing.T) {
	s, _ := simWith(t)
	s.join(root, "vms")
	for len(s.memberOf()) == 0 {
		require.True(t, s.deliver() || s.write() || s.toil(0))
	}
	s.spaces = []string{"vms"}
	s.restart()
	require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public())
	s.agree()
}

// Without debugfs nothing shows what is in a lockspace. One that was being made when the
// service died is not taken for ours then: somebody else may have made it since.
func TestDiedBeforeTheAnchorAndCantSee(t *testing.T) {
	s, _ := simWith(t)
	s.join(root, "vms")
	for len(s.memberOf()) == 0 {
		require.True(t, s.deliver() || s.write() || s.toil(0))
	}
	s.blind = fs.ErrNotExist // there is no debugfs; who has the device open is seen
	s.spaces = []string{"vms"}
	s.restart()
	require.Equal(t, api.SpaceFailed, s.tab.spaces.byName["vms"].public())
	require.Len(t, s.journal.Contents("").Spaces, 1, "the record stays")
	s.blind = nil
	s.pass(retryMax)
	require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public())
	s.agree()
}

// A join that was refused because there is no cluster is not done later behind the
// caller's back, and leaves no record by which somebody else's lockspace would be
// taken for ours. What the configuration names is joined as soon as it can be.
func TestRefusedJoinIsForgotten(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EUNATCH, syscall.ENOMEM} {
		s, cluster := simWith(t)
		failing(cluster, "create", errno)
		require.Error(t, s.done(s.join(root, "pool")))
		require.Empty(t, s.tab.spaces.byName)
		require.Empty(t, s.journal.Contents("").Spaces)
		s.spaces = []string{"vms"}
		s.restart()
		require.Equal(t, api.SpaceFailed, s.tab.spaces.byName["vms"].public())
		require.Empty(t, s.journal.Contents("").Spaces)
		cluster.Fail(nil)
		s.pass(2 * retryMax)
		require.Equal(t, []string{"vms"}, s.memberOf())
		s.agree()
	}
}

// A reload that does not name a lockspace any more forgets it if it is not joined.
func TestReloadForgetsWhatFailed(t *testing.T) {
	s, cluster := simWith(t)
	failing(cluster, "create", syscall.EUNATCH)
	s.turn(func() { s.tab.Reconfigure(Settings{Lockspaces: []string{"vms"}, Limits: api.DefaultLimits()}) })
	s.rest()
	require.Equal(t, []string{"vms"}, s.tab.LockspaceNames())
	s.turn(func() { s.tab.Reconfigure(Settings{Limits: api.DefaultLimits()}) })
	cluster.Fail(nil)
	s.pass(2 * retryMax)
	require.Empty(t, s.tab.spaces.byName)
	require.Empty(t, s.memberOf())
}

// lose starts the service anew with another state directory.
func (s *sim) lose() {
	s.kill()
	s.journal, s.inst = teststate.New(), s.inst+"+"
	s.start()
	s.rest()
}

// The state file is lost: the lockspace is known for the service's own by its anchor,
// and its locks are orphans, which nothing drops.
func TestStateFileLost(t *testing.T) {
	s, _ := simWith(t, "vms")
	o, _ := vm("vm1")
	g := s.acquire(root, o, wantOf("vms", "x", dlm.EX), wantOf("vms", "y", dlm.PR))
	require.NoError(t, s.done(g))
	for range 2 { // once more, with the anchor that was made then
		s.lose()
		sp := s.tab.spaces.byName["vms"]
		require.Equal(t, api.SpaceReady, sp.public())
		require.True(t, sp.orphans.mapLost)
		require.Equal(t, 2, sp.orphans.unexplained)
		s.agree()
		left, err := s.node.Engine().Orphans(context.Background(), "vms")
		require.NoError(t, err)
		require.Len(t, left, 2, "the old anchor is let go of")
		for _, force := range []bool{false, true} {
			require.ErrorIs(t, s.done(s.leave(root, "vms", force)), api.LockspaceInUse)
		}
		s.restart()
		require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public())
		require.Equal(t, 2, s.tab.spaces.byName["vms"].orphans.unexplained)
	}
	ids := []dlm.LockID{g.grants[0].LockID, g.grants[1].LockID}
	require.NoError(t, s.done(s.call(Purge{Caller: root, Lockspace: "vms", Expect: ids, Some: false})))
	require.NoError(t, s.done(s.leave(root, "vms", false)))
	require.Empty(t, s.memberOf())
}

// Died at any point of taking over, the next start goes on with it.
func TestTakingOverMeetsTheEnd(t *testing.T) {
	for steps := 1; ; steps++ {
		s, _ := simWith(t, "vms")
		o, _ := vm("vm1")
		require.NoError(t, s.done(s.acquire(root, o, wantOf("vms", "x", dlm.EX))))
		s.kill()
		s.journal, s.inst = teststate.New(), "other"
		s.start()
		for range steps {
			if !s.deliver() && !s.write() && !s.toil(0) {
				return
			}
		}
		s.restart()
		require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public(), "after %d steps", steps)
		require.Equal(t, 1, s.tab.spaces.byName["vms"].orphans.unexplained, "after %d steps", steps)
		require.ErrorIs(t, s.done(s.leave(root, "vms", true)), api.LockspaceInUse)
		s.agree()
	}
}

// The anchor of an instance that runs is no orphan: its lockspace is foreign.
func TestOtherInstanceIsNotTakenOver(t *testing.T) {
	s, _ := simWith(t, "vms")
	o, _ := vm("vm1")
	require.NoError(t, s.done(s.acquire(root, o, wantOf("vms", "x", dlm.EX))))
	second := newSim(t, s.node, "vms")
	second.inst = "second"
	second.start()
	second.rest()
	require.ErrorIs(t, second.tab.spaces.byName["vms"].err, api.LockspaceForeign)
	require.NoError(t, second.done(second.leave(root, "vms", true)))
	s.rest()
	require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public())
	s.agree("x")
}

// Without the lock manager's tables an anchor of another instance can't be found, and
// nothing is taken over.
func TestNothingIsTakenOverBlindly(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EPERM, syscall.EIO} {
		s, cluster := simWith(t, "vms")
		o, _ := vm("vm1")
		require.NoError(t, s.done(s.acquire(root, o, wantOf("vms", "x", dlm.EX))))
		failing(cluster, "look", errno)
		s.lose()
		require.Equal(t, api.SpaceFailed, s.tab.spaces.byName["vms"].public())
		require.NoError(t, s.done(s.leave(root, "vms", true)))
		require.Equal(t, []string{"vms"}, s.memberOf())
		cluster.Fail(nil)
		require.NoError(t, s.done(s.join(root, "vms")))
		require.True(t, slices.Equal([]string{"vms"}, s.tab.LockspaceNames()))
		require.Equal(t, 1, s.tab.spaces.byName["vms"].orphans.unexplained)
	}
}
