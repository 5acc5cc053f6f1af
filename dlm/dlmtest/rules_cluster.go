package dlmtest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// clusterRules are about several nodes that all run.
var clusterRules = []rule{
	{"nodes have different numbers in one cluster", func(c *check) {
		seen := make(map[uint32]bool)
		var cluster string
		for role := range c.rig.Nodes() {
			node, err := c.client(role).process.Node(c.ctx())
			require.NoError(c, err)
			require.False(c, seen[node.ID])
			seen[node.ID] = true
			if role > 0 {
				require.Equal(c, cluster, node.Cluster)
			}
			cluster = node.Cluster
		}
	}},
	{"an orphan can be adopted on its own node only", func(c *check) {
		name := c.resource()
		_, id := c.client(0).persistent(name, dlm.EX)
		c.client(0).kill()
		_, ev := c.client(1).adopt(name, dlm.EX, dlm.Persistent)
		require.Equal(c, dlm.StatusNotFound, ev.Status)
		c.client(0).adopted(name, dlm.EX, id)
	}},
	{"Purge leaves the orphans of other nodes alone", func(c *check) {
		name := c.resource()
		_, id := c.client(0).persistent(name, dlm.EX)
		c.client(0).kill()
		b := c.client(1)
		b.space.Purge()
		require.Equal(c, dlm.StatusOK, b.events.Completed(c, 0).Status)
		c.settle()
		b.refused(name, dlm.EX)
		c.client(0).adopted(name, dlm.EX, id)
	}},
	{"a node that leaves lets the others have its locks, with the value not valid", func(c *check) {
		name := c.rig.FreshLockspace(c)
		stays, leaves := c.rig.Process(c, 0), c.rig.Process(c, 1)
		var clients []*client
		for node, p := range []Process{stays, leaves} {
			events := NewEvents(c.timing.Wait)
			space, err := p.Create(c.ctx(), name, events.Sink)
			require.NoError(c, err)
			clients = append(clients, &client{c, &session{process: p, space: space, events: events, node: node}})
		}
		a, b, resource := clients[0], clients[1], "left"
		keeper := a.lock(resource, dlm.NL, 0)
		ck := b.lock(resource, dlm.EX, 0)
		v := value("by the node that leaves")
		b.converted(ck, dlm.EX, dlm.Persistent|dlm.ValueBlock, &v)
		waiting := a.queued(resource, dlm.EX, dlm.ValueBlock)
		require.NoError(c, leaves.Remove(c.ctx(), name))
		ev := a.granted(waiting, dlm.OpLock, dlm.EX)
		require.True(c, ev.ValueInvalid)
		a.unlock(waiting)
		a.unlock(keeper)
		require.NoError(c, leaves.Close())
		require.NoError(c, stays.Remove(c.ctx(), name))
		require.NoError(c, stays.Close())
	}},
}

// crash crashes the last node once and checks everything that follows from it, because a crash
// takes half a minute in a real cluster.
func (s *suite) crash(t *testing.T) {
	crasher, ok := s.rig.(Crasher)
	if !ok {
		t.Skip("the rig has no way to crash a node")
	}
	c := &check{T: t, suite: s}
	last := s.rig.Nodes() - 1
	a, victim := c.client(0), c.client(last)
	waited, orphaned, doubtful, untouched := c.resource(), c.resource(), c.resource(), c.resource()
	v := value("written by the victim")

	victim.lock(waited, dlm.EX, 0)
	waiting := a.queued(waited, dlm.EX, 0)
	victim.persistent(orphaned, dlm.EX)
	victim.kill()
	victim = c.client(last)
	keeper := a.lock(doubtful, dlm.NL, 0) // its node is the master
	ck := victim.lock(doubtful, dlm.EX, 0)
	victim.converted(ck, dlm.EX, dlm.ValueBlock, &v)
	held := a.lock(untouched, dlm.EX, 0)
	lost := victim.queued(untouched, dlm.EX, 0)
	a.told(held, dlm.EX)
	_ = lost

	crasher.Crash(t, last)
	victim.dead = true

	t.Run("what the node held is granted to who waits", func(t *testing.T) {
		a.granted(waiting, dlm.OpLock, dlm.EX)
	})
	t.Run("its orphans end with it", func(t *testing.T) {
		a.lock(orphaned, dlm.EX, 0)
	})
	t.Run("the value that it could write is not valid until the next write", func(t *testing.T) {
		a.validAfterWrite(t, keeper, doubtful, v)
	})
	t.Run("locks of other nodes stay, and its requests are forgotten", func(t *testing.T) {
		a.refused(untouched, dlm.CR)
		a.unlock(held)
		a.lock(untouched, dlm.EX, dlm.NoQueue)
	})
}

// validAfterWrite checks the value block of a resource whose holder in EX has died. The kernel marks it as not
// valid (recover.c, recover_lvb); it has what the holder wrote last, or nothing where the master has died with
// it. A write makes it valid again. keeper is a lock in NL.
func (c *client) validAfterWrite(t *testing.T, keeper dlm.Cookie, resource string, written dlm.Value) {
	t.Helper()
	ev := c.converted(keeper, dlm.EX, dlm.ValueBlock, nil)
	require.True(t, ev.HasValue)
	require.True(t, ev.ValueInvalid)
	require.Contains(t, []dlm.Value{{}, written}, ev.Value)
	next := value("valid again")
	c.converted(keeper, dlm.EX, dlm.ValueBlock, &next)
	ev = c.read(resource)
	require.False(t, ev.ValueInvalid)
	require.Equal(t, next, ev.Value)
}
