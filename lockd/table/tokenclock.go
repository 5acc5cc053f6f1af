package table

import "time"

// The clock of the tokens. It is the time since the boot (CLOCK_BOOTTIME, which
// nobody can set and which goes on in suspend) behind an epoch: when the boot
// began, in microseconds since 1970. The epoch only grows: it is the largest of
//
//   - what the wall clock has said at any time, so that a clock that is set
//     back, for a moment or for good, takes no token back;
//   - what the state directory has noted in this boot, so that a restart after
//     such a step does not either;
//   - what the tokens of other nodes and of the records say, so that this node
//     is not behind one whose clock is ahead, from the first token on that it
//     has read of it.
//
// So a token is never below an earlier one of this node. docs/tokens.md says
// what remains.

// tokenClock is the clock of the tokens.
type tokenClock struct {
	turn  *turn
	up    time.Duration // since the boot
	epoch int64         // when the boot began by this clock, in microseconds since 1970
	noted int64         // the epoch that was last given to be noted
}

// read tells the time in microseconds.
func (c *tokenClock) read() uint64 { return uint64(max(c.epoch+c.up.Microseconds(), 0)) }

// SetTime tells the table what time it is: now by the wall clock, and how long
// after the boot. now must have been read before up, so that a pause between
// the two does not look like a step of the clock.
func (t *Table) SetTime(now time.Time, up time.Duration) {
	t.now, t.clock.up = now, up
	if t.clock.raise((now.UnixNano()-int64(up))/1000) >= epochGrain {
		for _, sp := range t.spaces.byName { // the clock was set ahead, which the other nodes don't know yet
			sp.clock.beginAgain()
		}
	}
}

// maxAhead is by how much a token may be ahead of the clock and still be believed:
// a century, which no clock is off by and which leaves the epoch room to grow.
const maxAhead = 100 * 365 * 24 * 3600 * 1_000_000 // microseconds

// see takes notice of a token that came from elsewhere. One that no clock can have
// given is damage, or malice, and would stay with all nodes of the lockspace.
func (c *tokenClock) see(token uint64) {
	if token <= c.read()+maxAhead {
		c.raise(int64(token) - c.up.Microseconds())
	}
}

// epochGrain is by how much the epoch has to grow, in microseconds, to be noted
// again: it differs by less than that from reading to reading.
const epochGrain = 1000

// raise moves the epoch on, if it is later than the one that is known, and has it noted. It
// returns by how much it has grown.
func (c *tokenClock) raise(epoch int64) int64 {
	grown := max(epoch-c.epoch, 0)
	c.epoch += grown
	if c.epoch-c.noted >= epochGrain {
		c.noted = c.epoch
		c.turn.do(EpochAction{c.epoch})
	}
	return grown
}
