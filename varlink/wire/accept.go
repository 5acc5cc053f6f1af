package wire

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// All users wait in one queue of the kernel's until they are accepted, and where that is full,
// connect(2) waits or fails (EAGAIN). So it has to be emptied faster than one user can fill it. That is done
// with three system calls for a connection that is refused, before anything is made for it:
//
//	accept4, SO_PEERCRED    who it is, and whether that user has credit left (Server.enter)
//	close                   where it has none
//
// What is more expensive is done on another goroutine, which takes users in turns, root before the
// others (arrivals).

// backlog is how long the kernel's queue may be while the service accepts connections. One who keeps
// it full delays everybody by the time that it takes to empty it, some 4 us for each connection on
// an idle machine. While nobody accepts any, between Shutdown and the next start and while that adopts
// the locks, the queue has to take all clients, who come back at once: LengthenQueue.
const backlog = 128

// LengthenQueue makes the kernel's queue of connections as long as it can be (net.core.somaxconn),
// until Serve. A socket of systemd's stays the same from one start of the service to the next, and with
// it the length.
func LengthenQueue(l *net.UnixListener) error { return setQueue(l, math.MaxInt32) }

// setQueue has effect also on connections that wait to be put into the queue.
func setQueue(l *net.UnixListener, length int) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), length) })
	return errors.Join(cerr, os.NewSyscallError("listen", err))
}

// Serve accepts connections until Shutdown (nil), or until the listener fails
// for good. It closes the listener.
func (s *Server) Serve(l *net.UnixListener) error {
	defer l.Close()
	ending, err := s.listen(l)
	if ending {
		return nil
	}
	raw, rerr := l.SyscallConn()
	if err = errors.Join(err, rerr); err != nil {
		return fmt.Errorf("accept Varlink connections on %s: %w", l.Addr(), err)
	}
	a := newArrivals()
	var starter sync.WaitGroup
	starter.Go(func() { s.startArrivals(a) })
	defer starter.Wait()
	defer a.end()
	for pause := time.Duration(0); ; {
		sock, err := l.AcceptUnix() // waits, as accept4 does not
		if err == nil {
			pause = 0
			s.Adopt(sock)
			if cerr := raw.Control(func(fd uintptr) { err = s.acceptAll(int(fd), a) }); cerr != nil {
				err = cerr
			}
		}
		switch {
		case err == nil:
		case s.isEnding():
			return nil
		case IsScarcity(err):
			// Connections stay in the kernel's queue until there is room.
			if pause == 0 {
				s.log.Error("connections can't be accepted now", "err", err)
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.rest(pause)
		case errors.Is(err, unix.ECONNABORTED): // the client was gone before it was accepted
		default:
			return fmt.Errorf("accept Varlink connections on %s: %w", l.Addr(), err)
		}
	}
}

// listen makes a listener one of the server's, unless the server ends. Shutdown, which lengthens the
// queue and closes the listener, comes before or after that.
func (s *Server) listen(l *net.UnixListener) (ending bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return true, nil
	}
	s.listeners = append(s.listeners, l)
	refuseDescriptors(l)
	return false, setQueue(l, backlog)
}

// acceptAll empties the kernel's queue.
func (s *Server) acceptAll(listener int, a *arrivals) error {
	for !s.isEnding() {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		switch {
		case err == nil:
			s.arrived(fd, a)
		case errors.Is(err, unix.EAGAIN):
			return nil
		case !errors.Is(err, unix.EINTR):
			return os.NewSyscallError("accept4", err)
		}
	}
	return nil
}

// arrived refuses a connection, or has it started. It takes fd over.
func (s *Server) arrived(fd int, a *arrivals) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	var u *user
	switch {
	case err != nil:
	case s.cfg.Reserved != nil && s.cfg.Reserved(fd):
		err = errReserved
	default:
		u, err = s.enter(cred.Uid, false)
	}
	if err != nil {
		_ = unix.Close(fd)
		s.refused(err)
		return
	}
	a.put(arrival{fd, cred.Uid, u})
}

// IsScarcity reports whether a socket could not be made or accepted for want of something that
// others may give back.
func IsScarcity(err error) bool {
	for _, errno := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// arrival is a connection that was counted in and is still to be started.
type arrival struct {
	fd   int
	uid  uint32
	user *user
}

// arrivals are the connections that wait to be started, by user. Whoever opens many at once delays
// only itself. How many there are is bounded by how many a user may have.
type arrivals struct {
	mu    sync.Mutex
	wake  sync.Cond
	of    map[uint32][]arrival
	turns []uint32 // the users who have some, root aside; the next one first
	ended bool
}

func newArrivals() *arrivals {
	a := &arrivals{of: map[uint32][]arrival{}}
	a.wake.L = &a.mu
	return a
}

func (a *arrivals) put(c arrival) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.of[c.uid]) == 0 && c.uid != 0 {
		a.turns = append(a.turns, c.uid)
	}
	a.of[c.uid] = append(a.of[c.uid], c)
	a.wake.Signal()
}

// take waits for the next one; ok is false when there is none any more.
func (a *arrivals) take() (c arrival, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.of) == 0 && !a.ended {
		a.wake.Wait()
	}
	if len(a.of) == 0 {
		return arrival{}, false
	}
	uid := uint32(0)
	if len(a.of[0]) == 0 {
		uid = a.turns[0]
		a.turns = a.turns[1:]
	}
	q := a.of[uid]
	c = q[0]
	if q = q[1:]; len(q) == 0 {
		delete(a.of, uid)
		return c, true
	}
	a.of[uid] = q
	if uid != 0 {
		a.turns = append(a.turns, uid)
	}
	return c, true
}

// end has take return when nothing is left.
func (a *arrivals) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	a.wake.Signal()
}

// startArrivals starts the connections that arrive.
func (s *Server) startArrivals(a *arrivals) {
	for {
		next, ok := a.take()
		if !ok {
			return
		}
		c, err := next.open(s)
		if err == nil {
			err = s.register(c, next.user)
		}
		if err != nil {
			s.leave(next.uid, next.user)
			if c != nil {
				_ = c.sock.Close()
			}
			s.refused(err)
			continue
		}
		s.start(c)
		// What was started gets its turn before more is: otherwise thousands of goroutines, each
		// with little to do, would be in front of that of the next connection.
		runtime.Gosched()
	}
}

// open makes a connection of what was accepted; nil with an error.
func (a arrival) open(s *Server) (*Conn, error) {
	f := os.NewFile(uintptr(a.fd), "varlink")
	conn, err := net.FileConn(f) // has a descriptor of its own
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	sock, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return nil, syscall.EPROTOTYPE
	}
	c, err := newConn(s, sock)
	if err != nil {
		_ = sock.Close()
		return nil, err
	}
	return c, nil
}
