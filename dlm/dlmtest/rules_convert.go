package dlmtest

import (
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// convertRules are about conversions (do_convert, grant_pending_convert and
// conversion_deadlock_detect in fs/dlm/lock.c).
var convertRules = []rule{
	{"a conversion down is granted at once and lets waiters in", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		ck := a.lock(name, dlm.EX, 0)
		reader := b.queued(name, dlm.PR, 0)
		a.converted(ck, dlm.PR, 0, nil)
		b.granted(reader, dlm.OpLock, dlm.PR)
		writer := c.client(2).queued(name, dlm.EX, 0)
		a.converted(ck, dlm.NL, 0, nil)
		c.settle()
		c.client(2).waits(writer)
		b.unlock(reader)
		c.client(2).granted(writer, dlm.OpLock, dlm.EX)
	}},
	{"a conversion up is granted at once if the holders allow it, though requests wait", func(c *check) {
		a, b, d, name := c.client(0), c.client(1), c.client(2), c.resource()
		ck := a.lock(name, dlm.CR, 0)
		b.lock(name, dlm.PR, 0)
		writer := d.queued(name, dlm.EX, 0)
		a.converted(ck, dlm.PR, dlm.NoQueue, nil)
		d.waits(writer)
	}},
	{"a conversion that can't be granted waits and keeps its granted mode", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		ck := a.lock(name, dlm.PR, 0)
		other := b.lock(name, dlm.PR, 0)
		a.converting(ck, dlm.EX, 0)
		c.client(2).refused(name, dlm.PW)
		b.unlock(other)
		a.granted(ck, dlm.OpConvert, dlm.EX)
	}},
	{"conversions are granted before waiting requests", func(c *check) {
		a, b, d, name := c.client(0), c.client(1), c.client(2), c.resource()
		ck, other := a.lock(name, dlm.PR, 0), b.lock(name, dlm.PR, 0)
		waiting := d.queued(name, dlm.EX, 0)
		a.converting(ck, dlm.EX, 0)
		b.unlock(other)
		a.granted(ck, dlm.OpConvert, dlm.EX)
		c.settle()
		d.waits(waiting)
		a.unlock(ck)
		d.granted(waiting, dlm.OpLock, dlm.EX)
	}},
	{"no request is granted while a conversion waits", func(c *check) {
		a, b, d, name := c.client(0), c.client(1), c.client(2), c.resource()
		ck := a.lock(name, dlm.NL, 0)
		held, beside := b.lock(name, dlm.PR, 0), b.lock(name, dlm.CR, 0)
		a.converting(ck, dlm.EX, 0)
		d.refused(name, dlm.PR)
		waiting := d.queued(name, dlm.PR, 0)
		b.unlock(beside)
		c.settle()
		d.waits(waiting)
		a.space.Cancel(ck)
		require.Equal(c, dlm.StatusCanceled, a.ended(ck, dlm.OpConvert).Status)
		d.granted(waiting, dlm.OpLock, dlm.PR)
		b.unlock(held)
	}},
	{"waiting conversions are granted in order", func(c *check) {
		a, b, d, name := c.client(0), c.client(1), c.client(2), c.resource()
		first, second := b.lock(name, dlm.NL, 0), d.lock(name, dlm.NL, 0)
		held := a.lock(name, dlm.EX, 0)
		b.converting(first, dlm.EX, 0)
		d.converting(second, dlm.PR, 0)
		a.unlock(held)
		b.granted(first, dlm.OpConvert, dlm.EX)
		c.settle()
		d.waits(second)
		b.converted(first, dlm.CR, 0, nil)
		d.granted(second, dlm.OpConvert, dlm.PR)
	}},
	{"QueueConvert makes a conversion wait behind the ones before it", func(c *check) {
		a, b, d, name := c.client(0), c.client(1), c.client(2), c.resource()
		a.lock(name, dlm.PR, 0)
		first, past, behind := b.lock(name, dlm.NL, 0), d.lock(name, dlm.NL, 0), d.lock(name, dlm.NL, 0)
		b.converting(first, dlm.EX, 0)
		d.converted(past, dlm.CR, 0, nil)
		d.converting(behind, dlm.CR, dlm.QueueConvert)
		b.space.Cancel(first)
		require.Equal(c, dlm.StatusCanceled, b.ended(first, dlm.OpConvert).Status)
		d.granted(behind, dlm.OpConvert, dlm.CR)
	}},
	{"QueueConvert with a conversion that never waits, and Expedite with any, is EINVAL", func(c *check) {
		a, name := c.client(0), c.resource()
		ck := a.lock(name, dlm.PR, 0)
		require.Equal(c, dlm.StatusInvalid, a.convert(ck, dlm.CR, dlm.QueueConvert, nil).Status)
		require.Equal(c, dlm.StatusInvalid, a.convert(ck, dlm.PR, dlm.QueueConvert, nil).Status)
		require.Equal(c, dlm.StatusInvalid, a.convert(ck, dlm.NL, dlm.Expedite, nil).Status)
		ev := a.convert(ck, dlm.None, 0, nil)
		require.Equal(c, dlm.StatusInvalid, ev.Status)
		require.Equal(c, dlm.PR, ev.Mode, "what the lock still holds")
		a.unlock(ck)
	}},
	{"a refused NoQueue conversion ends with EAGAIN and keeps the granted mode", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		ck := a.lock(name, dlm.PR, 0)
		other := b.lock(name, dlm.PR, 0)
		ev := a.convert(ck, dlm.EX, dlm.NoQueue, nil)
		require.Equal(c, dlm.StatusAgain, ev.Status)
		require.Equal(c, dlm.PR, ev.Mode)
		b.unlock(other)
		b.refused(name, dlm.EX)
		a.converted(ck, dlm.EX, dlm.NoQueue, nil)
	}},
	{"the conversion that would close a deadlock ends with EDEADLK and keeps its mode", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		first, second := a.lock(name, dlm.PR, 0), b.lock(name, dlm.PR, 0)
		a.converting(first, dlm.EX, 0)
		ev := b.convert(second, dlm.EX, 0, nil)
		require.Equal(c, dlm.StatusDeadlock, ev.Status)
		require.Equal(c, dlm.PR, ev.Mode)
		a.waits(first)
		b.unlock(second)
		a.granted(first, dlm.OpConvert, dlm.EX)
	}},
	{"Cancel ends a waiting conversion with ECANCEL and keeps the granted mode", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		ck := a.lock(name, dlm.PR, 0)
		b.lock(name, dlm.PR, 0)
		a.converting(ck, dlm.EX, 0)
		a.space.Cancel(ck)
		ev := a.ended(ck, dlm.OpConvert)
		require.Equal(c, dlm.StatusCanceled, ev.Status)
		require.Equal(c, dlm.PR, ev.Mode)
		c.client(2).refused(name, dlm.EX)
		a.converted(ck, dlm.CR, 0, nil)
		a.unlock(ck)
	}},
	{"a second operation of a lock while one is under way ends with EBUSY", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		ck := a.lock(name, dlm.PR, 0)
		other := b.lock(name, dlm.PR, 0)
		a.converting(ck, dlm.EX, 0)
		require.Equal(c, dlm.StatusBusy, a.convert(ck, dlm.PR, 0, nil).Status)
		waiting := c.client(2).queued(name, dlm.PR, 0)
		require.Equal(c, dlm.StatusBusy, c.client(2).convert(waiting, dlm.NL, 0, nil).Status)
		b.unlock(other)
		a.granted(ck, dlm.OpConvert, dlm.EX)
		a.unlock(ck)
		c.client(2).granted(waiting, dlm.OpLock, dlm.PR)
	}},
	{"an operation of an unknown cookie ends with ENOENT", func(c *check) {
		a := c.client(0)
		ck := dlm.Cookie(a.cookies.Add(1))
		require.Equal(c, dlm.StatusNotFound, a.convert(ck, dlm.EX, 0, nil).Status)
		a.space.Unlock(ck, nil)
		require.Equal(c, dlm.StatusNotFound, a.ended(ck, dlm.OpUnlock).Status)
	}},
	{"a conversion keeps the lockid", func(c *check) {
		a, name := c.client(0), c.resource()
		ck, ev := a.try(name, dlm.NL, 0)
		for _, m := range []dlm.Mode{dlm.CR, dlm.EX, dlm.EX, dlm.PW, dlm.NL} {
			require.Equal(c, ev.LockID, a.converted(ck, m, 0, nil).LockID)
		}
	}},
}

