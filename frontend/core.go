package frontend

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

const (
	// DefaultMaxCalls is how many unanswered calls a session may have. The
	// reference message bus allows 128 by itself; other buses count differently.
	DefaultMaxCalls = 256
	// DefaultMaxUserCalls is how many unanswered calls all sessions of a user may
	// have together. Root is exempt: the administrator must not be kept out.
	DefaultMaxUserCalls = 2048
)

// Config is what a Core needs. The zero value is usable.
type Config struct {
	Authorizer api.Authorizer // nil: only root may change anything
	Log        *slog.Logger   // nil: nothing is logged
	// MaxCalls bounds the unanswered calls of a session, where long ones count
	// more; 0 means DefaultMaxCalls.
	MaxCalls int
	// MaxUserCalls bounds those of all sessions of a user; 0 means
	// DefaultMaxUserCalls.
	MaxUserCalls int
	// Now is the clock by which the credit of users grows; nil means time.Now.
	Now func() time.Time
}

// Core is what all doors share: the users, whose limits hold across the doors,
// and the service. There is one in a daemon.
type Core struct {
	auth api.Authorizer
	log  *slog.Logger
	// How many unanswered calls a session may have, by weight, and maxUser all sessions of
	// a user together.
	maxCalls int32
	maxUser  int32
	service  api.Service // set by Start
	// The way to other nodes, set by SetPeers; nil: they are not asked.
	peers api.Peers
	// Counts the calls that are owed an answer, for the end of the service.
	gate gate
	// Gives out the turns: who has used much waits, whichever doors it came through.
	sched    *scheduler
	hub      *hub
	requests *Requests

	ctx    context.Context // of every session
	cancel context.CancelFunc

	mu sync.Mutex
	// Those that have sessions, and others who have overspent, so that nobody gets new
	// credit by connecting again.
	users map[uint32]*user
}

// New makes a Core that serves nothing yet.
func New(cfg Config) *Core {
	c := &Core{
		auth: cfg.Authorizer, log: cfg.Log, maxCalls: int32(cfg.MaxCalls), maxUser: int32(cfg.MaxUserCalls),
		users: make(map[uint32]*user), sched: newScheduler(cfg.Now),
	}
	c.gate.idle = make(chan struct{})
	c.hub, c.requests = newHub(c), newRequests(c)
	if c.auth == nil {
		c.auth = api.GroupAuthorizer{}
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.maxCalls <= 0 {
		c.maxCalls = DefaultMaxCalls
	}
	if c.maxUser <= 0 {
		c.maxUser = DefaultMaxUserCalls
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Start gives the Core the service, which is ready. It comes before the first
// session is opened.
func (c *Core) Start(service api.Service) {
	c.service = service
	service.Lockspaces(func(spaces []api.LockspaceInfo, _ error) { c.hub.begin(spaces) })
}

// SetPeers gives the Core the way to the services of other nodes. It comes before Start.
func (c *Core) SetPeers(p api.Peers) { c.peers = p }

// Peers is the way to the services of other nodes; nil if they are not asked.
func (c *Core) Peers() api.Peers { return c.peers }

// Service is the service, for what needs neither authorisation nor a turn, such
// as Status.
func (c *Core) Service() api.Service { return c.service }

// Calls is how many calls have come in so far.
func (c *Core) Calls() uint64 {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	return c.gate.total
}

// Pending is how many calls are owed an answer.
func (c *Core) Pending() int { return c.gate.count() }

// Usage is what a user takes at a moment, in all doors.
type Usage struct {
	Sessions   int
	Unanswered int   // calls, by weight
	Waiting    int   // calls that wait for their turn
	Room       int   // bytes of long answers on their way
	Credit     int64 // what may still be spent, in bytes of answers; negative if overspent
}

// Usage is what a user takes.
func (c *Core) Usage(uid uint32) Usage {
	c.mu.Lock()
	u := c.users[uid]
	if u == nil {
		c.mu.Unlock()
		return Usage{}
	}
	usage := Usage{Sessions: u.sessions, Unanswered: int(u.unanswered.Load())}
	c.mu.Unlock()
	c.sched.mu.Lock()
	defer c.sched.mu.Unlock()
	a := u.account
	a.credit.grow(c.sched.now())
	usage.Waiting, usage.Room, usage.Credit = len(a.queue), a.taken, a.credit.left
	return usage
}

// Needed says why somebody would miss the service if it ended now, or "" if
// nobody would. It waits for the service to answer, until ctx ends.
func (c *Core) Needed(ctx context.Context) string {
	if c.Pending() > 0 {
		return "calls are under way"
	}
	if n := c.Subscribers(); n > 0 {
		return fmt.Sprintf("%d connections are subscribed", n)
	}
	if n := c.requests.Count(); n > 0 {
		return fmt.Sprintf("%d requests wait or have just ended", n)
	}
	return c.NeededByService(ctx)
}

// NeededByService is Needed as far as the service knows.
func (c *Core) NeededByService(ctx context.Context) string {
	needed := make(chan string, 1)
	c.service.Idle(func(why string) { needed <- why })
	select {
	case why := <-needed:
		return why
	case <-ctx.Done():
		return "the service does not answer"
	}
}

// Shutdown shuts the gate, so that further calls fail with kind ShuttingDown,
// withdraws the requests that wait, and waits until all that came before are
// answered and all requesters were told, or ctx or gone ends. gone
// is closed when a door's callers can't be answered any more; nil if that is
// never known. The service must run until Shutdown returns. Several doors may
// call it.
func (c *Core) Shutdown(ctx context.Context, gone <-chan struct{}) error {
	c.gate.shut()
	c.sched.end()
	c.requests.shut()
	if err := await(ctx, gone, c.gate.idle, "calls stay unanswered"); err != nil {
		return err
	}
	// No request begins to wait any more.
	return await(ctx, gone, c.requests.drained(), "requests stay unanswered")
}

// await waits for the channel to be closed, unless gone or ctx is over first.
func await(ctx context.Context, gone, idle <-chan struct{}, otherwise string) error {
	select {
	case <-idle:
		return nil
	default: // it may be over at once, and then it does not matter what else is
	}
	select {
	case <-idle:
	case <-gone:
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", otherwise, ctx.Err())
	}
	return nil
}

// Close ends what Shutdown has left: every session's context ends. It comes
// after the doors have written their last answers.
func (c *Core) Close() {
	c.cancel()
	c.sched.close()
}

// gate counts the calls that are owed an answer.
type gate struct {
	mu sync.Mutex
	// How many calls are owed an answer.
	open  int
	total uint64 // that came in, ever
	// The service is ending: what comes in now is refused.
	down bool
	idle chan struct{} // closed when down and none is open
}

// enter counts a call. It reports false if the gate is shut; the call is to be
// told so, and is owed that answer.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total++
	g.open++
	return !g.down
}

// leave counts the answer to a call.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
	g.check()
}

// shut refuses the calls that come from now on; idle is closed with the last answer.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.down = true
	g.check()
}

// check closes idle when nothing is owed any more. g.mu is held.
func (g *gate) check() {
	if !g.down || g.open > 0 {
		return
	}
	select {
	case <-g.idle:
	default:
		close(g.idle)
	}
}

// count is how many calls are owed an answer.
func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}
