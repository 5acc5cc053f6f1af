package dbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

const (
	// DefaultMaxCalls is how many unanswered calls a connection may have. The
	// reference bus allows 128 by itself; other buses count differently.
	DefaultMaxCalls = 256
	// DefaultMaxUserCalls is how many all connections of a user may have
	// together, root aside: the administrator must not be kept out.
	DefaultMaxUserCalls = 2048
)

// Config is what a Server needs. Bus and LogControl are required.
type Config struct {
	Bus        *Bus
	Authorizer api.Authorizer // nil: only root may change anything
	Log        *slog.Logger   // nil: nothing is logged
	LogControl LogControl     // the log of this process
	Version    string         // the Version property
	Commit     string         // the Commit property
	BuildDate  string         // the BuildDate property
	StateFile  string         // the StateFile property: a path
	MaxCalls   int            // unanswered calls of a connection, long lists counting more; 0: DefaultMaxCalls
	MaxUser    int            // of all connections of a user together; 0: DefaultMaxUserCalls
}

// Server serves lockd.API on a bus.
type Server struct {
	bus      *Bus
	auth     api.Authorizer
	log      *slog.Logger
	cfg      Config
	api      api.Service
	tree     *tree
	out      *outbox
	props    *propertyWatch
	requests *requestBook
	subs     *subscribers
	gate     gate
	desk     *desk
	maxCalls int32
	maxUser  int32

	ctx    context.Context // of every call
	cancel context.CancelFunc

	mu    sync.Mutex
	peers map[string]*peer
	users map[uint32]*user
}

