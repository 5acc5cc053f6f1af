package varlink

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// Config is what a Door needs. Core is required.
type Config struct {
	Core      *frontend.Core // started before the Door serves
	Log       *slog.Logger   // nil: nothing is logged
	LogLevel  LogLevel       // the log of this process; nil: it can't be changed
	Reload    func() error   // reads the configuration again; nil: it can't. See reload
	Version   string         // of the service
	Commit    string
	BuildDate string
	StateFile string // its path

	// Keeper keeps connections and descriptors that locks hang on for the next start of
	// the service; nil: they end with this one.
	Keeper Keeper
	// OnStep is called before each step in which something is kept, or said to somebody
	// whose connection is. It is for tests that end the process there.
	OnStep func(step string)

	MaxConnections int // of all users but root; 0: wire.DefaultMaxConnections
	MaxPerUser     int // 0: wire.DefaultMaxPerUser
	// Reserved reports whether a descriptor that was just opened is one of those that are kept for
	// the rest of the program; nil: there are none.
	Reserved func(fd int) bool
}

// LogLevel is what is logged, as a number of syslog(3). Its methods may be called
// from any goroutine and don't block.
type LogLevel interface {
	SyslogLevel() int
	SetSyslogLevel(level int) error
}

// Door serves a frontend.Core over Varlink.
//
// mu is taken by the owner of the table, too (notices, grants), so nothing that may
// block is done with it held. Lock order: Door.mu, then pipe.keptMu or shelf.mu.
type Door struct {
	cfg    Config
	log    *slog.Logger
	space  api.Session // what the names of this start's sessions begin with
	door   *frontend.Door
	server *wire.Server
	ending context.Context // ends with Shutdown: calls without an end of their own end then
	end    context.CancelFunc
	shelf  shelf
	// inherited is what an earlier process has kept, from Inherit to Restore.
	inherited []inheritance

	mu      sync.Mutex
	holders map[api.Ref]map[*call]struct{} // the calls that go on after their grant
	// resuming has, by lock, the connections whose calls from before the restart have not gone on yet,
	// each with the last blocking notice about the lock; nil: none.
	resuming map[api.Ref]map[*inheritance]*api.BlockingNotice
	watches  map[*call]*watch               // the calls that want each change of the service
	looking  bool                           // look runs
	pipes    map[api.Ref]map[*pipe]struct{} // the descriptors that locks hang on
	work     sync.WaitGroup                 // of pipes, and of whoever looks after holders
}

// New makes a Door that serves nobody yet.
func New(cfg Config) *Door {
	d := &Door{cfg: cfg, log: cfg.Log, holders: make(map[api.Ref]map[*call]struct{}),
		resuming: make(map[api.Ref]map[*inheritance]*api.BlockingNotice),
		watches:  make(map[*call]*watch), pipes: make(map[api.Ref]map[*pipe]struct{})}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	instance := make([]byte, 16)
	_, _ = rand.Read(instance) // it never fails (crypto/rand)
	d.space = api.MakeSession("varlink", hex.EncodeToString(instance), "")
	d.door = cfg.Core.Door(d.space, frontend.DoorConfig{Serial: true, Direct: true})
	d.server = wire.New(wire.Config{Handler: handler{d}, Log: d.log,
		MaxConnections: cfg.MaxConnections, MaxPerUser: cfg.MaxPerUser, Reserved: cfg.Reserved})
	d.shelf = shelf{keeper: cfg.Keeper, log: d.log, users: map[uint32]int{}}
	d.door.Listen(d.event)
	d.ending, d.end = context.WithCancel(context.Background())
	return d
}

// Sessions is the name space of the sessions of this Door. No other start of the
// service has the same.
func (d *Door) Sessions() api.Session { return d.space }

// Serve accepts connections until Shutdown (nil), or until the listener fails.
// It takes the listener over.
func (d *Door) Serve(l *net.UnixListener) error { return d.server.Serve(l) }

// The order of a start: Inherit for each descriptor that was kept, Sessions and Kept for
// the service's configuration, Core.Start, Restore, and Serve for each listener.
// Adopt serves a connection that is there already, and takes it over.
func (d *Door) Adopt(conn *net.UnixConn) { d.server.Adopt(conn) }

