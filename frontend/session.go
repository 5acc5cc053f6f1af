package frontend

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Session is one connection of a caller, with the queue of its calls. It lives
// from Door.Open to Close.
type Session struct {
	door *Door
	core *Core
	// With the name space of the door, so that no two doors have sessions of one name.
	name api.Session
	seen time.Duration // since boot: when it was opened
	// Ends when the session is closed, and when the Core is.
	ctx    context.Context
	cancel context.CancelFunc
	// Finds out who is behind the session. It may block, so it is called with the first
	// call that is served, and not in Open.
	identify func(context.Context) (Credentials, error)
	creds    atomic.Pointer[Credentials] // set once

	mu         sync.Mutex
	unanswered int32 // calls, by weight
	user       *user // set once; nil until the caller is known
	// Calls that have not been begun, in their order.
	queue    []*Call
	working  bool  // work runs
	inFlight *Call // with Door.serial: the call that was begun and is not answered
	closed   bool  // Close was called; the context also ends with the Core
	reported bool  // the service knows that the session is gone
}

// Name is the session's name, with the door's name space: api.Caller.Session.
func (s *Session) Name() api.Session { return s.name }

// Context ends when the session is closed.
func (s *Session) Context() context.Context { return s.ctx }

// Credentials say who is behind the session. They are false until the first
// call is served.
func (s *Session) Credentials() (Credentials, bool) {
	if who := s.creds.Load(); who != nil {
		return *who, true
	}
	return Credentials{}, false
}

// UID is the user of the session. It is false until the first call is served.
func (s *Session) UID() (uint32, bool) {
	if who := s.creds.Load(); who != nil {
		return who.UID, true
	}
	return 0, false
}

// Close says that the connection is no more. Calls that have not begun are
// dropped; the service learns of the end after those that have.
func (s *Session) Close() {
	s.cancel()
	s.mu.Lock()
	s.closed = true
	s.begin()
	s.core.requests.gone(s)
	s.core.hub.gone(s)
}

// Submit queues a call, which h serves at its turn, or answers with a refusal.
// The method says what the call costs and whether it is valid; it is nil for
// calls that the door serves by itself. A call that is not valid waits for its
// turn like all others.
func (s *Session) Submit(c *Call, h Handler, m Method) {
	if c.core == nil && !s.core.Begin(c, h) {
		return
	}
	defer c.Contain()
	c.session = s
	if m != nil {
		if c.refusal = m.Validate(); c.refusal == nil {
			c.cost = m.Cost()
		}
	}
	s.push(c)
}

// Refuse is Submit for a call that the door could not read: h gets err at the
// call's turn.
func (s *Session) Refuse(c *Call, h Handler, err error) {
	if c.core == nil && !s.core.Begin(c, h) {
		return
	}
	c.session, c.refusal = s, err
	s.push(c)
}

// weightBytes is how many bytes of a message count as one more call.
const weightBytes = 8 << 10

// push puts a call at the end of the queue, if there is room.
func (s *Session) push(c *Call) {
	weight := max(1+int32(c.Size/weightBytes), 1+c.cost.Weight)
	s.mu.Lock()
	if err := s.full(); err != nil {
		s.turnAway(c, err)
		return
	}
	c.weight = weight
	s.unanswered += weight
	if c.unchecked = s.user == nil; !c.unchecked {
		s.user.unanswered.Add(weight)
	}
	s.queue = append(s.queue, c)
	if !s.goesDirect(c) {
		s.begin()
		return
	}
	s.working = true
	s.mu.Unlock()
	s.work()
}

// goesDirect reports whether the call can be served by the goroutine that has submitted
// it. s.mu is held.
func (s *Session) goesDirect(c *Call) bool {
	return s.door.direct && !s.working && !s.closed && s.inFlight == nil && len(s.queue) == 1 &&
		s.user != nil && s.user.uid == 0 && c.cost.Room == 0 && s.core.sched.ready(s.user.account)
}

// full is the error for a call that does not fit any more. s.mu is held.
func (s *Session) full() error {
	if s.unanswered >= s.core.maxCalls {
		return tooMany("this connection has %d unanswered calls; wait for some", s.unanswered)
	}
	return s.user.full(s.core.maxUser)
}

// turnAway refuses a call that does not fit, and unlocks s.mu: at once, but for
// a long one. That has cost everybody something already, and is not to come
// again at once.
func (s *Session) turnAway(c *Call, err error) {
	if c.Size <= freeBytes || len(s.queue) >= int(s.core.maxCalls) {
		s.mu.Unlock()
		c.handler.Fail(err)
		return
	}
	c.refusal = err
	s.queue = append(s.queue, c)
	s.begin()
}

// begin has the queue worked off, and unlocks s.mu.
func (s *Session) begin() {
	start := !s.working
	s.working = true
	s.mu.Unlock()
	if start {
		go s.work()
	}
}

