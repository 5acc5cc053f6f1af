package frontend

import (
	"context"
	"sync"
	"time"
)

// The scheduler decides whose turn it is, with a token bucket for each user and
// round robin among the users. A message bus is one thread that all callers
// share, and so is the table of the service: a user who is answered as fast as
// they ask slows down all others, however cheap an answer is. So each call waits
// for its turn before anything is done for it, and costs its user what it takes:
// the bytes of the answer, or what the door says that they cost (DoorConfig.Cost).
//
// A user has an account with credit, which grows with time up to a bound. A user
// who asks now and then always has some, and never waits. One who has spent it
// waits until it has grown again. A call whose answer may be long also waits for
// room: the bytes of answers that are on their way are bounded, for one user and
// in all.

// rate is what a user may take continuously, and how much may be saved up.
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

// LongAnswer is how long an answer may be, in bytes, without holding up others on a message
// bus.
const LongAnswer = 64 << 10

// freeBytes is how long a message may be without costing anything for it.
const freeBytes = 4 << 10

// credit is what a user may still spend; negative is what has been overspent.
type credit struct {
	// How fast it grows, and up to what.
	rate rate
	// What may be spent; it was true at the time at.
	left int64
	at   time.Time
}

// grow lets the time pass.
func (c *credit) grow(now time.Time) {
	if d := now.Sub(c.at); d > 0 {
		// Not more than the burst, also after years.
		most := float64(c.rate.burst-c.left) / float64(c.rate.perSecond) * float64(time.Second)
		d = min(d, time.Duration(most)+time.Millisecond)
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

// scheduler gives out the turns.
type scheduler struct {
	now   func() time.Time
	total int // totalRoom

	mu sync.Mutex
	// Accounts with calls that wait. The next turn is that of the first one who has credit
	// and room, and who goes to the end with it.
	users []*account
	// How much of total is taken by answers on their way, of all users together.
	taken int
	// Runs goOn when the first of those who have overspent has credit again; nil until
	// somebody has to wait for that.
	timer  *time.Timer
	ending bool // no call waits any more
	closed bool
}

// account is what a user has and uses.
type account struct {
	credit credit
	taken  int     // bytes of long answers on their way
	queue  []*turn // waiting
}

// turn is one call that waits.
type turn struct {
	// Bytes of the answer, as far as that can be foretold; they are taken until it is
	// written.
	room int
	// What is taken off the user's credit with the turn. A turn is given when the credit
	// is above zero, so one that costs more than is left is given as well, and the next
	// one waits longer.
	cost int64
	// Closed when it is the call's turn.
	ready chan struct{}
}

// newScheduler makes a scheduler with a clock; nil means time.Now.
func newScheduler(now func() time.Time) *scheduler {
	if now == nil {
		now = time.Now
	}
	return &scheduler{now: now, total: totalRoom}
}

// open makes the account of a user.
func (s *scheduler) open(uid uint32) *account {
	r := userRate
	if uid == 0 {
		r = rootRate
	}
	return &account{credit: credit{rate: r, left: r.burst, at: s.now()}}
}

// enter waits for the turn of a call that costs so much, and whose answer may
// have so many bytes, 0 for a short one. The error is the context's. Where it is
// nil, leave has to follow.
func (s *scheduler) enter(ctx context.Context, a *account, room int, cost int64) error {
	s.mu.Lock()
	a.credit.grow(s.now())
	if len(a.queue) == 0 && s.admit(a, room, cost) {
		s.mu.Unlock()
		return nil
	}
	t := &turn{room: room, cost: cost, ready: make(chan struct{})}
	a.queue = append(a.queue, t)
	if len(a.queue) == 1 {
		s.users = append(s.users, a)
	}
	s.goOn()
	s.mu.Unlock()
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
		s.giveUp(a, t)
		return ctx.Err()
	}
}

// ready reports whether a call with a short answer could begin at once.
func (s *scheduler) ready(a *account) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.credit.grow(s.now())
	return len(a.queue) == 0 && (s.ending || a.credit.left > 0)
}

// admit begins a turn if there are credit and room for it. A call whose answer
// is longer than all the room goes when there is nothing else.
func (s *scheduler) admit(a *account, room int, cost int64) bool {
	full := room > 0 && (a.taken > 0 && a.taken+room > a.credit.rate.room || s.taken > 0 && s.taken+room > s.total)
	if !s.ending && (a.credit.left <= 0 || full) {
		return false
	}
	a.credit.left -= cost
	a.taken += room
	s.taken += room
	return true
}

// leave ends what enter began: the answer has been written, and cost so much.
func (s *scheduler) leave(a *account, room int, cost int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.credit.grow(s.now())
	a.credit.left -= cost
	a.taken -= room
	s.taken -= room
	if len(s.users) > 0 {
		s.goOn()
	}
}

// rested reports whether the user has all the credit that can be saved up.
func (s *scheduler) rested(a *account) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.credit.grow(s.now())
	return a.credit.left >= a.credit.rate.burst
}

// charge takes credit for what has turned out to be more work.
func (s *scheduler) charge(a *account, cost int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.credit.grow(s.now())
	a.credit.left -= cost
}

// giveUp ends the waiting of a caller who is gone.
func (s *scheduler) giveUp(a *account, t *turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, other := range a.queue {
		if other == t {
			a.queue = append(a.queue[:i], a.queue[i+1:]...)
			if len(a.queue) == 0 {
				s.forget(a)
			}
			s.goOn()
			return
		}
	}
	// It was its turn already.
	a.taken -= t.room
	s.taken -= t.room
	s.goOn()
}

func (s *scheduler) forget(a *account) {
	for i, other := range s.users {
		if other == a {
			s.users = append(s.users[:i], s.users[i+1:]...)
			return
		}
	}
}

// goOn begins the turns that can begin, those of different users in turns, and
// sees to it that it is called again when credit has grown.
func (s *scheduler) goOn() {
	now := s.now()
	for i := 0; i < len(s.users); {
		a := s.users[i]
		a.credit.grow(now)
		if t := a.queue[0]; !s.admit(a, t.room, t.cost) {
			i++
			continue
		} else {
			a.queue[0] = nil
			a.queue = a.queue[1:]
			close(t.ready)
		}
		s.users = append(s.users[:i], s.users[i+1:]...)
		if len(a.queue) > 0 {
			s.users = append(s.users, a)
		}
	}
	s.wakeLater()
}

// wakeLater sets the timer for the first user who waits for credit alone.
func (s *scheduler) wakeLater() {
	var soonest time.Duration
	for _, a := range s.users {
		if w := a.credit.wait(); w > 0 && (soonest == 0 || w < soonest) {
			soonest = w
		}
	}
	switch {
	case soonest == 0 || s.closed:
	case s.timer == nil:
		s.timer = time.AfterFunc(soonest, s.wake)
	default:
		s.timer.Reset(soonest)
	}
}

func (s *scheduler) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.goOn()
}

// end begins every turn. No calls come any more, and those that are there must
// not hold up the end of the service.
func (s *scheduler) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = true
	s.goOn()
}

// close stops the timer; whoever waits does so until their context ends.
func (s *scheduler) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
}
