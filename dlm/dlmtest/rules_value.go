package dlmtest

import (
	"fmt"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// valueRules are about the lock value block (dlm_lvb_operations, set_lvb_lock
// and set_lvb_unlock in fs/dlm/lock.c).
var valueRules = []rule{
	{"a conversion with ValueBlock reads, writes or does neither as the matrix says", ruleTransfers},
	{"without ValueBlock nothing is read or written", func(c *check) {
		a, name := c.client(0), c.resource()
		before := c.write(name, "kept")
		ck, ev := a.try(name, dlm.EX, 0)
		require.False(c, ev.HasValue)
		v := value("ignored")
		require.False(c, a.converted(ck, dlm.EX, 0, &v).HasValue)
		require.False(c, a.converted(ck, dlm.NL, 0, &v).HasValue)
		require.Equal(c, before, c.client(1).read(name).Value)
	}},
	{"every new lock reads", func(c *check) {
		name := c.resource()
		written := c.write(name, "read by all")
		for _, m := range dlm.Modes {
			ck, ev := c.client(1).try(name, m, dlm.ValueBlock)
			require.True(c, ev.HasValue, "%v", m)
			require.Equal(c, written, ev.Value, "%v", m)
			require.False(c, ev.ValueInvalid, "%v", m)
			c.client(1).unlock(ck)
		}
	}},
	{"a request that had to wait reads what was written meanwhile", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		ck := a.lock(name, dlm.EX, 0)
		waiting := b.queued(name, dlm.PR, dlm.ValueBlock)
		v := value("written while it waited")
		a.converted(ck, dlm.EX, dlm.ValueBlock, &v)
		a.unlock(ck)
		ev := b.granted(waiting, dlm.OpLock, dlm.PR)
		require.True(c, ev.HasValue)
		require.Equal(c, v, ev.Value)
	}},
	{"a holder publishes in place and NL with Expedite reads it past the holder", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		for _, m := range []dlm.Mode{dlm.PW, dlm.EX} {
			ck := a.lock(name, m, 0)
			v := value("holder in " + m.String())
			a.converted(ck, m, dlm.ValueBlock, &v)
			require.Equal(c, v, b.read(name).Value)
			a.unlock(ck)
		}
	}},
	{"a nil value writes zeros", func(c *check) {
		a, name := c.client(0), c.resource()
		c.write(name, "something")
		ck := a.lock(name, dlm.EX, 0)
		a.converted(ck, dlm.EX, dlm.ValueBlock, nil)
		require.Zero(c, c.client(1).read(name).Value)
	}},
	{"Unlock with a value writes it in PW and EX", func(c *check) {
		a, b, name := c.client(0), c.client(1), c.resource()
		old := c.write(name, "old")
		for _, m := range dlm.Modes {
			ck := a.lock(name, m, 0)
			v := value("left by " + m.String())
			a.unlockWith(ck, &v)
			if m >= dlm.PW {
				old = v
			}
			require.Equal(c, old, b.read(name).Value, "%v", m)
		}
	}},
	{"a resource that nobody has a lock on reads as zeros or as it was", func(c *check) {
		a, name := c.client(0), c.resource()
		ck := a.lock(name, dlm.EX, 0)
		v := value("perhaps forgotten")
		a.converted(ck, dlm.EX, dlm.ValueBlock, &v)
		a.unlock(ck)
		c.settle()
		require.Contains(c, []dlm.Value{{}, v}, c.client(1).read(name).Value)
	}},
	{"a process that dies with a PW or EX lock leaves the value not valid until the next write", func(c *check) {
		for _, m := range []dlm.Mode{dlm.PW, dlm.EX} {
			name := c.resource()
			written := c.write(name, "before the death")
			c.client(0).lock(name, m, 0)
			c.client(0).kill()
			b := c.client(1)
			ck := b.ask(name, dlm.EX, dlm.ValueBlock)
			ev := b.granted(ck, dlm.OpLock, dlm.EX)
			require.True(c, ev.HasValue)
			require.True(c, ev.ValueInvalid)
			require.Equal(c, written, ev.Value)
			v := value("after it")
			b.converted(ck, dlm.EX, dlm.ValueBlock, &v)
			ev = b.read(name)
			require.False(c, ev.ValueInvalid)
			require.Equal(c, v, ev.Value)
		}
	}},
	{"a process that dies with weaker locks or leaves an orphan leaves the value valid", func(c *check) {
		name := c.resource()
		written := c.write(name, "unharmed")
		c.client(0).lock(name, dlm.CR, 0)
		c.client(0).persistent(name, dlm.PW)
		c.client(0).kill()
		ev := c.client(1).read(name)
		require.False(c, ev.ValueInvalid)
		require.Equal(c, written, ev.Value)
	}},
}

func value(text string) (v dlm.Value) {
	copy(v[:], text)
	return v
}

// write writes a value block and leaves an NL lock of the third role, so the resource is not
// forgotten.
func (c *check) write(name, text string) dlm.Value {
	c.Helper()
	keeper := c.client(2)
	ck := keeper.lock(name, dlm.EX, 0)
	v := value(text)
	keeper.converted(ck, dlm.NL, dlm.ValueBlock, &v)
	keeper.arrived(ck, dlm.NL)
	return v
}

// arrived returns when a downward conversion to m has reached the master of the resource. The
// kernel ends such a conversion at once, and sends a message that is not answered (send_convert in
// fs/dlm/lock.c); a conversion in place is answered, and does not overtake it.
func (c *client) arrived(ck dlm.Cookie, m dlm.Mode) {
	c.check.Helper()
	c.converted(ck, m, 0, nil)
}

// ruleTransfers compares the engine with the matrix as a person would describe it: upward
// conversions read, downward ones from PW or EX write, in place PW and EX write and the others
// read, and downward ones from weaker modes do neither. CW and PR count as one step apart here as
// well.
func ruleTransfers(c *check) {
	for _, from := range dlm.Modes {
		for _, to := range dlm.Modes {
			c.each(fmt.Sprintf("%v to %v", from, to), func(c *check) {
				name := c.resource()
				old := c.write(name, "old")
				a := c.client(0)
				ck := a.lock(name, from, 0)
				v := value("new")
				ev := a.converted(ck, to, dlm.ValueBlock, &v)
				writes := from >= dlm.PW && to <= from
				reads := to > from || to == from && !writes
				require.Equal(c, reads, ev.HasValue)
				if reads {
					require.Equal(c, old, ev.Value)
				}
				want := old
				if writes {
					want = v
				}
				a.arrived(ck, to)
				require.Equal(c, want, c.client(1).read(name).Value)
				a.unlock(ck)
			})
		}
	}
}
