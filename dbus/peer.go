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
	pid  uint32 // 0 unknown
	gids []uint32
}

// peer is one connection that has called us, with the line of its calls. It
// lives until the connection is gone.
type peer struct {
	srv        *Server
	name       string // unique bus name
	ctx        context.Context
	cancel     context.CancelFunc
	unanswered atomic.Int32
	who        atomic.Pointer[identity] // set once, by work

	mu      sync.Mutex
	queue   []*call // not yet begun
	working bool    // work runs
	told    bool    // the service knows that the connection is gone
}

// push puts a call at the end of the line.
func (p *peer) push(c *call) {
	p.mu.Lock()
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
			p.srv.api.SenderGone(p.name)
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
		p.who.Store(who)
	}
	c.who = who
	c.req.serve(c)
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
	who.pid, _ = creds["ProcessID"].Value().(uint32)
	who.gids, _ = creds["UnixGroupIDs"].Value().([]uint32)
	return who, nil
}
