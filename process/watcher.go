package process

import (
	"errors"
	"math"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultPerUser is how many processes are watched for one user where nobody
// says otherwise.
const DefaultPerUser = 4096

// reserve is how many descriptors are kept for the rest of the program: files
// that it opens, connections, programs that it starts. Where the limit is low it
// is a quarter of that.
const reserve = 64

// examiners is how many processes are examined at once for those who ask, each
// with two descriptors for a moment.
const examiners = 8

// Watcher tells when processes end.
//
// Who needs a process holds it first (Hold), which opens its pidfd and puts it
// where its end is seen, or fails. From then on until Drop, Watch of the same
// process needs no system call and can't fail, and its end is told also if it
// comes before Watch.
type Watcher struct {
	sys   *kernel
	epoll int
	wake  int           // eventfd
	slots chan struct{} // who examines a process has one

	mu      sync.Mutex
	proc    bool // /proc is known to show our pid namespace
	watches map[ID]*watch
	byPID   map[uint32]*watch // those with a pidfd of a process that has not ended
	byFD    map[int32]*watch
	users   map[uint32]int // how many pidfds each has
	perUser int
	limit   int      // descriptors of this program; 0: not known
	queue   []ID     // asked for without Hold, not yet looked at
	news    []notice // to be told by the goroutine
	closed  bool
	done    chan struct{}
}

// watch is one process: that somebody holds, or wants to be told of.
type watch struct {
	info  Info
	fd    int    // pidfd; -1: not open (yet), or over
	user  uint32 // whom it counts for, where fd is open
	holds int
	over  bool // it has ended
	doubt bool // Unknown was the last that was told
	tell  func(ID, State, error)
}

type notice struct {
	id    ID
	state State
	err   error
	tell  func(ID, State, error)
}

// NewWatcher starts the goroutine that waits. Close ends it.
func NewWatcher() (*Watcher, error) { return newWatcher(&linux) }

func newWatcher(sys *kernel) (*Watcher, error) {
	w := &Watcher{sys: sys, watches: map[ID]*watch{}, byPID: map[uint32]*watch{}, byFD: map[int32]*watch{},
		users:   map[uint32]int{},
		perUser: DefaultPerUser, done: make(chan struct{}), slots: make(chan struct{}, examiners)}
	var err error
	if w.epoll, err = sys.epollCreate(unix.EPOLL_CLOEXEC); err != nil {
		return nil, failed(0, "epoll_create1", err)
	}
	if w.wake, err = sys.eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = sys.close(w.epoll)
		return nil, failed(0, "eventfd", err)
	}
	if err := w.enter(w.wake); err != nil {
		_ = sys.close(w.epoll)
		_ = sys.close(w.wake)
		return nil, failed(0, "epoll_ctl", err)
	}
	w.readLimit()
	go w.run()
	return w, nil
}

