package dbus

import (
	"context"
	"sync"
	"time"
)

// Whose turn it is. The bus is one thread that everybody shares, and so is the
// owner goroutine: a user who is answered as fast as they ask slows down all
// others, however cheap an answer is. So each call waits for its turn before
// anything is done for it, and costs its user what it takes of the bus: the
// bytes of the answer, or more where they are many in one message, because the
// bus passes nothing else on meanwhile.
//
// A user has credit, which grows with time up to a bound. A user who asks now and
// then always has some, and never waits. One who has spent it waits until it has
// grown again. A call whose answer may be long also waits for room: so many bytes of
// answers may be on their way to the bus for one user, and so many in all.

// rate is what a user may take of the bus continuously, and how much may be saved
// up.
type rate struct {
	perSecond int64 // bytes
	burst     int64
	room      int   // bytes of long answers that may be on their way
	each      int64 // what a call costs beside the bytes of its answer
	lock      int64 // what each lock costs that it takes or releases
}

var (
	// userRate is that of every user but root.
	userRate = rate{perSecond: 6 << 20, burst: 3 << 20, room: 256 << 10, each: 2 << 10, lock: 1 << 10}
	// rootRate is root's. Its calls cost nothing beside the bytes and the locks,
	// since the lock drivers are root.
	rootRate = rate{perSecond: 32 << 20, burst: 32 << 20, room: 512 << 10, lock: 128}
)

// totalRoom is how many bytes of long answers may be on their way in all.
const totalRoom = 2 << 20

// longAnswer is what an answer may have without costing more than its bytes.
const longAnswer = 64 << 10

// costOf is what an answer of so many bytes costs: in one message of several
// times longAnswer each byte costs as many times as much.
func costOf(bytes int) int64 {
	n := int64(bytes)
	return max(n, n*n/longAnswer)
}

// credit is what a user may still spend; negative is what has been overspent.
type credit struct {
	rate rate
	left int64
	at   time.Time
}

// grow lets the time pass.
func (c *credit) grow(now time.Time) {
	if d := now.Sub(c.at); d > 0 {
		// Not more than the burst, also after years.
		d = min(d, time.Duration(float64(c.rate.burst-c.left)/float64(c.rate.perSecond)*float64(time.Second))+time.Millisecond)
		c.left = min(c.rate.burst, c.left+int64(float64(c.rate.perSecond)*d.Seconds()))
		c.at = now
	}
}

// wait is how long it takes until something is left.
func (c *credit) wait() time.Duration {
	if c.left > 0 {
		return 0
	}
	return time.Duration(float64(1-c.left)/float64(c.rate.perSecond)*float64(time.Second)) + time.Microsecond
}

// desk gives out the turns.
type desk struct {
	now   func() time.Time
	total int // totalRoom

	mu     sync.Mutex
	users  []*share // with somebody waiting; the first one's turn is next
	taken  int      // of total
	timer  *time.Timer
	ending bool // nobody waits any more
	closed bool
}

// share is the part of a user.
type share struct {
	credit credit
	taken  int     // bytes of long answers on their way
	line   []*turn // waiting
}

// turn is one call that waits.
type turn struct {
	room  int
	cost  int64
	ready chan struct{}
}

func newDesk() *desk { return &desk{now: time.Now, total: totalRoom} }

// newShare makes the share of a user.
func (d *desk) newShare(uid uint32) *share {
	r := userRate
	if uid == 0 {
		r = rootRate
	}
	return &share{credit: credit{rate: r, left: r.burst, at: d.now()}}
}

// enter waits for the turn of a call that costs so much, and whose answer may
// have so many bytes, 0 for a short one. The error is the context's. Where it is
// nil, leave has to follow.
func (d *desk) enter(ctx context.Context, s *share, room int, cost int64) error {
	d.mu.Lock()
	s.credit.grow(d.now())
	if len(s.line) == 0 && d.admit(s, room, cost) {
		d.mu.Unlock()
		return nil
	}
	t := &turn{room: room, cost: cost, ready: make(chan struct{})}
	s.line = append(s.line, t)
	if len(s.line) == 1 {
		d.users = append(d.users, s)
	}
	d.goOn()
	d.mu.Unlock()
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
		d.giveUp(s, t)
		return ctx.Err()
	}
}

// admit begins a turn if there are credit and room for it. A call whose answer
// is longer than all the room goes when there is nothing else.
func (d *desk) admit(s *share, room int, cost int64) bool {
	if !d.ending && (s.credit.left <= 0 || room > 0 && (s.taken > 0 && s.taken+room > s.credit.rate.room || d.taken > 0 && d.taken+room > d.total)) {
		return false
	}
	s.credit.left -= cost
	s.taken += room
	d.taken += room
	return true
}

// leave ends what enter began: the answer of so many bytes is written.
func (d *desk) leave(s *share, room, bytes int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.credit.grow(d.now())
	s.credit.left -= costOf(bytes)
	s.taken -= room
	d.taken -= room
	if len(d.users) > 0 {
		d.goOn()
	}
}

// rested reports whether the user has all the credit that can be saved up.
func (d *desk) rested(s *share) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.credit.grow(d.now())
	return s.credit.left >= s.credit.rate.burst
}

// charge takes credit for what has turned out to be more work.
func (d *desk) charge(s *share, cost int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.credit.grow(d.now())
	s.credit.left -= cost
}

// giveUp ends the waiting of a caller who is gone.
func (d *desk) giveUp(s *share, t *turn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, other := range s.line {
		if other == t {
			s.line = append(s.line[:i], s.line[i+1:]...)
			if len(s.line) == 0 {
				d.forget(s)
			}
			d.goOn()
			return
		}
	}
	// It was its turn already.
	s.taken -= t.room
	d.taken -= t.room
	d.goOn()
}

func (d *desk) forget(s *share) {
	for i, other := range d.users {
		if other == s {
			d.users = append(d.users[:i], d.users[i+1:]...)
			return
		}
	}
}

// goOn begins the turns that can begin, those of different users in turns, and
// sees to it that it is called again when credit has grown.
func (d *desk) goOn() {
	now := d.now()
	for i := 0; i < len(d.users); {
		s := d.users[i]
		s.credit.grow(now)
		if t := s.line[0]; !d.admit(s, t.room, t.cost) {
			i++
			continue
		} else {
			s.line[0] = nil
			s.line = s.line[1:]
			close(t.ready)
		}
		d.users = append(d.users[:i], d.users[i+1:]...)
		if len(s.line) > 0 {
			d.users = append(d.users, s)
		}
	}
	d.wakeLater()
}

// wakeLater sets the timer for the first user who waits for credit alone.
func (d *desk) wakeLater() {
	var soonest time.Duration
	for _, s := range d.users {
		if w := s.credit.wait(); w > 0 && (soonest == 0 || w < soonest) {
			soonest = w
		}
	}
	switch {
	case soonest == 0 || d.closed:
	case d.timer == nil:
		d.timer = time.AfterFunc(soonest, d.wake)
	default:
		d.timer.Reset(soonest)
	}
}

func (d *desk) wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.goOn()
}

// end begins every turn. No calls come any more, and those that are there must not
// hold up the end of the service.
func (d *desk) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ending = true
	d.goOn()
}

// close stops the timer; whoever waits does so until their context ends.
func (d *desk) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.timer != nil {
		d.timer.Stop()
	}
}