// New makes a Server that serves nothing yet. Its goroutine ends with Shutdown,
// or with the connection.
func New(cfg Config) *Server {
	s := &Server{
		bus: cfg.Bus, auth: cfg.Authorizer, log: cfg.Log, cfg: cfg,
		maxCalls: int32(cfg.MaxCalls), maxUser: int32(cfg.MaxUser),
		peers: make(map[string]*peer), users: make(map[uint32]*user),
		tree: newTree(), desk: newDesk(),
	}
	s.gate.idle = make(chan struct{})
	s.props = newPropertyWatch(s)
	s.requests = newRequestBook(s)
	s.subs = newSubscribers(s)
	if s.auth == nil {
		s.auth = api.GroupAuthorizer{}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Bus.alien != "" {
		s.log.Warn("the pids of callers can't be used, so locks with lifetime process are refused", slog.String("err", cfg.Bus.alien))
	}
	s.out = newOutbox(cfg.Bus, s.log)
	if s.maxCalls <= 0 {
		s.maxCalls = DefaultMaxCalls
	}
	if s.maxUser <= 0 {
		s.maxUser = DefaultMaxUserCalls
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	go s.out.run()
	return s
}

// Start begins to serve api, which is ready: it subscribes to vanishing
// connections, tells the service of those that have vanished while nobody
// looked, and takes calls to our unique name. Nobody knows that one;
// RequestName opens the door. The context bounds Start alone.
func (s *Server) Start(ctx context.Context, service api.Service) error {
	s.api = service
	// One match for all callers: the bus allows only so many. An empty third
	// argument means that the name has no owner any more.
	err := s.bus.conn.AddMatchSignalContext(ctx,
		godbus.WithMatchSender("org.freedesktop.DBus"), godbus.WithMatchInterface("org.freedesktop.DBus"),
		godbus.WithMatchMember("NameOwnerChanged"), godbus.WithMatchArg(2, ""))
	if err != nil {
		return fmt.Errorf("watch for vanishing callers: %w", err)
	}
	s.props.begin(service.Status())
	s.bus.server.Store(s)
	service.Lockspaces(func(spaces []api.LockspaceInfo, _ error) { s.subs.begin(spaces) })
	return s.missed(ctx)
}

// missed finds out which of the connections that locks hang on are gone. It
// comes after the subscription, so that none vanishes in between. The bus is asked
// last: a connection that is in the service's list and not in that of the bus has
// been there and is gone. If the bus does not answer, nothing is, and the start
// has failed.
func (s *Server) missed(ctx context.Context) error {
	known := make(chan []api.Session, 1)
	s.api.Sessions(func(sessions []api.Session) { known <- sessions })
	var sessions []api.Session
	var there []string
	select {
	case sessions = <-known:
	case <-ctx.Done():
		return fmt.Errorf("look for vanished callers: %w", ctx.Err())
	}
	if err := s.bus.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.ListNames", 0).Store(&there); err != nil {
		return fmt.Errorf("look for vanished callers: %w", err)
	}
	for _, session := range sessions {
		if name, ok := s.bus.nameOf(session); ok && !slices.Contains(there, name) {
			s.api.SessionGone(session)
		}
	}
	return nil
}

// RequestName takes the well-known name. It does not replace another owner and
// does not wait for it to go: a second daemon on the bus is an error.
func (s *Server) RequestName() error {
	r, err := s.bus.conn.RequestName(Name, godbus.NameFlagDoNotQueue)
	if err != nil {
		return fmt.Errorf("take the bus name %s: %w (is the bus policy org.example.DlmLock.conf installed, and is this root?)", Name, err)
	}
	if r == godbus.RequestNameReplyPrimaryOwner || r == godbus.RequestNameReplyAlreadyOwner {
		return nil
	}
	owner := "another process"
	var pid uint32
	if s.bus.conn.BusObject().Call("org.freedesktop.DBus.GetConnectionUnixProcessID", 0, Name).Store(&pid) == nil {
		owner = fmt.Sprintf("process %d", pid)
	}
	return fmt.Errorf("the bus name %s belongs to %s: another dlmlockd runs on this bus", Name, owner)
}

// Done is closed when the connection to the bus is gone. The daemon should end
// then, and be started again: locks stay.
func (s *Server) Done() <-chan struct{} { return s.bus.Done() }

// Shutdown gives the name away, so that the next daemon can be started by a
// call, answers what was asked before, and closes the connection. When the
// context ends first, what is left stays unanswered and the error says so. The
// service must run until Shutdown returns.
func (s *Server) Shutdown(ctx context.Context) error { return s.shutdown(ctx, func() {}) }

// shutdown calls last when everything is answered and the connection is still
// there.
func (s *Server) shutdown(ctx context.Context, last func()) error {
	var errs []error
	if _, err := s.bus.conn.ReleaseName(Name); err != nil && s.bus.conn.Connected() {
		errs = append(errs, fmt.Errorf("give away the bus name: %w", err))
	}
	s.gate.shut()
	s.desk.end()
	errs = append(errs, s.await(ctx, s.gate.idle, "calls stay unanswered"))
	s.requests.shut()
	errs = append(errs, s.await(ctx, s.requests.idle, "requests stay unanswered"))
	last()
	s.props.end()
	s.out.close()
	select {
	case <-s.out.done:
	case <-ctx.Done():
	}
	s.cancel()
	s.desk.close()
	errs = append(errs, s.bus.Close())
	return errors.Join(errs...)
}

// await waits for the channel to be closed, or for nobody to be there any more.
func (s *Server) await(ctx context.Context, idle <-chan struct{}, otherwise string) error {
	select {
	case <-idle:
	case <-s.Done():
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", otherwise, ctx.Err())
	}
	return nil
}

// take takes one method call, in the reader goroutine.
func (s *Server) take(h *header) {
	if len(h.sender) == 0 {
		return // not from a bus: nobody to answer
	}
	c := &call{
		srv:         s,
		sender:      string(h.sender),
		serial:      h.serial,
		noReply:     h.flags&godbus.FlagNoReplyExpected != 0,
		interactive: h.flags&godbus.FlagAllowInteractiveAuthorization != 0,
	}
	if !s.gate.enter() {
		s.gate.force()
		c.fail(&api.Error{Op: "call", Kind: api.ShuttingDown, Mode: dlm.None,
			Text: "the service is about to end; call again to start it anew"})
		return
	}
	defer c.contain()
	c.size = h.size
	err := s.read(c, h)
	if err != nil {
		c.req = refusal{err}
	}
	if c.req != nil {
		s.enqueue(c)
	}
}

// read finds the method and reads the arguments, or answers at once where
// nothing has to be asked for that.
func (s *Server) read(c *call, h *header) (err error) {
	if h.cut {
		return busError{errLimits, fmt.Sprintf("the message has %d bytes, at most %d are allowed; split it into several calls", h.size, MaxCall)}
	}
	if c.method, c.node, c.id, err = s.tree.find(h); err != nil {
		return err
	}
	if c.method.inline != nil {
		c.method.inline(s, c.node, c, &h.body)
		return nil
	}
	if c.req, err = c.method.parse(&h.body); err == nil && h.body.bad {
		err = invalid(c.method.name, "the message ends before its arguments do")
	}
	return err
}

// refusal is a call that can't be read. It waits for its turn like all others.
type refusal struct{ err error }

func (r refusal) serve(c *call) { c.fail(r.err) }

// weightBytes is how many bytes of a message count as one more call.
const weightBytes = 8 << 10

// enqueue puts a call in the line of its sender, if there is room.
func (s *Server) enqueue(c *call) {
	p := s.peer(c.sender)
	if err := p.full(); err != nil {
		p.turnAway(c, err)
		return
	}
	c.peer, c.weight = p, 1+int32(c.size/weightBytes)
	if h, ok := c.req.(heavy); ok {
		c.weight = max(c.weight, 1+h.weight())
	}
	p.push(c)
}

// peer finds or makes the line of a sender. Only the reader makes and removes
// them, so one that vanishes can't come back.
func (s *Server) peer(name string) *peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peers[name]
	if p == nil {
		p = &peer{srv: s, name: name, seen: sinceBoot()}
		p.ctx, p.cancel = context.WithCancel(s.ctx)
		s.peers[name] = p
	}
	return p
}

// sinceBoot is the time that start times of processes count in (proc(5)); 0: it
// can't be told.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// senderGone is called by the reader when a connection has vanished.
func (s *Server) senderGone(name string) {
	s.mu.Lock()
	p := s.peers[name]
	delete(s.peers, name)
	s.mu.Unlock()
	if p != nil {
		p.gone()
		s.requests.gone(p)
		s.subs.remove(p)
	} else {
		// It has called a daemon before this one.
		s.api.SessionGone(s.bus.session(name))
	}
}

// gate counts the calls that are owed an answer.
type gate struct {
	mu    sync.Mutex
	open  int
	total uint64 // that came in, ever
	down  bool
	idle  chan struct{} // closed when down and none is open
}

// enter lets a call in, unless the gate is shut.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total++
	if !g.down {
		g.open++
	}
	return !g.down
}

// force counts a call that came too late and is told so.
func (g *gate) force() {
	g.mu.Lock()
	g.open++
	g.mu.Unlock()
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
	g.check()
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.down = true
	g.check()
}

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
