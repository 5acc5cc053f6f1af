package table

import (
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// The clock of a lockspace. Nodes whose wall clocks differ would give tokens that
// differ by as much, where the value block of a resource is forgotten between two
// grants. So the nodes of a lockspace pass the token clock around, in the value
// block of a resource of their own: each asks for it in PW now and then; the node
// that has it is told so, writes what its token clock says at that moment and goes
// down to NL; and the next one reads it. From then on the reader's token clock is
// behind by no more than the time of those messages, whatever its wall clock says
// (see).
//
//	off       Lock NL              reads what was written last, and waits for nobody
//	reading   Convert to PW, queued
//	asking    nothing, until the next one asks: then Convert to NL, which writes
//	yielding  nothing, for clockInterval; then it asks again
//
// The lock is not persistent: it ends with the process, and nothing is lost that
// the next start would not read again. A node that hangs with the lock in PW
// holds up nobody's grants, and the others' token clocks go on as they are. A lockspace
// that is this node's alone has no such lock, and neither has one for raw values.

// clockInterval is how often a node asks for the clock of a lockspace. Between
// two times the clocks drift apart by what their crystals do: 0.1 ms at 20 ppm.
// After a node has joined the others ask at once, and clockRounds times with
// each look at the lockspace: who has written has not read what the other says.
const (
	clockInterval = 5 * time.Second
	clockRounds   = 3
)

// clockName is the resource, and clockCookie the cookie of its lock in each
// lockspace; a Ref never gets there.
const (
	clockName              = api.ReservedPrefix + "clock"
	clockCookie dlm.Cookie = 1 << 62
)

type clockStep uint8

const (
	clockOff clockStep = iota
	clockReading
	clockIdle // in NL
	clockAsking
	clockHeld // in PW
	clockYielding
)

// spaceClock is how far the lock of a lockspace's clock has got.
type spaceClock struct {
	sp      *lockspace
	step    clockStep
	blocked bool      // somebody else asks
	askAt   time.Time // not before
	rounds  int       // since the members were others
}

// later has it asked for again after a time.
func (c *spaceClock) later(now time.Time) {
	if c.rounds++; c.rounds > clockRounds {
		c.askAt = now.Add(clockInterval)
	}
}

// reset forgets the lock, which has ended with its handle.
func (c *spaceClock) reset() { *c = spaceClock{sp: c.sp} }

// newMembers has it asked for soon.
func (c *spaceClock) newMembers() { c.rounds, c.askAt = 0, time.Time{} }

// sync does what is due for the clock of a lockspace.
func (c *spaceClock) sync() {
	sp, t := c.sp, c.sp.t
	if sp.raw || !sp.ready() || sp.stopped() || len(sp.health.Members) < 2 || t.now.Before(c.askAt) {
		return
	}
	switch {
	case c.step == clockOff:
		c.step = clockReading
		t.do(ClockAction{Lockspace: sp.id, Mode: dlm.NL, First: true})
	case c.step == clockIdle:
		c.step, c.blocked = clockAsking, false
		t.do(ClockAction{Lockspace: sp.id, Mode: dlm.PW})
	case c.step == clockHeld && c.blocked:
		c.yield()
	}
}

// yield writes what the token clock says and lets the next node have the lock.
func (c *spaceClock) yield() {
	c.step, c.blocked = clockYielding, false
	v := api.Holder{Mode: dlm.None, Token: c.sp.t.clock.read()}.Encode()
	c.sp.t.do(ClockAction{Lockspace: c.sp.id, Mode: dlm.NL, Value: &v})
}

// event takes the events of the lock.
func (c *spaceClock) event(ev dlm.Event) {
	t := c.sp.t
	switch {
	case ev.Kind == dlm.Blocking:
		c.blocked = true
		if c.step == clockHeld {
			c.yield()
		}
	case ev.Kind == dlm.Ended || ev.Status == dlm.StatusNotFound || ev.Status == dlm.StatusGone,
		!ev.Status.OK() && c.step == clockReading:
		c.reset()
		c.rounds = clockRounds
		c.later(t.now)
	case !ev.Status.OK() && c.step == clockYielding:
		c.step, c.blocked, c.askAt = clockHeld, true, t.now.Add(clockInterval)
	case !ev.Status.OK():
		c.step, c.askAt = clockIdle, t.now.Add(clockInterval)
	default:
		c.done(ev)
	}
}

// done goes on after an operation of the lock that has succeeded.
func (c *spaceClock) done(ev dlm.Event) {
	switch c.step {
	case clockReading:
		c.read(ev)
		c.step = clockIdle
		c.sync()
	case clockAsking:
		c.read(ev)
		c.step = clockHeld
		if c.blocked {
			c.yield()
		}
	case clockYielding:
		c.step = clockIdle
		c.later(c.sp.t.now)
	}
}

// read learns what the block says; one that is not valid is older than it
// could be, and never too new.
func (c *spaceClock) read(ev dlm.Event) {
	if h, ok := api.DecodeHolder(ev.Value); ok && ev.HasValue {
		c.sp.t.clock.see(h.Token)
	}
}

// ClockHandle is what CarryOutClock needs of a dlm.Lockspace.
type ClockHandle interface {
	Lock(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags)
	Convert(c dlm.Cookie, m dlm.Mode, f dlm.Flags, value *dlm.Value)
}

// CarryOutClock carries out a ClockAction.
func CarryOutClock(h ClockHandle, a ClockAction) {
	if a.First {
		h.Lock(clockCookie, clockName, dlm.NL, dlm.ValueBlock|dlm.NoQueue)
		return
	}
	h.Convert(clockCookie, a.Mode, dlm.ValueBlock, a.Value)
}
