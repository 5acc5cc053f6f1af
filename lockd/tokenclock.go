package lockd

import (
	"log/slog"
	"sync/atomic"
	"time"
)

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

// pass tells the table what time it is: now by the wall clock, and how long
// after the boot. now must have been read before up, so that a pause between
// the two does not look like a step of the clock.
func (t *table) pass(now time.Time, up time.Duration) {
	t.now, t.up = now, up
	t.raiseEpoch((now.UnixNano() - int64(up)) / 1000)
}

// clock is the clock of the tokens, in microseconds.
func (t *table) clock() uint64 { return uint64(max(t.epoch+t.up.Microseconds(), 0)) }

// maxAhead is by how much a token may be ahead of the clock and still be believed:
// a century, which no clock is off by and which leaves the epoch room to grow.
const maxAhead = 100 * 365 * 24 * 3600 * 1_000_000 // microseconds

// see takes notice of a token that came from elsewhere. One that no clock can have
// given is damage, or malice, and would stay with all nodes of the lockspace.
func (t *table) see(token uint64) {
	if token <= t.clock()+maxAhead {
		t.raiseEpoch(int64(token) - t.up.Microseconds())
	}
}

// epochGrain is by how much the epoch has to grow, in microseconds, to be noted
// again: it differs by less than that from reading to reading.
const epochGrain = 1000

func (t *table) raiseEpoch(epoch int64) {
	if epoch <= t.epoch {
		return
	}
	t.epoch = epoch
	if t.epoch-t.noted >= epochGrain {
		t.noted = t.epoch
		t.do(epochAction{t.epoch})
	}
}

// epochAction has the epoch noted in the state directory, soon. A process that
// ends before that loses the step of the clock, or the token from elsewhere, of
// which nothing else is left either; the next start has the rest.
type epochAction struct{ epoch int64 }

func (epochAction) action() {}

// epochNotes writes the newest epoch down, on a goroutine of its own, because
// a file system may stand still.
type epochNotes struct {
	save   func(int64) error
	log    *slog.Logger
	newest atomic.Int64
	wake   chan struct{} // holds one token while newest may be unwritten
}

// epochRetry is how often an epoch that can't be written is tried again.
const epochRetry = 10 * time.Second

func newEpochNotes(save func(int64) error, log *slog.Logger) *epochNotes {
	return &epochNotes{save: save, log: log, wake: make(chan struct{}, 1)}
}

func (n *epochNotes) note(epoch int64) {
	n.newest.Store(epoch)
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// run writes until done is closed, and then what is left, once.
func (n *epochNotes) run(done <-chan struct{}) {
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	var written int64
	failing := false
	write := func() {
		epoch := n.newest.Load()
		if epoch == written || n.save == nil {
			return
		}
		err := n.save(epoch)
		switch {
		case err == nil:
			written, failing = epoch, false
			return
		case !failing:
			n.log.Warn("the token clock can't be saved in the state directory, so after a restart fencing tokens rely on the wall clock; "+
				"the service tries again", "err", err)
			failing = true
		}
		retry.Reset(epochRetry)
	}
	for {
		select {
		case <-done:
			write()
			return
		case <-n.wake:
		case <-retry.C:
		}
		write()
	}
}
