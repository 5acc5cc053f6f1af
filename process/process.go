// Package process tells when another process ends, and never mistakes a reused
// pid for the process that had it before.
//
// It owns pidfds and the reading of /proc/PID/stat. It refuses to know why
// anybody wants to know. A process is its pid together with its start time;
// a pid alone proves nothing.
//
// Concurrency: the methods of Watcher may be called from any goroutine and
// never block. One goroutine waits for all watched processes.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ID is one process of this boot.
type ID struct {
	PID   uint32
	Start uint64 // start time in clock ticks since boot: field 22 of /proc/PID/stat, proc(5)
}

// ErrGone says that there is no such process (any more).
var ErrGone = errors.New("no such process")

// UID returns the real uid of the process that has pid now. The error wraps
// ErrGone if there is none.
func UID(pid uint32) (uid uint32, err error) {
	var buf [4096]byte
	status, err := read(pid, "status", buf[:])
	if err == nil {
		uid, err = realUID(status)
	}
	if err != nil {
		return 0, fmt.Errorf("process %d: %w", pid, err)
	}
	return uid, nil
}

// Identify returns the identity of the process that has pid now. The error wraps
// ErrGone if there is none.
func Identify(pid uint32) (ID, error) {
	var buf [1024]byte
	stat, err := read(pid, "stat", buf[:])
	var start uint64
	if err == nil {
		start, err = startTime(stat)
	}
	if err != nil {
		return ID{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return ID{PID: pid, Start: start}, nil
}

// read reads the beginning of a file of the process. With os.ReadFile it would be
// four times as many system calls, twice for each lock that hangs on a process.
func read(pid uint32, file string, buf []byte) ([]byte, error) {
	path := "/proc/" + strconv.FormatUint(uint64(pid), 10) + "/" + file
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, ErrGone
		}
		n, err := unix.Read(fd, buf)
		_ = unix.Close(fd)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, ErrGone // ESRCH: it ended meanwhile
		}
		return buf[:n], nil
	}
}

// startTime reads field 22. The second field is the name in parentheses, which
// may hold anything, so counting begins after the last one.
func startTime(stat []byte) (uint64, error) {
	_, rest, ok := bytes.Cut(stat[max(bytes.LastIndexByte(stat, ')'), 0):], []byte(") "))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, errors.New("/proc/PID/stat is not as proc(5) says")
	}
	if s := fields[0][0]; s == 'Z' || s == 'X' {
		return 0, ErrGone // what is left is only its exit status
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// realUID reads the line "Uid: real effective saved filesystem".
func realUID(status []byte) (uint32, error) {
	for line := range bytes.Lines(status) {
		if after, ok := bytes.CutPrefix(line, []byte("Uid:")); ok {
			if f := bytes.Fields(after); len(f) > 0 {
				n, err := strconv.ParseUint(string(f[0]), 10, 32)
				return uint32(n), err
			}
		}
	}
	return 0, errors.New("/proc/PID/status has no Uid line")
}

// Watcher tells when processes end.
type Watcher struct {
	epoll int
	wake  int // eventfd

	mu      sync.Mutex
	watches map[ID]*watch
	byFD    map[int32]*watch
	queue   []ID // asked for, not yet looked at
	closed  bool
	done    chan struct{}
}

type watch struct {
	id    ID
	fd    int // pidfd; -1 before it is opened
	ended func(ID)
}

// NewWatcher starts the goroutine that waits. Close ends it.
func NewWatcher() (*Watcher, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	ev, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(ep)
		return nil, os.NewSyscallError("eventfd", err)
	}
	w := &Watcher{epoll: ep, wake: ev, watches: map[ID]*watch{}, byFD: map[int32]*watch{}, done: make(chan struct{})}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, ev, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(ev)}); err != nil {
		_ = unix.Close(ep)
		_ = unix.Close(ev)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	go w.run()
	return w, nil
}

// Identify is the function of that name.
func (w *Watcher) Identify(pid uint32) (ID, error) { return Identify(pid) }

// UID is the function of that name.
func (w *Watcher) UID(pid uint32) (uint32, error) { return UID(pid) }

// Watch has ended called once, on the watcher's goroutine, when the process
// ends or if it is not there any more. A second Watch of the same process
// replaces the first.
func (w *Watcher) Watch(id ID, ended func(ID)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	if old := w.watches[id]; old != nil {
		old.ended = ended
		return
	}
	w.watches[id] = &watch{id: id, fd: -1, ended: ended}
	w.queue = append(w.queue, id)
	w.signal()
}

// Unwatch forgets the process. A call of ended may already be under way.
func (w *Watcher) Unwatch(id ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget(w.watches[id])
}

// forget drops a watch with its pidfd. The mutex is held.
func (w *Watcher) forget(x *watch) {
	if x == nil {
		return
	}
	delete(w.watches, x.id)
	if x.fd >= 0 {
		delete(w.byFD, int32(x.fd))
		_ = unix.Close(x.fd) // takes it out of the epoll set as well
	}
}

// Close ends the goroutine and closes every descriptor.
func (w *Watcher) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	w.signal()
	w.mu.Unlock()
	<-w.done
	for _, x := range w.watches {
		w.forget(x)
	}
	return errors.Join(unix.Close(w.epoll), unix.Close(w.wake))
}

func (w *Watcher) signal() {
	_, _ = unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // full means that it is awake already
}

func (w *Watcher) run() {
	defer close(w.done)
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(w.epoll, events, -1)
		if err != nil && err != syscall.EINTR {
			return // only a closed descriptor can do that
		}
		if w.drain(events[:max(n, 0)]) {
			return
		}
	}
}

// drain looks at new watches and calls ended for those that are over.
func (w *Watcher) drain(events []unix.EpollEvent) (closed bool) {
	var over []*watch
	w.mu.Lock()
	for _, e := range events {
		if int(e.Fd) == w.wake {
			var b [8]byte
			_, _ = unix.Read(w.wake, b[:])
		} else if x := w.byFD[e.Fd]; x != nil {
			over = append(over, x)
		}
	}
	queue := w.queue
	w.queue = nil
	for _, id := range queue {
		if x := w.watches[id]; x != nil && x.fd < 0 && !w.open(x) {
			over = append(over, x)
		}
	}
	for _, x := range over {
		w.forget(x)
	}
	closed = w.closed
	w.mu.Unlock()
	for _, x := range over {
		x.ended(x.id)
	}
	return closed
}

// open opens the pidfd first and looks at the start time after it, so that the
// descriptor is proved to mean the process asked for. False: it is gone.
func (w *Watcher) open(x *watch) bool {
	fd, err := unix.PidfdOpen(int(x.id.PID), unix.PIDFD_NONBLOCK)
	if err != nil {
		return false
	}
	now, err := Identify(x.id.PID)
	if err != nil || now != x.id {
		_ = unix.Close(fd)
		return false
	}
	x.fd = fd
	w.byFD[int32(fd)] = x
	err = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
	return err == nil
}
