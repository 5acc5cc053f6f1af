package dlmtest

import (
	"fmt"
	"strings"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// queueRules are about new requests: which are granted at once, which wait, and in which order
// (_can_be_granted and grant_pending_wait in fs/dlm/lock.c).
var queueRules = []rule{
	{"two locks are granted together exactly in compatible modes", ruleMatrix},
	{"a refused NoQueue request ends with EAGAIN and frees its cookie", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		held := a.lock(name, dlm.EX, 0)
		ck, ev := b.try(name, dlm.PR, dlm.NoQueue)
		require.Equal(c, dlm.StatusAgain, ev.Status)
		require.Equal(c, dlm.None, ev.Mode)
		a.unlock(held)
		b.space.Lock(ck, name, dlm.PR, dlm.NoQueue)
		b.granted(ck, dlm.OpLock, dlm.PR)
	}},
	{"waiting requests are granted in the order in which they were asked", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		held := a.lock(name, dlm.EX, 0)
		first := b.queued(name, dlm.EX, 0)
		second := c.client(2).queued(name, dlm.EX, 0)
		third := b.queued(name, dlm.EX, 0)
		a.unlock(held)
		b.granted(first, dlm.OpLock, dlm.EX)
		c.settle()
		c.client(2).waits(second)
		b.waits(third)
		b.unlock(first)
		c.client(2).granted(second, dlm.OpLock, dlm.EX)
		c.settle()
		b.waits(third)
		c.client(2).unlock(second)
		b.granted(third, dlm.OpLock, dlm.EX)
	}},
	{"compatible requests at the front of the queue are granted together", func(c *check) {
		a, b, d, name := c.client(0), c.client(1), c.client(2), c.resource()
		held := a.lock(name, dlm.EX, 0)
		first, second := b.queued(name, dlm.PR, 0), d.queued(name, dlm.PR, 0)
		writer, behind := b.queued(name, dlm.EX, 0), d.queued(name, dlm.PR, 0)
		a.unlock(held)
		b.granted(first, dlm.OpLock, dlm.PR)
		d.granted(second, dlm.OpLock, dlm.PR)
		c.settle()
		b.waits(writer)
		d.waits(behind)
	}},
	{"a new request waits behind other requests even if the holders would allow it", func(c *check) {
		a, b, d, name := c.client(0), c.client(1), c.client(2), c.resource()
		a.lock(name, dlm.PR, 0)
		writer := b.queued(name, dlm.EX, 0)
		d.refused(name, dlm.PR)
		d.refused(name, dlm.NL)
		reader := d.queued(name, dlm.PR, 0)
		b.space.Cancel(writer)
		require.Equal(c, dlm.StatusCanceled, b.ended(writer, dlm.OpLock).Status)
		d.granted(reader, dlm.OpLock, dlm.PR)
	}},
	{"a new NL request with Expedite is granted past every waiter", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		a.lock(name, dlm.EX, 0)
		waiting := b.queued(name, dlm.EX, 0)
		c.client(2).lock(name, dlm.NL, dlm.Expedite)
		b.waits(waiting)
	}},
	{"Expedite with another mode or NoQueue is EINVAL", func(c *check) {
		a, name := c.client(0), c.resource()
		_, ev := a.try(name, dlm.CR, dlm.Expedite)
		require.Equal(c, dlm.StatusInvalid, ev.Status)
		_, ev = a.try(name, dlm.NL, dlm.Expedite|dlm.NoQueue)
		require.Equal(c, dlm.StatusInvalid, ev.Status)
	}},
	{"a request for no mode or with an unknown flag is EINVAL", func(c *check) {
		a, name := c.client(0), c.resource()
		for _, m := range []dlm.Mode{dlm.None, 6} {
			_, ev := a.try(name, m, 0)
			require.Equal(c, dlm.StatusInvalid, ev.Status)
		}
		_, ev := a.try(name, dlm.NL, dlm.QueueConvert)
		require.Equal(c, dlm.StatusInvalid, ev.Status, "QueueConvert is for conversions")
	}},
	{"Cancel ends a waiting request with ECANCEL and lets those behind it through", func(c *check) {
		a, b, d, name := c.client(0), c.client(1), c.client(2), c.resource()
		a.lock(name, dlm.PR, 0)
		writer := b.queued(name, dlm.EX, 0)
		reader := d.queued(name, dlm.PR, 0)
		b.space.Cancel(writer)
		ev := b.ended(writer, dlm.OpLock)
		require.Equal(c, dlm.StatusCanceled, ev.Status)
		require.Equal(c, dlm.None, ev.Mode)
		d.granted(reader, dlm.OpLock, dlm.PR)
		b.quiet(writer)
	}},
	{"Cancel of a lock that waits for nothing does nothing", func(c *check) {
		a, name := c.client(0), c.resource()
		ck := a.lock(name, dlm.EX, 0)
		a.space.Cancel(ck)
		a.space.Cancel(dlm.Cookie(a.cookies.Add(1)))
		a.quiet(ck)
		c.client(1).refused(name, dlm.CR)
		a.converted(ck, dlm.PR, 0, nil)
		a.unlock(ck)
	}},
	{"Unlock of a waiting request ends both", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		held := a.lock(name, dlm.EX, 0)
		ck := b.queued(name, dlm.EX, 0)
		b.space.Unlock(ck, nil)
		require.Equal(c, dlm.StatusCanceled, b.ended(ck, dlm.OpLock).Status)
		require.Equal(c, dlm.StatusUnlocked, b.ended(ck, dlm.OpUnlock).Status)
		a.unlock(held)
		c.client(2).lock(name, dlm.EX, 0)
		b.quiet(ck)
	}},
	{"Unlock ends with EUNLOCK and frees the cookie", func(c *check) {
		a, name := c.client(0), c.resource()
		ck := a.lock(name, dlm.EX, 0)
		a.unlock(ck)
		a.space.Unlock(ck, nil)
		require.Equal(c, dlm.StatusNotFound, a.ended(ck, dlm.OpUnlock).Status)
		a.space.Lock(ck, name, dlm.PR, 0)
		a.granted(ck, dlm.OpLock, dlm.PR)
	}},
	{"a Lock with a cookie in use ends with EBUSY and leaves the lock alone", func(c *check) {
		a, name := c.client(0), c.resource()
		ck := a.lock(name, dlm.EX, 0)
		a.space.Lock(ck, c.resource(), dlm.NL, 0)
		require.Equal(c, dlm.StatusBusy, a.ended(ck, dlm.OpLock).Status)
		a.unlock(ck)
	}},
	{"a resource name is 1 to 64 bytes of anything", func(c *check) {
		a, b := c.client(0), c.client(1)
		base := c.resource()
		long := base + strings.Repeat("\xff", dlm.MaxResourceName-len(base))
		for _, name := range []string{long, long[:63] + "x", long[:63], base + "\x00a", base + "\x00b", base +
			"/ \n\u00e4"} {
			ck := a.lock(name, dlm.EX, dlm.NoQueue)
			b.refused(name, dlm.EX)
			a.unlock(ck)
		}
		_, ev := a.try(long+"x", dlm.EX, 0)
		require.Equal(c, dlm.StatusInvalid, ev.Status, "65 bytes")
	}},
	{"every operation of many goroutines ends exactly once", ruleConcurrent},
	{"the lockid is the lowest free one, and reused at once", func(c *check) {
		a := c.client(0)
		first, name := c.resource(), c.resource()
		ck, ev := a.try(first, dlm.EX, 0)
		require.Equal(c, dlm.StatusOK, ev.Status)
		_, next := a.try(name, dlm.EX, 0)
		require.Greater(c, next.LockID, ev.LockID)
		a.unlock(ck)
		c.settle()
		_, again := a.try(first, dlm.EX, 0)
		require.Equal(c, ev.LockID, again.LockID)
	}},
}

