package dbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// RequestKept is how long a Request can be read after it has ended.
const RequestKept = 60 * time.Second

// Config is what a Server needs. Core, Bus and LogControl are required.
type Config struct {
	Core       *frontend.Core // started before the Server is
	Bus        *Bus
	Log        *slog.Logger // nil: nothing is logged
	LogControl LogControl   // the log of this process
	Version    string       // the Version property
	Commit     string       // the Commit property
	BuildDate  string       // the BuildDate property
	StateFile  string       // the StateFile property: a path
}

// Server serves a frontend.Core on a bus. Calls come in on the reader's goroutine (take),
// are served on goroutines of their sessions, and are answered through the send queue; the
// service's notices come on its own goroutine (event). None of them waits for another.
type Server struct {
	bus  *Bus
	log  *slog.Logger
	cfg  Config
	core *frontend.Core
	// The part of Core that belongs to D-Bus: its sessions and its requests.
	door *frontend.Door
	// The objects, which never change: those that come and go are looked up.
	tree *tree
	// All answers and signals go through it.
	out *sendQueue
	// Compares the properties of the root object from time to time, and tells of changes.
	props *propertyWatch
	// Those who get signals about single locks.
	subs *subscribers

	mu       sync.Mutex
	sessions map[string]*session // by unique name
}

// New makes a Server that serves nothing yet. Its goroutine ends with Shutdown,
// or with the connection.
func New(cfg Config) *Server {
	s := &Server{bus: cfg.Bus, log: cfg.Log, cfg: cfg, core: cfg.Core, sessions: make(map[string]*session),
		tree: newTree()}
	s.door = cfg.Core.Door(cfg.Bus.Sessions(), frontend.DoorConfig{KeepRequests: RequestKept, Cost: busCost})
	s.props = newPropertyWatch(s)
	s.subs = newSubscribers(s)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Bus.alien != "" {
		s.log.Warn("the pids of callers can't be used, so locks with lifetime process are refused",
			slog.String("err", cfg.Bus.alien))
	}
	s.out = newSendQueue(cfg.Bus, s.log)
	go s.out.run()
	return s
}

func (s *Server) service() api.Service { return s.core.Service() }

// Start begins to serve: it subscribes to vanishing connections, tells the
// service of those that have vanished while nobody looked, and takes calls to
// our unique name. Nobody knows that one; RequestName opens the door. The
// context bounds Start alone.
func (s *Server) Start(ctx context.Context) error {
	// One match for all callers: the bus allows only so many. An empty third
	// argument means that the name has no owner any more.
	err := s.bus.conn.AddMatchSignalContext(ctx,
		godbus.WithMatchSender("org.freedesktop.DBus"), godbus.WithMatchInterface("org.freedesktop.DBus"),
		godbus.WithMatchMember("NameOwnerChanged"), godbus.WithMatchArg(2, ""))
	if err != nil {
		return fmt.Errorf("watch for vanishing callers: %w", err)
	}
	s.props.begin(s.service().Status())
	s.bus.server.Store(s)
	s.door.Listen(s.event)
	// If the bus does not answer, the start has failed.
	return s.door.Missed(ctx, func(ctx context.Context) (there []string, err error) {
		err = s.bus.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.ListNames", 0).Store(&there)
		return there, err
	})
}

// RequestName takes the well-known name. It does not replace another owner and
// does not wait for it to go: a second daemon on the bus is an error.
func (s *Server) RequestName() error {
	r, err := s.bus.conn.RequestName(Name, godbus.NameFlagDoNotQueue)
	if err != nil {
		return fmt.Errorf("take the bus name %s: %w (is the bus policy org.example.DlmLock.conf installed, "+
			"and is this root?)", Name, err)
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
// service must run until Shutdown returns, and frontend.Core.Close comes after.
func (s *Server) Shutdown(ctx context.Context) error { return s.shutdown(ctx, func() {}) }

// shutdown calls last when everything is answered and the connection is still
// there.
func (s *Server) shutdown(ctx context.Context, last func()) error {
	var errs []error
	if _, err := s.bus.conn.ReleaseName(Name); err != nil && s.bus.conn.Connected() {
		errs = append(errs, fmt.Errorf("give away the bus name: %w", err))
	}
	errs = append(errs, s.core.Shutdown(ctx, s.Done()))
	last()
	s.door.Ignore()
	s.props.end()
	s.out.close()
	select {
	case <-s.out.done:
	case <-ctx.Done():
	}
	errs = append(errs, s.bus.Close())
	return errors.Join(errs...)
}

// take takes one method call, in the reader goroutine.
// It may neither block nor fail: it would hold up everybody's calls. What a call needs of the
// header is copied, since the frame is used again for the next message.
func (s *Server) take(h *header) {
	if len(h.sender) == 0 {
		return // not from a bus: nobody to answer
	}
	c := &call{
		srv:     s,
		sender:  string(h.sender),
		serial:  h.serial,
		noReply: h.flags&godbus.FlagNoReplyExpected != 0,
	}
	c.Size = h.size
	c.Interactive = h.flags&godbus.FlagAllowInteractiveAuthorization != 0
	if !s.core.Begin(&c.Call, c) {
		return
	}
	defer c.Contain()
	err := s.read(c, h)
	if err == nil && c.req == nil {
		return // it has been answered
	}
	c.from = s.session(c.sender)
	if err != nil {
		c.from.Refuse(&c.Call, c, err)
		return
	}
	c.from.Submit(&c.Call, c, c.req)
}

// read finds the method and reads the arguments, or answers at once where
// nothing has to be asked for that.
func (s *Server) read(c *call, h *header) (err error) {
	if h.cut {
		return busError{errLimits, fmt.Sprintf("the message has %d bytes, at most %d are allowed; "+
			"split it into several calls", h.size, MaxCall)}
	}
	if c.method, c.node, c.id, err = s.tree.find(h); err != nil {
		return err
	}
	c.Name = c.method.name
	if c.method.inline != nil {
		c.method.inline(s, c.node, c, &h.body)
		return nil
	}
	if c.req, err = c.method.parse(&h.body); err == nil && h.body.bad {
		err = invalid(c.method.name, "the message ends before its arguments do")
	}
	return err
}
