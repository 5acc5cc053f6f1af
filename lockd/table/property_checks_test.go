package table

import (
	"context"
	"maps"
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/internal/teststate"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// heal ends everything that is wrong.
func (c *chaos) heal() {
	c.cluster.Fail(nil)
	c.broken = false
	for space := range c.halted {
		c.cluster.Resume(space)
		c.halted[space] = false
	}
	c.journal.SetFail(0)
	c.rest()
	c.retryJournal()
	c.rest()
	c.health()
}

// end lets every call end, and then starts the service anew: it must find what it left.
func (c *chaos) end() {
	for _, ref := range slices.Sorted(maps.Keys(c.tab.calls.requests)) {
		c.turn(func() { require.NoError(c.rt, c.tab.CancelRequest(chaosCallers[0], ref)) })
	}
	for range 3 {
		c.pass(api.MaxWait + 2*retryMax)
		c.retryJournal()
	}
	for _, sc := range c.calls {
		require.Equal(c.rt, 1, sc.answers, "%s was not answered", sc.name)
	}
	require.Empty(c.rt, c.tab.calls.deadlines)
	require.Empty(c.rt, c.tab.calls.sessions)
	require.Empty(c.rt, c.tab.retries.cancels)
	require.Empty(c.rt, c.tab.degraded)
	for l := range c.tab.locks.each {
		require.Equal(c.rt, api.Held, l.public(), "lock %d is still %s", l.ref, l.public())
		require.True(c.rt, l.kind == unknownOrphan || l.kind == clientLock, "a probe is left")
	}
	checkIntegrity(c.rt, c.tab)
	c.compare()
	require.Zero(c.rt, c.tab.calls.following)
	for _, b := range c.tab.lifetimes.bindings {
		require.False(c.rt, b.dead, "a connection has ended, and its locks not")
	}
	before := c.tab.locks.count()
	c.restart()
	checkIntegrity(c.rt, c.tab)
	c.compare()
	require.Equal(c.rt, before, c.tab.locks.count())
}

// compare holds table, state file and lock manager against each other, and
// against what clients were told.
func (c *chaos) compare() {
	c.compareModes()
	checkEngine(c.rt, c.tab, c.engine, chaosResources, func(space string) bool { return c.halted[space] })
	for _, sc := range c.calls {
		_, joins := sc.what.(Join)
		_, leaves := sc.what.(Leave)
		_, purges := sc.what.(Purge)
		undone, acquires := sc.op.(*acquireOp) // its marks can't be taken back yet, so no answer would be true
		unmarking := acquires && undone.stage == acquireUnmarking
		waits := sc.wait > 0 || unmarking || sc.place.follows != nil || joins || leaves || purges || c.broken ||
			c.halted["a"] || c.halted["b"]
		require.True(c.rt, waits || sc.answers == 1, "%s waits, and was not to", sc.name)
		require.False(c.rt, sc.answers == 0 && sc.heapIdx >= 0 && sc.deadline.Before(c.now), "%s is late", sc.name)
	}
	for name, sp := range c.tab.spaces.byName {
		if sp.ready() {
			orphans, err := c.engine.Orphans(context.Background(), name)
			require.NoError(c.rt, err)
			require.True(c.rt, c.strays[name] > 0 || len(orphans) == 0, "locks that nobody knows of: %v", orphans)
		}
	}
	for ref, p := range c.owed {
		l := c.tab.locks.byRef(ref)
		require.True(c.rt, p.may || l != nil && l.mode != dlm.None, "lock %d was promised and is gone", ref)
		if l == nil {
			delete(c.owed, ref)
		}
	}
	for _, ch := range c.writer.Backlog() {
		require.NoError(c.rt, teststate.Encodable(ch), "a change that the state file will never take")
	}
	if c.journal.Fail == 0 && len(c.writer.Backlog()) == 0 {
		checkRecords(c.rt, c.tab, c.journal.Contents("").Locks)
	}
}

// compareModes checks that nobody holds what another's lock forbids.
func (c *chaos) compareModes() {
	for _, name := range chaosSpaces {
		for _, res := range chaosResources {
			for _, e := range []*local.Engine{c.engine} {
				q, err := e.Queues(context.Background(), name, res)
				if err != nil {
					continue
				}
				held := slices.Concat(q.Granted, q.Converting)
				for i, a := range held {
					for _, b := range held[:i] {
						require.True(c.rt, dlm.Compatible(a.Mode, b.Mode), "%s and %s are granted on %s/%s", a.Mode, b.Mode, name, res)
					}
				}
			}
		}
	}
}
