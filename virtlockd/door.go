package virtlockd

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/internal/boottime"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
)

// Config is what a Door is made of.
type Config struct {
	Settings Settings
	// Instance is that of the service: sessions of two instances have different names.
	Instance string
	// Start returns the start time of the process that has a pid; nil: process.Start.
	Start func(pid uint32) (uint64, error)
	// MaxConnections is how many connections there may be; 0: DefaultMaxConnections. A smaller number
	// is taken for the share of libvirt in the file descriptors of the program.
	MaxConnections int
	// Reserved reports whether a descriptor that was just opened is one of those that are kept for
	// the rest of the program, so that the connection must be refused; nil: there are none.
	Reserved func(fd int) bool
	Log      *slog.Logger
}

// Settings may change while the door is open.
type Settings struct {
	// Lockspace is that of disks which are locked by their path.
	Lockspace string
	// Directories are the lockspaces of the directories in qemu-lockd.conf.
	Directories map[string]string
	// Timeout is how long a call may take, at most.
	Timeout time.Duration
	// Helper is run for a guest that loses a lock; "" for none.
	Helper string
}

// The defaults of Settings.
const (
	DefaultLockspace = "libvirt"
	DefaultTimeout   = 5 * time.Second
)

// DefaultMaxConnections bounds the connections, of which each guest has one.
const DefaultMaxConnections = 16384

// Door is the sockets and their connections.
type Door struct {
	log      *slog.Logger
	instance string
	// See Config.Start.
	startOf  func(pid uint32) (uint64, error)
	most     int // see Config.MaxConnections
	reserved func(fd int) bool
	settings atomic.Pointer[Settings]
	guests   guests
	// pidNamespace is that of this process, as /proc names it.
	pidNamespace string
	messageTime  time.Duration // tests change it
	looks        chan struct{} // has one for each look at a disk that is under way
	ready        chan struct{} // closed by Start
	closing      chan struct{} // closed by Close
	service      service       // set before ready is closed

	mu          sync.Mutex
	loops       []*loop
	connections map[int]*connection // by their descriptors
	last        uint64              // number of the last session
	work        sync.WaitGroup      // of the goroutines that run loops, and of those that handed theirs over
}

// New makes a door. Calls that need the service wait for Start, within their time.
func New(c Config) *Door {
	d := &Door{
		log: c.Log, instance: c.Instance, reserved: c.Reserved, ready: make(chan struct{}), closing: make(chan struct{}),
		looks:        make(chan struct{}, mostLooks),
		pidNamespace: pidNamespace("self"), messageTime: messageTime,
		connections: map[int]*connection{}, guests: guests{start: map[uint32]guest{}},
	}
	if d.startOf = c.Start; c.Start == nil {
		d.startOf = process.Start
	}
	if d.most = c.MaxConnections; d.most <= 0 {
		d.most = DefaultMaxConnections
	}
	d.Configure(c.Settings)
	return d
}

// Configure puts other settings in force, for calls that come from now on.
func (d *Door) Configure(s Settings) {
	if s.Lockspace == "" {
		s.Lockspace = DefaultLockspace
	}
	if s.Timeout == 0 {
		s.Timeout = DefaultTimeout
	}
	d.settings.Store(&s)
}

// Serve accepts connections until the door is closed, which is no error.
func (d *Door) Serve(l net.Listener) error {
	socket, ok := l.(*net.UnixListener)
	if !ok {
		return errors.Join(fmt.Errorf("%s is not a unix socket", l.Addr()), l.Close())
	}
	lp, err := newLoop(d, socket)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	d.mu.Lock()
	d.loops = append(d.loops, lp)
	d.work.Add(1)
	if d.isClosing() {
		_ = l.Close()
		lp.wake()
	}
	d.mu.Unlock()
	go lp.run()
	return <-lp.over
}

// enter admits a connection if root has made it; nil if it is refused. Log lines are written on
// goroutines of their own, here and in loop.go, because a log that does not read would hold up
// every connection of the loop.
func (d *Door) enter(l *loop, fd int) *connection {
	who, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED) // which the kernel vouches for
	switch {
	case err != nil:
		go d.log.Warn("a connection of libvirt is refused, because it can't be found out who has made it", "err", err)
	case who.Uid != 0:
		go d.log.Warn("a connection of libvirt is refused, because only root may lock disks here", "uid", who.Uid)
	case d.reserved != nil && d.reserved(fd):
		go d.log.Error("a connection of libvirt is refused, because nearly all file descriptors of the service are in use; " +
			"raise LimitNOFILE= in its unit and restart it")
	default:
		// The pid is 0 if it is in another pid namespace.
		seen, _ := boottime.Now() // 0: not known
		c := &connection{door: d, loop: l, fd: fd, pid: uint32(max(who.Pid, 0)), seen: seen}
		if d.add(c) {
			return c
		}
	}
	_ = unix.Close(fd)
	return nil
}

func (d *Door) add(c *connection) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isClosing() {
		return false
	}
	if n := len(d.connections); n >= d.most {
		go d.log.Error("a connection of libvirt is refused, because there are too many; "+d.bound(), "connections", n)
		return false
	}
	d.connections[c.fd] = c
	return true
}

// bound says what bounds the connections.
func (d *Door) bound() string {
	if d.most >= DefaultMaxConnections {
		return "the service takes no more than these, however large LimitNOFILE= is"
	}
	return "libvirt gets a quarter of the service's file descriptors; if that many guests run here, raise LimitNOFILE= " +
		"in the unit of the service and restart it"
}

// forget ends a connection. Locks stay, because they are the guest's. The session need not be
// closed: nothing is tied to it, and an ACQUIRE that was not answered in time has closed it. The
// mutex is held.
func (d *Door) forget(c *connection) {
	c.unlimit()
	c.forgetGuest()
	delete(d.connections, c.fd)
	_ = unix.Close(c.fd)
}

// sessionName returns the name of another session of this door.
func (d *Door) sessionName() api.Session {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	return api.MakeSession("virtlockd", d.instance, strconv.FormatUint(d.last, 10))
}

// Close ends the sockets and the connections. Locks stay. A call that is under way is answered
// first, which takes no longer than Settings.Timeout; what a client does not read is dropped.
func (d *Door) Close() error {
	d.mu.Lock()
	if !d.isClosing() {
		close(d.closing)
	}
	var errs []error
	for _, l := range d.loops {
		if err := l.listener.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
		l.wake()
	}
	d.mu.Unlock()
	d.work.Wait()
	return errors.Join(errs...)
}

func (d *Door) isClosing() bool {
	select {
	case <-d.closing:
		return true
	default:
		return false
	}
}

// Connections is how many there are.
func (d *Door) Connections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.connections)
}
