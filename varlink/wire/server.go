package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// The limits of a Server.
const (
	// DefaultMaxConnections is how many connections there may be of all users but
	// root together, and again as many of root.
	DefaultMaxConnections = 4096
	// DefaultMaxPerUser is how many of them one user may have, root aside.
	DefaultMaxPerUser = 1024
	// connectionsPerSecond is how many connections a user may open in the long run, and
	// connectionBurst how many at once, root aside: a connection costs more than
	// many a call.
	connectionsPerSecond = 500
	connectionBurst      = 2000
	// MaxMessage is how many bytes a message to the service may have.
	MaxMessage = 8 << 20
	// defaultMaxUserBytes is how many bytes of unfinished messages, of calls that wait
	// and of replies that are not read may be in memory for one user.
	defaultMaxUserBytes = 32 << 20
)

// Handler serves the calls.
type Handler interface {
	// Open is called for each new connection before its calls are.
	Open(*Conn)
	// Serve serves a call and returns when it is answered. ctx ends when the
	// client is gone; for a oneway call, which a client need not wait for, it ends
	// with the server only. Calls of one connection come one after the other. Before
	// it waits for anything, Serve has to call Call.Wait.
	Serve(ctx context.Context, c *Call)
	// HungUp is called as soon as the client is gone, also while Serve waits, from
	// another goroutine then, and not at all if the service closes the connection.
	HungUp(*Conn)
	// Close is called once, after the last call of the connection was served.
	Close(*Conn)
}

// The limits are there because everybody may connect. They are counted for each user id,
// since a process can have children, and since root, which could end the service anyway,
// must be able to reach it while another user takes what it can get.

// Config is what a Server needs. Handler is required.
type Config struct {
	Handler        Handler
	Log            *slog.Logger // nil: nothing is logged
	MaxConnections int          // 0: DefaultMaxConnections
	MaxPerUser     int          // 0: DefaultMaxPerUser
	// Reserved reports whether a descriptor that was just opened is one of those that are kept for
	// the rest of the program, so that the connection must be refused; nil: there are none.
	Reserved func(fd int) bool
}

// Server accepts connections and has their calls served.
type Server struct {
	cfg    Config
	log    *slog.Logger
	ctx    context.Context // of all calls
	cancel context.CancelFunc
	work   sync.WaitGroup // of connections

	// How long the end waits for a client that does not read (write.go), and how many bytes a
	// user may have in memory. Tests on a busy machine change them.
	unreadTime, maxUnreadTime time.Duration
	maxUserBytes              int64

	mu         sync.Mutex
	ending     bool
	listeners  []*net.UnixListener
	conns      map[*Conn]struct{}
	others     int              // connections of users other than root
	last       uint64           // the id of the connection that was admitted last
	users      map[uint32]*user // with connections now, or lately
	complained time.Time        // when complain has logged something last
}

// user is what the connections of one user id take together.
type user struct {
	bytes atomic.Int64 // in memory

	// Guarded by Server.mu.
	conns  int
	credit float64   // connections that may be opened; at most connectionBurst
	at     time.Time // of credit
}

// grow lets the time pass.
func (u *user) grow(now time.Time) {
	if d := now.Sub(u.at); d > 0 {
		u.credit = min(connectionBurst, u.credit+d.Seconds()*connectionsPerSecond)
		u.at = now
	}
}

// New makes a Server that listens nowhere yet.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, log: cfg.Log, conns: make(map[*Conn]struct{}), users: make(map[uint32]*user),
		unreadTime: defaultUnreadTime, maxUnreadTime: defaultMaxUnreadTime, maxUserBytes: defaultMaxUserBytes}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cfg.MaxConnections <= 0 {
		s.cfg.MaxConnections = DefaultMaxConnections
	}
	if s.cfg.MaxPerUser <= 0 {
		s.cfg.MaxPerUser = DefaultMaxPerUser
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// rest waits, or until the Server ends.
func (s *Server) rest(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
	}
}

func (s *Server) isEnding() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ending
}

// Adopt serves a connection that is there already. It takes the socket over.
func (s *Server) Adopt(sock *net.UnixConn) {
	c, err := newConn(s, sock)
	if err == nil {
		err = s.admit(c)
	}
	if err != nil {
		s.refused(err)
		_ = sock.Close()
		return
	}
	s.start(c)
}

func (s *Server) refused(err error) { s.complain("a Varlink connection was refused", "err", err) }

// admit takes a connection in, if there is room.
func (s *Server) admit(c *Conn) error {
	u, err := s.enter(c.Peer.UID, c.Restored != nil)
	if err != nil {
		return err
	}
	if err = s.register(c, u); err != nil {
		s.leave(c.Peer.UID, u)
	}
	return err
}