// Connections is how many connections there are, and descriptors that locks hang
// on. A service with one of them is not idle.
func (d *Door) Connections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.server.Connections()
	for _, pipes := range d.pipes {
		n += len(pipes)
	}
	return n
}

// Shutdown accepts no more connections, answers the calls that are under way,
// and closes the connections, or gives up when ctx ends. Before it,
// frontend.Core.Shutdown has to be called, or at the same time. Calls without an
// end of their own fail with ShuttingDown.
func (d *Door) Shutdown(ctx context.Context) error {
	d.end()
	err := d.server.Shutdown(ctx)
	d.mu.Lock()
	for _, pipes := range d.pipes {
		for p := range pipes {
			// It ends watch. Whoever has the other end notices nothing if a copy is kept,
			// and sees POLLERR otherwise.
			_ = p.ours.Close()
		}
	}
	d.mu.Unlock()
	d.work.Wait()
	d.door.Ignore()
	return err
}

// conn is what a connection is for the Door.
type conn struct {
	door  *Door
	creds frontend.Credentials
	id    uint64
	first api.Session   // the first session's name
	seen  time.Duration // since the boot: when the client has connected
	kept  string        // what it is kept as; "": it is not. For the goroutine that serves the calls

	mu      sync.Mutex
	session *frontend.Session // nil: none is open
	opened  int               // sessions so far
	oneway  bool              // the call that is being served wants no answer
	gone    bool              // the client is
}

// handler is the Door as package wire sees it.
type handler struct{ d *Door }

// Open implements wire.Handler. It runs on the goroutine that accepts, so it asks the
// kernel for as little as possible: the start time of the client's process, by which
// polkit tells it from another process that gets its pid later.
func (h handler) Open(w *wire.Conn) {
	p := &w.Peer
	c := &conn{door: h.d, id: w.ID, first: h.d.space + api.Session(fmt.Sprint(w.ID)), seen: p.Seen}
	c.creds = frontend.Credentials{UID: p.UID, GIDs: append([]uint32{p.GID}, p.GIDs...), PID: p.PID}
	if p.UID != 0 { // nobody is asked about root
		start, err := p.Start()
		if err != nil && !errors.Is(err, wire.ErrNoPidfd) {
			start = noStart
		}
		c.creds.Start = start
	}
	w.Data = c
	if i, ok := w.Restored.(*inheritance); ok {
		c.restore(i)
	}
}

// noStart is the start time of no process. A caller whose process has ended before
// its connection was accepted is refused by it; without a start time the configured
// group would decide, and polkit would not be asked.
const noStart = math.MaxUint64

// name makes the name of one more session of this connection. c.mu is held. The first
// one has the number of the connection; later ones are those of descriptors, and of a
// connection whose session has ended while it had a oneway call to serve.
func (c *conn) name() string {
	c.opened++
	if c.opened == 1 {
		return fmt.Sprint(c.id)
	}
	return fmt.Sprintf("%d.%d", c.id, c.opened)
}

// begin returns the session for the next call. A client that is gone has one for
// the oneway calls that it has left behind.
func (c *conn) begin(oneway bool) *frontend.Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == nil {
		c.session = c.door.door.OpenAs(c.name(), c.creds)
	}
	c.oneway = oneway
	return c.session
}

// finish ends what begin began.
func (c *conn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.oneway = false; c.gone {
		c.closeSession()
	}
}

// closeSession ends the session, which cancels what waits and releases what hangs
// on it. c.mu is held.
func (c *conn) closeSession() {
	if c.session != nil {
		c.session.Close()
		c.session = nil
	}
}

// HungUp implements wire.Handler. Ending the session here, and not in Close, cancels
// the call that is being served, which may wait for days. A oneway call that is being
// served is finished.
func (handler) HungUp(w *wire.Conn) {
	c := w.Data.(*conn)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone = true; !c.oneway {
		c.closeSession()
	}
}

// Close implements wire.Handler. When the service ends, the locks of the
// connection stay as they are; the next start releases them, unless the connection
// is kept.
func (h handler) Close(w *wire.Conn) {
	c := w.Data.(*conn)
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.d.ending.Err() == nil || c.gone {
		c.closeSession()
		c.unkeep()
	}
}
