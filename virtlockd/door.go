package virtlockd

import (
	"errors"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Config is what a Door is made of.
type Config struct {
	Settings Settings
	// Instance is that of the service: sessions of two instances have different names.
	Instance string
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

// mostConnections bounds the connections, of which each guest has one.
const mostConnections = 16384

// Door is the sockets and their connections.
type Door struct {
	log      *slog.Logger
	instance string
	settings atomic.Pointer[Settings]
	guests   guests
	// pidNamespace is that of this process, as /proc names it.
	pidNamespace string
	looks        chan struct{} // has one for each look at a disk that is under way
	ready        chan struct{} // closed by Start
	closing      chan struct{} // closed by Close
	service      service       // set before ready is closed

	mu          sync.Mutex
	listeners   []net.Listener
	connections map[*connection]struct{}
	last        uint64 // number of the last session
	work        sync.WaitGroup
}

// New makes a door. Calls that need the service wait for Start, within their time.
func New(c Config) *Door {
	d := &Door{
		log: c.Log, instance: c.Instance, ready: make(chan struct{}), closing: make(chan struct{}),
		looks:        make(chan struct{}, mostLooks),
		pidNamespace: pidNamespace("self"),
		connections:  map[*connection]struct{}{}, guests: guests{start: map[uint32]guest{}},
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

// Serve accepts connections until the listener or the door is closed, which is no
// error.
func (d *Door) Serve(l net.Listener) error {
	d.mu.Lock()
	if d.isClosing() {
		d.mu.Unlock()
		return l.Close()
	}
	d.listeners = append(d.listeners, l)
	d.mu.Unlock()
	for pause := time.Duration(0); ; {
		conn, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			d.enter(conn)
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, unix.ECONNABORTED):
		case isScarce(err):
			// The client waits in the kernel's queue meanwhile.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			d.log.Error("a connection of libvirt can't be accepted yet", "err", err)
			time.Sleep(pause)
		default:
			return err
		}
	}
}

// isScarce reports whether an accept has failed because something is used up.
func isScarce(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// enter begins to serve a connection, if root has made it.
func (d *Door) enter(conn net.Conn) {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return
	}
	who, err := peerOf(unixConn)
	if err != nil || who.Uid != 0 {
		d.log.Warn("a connection of libvirt is refused, because only root may lock disks here", "uid", who.Uid, "err", err)
		_ = conn.Close()
		return
	}
	c := &connection{door: d, conn: unixConn, pid: uint32(max(who.Pid, 0)), seen: sinceBoot()}
	if !d.add(c) {
		_ = conn.Close()
		return
	}
	go func() {
		defer d.work.Done()
		c.serve()
		d.mu.Lock()
		delete(d.connections, c)
		d.mu.Unlock()
	}()
}

func (d *Door) add(c *connection) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isClosing() {
		return false
	}
	if len(d.connections) >= mostConnections {
		d.log.Error("a connection of libvirt is refused, because there are too many", "connections", len(d.connections))
		return false
	}
	d.connections[c] = struct{}{}
	d.work.Add(1)
	return true
}

// peerOf returns who has made a connection, as the kernel vouches for it
// (SO_PEERCRED in unix(7)); the pid is 0 if it is in another pid namespace.
func peerOf(conn *net.UnixConn) (who unix.Ucred, err error) {
	who.Uid = ^uint32(0)
	raw, err := conn.SyscallConn()
	if err != nil {
		return who, err
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); e != nil {
		err = e
	}
	if err != nil {
		return who, err
	}
	return *cred, nil
}

// sinceBoot is the time that start times of processes are in.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// sessionName returns the name of another session of this door.
func (d *Door) sessionName() api.Session {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	return api.MakeSession("virtlockd", d.instance, strconv.FormatUint(d.last, 10))
}

// Close ends the sockets and the connections. Locks stay. A call that is under way
// is answered first; it ends when the service answers, or stops. A client that does
// not read its answers is waited for no longer than lastWrite.
func (d *Door) Close() error {
	d.mu.Lock()
	if !d.isClosing() {
		close(d.closing)
	}
	var errs []error
	for _, l := range d.listeners {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	for c := range d.connections {
		_ = c.conn.SetReadDeadline(time.Unix(1, 0)) // who waits for a message ends
		if c.writing.Load() {
			c.limitWrite()
		}
	}
	d.mu.Unlock()
	late := time.AfterFunc(d.settings.Load().Timeout+time.Second, d.cut)
	defer late.Stop()
	d.work.Wait()
	return errors.Join(errs...)
}

// cut ends all connections at once.
func (d *Door) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.connections {
		_ = c.conn.Close()
	}
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
