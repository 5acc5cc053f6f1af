package dlmtest

import (
	"context"
	"errors"
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// lockspaceRules are about lockspaces and handles of them.
var lockspaceRules = []rule{
	{"an engine has a name and knows its node", func(c *check) {
		p := c.client(0).process
		require.NotEmpty(c, p.Name())
		node, err := p.Node(c.ctx())
		require.NoError(c, err)
		require.NotZero(c, node.ID)
	}},
	{"Open of a lockspace that is not there makes none", func(c *check) {
		p, name := c.client(0).process, c.rig.FreshLockspace(c)
		_, err := p.Open(c.ctx(), name, ignore)
		require.ErrorIs(c, err, dlm.ErrNoLockspace)
		names, err := p.Lockspaces(c.ctx())
		require.NoError(c, err)
		require.NotContains(c, names, name)
		require.ErrorIs(c, p.Remove(c.ctx(), name), dlm.ErrNoLockspace)
	}},
	{"Create makes a lockspace once, and Remove ends it", func(c *check) {
		p, name := c.client(0).process, c.rig.FreshLockspace(c)
		space, err := p.Create(c.ctx(), name, ignore)
		require.NoError(c, err)
		require.Equal(c, name, space.Name())
		_, err = p.Create(c.ctx(), name, ignore)
		require.ErrorIs(c, err, dlm.ErrLockspaceExists)
		names, err := p.Lockspaces(c.ctx())
		require.NoError(c, err)
		require.Contains(c, names, name)
		require.Contains(c, names, c.lockspace)
		require.True(c, slices.IsSorted(names))
		require.NoError(c, space.Close())
		require.NoError(c, p.Remove(c.ctx(), name))
		_, err = p.Open(c.ctx(), name, ignore)
		require.ErrorIs(c, err, dlm.ErrNoLockspace)
	}},
	{"a lockspace outlives the process that made it", func(c *check) {
		p, name := c.rig.Process(c, 0), c.rig.FreshLockspace(c)
		_, err := p.Create(c.ctx(), name, ignore)
		require.NoError(c, err)
		p.Kill()
		p = c.client(0).process
		space, err := p.Open(c.ctx(), name, ignore)
		require.NoError(c, err)
		require.NoError(c, space.Close())
		require.NoError(c, p.Remove(c.ctx(), name))
	}},
	{"a name that can't be a lockspace is an error of its own", func(c *check) {
		p := c.client(0).process
		for _, name := range []string{"", "a/b", ".", "a b"} {
			_, err := p.Open(c.ctx(), name, ignore)
			require.ErrorIs(c, err, dlm.ErrName)
			_, err = p.Create(c.ctx(), name, ignore)
			require.ErrorIs(c, err, dlm.ErrName)
		}
	}},
	{"Users are the other processes that have the lockspace open", ruleUsers},
	{"Remove ends every lock and orphan and tells the handles Closed last", ruleRemove},
	{"lockspaces have their resources and orphans for themselves", func(c *check) {
		a, name := c.client(0), c.rig.FreshLockspace(c)
		events := NewEvents(c.timing.Wait)
		space, err := a.process.Create(c.ctx(), name, events.Sink)
		require.NoError(c, err)
		other := &client{c, &session{process: a.process, space: space, events: events}}
		resource := c.resource()
		a.lock(resource, dlm.EX, 0)
		ck := other.lock(resource, dlm.EX, 0)
		other.unlock(ck)
		require.NoError(c, space.Close())
		require.NoError(c, a.process.Remove(c.ctx(), name))
	}},
	{"two handles of one process are two owners", func(c *check) {
		a, name := c.client(0), c.resource()
		events := NewEvents(c.timing.Wait)
		space, err := a.process.Open(c.ctx(), c.lockspace, events.Sink)
		require.NoError(c, err)
		second := &client{c, &session{process: a.process, space: space, events: events}}
		held := a.lock(name, dlm.EX, 0)
		second.refused(name, dlm.EX)
		waiting := second.queued(name, dlm.EX, 0)
		a.unlock(held)
		second.granted(waiting, dlm.OpLock, dlm.EX)
		require.NoError(c, space.Close())
		a.lock(name, dlm.EX, 0)
	}},
	{"after Close nothing is delivered and everything is refused", func(c *check) {
		p, name := c.rig.Process(c, 0), c.resource()
		events := NewEvents(c.timing.Wait)
		space, err := p.Open(c.ctx(), c.lockspace, events.Sink)
		require.NoError(c, err)
		space.Lock(1, name, dlm.EX, 0)
		events.Completed(c, 1)
		require.NoError(c, p.Close())
		waiting := c.client(1).ask(name, dlm.EX, 0)
		c.client(1).granted(waiting, dlm.OpLock, dlm.EX)
		require.Len(c, events.All(), 1)
		_, err = p.Open(c.ctx(), c.lockspace, ignore)
		require.ErrorIs(c, err, dlm.ErrClosed)
		require.NoError(c, p.Close(), "a second time")
	}},
	{"errors are typed and name the operation and the lockspace", func(c *check) {
		name := c.rig.FreshLockspace(c)
		_, err := c.client(0).process.Open(c.ctx(), name, ignore)
		failed, ok := errors.AsType[*dlm.Error](err)
		require.True(c, ok)
		require.Equal(c, "open", failed.Op)
		require.Equal(c, name, failed.Lockspace)
	}},
	{"a context that is done is not waited for", func(c *check) {
		ctx, cancel := context.WithCancel(c.Context())
		cancel()
		_, err := c.client(0).process.Open(ctx, c.lockspace, ignore)
		require.ErrorIs(c, err, context.Canceled)
	}},
	{"a lock that somebody else unlocks is Ended and its cookie is free", func(c *check) {
		intruder, ok := c.rig.(Intruder)
		if !ok {
			c.Skip("the rig has no way to unlock a lock of another process")
		}
		a, name := c.client(0), c.resource()
		ck, ev := a.try(name, dlm.EX, 0)
		intruder.Unlock(c, a.node, c.lockspace, ev.LockID)
		a.events.Wait(c, dlm.Ended, ck)
		a.space.Lock(ck, name, dlm.EX, 0)
		a.granted(ck, dlm.OpLock, dlm.EX)
	}},
	{"in a stopped lockspace nothing is granted or unlocked until it resumes, but orphans are adopted", ruleStopped},
}

func ignore(dlm.Event) {}

func ruleRemove(c *check) {
	maker, name := c.rig.Process(c, 0), c.rig.FreshLockspace(c)
	_, err := maker.Create(c.ctx(), name, ignore)
	require.NoError(c, err)
	resource, left := c.resource(), c.resource()
	dead := &client{c, c.start(c, 0, name)}
	dead.persistent(left, dlm.EX)
	dead.kill()
	a := &client{c, c.start(c, 0, name)}
	a.persistent(resource, dlm.EX)
	waiting := a.queued(resource, dlm.EX, 0)

	require.NoError(c, maker.Remove(c.ctx(), name))
	a.events.Wait(c, dlm.Closed, 0)
	all := a.events.All()
	require.Equal(c, dlm.Closed, all[len(all)-1].Kind, "the last event")
	for _, ev := range of(all, waiting) {
		require.Equal(c, dlm.StatusGone, ev.Status, "what was under way")
	}
	require.NoError(c, a.process.Close())

	events := NewEvents(c.timing.Wait)
	space, err := maker.Create(c.ctx(), name, events.Sink)
	require.NoError(c, err)
	again := &client{c, &session{process: maker, space: space, events: events}}
	for _, r := range []string{resource, left} {
		_, ev := again.adopt(r, dlm.EX, dlm.Persistent)
		require.Equal(c, dlm.StatusNotFound, ev.Status)
		again.lock(r, dlm.EX, dlm.NoQueue)
	}
	require.NoError(c, space.Close())
	require.NoError(c, maker.Remove(c.ctx(), name))
	require.NoError(c, maker.Close())
}

func ruleStopped(c *check) {
	stopper, ok := c.rig.(Stopper)
	if !ok {
		c.Skip("the rig has no way to stop a lockspace")
	}
	orphan, name := c.resource(), c.resource()
	_, id := c.client(0).persistent(orphan, dlm.EX)
	c.client(0).kill()
	a := c.client(0)
	held := a.lock(name, dlm.EX, 0)
	stopper.Stop(c, c.lockspace)
	ck := a.ask(c.resource(), dlm.EX, 0)
	canceled := a.ask(name, dlm.EX, 0)
	a.space.Cancel(canceled)
	a.space.Unlock(held, nil)
	require.Equal(c, dlm.StatusBusy, a.convert(held, dlm.PR, 0, nil).Status)
	adopted := a.adopted(orphan, dlm.EX, id)
	c.settle()
	a.waits(ck)
	a.waits(held) // the canceled one may have ended before it got to the kernel
	stopper.Resume(c, c.lockspace)
	a.granted(ck, dlm.OpLock, dlm.EX)
	require.Equal(c, dlm.StatusCanceled, a.ended(canceled, dlm.OpLock).Status)
	require.Equal(c, dlm.StatusUnlocked, a.ended(held, dlm.OpUnlock).Status)
	a.unlock(adopted)
}

func ruleUsers(c *check) {
	looker := func(p Process) dlm.Looker {
		l, ok := p.(dlm.Looker)
		require.True(c, ok, "an engine that can't look")
		return l
	}
	maker, name := c.rig.Process(c, 0), c.rig.FreshLockspace(c)
	_, err := looker(maker).Users(c.ctx(), name)
	require.ErrorIs(c, err, dlm.ErrNoLockspace)
	space, err := maker.Create(c.ctx(), name, ignore)
	require.NoError(c, err)
	users := func(p Process) []dlm.User {
		found, err := looker(p).Users(c.ctx(), name)
		require.NoError(c, err)
		return found
	}
	require.Empty(c, users(maker), "itself")
	other := &client{c, c.start(c, 0, name)}
	other.lock(c.resource(), dlm.PR, 0)
	other.persistent(c.resource(), dlm.EX)
	require.Len(c, users(maker), 1, "once, with locks or without")
	require.Len(c, users(other.process), 1)
	require.NoError(c, space.Close())
	require.Empty(c, users(other.process), "closed")
	other.kill()
	require.Empty(c, users(maker), "killed; an orphan has nobody")
	require.NoError(c, maker.Remove(c.ctx(), name))
	require.NoError(c, maker.Close())
}