// refusal is why a connection is not taken in. Its text is made only for the log.
type refusal struct {
	format string
	uid    uint32
	limit  int
}

func (r refusal) Error() string { return fmt.Sprintf(r.format, r.uid, r.limit) }

var (
	errEnding   = errors.New("the service is about to end")
	errReserved = errors.New("nearly all file descriptors of the service are in use; raise LimitNOFILE= in its unit and " +
		"restart it")
)

// enter counts a connection of a user in, if there is room; leave counts it out again. A restored
// connection is not a new one.
func (s *Server) enter(uid uint32, restored bool) (*user, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	root := uid == 0
	u := s.user(uid, time.Now())
	switch {
	case s.ending:
		return nil, errEnding
	case !root && u.conns >= s.cfg.MaxPerUser:
		return nil, refusal{"user %[1]d has %[2]d connections already", uid, u.conns}
	case !root && u.credit < 1 && !restored: // those from before a restart were paid for
		return nil, refusal{"user %[1]d opens more than %[2]d connections a second", uid, connectionsPerSecond}
	case !root && s.others >= s.cfg.MaxConnections:
		return nil, refusal{"there are %[2]d connections already", uid, s.others}
	case root && u.conns >= s.cfg.MaxConnections:
		return nil, refusal{"root has %[2]d connections already", uid, u.conns}
	}
	u.credit--
	u.conns++
	if !root {
		s.others++
	}
	return u, nil
}

func (s *Server) leave(uid uint32, u *user) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveLocked(uid, u)
}

// leaveLocked is leave for those who hold s.mu.
func (s *Server) leaveLocked(uid uint32, u *user) {
	u.conns--
	if uid != 0 {
		s.others--
	}
}

// register makes a connection that was counted in one of the server's.
func (s *Server) register(c *Conn, u *user) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return errEnding
	}
	c.user = u
	s.last++
	c.ID = s.last
	s.conns[c] = struct{}{}
	s.work.Add(1)
	return nil
}

// maxIdleUsers is how many users without a connection are kept. They are, so that
// nobody has new credit for it.
const maxIdleUsers = 64

// user finds or makes a user. s.mu is held.
func (s *Server) user(uid uint32, now time.Time) *user {
	u := s.users[uid]
	if u == nil {
		if len(s.users) >= maxIdleUsers {
			for other, u := range s.users {
				if u.grow(now); u.conns == 0 && u.credit == connectionBurst {
					delete(s.users, other)
				}
			}
		}
		u = &user{credit: connectionBurst, at: now}
		s.users[uid] = u
	}
	u.grow(now)
	return u
}

// complain logs what somebody has brought about who can do so without end: one
// line a second at most.
func (s *Server) complain(msg string, attrs ...any) {
	s.mu.Lock()
	now := time.Now()
	quiet := now.Sub(s.complained) < time.Second
	if !quiet {
		s.complained = now
	}
	s.mu.Unlock()
	if !quiet {
		s.log.Warn(msg, attrs...)
	}
}

// forget ends what admit began.
func (s *Server) forget(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.leaveLocked(c.Peer.UID, c.user)
	s.work.Done()
}

// charge counts bytes that are in memory for a connection; ok is false where
// its user has too many. A negative number gives back, and always succeeds. Root is
// charged as well: its programs can be wrong, too.
func (s *Server) charge(c *Conn, bytes int) (ok bool) {
	if n := c.user.bytes.Add(int64(bytes)); bytes > 0 && n > s.maxUserBytes {
		c.user.bytes.Add(-int64(bytes))
		return false
	}
	return true
}

// Connections returns how many connections there are.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Shutdown accepts no more connections, closes each as soon as no call of it is
// being served, or its client does not read the answer, and returns when all are
// closed. When ctx ends first, it cancels
// the calls and closes what is left.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.ending = true
	listeners := s.listeners
	conns := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, l := range listeners {
		_ = LengthenQueue(l) // if it fails, the next start does it
		_ = l.Close()
	}
	for _, c := range conns {
		c.finish()
	}
	done := make(chan struct{})
	go func() { s.work.Wait(); close(done) }()
	select {
	case <-done:
		s.cancel()
		return nil
	case <-ctx.Done():
	}
	// The calls end now, and with the sockets also what still reads or writes.
	s.cancel()
	for _, c := range conns {
		_ = c.sock.Close()
	}
	<-done
	return fmt.Errorf("calls over Varlink stay unanswered: %w", ctx.Err())
}
