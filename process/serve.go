package process

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// signal wakes the goroutine.
func (w *Watcher) signal() {
	// if it is full, the goroutine is awake already
	_, _ = w.sys.write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// sweepInterval is how often every process is looked at if epoll_wait(2) fails, which should never
// happen.
const sweepInterval = time.Second

func (w *Watcher) run() {
	defer close(w.done)
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := w.sys.epollWait(w.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			w.sweep()
			n = 0
		}
		if w.serve(events[:max(n, 0)]) {
			return
		}
	}
}

// sweep waits a moment and checks each pidfd by itself.
func (w *Watcher) sweep() {
	_, _ = w.sys.poll([]unix.PollFd{{Fd: int32(w.wake), Events: unix.POLLIN}}, int(sweepInterval.Milliseconds()))
	w.drain()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.byFD {
		w.endIfOver(x)
	}
}

// drain empties the eventfd.
func (w *Watcher) drain() {
	var b [8]byte
	_, _ = w.sys.read(w.wake, b[:])
}

// endIfOver checks the pidfd once more: an event may be outdated, from a process that had the same
// descriptor before. The mutex is held.
func (w *Watcher) endIfOver(x *watch) {
	if over, err := w.sys.readable(x.fd); err == nil && over {
		w.end(x)
	}
}

// serve handles the events of epoll, looks at processes that were watched without Hold, and
// reports.
func (w *Watcher) serve(events []unix.EpollEvent) (closed bool) {
	w.mu.Lock()
	for _, e := range events {
		if int(e.Fd) == w.wake {
			w.drain()
		} else if x := w.byFD[e.Fd]; x != nil {
			w.endIfOver(x)
		}
	}
	queue := w.queue
	w.queue = nil
	closed = w.closed
	w.mu.Unlock()
	if closed {
		return true
	}
	for _, id := range queue {
		w.lookFor(id)
	}
	w.mu.Lock()
	news := w.news
	w.news = nil
	w.mu.Unlock()
	for _, n := range news {
		n.tell(n.id, n.state, n.err)
	}
	return false
}

// lookFor finds out what became of a process that nobody holds.
func (w *Watcher) lookFor(id ID) {
	fd, info, err := w.examineAlone(id.PID)
	if err != nil && w.reused(id, err) {
		err = ErrGone
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.watches[id]
	switch {
	case x == nil || x.tell == nil:
		if err == nil {
			_ = w.sys.close(fd)
		}
		return
	case err == nil && info.ID == id:
		err = w.arm(x, fd, info, x.user, false)
	case err == nil:
		_ = w.sys.close(fd)
		err = ErrGone // the pid belongs to another process now
	}
	switch {
	case errors.Is(err, ErrGone) || x.over:
		w.end(x)
	case err != nil:
		w.report(x, Undetermined, err)
	default:
		w.report(x, Alive, nil)
	}
}

// reused reports whether a pid that now belongs to a thread, of a process or of the kernel,
// belonged to another process before: a different start time means a different process.
func (w *Watcher) reused(id ID, err error) bool {
	if !errors.Is(err, ErrThread) && !errors.Is(err, ErrKernelThread) {
		return false
	}
	start, err := w.sys.start(id.PID)
	return err == nil && start != id.Start
}