func ruleMatrix(c *check) {
	for _, held := range dlm.Modes {
		for _, asked := range dlm.Modes {
			c.each(fmt.Sprintf("%v beside %v", asked, held), func(c *check) {
				a, b, name := c.client(0), c.client(1), c.resource()
				first := a.lock(name, held, 0)
				second, ev := b.try(name, asked, dlm.NoQueue)
				if dlm.Compatible(held, asked) {
					require.Equal(c, dlm.StatusOK, ev.Status)
					b.unlock(second)
				} else {
					require.Equal(c, dlm.StatusAgain, ev.Status)
				}
				a.unlock(first)
			})
		}
	}
}

func ruleConcurrent(c *check) {
	const workers, each = 4, 25
	a, name := c.client(0), c.resource()
	cookies := make([]dlm.Cookie, workers*each)
	for i := range cookies {
		cookies[i] = dlm.Cookie(a.cookies.Add(1))
	}
	// all calls do for every cookie, from several goroutines, and waits for the end of each
	// operation.
	all := func(op dlm.Op, do func(i int, ck dlm.Cookie)) {
		var group sync.WaitGroup
		for w := range workers {
			group.Go(func() {
				for i := w; i < len(cookies); i += workers {
					do(i, cookies[i])
				}
			})
		}
		group.Wait()
		for _, ck := range cookies {
			require.True(c, a.ended(ck, op).Status.OK())
		}
	}
	all(dlm.OpLock, func(i int, ck dlm.Cookie) {
		a.space.Lock(ck, fmt.Sprintf("%s-%d", name, i/2), dlm.PR, 0)
	})
	all(dlm.OpConvert, func(_ int, ck dlm.Cookie) { a.space.Convert(ck, dlm.CR, 0, nil) })
	all(dlm.OpUnlock, func(_ int, ck dlm.Cookie) { a.space.Unlock(ck, nil) })
	c.settle()
	for _, ck := range cookies {
		require.Empty(c, a.events.Untaken(ck))
	}
}