func (w *Watcher) enter(fd int) error {
	return w.sys.epollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// LimitPerUser bounds how many processes are watched for one user from now on;
// 0 means DefaultPerUser. Those that are watched stay.
func (w *Watcher) LimitPerUser(n int) {
	if n <= 0 {
		n = DefaultPerUser
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.perUser = n
}

// Hold finds out which process has pid now and watches it for user, a uid. When
// it returns no error, the process lived a moment ago and its end can't be missed
// until Drop. Holds are counted.
//
// The error wraps ErrGone, ErrThread or ErrKernelThread where that is certain,
// and is an *Error otherwise.
func (w *Watcher) Hold(pid, user uint32) (Info, error) {
	if info, ok := w.holdKnown(pid); ok {
		return info, nil
	}
	fd, info, err := w.examine(pid)
	if err != nil {
		return Info{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.watches[info.ID]
	if x == nil {
		x = &watch{fd: -1}
	}
	if err := w.arm(x, fd, info, user, true); err != nil {
		return Info{}, err
	}
	x.holds++
	return info, nil
}

// examine is that of the kernel, in a /proc that shows our own pid namespace,
// and by a few at once.
func (w *Watcher) examine(pid uint32) (fd int, info Info, err error) {
	w.slots <- struct{}{}
	defer func() { <-w.slots }()
	return w.examineAlone(pid)
}

func (w *Watcher) examineAlone(pid uint32) (fd int, info Info, err error) {
	if err := w.checkProc(); err != nil {
		return -1, Info{}, err
	}
	return w.sys.examine(pid)
}

// checkProc is done until it has succeeded once: that never changes.
func (w *Watcher) checkProc() error {
	w.mu.Lock()
	known := w.proc
	w.mu.Unlock()
	if known {
		return nil
	}
	err := w.sys.ownProc()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.proc = err == nil
	return err
}

// holdKnown is Hold of a process that is watched already: as long as its pidfd
// is not readable, it has its pid. Its uid is read anew, because it may change.
func (w *Watcher) holdKnown(pid uint32) (Info, bool) {
	w.mu.Lock()
	x := w.byPID[pid]
	if x == nil {
		w.mu.Unlock()
		return Info{}, false
	}
	x.holds++
	w.mu.Unlock()
	w.slots <- struct{}{}
	now, err := w.sys.describe(pid)
	<-w.slots
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && now.ID == x.info.ID && x.fd >= 0 {
		if over, err := w.sys.readable(x.fd); err == nil && !over {
			return now, true
		}
	}
	x.holds--
	w.check(x)
	return Info{}, false
}

// arm gives a watch the pidfd fd, which it takes over, and has its end told. The
// mutex is held.
func (w *Watcher) arm(x *watch, fd int, info Info, user uint32, bounded bool) error {
	if x.fd >= 0 || x.over {
		_ = w.sys.close(fd) // somebody else was faster
		return nil
	}
	err := w.room(fd, user, bounded)
	if err == nil {
		err = w.enter(fd)
	}
	if err != nil {
		_ = w.sys.close(fd)
		return failed(info.PID, "watch", err)
	}
	x.info, x.fd, x.user = info, fd, user
	w.watches[info.ID], w.byPID[info.PID], w.byFD[int32(fd)] = x, x, x
	w.users[user]++
	return nil
}

// room reports whether one more pidfd leaves enough for others. The kernel gives
// the lowest number that is free (open(2)), so a number near the limit says that
// nearly all are in use.
func (w *Watcher) room(fd int, user uint32, bounded bool) error {
	if !w.fits(fd, user, bounded) {
		w.readLimit() // it may have been raised (prlimit(2))
	}
	switch {
	case fd >= w.usable():
		return ErrReserve
	case !w.fits(fd, user, bounded):
		return ErrUserLimit
	}
	return nil
}

// usable is how many descriptors there are without the reserve.
func (w *Watcher) usable() int {
	if w.limit == 0 {
		return math.MaxInt
	}
	return w.limit - min(reserve, w.limit/4)
}

// fits tells whether there is room. However high the bound for each user is, one
// has half of all at the most.
func (w *Watcher) fits(fd int, user uint32, bounded bool) bool {
	return fd < w.usable() && (!bounded || w.users[user] < min(w.perUser, w.usable()/2))
}

func (w *Watcher) readLimit() {
	var lim unix.Rlimit
	if err := w.sys.getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return // then the kernel alone says when there is none left
	}
	w.limit = int(min(lim.Cur, 1<<30))
}

// Drop takes back one Hold.
func (w *Watcher) Drop(id ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.watches[id]; x != nil {
		x.holds--
		w.check(x)
	}
}

// Watch has tell called, on the watcher's goroutine, with what is known of the
// process: Ended once at the end; before that, if nobody holds the process,
// whether it is Alive, or Unknown with the reason, after which Watch can be
// called again. A second Watch of the same process replaces the first.
//
// It is for processes that have locks, so the bound for each user is not looked
// at; what is watched counts for user.
func (w *Watcher) Watch(id ID, user uint32, tell func(ID, State, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	x := w.watches[id]
	if x == nil {
		x = &watch{info: Info{ID: id}, fd: -1, user: user}
		w.watches[id] = x
	}
	x.tell = tell
	switch {
	case x.over:
		w.end(x)
	case x.fd < 0:
		w.queue = append(w.queue, id)
	case x.doubt:
		w.report(x, Alive, nil)
	default:
		return
	}
	w.signal()
}

// Unwatch takes back Watch. A call of tell may already be under way.
func (w *Watcher) Unwatch(id ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.watches[id]; x != nil {
		x.tell = nil
		w.check(x)
	}
}

// check forgets a watch that nobody needs. The mutex is held.
func (w *Watcher) check(x *watch) {
	if x.holds > 0 || x.tell != nil {
		return
	}
	w.disarm(x)
	delete(w.watches, x.info.ID)
}

// disarm closes the pidfd. The mutex is held.
func (w *Watcher) disarm(x *watch) {
	if x.fd < 0 {
		return
	}
	delete(w.byFD, int32(x.fd))
	if w.byPID[x.info.PID] == x {
		delete(w.byPID, x.info.PID)
	}
	_ = w.sys.close(x.fd) // takes it out of the epoll set as well
	x.fd = -1
	if w.users[x.user]--; w.users[x.user] == 0 {
		delete(w.users, x.user)
	}
}

// end notes that a process has ended, and has it told once. The mutex is held.
func (w *Watcher) end(x *watch) {
	x.over = true
	w.disarm(x)
	if x.tell != nil {
		w.report(x, Ended, nil)
		x.tell = nil
	}
	w.check(x)
}

// report has the goroutine tell something. The mutex is held.
func (w *Watcher) report(x *watch, s State, err error) {
	x.doubt = s == Unknown
	w.news = append(w.news, notice{x.info.ID, s, err, x.tell})
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
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.watches {
		w.disarm(x)
	}
	return errors.Join(w.sys.close(w.epoll), w.sys.close(w.wake))
}

func (w *Watcher) signal() {
	_, _ = w.sys.write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // full means that it is awake already
}

// sweepInterval is how often every process is looked at where epoll_wait(2)
// fails, which no correct program has seen.
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

// sweep waits a moment and asks each pidfd by itself.
func (w *Watcher) sweep() {
	_, _ = w.sys.poll([]unix.PollFd{{Fd: int32(w.wake), Events: unix.POLLIN}}, int(sweepInterval.Milliseconds()))
	w.drain()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.byFD {
		w.endIfOver(x)
	}
}

// drain makes the eventfd quiet again.
func (w *Watcher) drain() {
	var b [8]byte
	_, _ = w.sys.read(w.wake, b[:])
}

// endIfOver asks the pidfd once more: an event may be an old one, of a process
// that had the same descriptor before. The mutex is held.
func (w *Watcher) endIfOver(x *watch) {
	if over, err := w.sys.readable(x.fd); err == nil && over {
		w.end(x)
	}
}

// serve takes what epoll has seen, looks at what was asked for, and tells.
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
		err = ErrGone // the pid is another's now
	}
	switch {
	case errors.Is(err, ErrGone) || x.over:
		w.end(x)
	case err != nil:
		w.report(x, Unknown, err)
	default:
		w.report(x, Alive, nil)
	}
}

// reused tells whether a pid that belongs to a thread now, of a process or of
// the kernel, was another's before: what began at another time is another.
func (w *Watcher) reused(id ID, err error) bool {
	if !errors.Is(err, ErrThread) && !errors.Is(err, ErrKernelThread) {
		return false
	}
	start, err := w.sys.start(id.PID)
	return err == nil && start != id.Start
}