// blockingRules are about blocking notifications (send_bast_queue and
// grant_pending_locks in fs/dlm/lock.c).
var blockingRules = []rule{
	{"a holder in the way of a waiting request is told the mode that waits", func(c *check) {
		a, b, d, name := c.client(0), c.client(1), c.client(2), c.resource()
		reader, beside := a.lock(name, dlm.PR, 0), b.lock(name, dlm.CR, 0)
		d.queued(name, dlm.PW, 0)
		a.told(reader, dlm.PW)
		b.quiet(beside)
	}},
	{"a higher mode that waits is told as well", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		ck := a.lock(name, dlm.EX, 0)
		b.queued(name, dlm.PR, 0)
		a.told(ck, dlm.PR)
		c.client(2).queued(name, dlm.EX, 0)
		a.told(ck, dlm.EX)
	}},
	{"PR and CW are in each other's way although their numbers differ by one", func(c *check) {
		a, b := c.client(0), c.client(1)
		name := c.resource()
		ck := a.lock(name, dlm.PR, 0)
		b.queued(name, dlm.CW, 0)
		a.told(ck, dlm.CW)
		name = c.resource()
		ck = a.lock(name, dlm.CW, 0)
		b.queued(name, dlm.PR, 0)
		a.told(ck, dlm.PR)
	}},
	{"a NoQueue request disturbs nobody", func(c *check) {
		a, name := c.client(0), c.resource()
		ck := a.lock(name, dlm.EX, 0)
		c.client(1).refused(name, dlm.EX)
		a.quiet(ck)
	}},
	{"NoQueueBlocking tells the holders although the request is refused", func(c *check) {
		a, name := c.client(0), c.resource()
		ck := a.lock(name, dlm.EX, 0)
		_, ev := c.client(1).try(name, dlm.PR, dlm.NoQueue|dlm.NoQueueBlocking)
		require.Equal(c, dlm.StatusAgain, ev.Status)
		a.told(ck, dlm.PR)
	}},
	{"NoQueueBlocking also tells a holder whose own conversion waits", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		ck := a.lock(name, dlm.PR, 0)
		b.lock(name, dlm.PR, 0)
		a.converting(ck, dlm.EX, 0)
		_, ev := c.client(2).try(name, dlm.PW, dlm.NoQueue|dlm.NoQueueBlocking)
		require.Equal(c, dlm.StatusAgain, ev.Status)
		a.told(ck, dlm.PW)
	}},
	{"a waiting conversion tells the holders, and not itself", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		ck, other := a.lock(name, dlm.PR, 0), b.lock(name, dlm.PR, 0)
		a.converting(ck, dlm.EX, 0)
		b.told(other, dlm.EX)
		a.quiet(ck)
	}},
	{"whoever is granted before others that wait is told of them", func(c *check) {
		a, b, d, name := c.client(0), c.client(1), c.client(2), c.resource()
		held := a.lock(name, dlm.EX, 0)
		first := b.queued(name, dlm.EX, 0)
		d.queued(name, dlm.EX, 0)
		a.unlock(held)
		b.granted(first, dlm.OpLock, dlm.EX)
		b.told(first, dlm.EX)
	}},
	{"an in-place conversion repeats the notification of who still waits", func(c *check) {
		a, name := c.client(0), c.resource()
		ck := a.lock(name, dlm.EX, 0)
		c.client(1).queued(name, dlm.EX, 0)
		a.told(ck, dlm.EX)
		a.converted(ck, dlm.EX, dlm.Persistent, nil)
		a.told(ck, dlm.EX)
		a.unlock(ck)
	}},
}
