package dlmtest

import (
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// orphanRules are about locks that outlive a process, and how the next process takes them over
// (dlm_clear_proc_locks and dlm_user_adopt_orphan in fs/dlm/lock.c).
var orphanRules = []rule{
	{"a lock without Persistent is gone with its process", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		a.lock(name, dlm.EX, 0)
		waiting := b.queued(name, dlm.EX, 0)
		a.kill()
		b.granted(waiting, dlm.OpLock, dlm.EX)
		_, ev := c.client(0).adopt(name, dlm.EX, dlm.Persistent)
		require.Equal(c, dlm.StatusNotFound, ev.Status)
	}},
	{"a persistent lock outlives its process and is adopted with its lockid", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		_, id := a.persistent(name, dlm.EX)
		a.kill()
		c.settle()
		b.refused(name, dlm.EX)
		next := c.client(0)
		ck := next.adopted(name, dlm.EX, id)
		b.refused(name, dlm.EX)
		next.unlock(ck)
		b.lock(name, dlm.EX, 0)
	}},
	{"closing the lockspace does the same as the end of the process", func(c *check) {
		a, b := c.start(c, c.session(c, 0).node, c.lockspace), c.client(1)
		closing := &client{c, a}
		kept, gone := c.resource(), c.resource()
		_, id := closing.persistent(kept, dlm.EX)
		closing.lock(gone, dlm.EX, 0)
		waiting := b.queued(gone, dlm.EX, 0)
		require.NoError(c, a.space.Close())
		b.granted(waiting, dlm.OpLock, dlm.EX)
		b.refused(kept, dlm.EX)
		c.client(0).adopted(kept, dlm.EX, id)
		require.NoError(c, a.process.Close())
	}},
	{"Persistent with NoQueue makes the lock persistent from the start", func(c *check) {
		a, name := c.client(0), c.resource()
		_, ev := a.try(name, dlm.PW, dlm.Persistent|dlm.NoQueue)
		require.Equal(c, dlm.StatusOK, ev.Status)
		a.kill()
		c.client(0).adopted(name, dlm.PW, ev.LockID)
	}},
	{"in the two-step grant the conversion in place decides what is left", func(c *check) {
		a := c.client(0)
		before, after := c.resource(), c.resource()
		a.lock(before, dlm.EX, dlm.ValueBlock)
		ck, ev := a.try(after, dlm.EX, dlm.ValueBlock)
		a.space.Convert(ck, dlm.EX, dlm.Persistent|dlm.ValueBlock, nil)
		a.granted(ck, dlm.OpConvert, dlm.EX)
		a.kill()
		next := c.client(0)
		_, none := next.adopt(before, dlm.EX, dlm.Persistent)
		require.Equal(c, dlm.StatusNotFound, none.Status)
		next.adopted(after, dlm.EX, ev.LockID)
	}},
	{"adoption in another mode than the granted one is EAGAIN", func(c *check) {
		a, name := c.client(0), c.resource()
		_, id := a.persistent(name, dlm.PW)
		a.kill()
		next := c.client(0)
		for _, m := range dlm.Modes {
			if m != dlm.PW {
				ck, ev := next.adopt(name, m, dlm.Persistent)
				require.Equal(c, dlm.StatusAgain, ev.Status, "%v", m)
				require.Equal(c, dlm.None, ev.Mode)
				next.quiet(ck)
			}
		}
		next.adopted(name, dlm.PW, id)
	}},
	{"adoption of what is not an orphan is ENOENT", func(c *check) {
		a, name := c.client(0), c.resource()
		_, ev := a.adopt(name, dlm.EX, dlm.Persistent)
		require.Equal(c, dlm.StatusNotFound, ev.Status, "nobody has it")
		a.persistent(name, dlm.EX)
		_, ev = a.adopt(name, dlm.EX, dlm.Persistent)
		require.Equal(c, dlm.StatusNotFound, ev.Status, "a live process has it")
	}},
	{"adoption with a flag that is for other requests is EINVAL", func(c *check) {
		ck := dlm.Cookie(c.client(0).cookies.Add(1))
		c.client(0).space.Adopt(ck, c.resource(), dlm.EX, dlm.Persistent|dlm.QueueConvert)
		require.Equal(c, dlm.StatusInvalid, c.client(0).ended(ck, dlm.OpAdopt).Status)
	}},
	{"several orphans of one name and mode are adopted one after the other", func(c *check) {
		a, name := c.client(0), c.resource()
		_, first := a.persistent(name, dlm.PR)
		_, second := a.persistent(name, dlm.PR)
		a.kill()
		next := c.client(0)
		_, x := next.adopt(name, dlm.PR, dlm.Persistent)
		_, y := next.adopt(name, dlm.PR, dlm.Persistent)
		require.ElementsMatch(c, []dlm.LockID{first, second}, []dlm.LockID{x.LockID, y.LockID})
		_, ev := next.adopt(name, dlm.PR, dlm.Persistent)
		require.Equal(c, dlm.StatusNotFound, ev.Status)
	}},
	{"an adopted lock is notified, converts and unlocks as any other", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		_, id := a.persistent(name, dlm.EX)
		a.kill()
		next := c.client(0)
		ck := next.adopted(name, dlm.EX, id)
		waiting := b.queued(name, dlm.PR, dlm.ValueBlock)
		next.told(ck, dlm.PR)
		v := value("from the adopter")
		require.Equal(c, id, next.converted(ck, dlm.PR, dlm.Persistent|dlm.ValueBlock, &v).LockID)
		require.Equal(c, v, b.granted(waiting, dlm.OpLock, dlm.PR).Value)
		next.unlock(ck)
		b.converted(waiting, dlm.EX, 0, nil)
	}},
	{"an adopted lock is adopted again after the next death", func(c *check) {
		name := c.resource()
		_, id := c.client(0).persistent(name, dlm.EX)
		for range 3 {
			c.client(0).kill()
			c.client(0).adopted(name, dlm.EX, id)
		}
	}},
	{"a request that came while there was nobody to tell is told by converting in place", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		_, id := a.persistent(name, dlm.EX)
		a.kill()
		c.settle()
		b.queued(name, dlm.EX, 0)
		next := c.client(0)
		ck := next.adopted(name, dlm.EX, id)
		next.converted(ck, dlm.EX, dlm.Persistent, nil)
		next.told(ck, dlm.EX)
	}},
	{"every conversion sets Persistent anew, and without it the lock is not persistent", func(c *check) {
		a := c.client(0)
		granted, refused, adopted := c.resource(), c.resource(), c.resource()
		ck, _ := a.persistent(granted, dlm.EX)
		a.converted(ck, dlm.PW, 0, nil)
		ck, _ = a.persistent(refused, dlm.PR)
		a.lock(refused, dlm.PR, 0)
		require.Equal(c, dlm.StatusAgain, a.convert(ck, dlm.EX, dlm.NoQueue, nil).Status)
		_, id := a.persistent(adopted, dlm.EX)
		a.kill()
		_, ev := c.client(0).adopt(adopted, dlm.EX, 0)
		require.Equal(c, id, ev.LockID)
		c.client(0).kill()
		next := c.client(0)
		for name, m := range map[string]dlm.Mode{granted: dlm.PW, refused: dlm.PR, adopted: dlm.EX} {
			_, ev := next.adopt(name, m, dlm.Persistent)
			require.Equal(c, dlm.StatusNotFound, ev.Status)
		}
	}},
	{"a persistent conversion that waits when its process dies falls back to the granted mode", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		ck, id := a.persistent(name, dlm.PR)
		other := b.lock(name, dlm.PR, 0)
		a.converting(ck, dlm.EX, dlm.Persistent)
		b.told(other, dlm.EX)
		a.kill()
		reader := c.client(2).lock(name, dlm.PR, 0)
		next := c.client(0)
		adopted := next.adopted(name, dlm.PR, id)
		b.unlock(other)
		c.client(2).unlock(reader)
		next.converted(adopted, dlm.EX, dlm.Persistent, nil)
	}},
	{"an orphan keeps its lockid from being given out", func(c *check) {
		a, name := c.client(0), c.resource()
		_, id := a.persistent(name, dlm.EX)
		a.kill()
		next := c.client(0)
		for range 5 {
			_, ev := next.try(c.resource(), dlm.EX, 0)
			require.NotEqual(c, id, ev.LockID)
		}
		next.adopted(name, dlm.EX, id)
	}},
	{"Purge removes every orphan of the node and no other lock", func(c *check) {
		a, b := c.client(0), c.client(1)
		orphan, adopted, live := c.resource(), c.resource(), c.resource()
		a.persistent(orphan, dlm.EX)
		_, id := a.persistent(adopted, dlm.EX)
		a.kill()
		next := c.client(0)
		next.adopted(adopted, dlm.EX, id)
		next.persistent(live, dlm.EX)
		next.space.Purge()
		ev := next.events.Completed(c, 0)
		require.Equal(c, dlm.OpPurge, ev.Op)
		require.Equal(c, dlm.StatusOK, ev.Status)
		if ev.Count >= 0 {
			require.Positive(c, ev.Count)
		}
		b.lock(orphan, dlm.EX, 0)
		b.refused(adopted, dlm.EX)
		b.refused(live, dlm.EX)
		_, none := next.adopt(orphan, dlm.EX, dlm.Persistent)
		require.Equal(c, dlm.StatusNotFound, none.Status)
	}},
}