// work serves the queue in its order and ends when it is empty, or when the
// next call has to wait for the answer to the one before.
func (s *Session) work() {
	for {
		s.mu.Lock()
		queue := s.next()
		if len(queue) == 0 && (!s.closed || s.reported) {
			s.working = false
			s.mu.Unlock()
			return
		}
		if len(queue) == 0 {
			s.reported = true
		}
		s.mu.Unlock()
		if len(queue) == 0 {
			s.core.service.SessionGone(s.name)
			s.leave()
		}
		for _, c := range queue {
			s.serve(c)
		}
	}
}

// next takes the calls that may begin now. s.mu is held.
func (s *Session) next() []*Call {
	queue := s.queue
	if !s.door.serial || s.closed || len(queue) == 0 {
		s.queue = nil
		return queue
	}
	if s.inFlight != nil {
		return nil
	}
	s.inFlight = queue[0]
	s.queue = queue[1:]
	return queue[:1]
}

// answered lets the next call of a serial session begin.
func (s *Session) answered(c *Call) {
	if !s.door.serial {
		return
	}
	s.mu.Lock()
	if s.inFlight != c {
		s.mu.Unlock()
		return
	}
	s.inFlight = nil
	if len(s.queue) == 0 {
		s.mu.Unlock()
		return
	}
	s.begin()
}

// serve takes one call through its stages: who calls, whether that user has room for it, its
// turn, and then the door's handler. Whatever comes in between answers it or drops it, once.
func (s *Session) serve(c *Call) {
	defer c.Contain()
	if s.ctx.Err() != nil {
		c.Drop()
		return
	}
	if err := s.known(); err != nil {
		c.handler.Fail(err)
		return
	}
	if c.unchecked {
		if err := s.user.full(s.core.maxUser + c.weight); err != nil {
			s.count(-c.weight) // at once, for those behind it
			c.weight = 0
			c.handler.Fail(err)
			return
		}
	}
	if s.core.sched.enter(s.ctx, s.user.account, c.cost.Room, c.toll()) != nil {
		c.Drop()
		return
	}
	if !c.turn.CompareAndSwap(turnAwaited, turnTaken) { // it has been answered meanwhile
		s.core.sched.leave(s.user.account, c.cost.Room, 0)
		return
	}
	if c.refusal != nil {
		c.handler.Fail(c.refusal)
		return
	}
	c.handler.Serve()
}

// known makes sure that it is known who calls.
func (s *Session) known() error {
	if s.creds.Load() != nil {
		return nil
	}
	who, err := s.identify(s.ctx)
	if err != nil {
		if s.ctx.Err() == nil {
			s.core.log.Warn("caller unknown", slog.String("session", string(s.name)), slog.Any("err", err))
		}
		return &api.Error{Kind: api.AccessDenied, Text: "it is not known who calls: " + err.Error(), Err: err}
	}
	s.belong(&who)
	return nil
}

// count adds to what is unanswered.
func (s *Session) count(n int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unanswered += n
	if s.user != nil {
		s.user.unanswered.Add(n)
	}
}

// belong notes whose session it is: from now on its calls count as the user's,
// too.
func (s *Session) belong(who *Credentials) {
	u := s.core.user(who.UID)
	s.mu.Lock()
	s.user = u
	u.unanswered.Add(s.unanswered)
	s.mu.Unlock()
	s.creds.Store(who)
}

// leave undoes belong when the session has ended for good.
func (s *Session) leave() {
	s.core.mu.Lock()
	defer s.core.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.user != nil {
		s.user.sessions--
	}
}

// tooMany is the error for a call beyond a bound.
func tooMany(format string, args ...any) error {
	return &api.Error{Kind: api.TooManyCalls, Text: fmt.Sprintf(format, args...)}
}

// user is all sessions of one user id.
type user struct {
	// Root is a user like any other, but for its limits.
	uid uint32
	// Calls of all sessions, by weight.
	unanswered atomic.Int32
	sessions   int // guarded by Core.mu
	// What the scheduler charges. It is the same for all doors.
	account *account
}

// full is the error for a call that does not fit any more. A caller that is not
// known yet, and root, always fit.
func (u *user) full(limit int32) error {
	if u == nil || u.uid == 0 {
		return nil
	}
	if n := u.unanswered.Load(); n >= limit {
		return tooMany("user %d has %d unanswered calls; wait for some", u.uid, n)
	}
	return nil
}

// user finds or makes a user, for one more session.
func (c *Core) user(uid uint32) *user {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.users[uid]
	if u == nil {
		c.forgetUsers()
		u = &user{uid: uid, account: c.sched.open(uid)}
		c.users[uid] = u
	}
	u.sessions++
	return u
}

// maxIdleUsers is how many users without a session are kept. They are, so that
// nobody has new credit for connecting anew.
const maxIdleUsers = 64

// forgetUsers forgets users who have no session and all the credit that can be
// saved up, where there are many users. c.mu is held.
func (c *Core) forgetUsers() {
	if len(c.users) < maxIdleUsers {
		return
	}
	for uid, u := range c.users {
		if u.sessions == 0 && c.sched.rested(u.account) {
			delete(c.users, uid)
		}
	}
}
