package dbus

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// identity is what the bus vouches for (D-Bus specification,
// org.freedesktop.DBus.GetConnectionCredentials).
type identity struct {
	uid  uint32
	pid  uint32 // in our pid namespace; 0 unknown
	gids []uint32
}

// peer is one connection that has called us, with the line of its calls. It
// lives until the connection is gone.
type peer struct {
	srv    *Server
	name   string        // unique bus name
	seen   time.Duration // since boot: when its first call came
	ctx    context.Context
	cancel context.CancelFunc
	who    atomic.Pointer[identity] // set once, by work

	mu         sync.Mutex
	unanswered int32   // calls, by weight
	user       *user   // set once; nil until the caller is known
	queue      []*call // not yet begun
	working    bool    // work runs
	told       bool    // the service knows that the connection is gone
}

// user is all connections of one user id, as long as one of them is there.
type user struct {
	uid        uint32
	unanswered atomic.Int32
	peers      int // guarded by Server.mu
	share      *share
}

// full is the error for a call that does not fit any more.
func (p *peer) full() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unanswered >= p.srv.maxCalls {
		return busError{errLimits, fmt.Sprintf("this connection has %d unanswered calls; wait for some", p.unanswered)}
	}
	return p.user.full(p.srv.maxUser)
}

// full: a caller that is not known yet, and root, always fits.
func (u *user) full(limit int32) error {
	if u == nil || u.uid == 0 {
		return nil
	}
	if n := u.unanswered.Load(); n >= limit {
		return busError{errLimits, fmt.Sprintf("user %d has %d unanswered calls; wait for some", u.uid, n)}
	}
	return nil
}

// turnAway refuses a call that does not fit: at once, but for a long one. That has
// cost everybody something already, and is not to come again at once.
func (p *peer) turnAway(c *call, err error) {
	p.mu.Lock()
	if c.size <= freeBytes || len(p.queue) >= int(p.srv.maxCalls) {
		p.mu.Unlock()
		c.fail(err)
		return
	}
	c.peer, c.req = p, refusal{err}
	p.queue = append(p.queue, c)
	p.begin()
}

// count adds to what is unanswered.
func (p *peer) count(n int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unanswered += n
	if p.user != nil {
		p.user.unanswered.Add(n)
	}
}

// belong notes whose connection it is: from now on its calls count as the
// user's, too.
func (p *peer) belong(who *identity) {
	p.srv.mu.Lock()
	u := p.srv.users[who.uid]
	if u == nil {
		p.srv.forgetUsers()
		u = &user{uid: who.uid, share: p.srv.desk.newShare(who.uid)}
		p.srv.users[who.uid] = u
	}
	u.peers++
	p.srv.mu.Unlock()
	p.mu.Lock()
	p.user = u
	u.unanswered.Add(p.unanswered)
	p.mu.Unlock()
	p.who.Store(who)
}

// leave undoes belong when the line has ended for good.
func (p *peer) leave() {
	p.srv.mu.Lock()
	defer p.srv.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.user == nil {
		return
	}
	p.user.peers--
}

// maxIdleUsers is how many users without a connection are kept. They are, so
// that nobody has new credit for connecting anew.
const maxIdleUsers = 64

// forgetUsers forgets the users who have no connection, where there are many of
// those. Server.mu is held.
func (s *Server) forgetUsers() {
	if len(s.users) < maxIdleUsers {
		return
	}
	for uid, u := range s.users {
		if u.peers == 0 && s.desk.rested(u.share) {
			delete(s.users, uid)
		}
	}
}

// push puts a call at the end of the line.
func (p *peer) push(c *call) {
	p.mu.Lock()
	p.unanswered += c.weight
	if c.unchecked = p.user == nil; !c.unchecked {
		p.user.unanswered.Add(c.weight)
	}
	p.queue = append(p.queue, c)
	p.begin()
}

// gone says that the connection is no more. Calls that have not begun are
// dropped; the service hears of it after those that have.
func (p *peer) gone() {
	p.cancel()
	p.mu.Lock()
	p.begin()
}

// begin has the line worked off, and unlocks.
func (p *peer) begin() {
	start := !p.working
	p.working = true
	p.mu.Unlock()
	if start {
		go p.work()
	}
}

// work serves the line in its order and ends when it is empty.
func (p *peer) work() {
	for {
		p.mu.Lock()
		queue := p.queue
		p.queue = nil
		gone := p.ctx.Err() != nil
		if len(queue) == 0 && (!gone || p.told) {
			p.working = false
			p.mu.Unlock()
			return
		}
		if len(queue) == 0 {
			p.told = true
		}
		p.mu.Unlock()
		if len(queue) == 0 {
			p.srv.api.SessionGone(p.srv.bus.session(p.name))
			p.leave()
		}
		for _, c := range queue {
			p.serve(c)
		}
	}
}

func (p *peer) serve(c *call) {
	defer c.contain()
	if p.ctx.Err() != nil {
		c.drop()
		return
	}
	who := p.who.Load()
	if who == nil {
		var err error
		if who, err = p.srv.identify(p.ctx, p.name); err != nil {
			if p.ctx.Err() == nil {
				p.srv.log.Warn("caller unknown", slog.String("sender", p.name), slog.Any("err", err))
			}
			c.fail(busError{errAccessDenied, "the bus does not tell who calls: " + err.Error()})
			return
		}
		p.belong(who)
	}
	if c.unchecked {
		if err := p.user.full(p.srv.maxUser + c.weight); err != nil {
			p.count(-c.weight) // at once, for those behind it
			c.weight = 0
			c.fail(err)
			return
		}
	}
	c.who = who
	cost := c.toll()
	if p.srv.desk.enter(p.ctx, p.user.share, c.room, cost) != nil {
		c.drop()
		return
	}
	c.entered = true
	c.req.serve(c)
}

// freeBytes is how long a message may be without costing anything for it.
const freeBytes = 4 << 10

// toll is what has to be paid for a call before it is served. It also finds out
// how much room the answer takes.
func (c *call) toll() int64 {
	if l, ok := c.req.(long); ok {
		c.room = l.room()
	}
	r := c.peer.user.share.credit.rate
	cost := r.each
	if c.size > freeBytes {
		cost += costOf(c.size)
	}
	if w, ok := c.req.(costly); ok {
		cost += int64(w.work()) * r.lock
	}
	return cost
}

// identifyTimeout bounds the question to the bus, which answers at once.
const identifyTimeout = 10 * time.Second

// identify asks the bus who is behind a unique name.
func (s *Server) identify(ctx context.Context, name string) (*identity, error) {
	ctx, cancel := context.WithTimeout(ctx, identifyTimeout)
	defer cancel()
	var creds map[string]godbus.Variant
	err := s.bus.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionCredentials", 0, name).Store(&creds)
	if err != nil {
		return nil, err
	}
	who := new(identity)
	uid, ok := creds["UnixUserID"].Value().(uint32)
	if !ok {
		return nil, fmt.Errorf("no user id of %s", name)
	}
	who.uid = uid
	if s.bus.alien == "" {
		who.pid, _ = creds["ProcessID"].Value().(uint32)
	}
	who.gids, _ = creds["UnixGroupIDs"].Value().([]uint32)
	return who, nil
}
