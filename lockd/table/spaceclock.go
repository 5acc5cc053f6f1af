package table

import (
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// The clock of a lockspace. If the value block of a resource is forgotten between two
// grants, the tokens of two nodes differ by as much as their wall clocks. Therefore the
// nodes of a lockspace pass the token clock around, in the value block of a resource that
// exists only for this: each node asks for it in PW every few seconds. The node that has
// the lock in PW gets a blocking notification, writes its token clock into the value block
// while it converts to NL, and the next node reads it with its grant. From then on the
// reader's token clock is behind the writer's by no more than the time that these messages
// took, whatever its wall clock says (tokenClock.see).
//
//	state     in flight            next
//	off       nothing              Lock NL, which reads the last value without waiting
//	reading   Lock NL              idle
//	idle      nothing              after clockInterval: Convert to PW, queued
//	asking    Convert to PW        held, with the value of the node before
//	held      nothing              on a blocking notification: Convert to NL, which writes
//	yielding  Convert to NL        idle
//
// The lock is not persistent: it ends with the process, and the next start reads the value
// again. A node that hangs with the lock in PW delays no grants; the token clocks of the
// others go on as they are. A lockspace that only this node is in has no such lock, and
// neither has a lockspace for raw values.

// clockInterval is how often a node asks for the clock of a lockspace. Until two nodes
// have asked, one to write and one to read, their clocks drift apart as their crystals
// do: by 0.2 ms at 20 ppm. After a node has joined, the others ask at once, and
// clockRounds times with each look at the lockspace, because a node that has written has
// not yet read what the other one has. So does a node whose clock was set ahead; the
// others follow when they ask.
const (
	clockInterval = 5 * time.Second
	clockRounds   = 3
)

// clockName is the resource, and clockCookie the cookie of its lock in each lockspace. It
// is larger than every Ref can become.
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

// spaceClock is the lock of a lockspace's clock.
type spaceClock struct {
	sp      *lockspace
	step    clockStep
	blocked bool      // another node waits for it
	askAt   time.Time // it is not asked for before
	rounds  int       // how often it was asked for since the members have changed
}

// later sets the time of the next round: at once for the first ones, then every
// clockInterval.
func (c *spaceClock) later(now time.Time) {
	if c.rounds++; c.rounds > clockRounds {
		c.askAt = now.Add(clockInterval)
	}
}

// reset forgets the lock, which has ended with its handle.
func (c *spaceClock) reset() { *c = spaceClock{sp: c.sp} }

// beginAgain begins with the first round again: nodes have joined or left, or the clock of this
// node was set ahead, and the others learn that only from what it writes.
func (c *spaceClock) beginAgain() { c.rounds, c.askAt = 0, time.Time{} }

// sync begins the operation of the lock that is due, if there is one.
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

// yield writes the token clock into the value block and gives the lock to the next node.
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

// read takes notice of the token in the value block. That of a block which is marked as
// not valid may be old, but is never ahead of the cluster.
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
