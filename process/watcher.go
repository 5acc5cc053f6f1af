package process

import (
	"errors"
	"math"
	"sync"

	"golang.org/x/sys/unix"
)

// DefaultPerUser is how many processes are watched for one user unless LimitPerUser says otherwise.
const DefaultPerUser = 4096

// reserve is how many descriptors are kept for the rest of the program: files, connections,
// programs that it starts. If the limit is low it is a quarter of that.
const reserve = 64

// mostIdle is how many processes are watched that nobody needs at the moment, so that the next one
// who asks for them need not examine them again. It takes no descriptor from others where these are
// scarce (see idles).
const mostIdle = 32

// examiners is how many processes are examined at once for callers; each takes two descriptors for
// a moment.
const examiners = 8

// Watcher tells when processes end.
//
// A caller that needs a process holds it first (Hold), which opens its pidfd and registers it so
// that its end is seen, or fails. From then on until Drop, Watch of the same process needs no
// system call and can't fail, and its end is reported even if it comes before Watch.
type Watcher struct {
	sys   *kernel       // the system calls; a stand-in for tests
	epoll int           // of all pidfds: each is readable once its process has ended (pidfd_open(2))
	wake  int           // eventfd, by which the others wake the goroutine
	slots chan struct{} // a goroutine that examines a process holds one

	mu      sync.Mutex
	proc    bool              // /proc is known to show our pid namespace
	watches map[ID]*watch     // all, by pid and start time: a pid may be used again
	byPID   map[uint32]*watch // those with a pidfd of a process that has not ended
	byFD    map[int32]*watch  // the same, by what epoll reports
	users   map[uint32]int    // how many pidfds are open for each
	idle    []*watch          // nobody holds or watches these; the one that was needed last is the last
	most    int               // of idle
	perUser int
	limit   int      // descriptors that this program may have; 0: not known
	queue   []ID     // watched without Hold, not yet looked at
	news    []notice // to be reported by the goroutine
	closed  bool
	done    chan struct{} // closed when the goroutine has ended
}

// watch is one process that somebody holds or watches, or did lately.
type watch struct {
	info         Info
	fd           int                    // pidfd; -1: not open (yet), or the process has ended
	user         uint32                 // the user for whom it counts, if fd is open and it is not idle
	holds        int                    // Hold without Drop so far
	over         bool                   // it has ended
	idle         bool                   // it is in Watcher.idle
	undetermined bool                   // the last report was Undetermined
	tell         func(ID, State, error) // of Watch; nil: nobody watches
}

// notice is a report on its way. The function is that of the moment: after Unwatch, or another
// Watch, it may still be called.
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
		users: map[uint32]int{}, most: mostIdle,
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

// LimitPerUser bounds how many processes are watched for one user from now on; 0 stands for
// DefaultPerUser. Processes that are watched already stay.
func (w *Watcher) LimitPerUser(n int) {
	if n <= 0 {
		n = DefaultPerUser
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.perUser = n
}

// Hold finds out which process has pid now and watches it for user, a uid. If it returns no error,
// the process was alive a moment ago and its end can't be missed until Drop. Holds are counted.
//
// The error wraps ErrGone, ErrThread or ErrKernelThread if that is certain, and is an *Error
// otherwise.
func (w *Watcher) Hold(pid, user uint32) (Info, error) {
	info, known, err := w.holdKnown(pid, user)
	if known {
		return info, err
	}
	fd, info, err := w.examine(pid)
	if err != nil {
		return Info{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	x, err := w.adopt(fd, info, user)
	if err != nil {
		return Info{}, err
	}
	x.holds++
	return info, nil
}

// adopt finds or makes the watch of a process that was examined, and takes its pidfd over. The
// mutex is held.
func (w *Watcher) adopt(fd int, info Info, user uint32) (*watch, error) {
	x := w.watches[info.ID]
	if x == nil {
		x = &watch{fd: -1}
	}
	if err := w.arm(x, fd, info, user, true); err != nil {
		return nil, err
	}
	return x, w.need(x, user)
}

// examine calls kernel.examine, in a /proc that shows our own pid namespace, for a few callers at
// once. It runs without the mutex, since Watch and Drop, which the owner of the table calls, must
// not wait for it.
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

// checkProc checks once that /proc shows our pid namespace, which never changes.
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

// holdKnown holds a process that is watched already: as long as its pidfd is not readable, it has
// its pid. Its uid is read again, because it may change, unless it is held for root, who may name
// any process. The error is that of need.
func (w *Watcher) holdKnown(pid, user uint32) (info Info, known bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.living(pid)
	if x == nil {
		return Info{}, false, nil
	}
	if err := w.need(x, user); err != nil {
		return Info{}, true, err
	}
	x.holds++
	if user == 0 {
		return x.info, true, nil
	}
	w.mu.Unlock()
	w.slots <- struct{}{}
	now, err := w.sys.describe(pid)
	<-w.slots
	w.mu.Lock()
	if err == nil && now.ID == x.info.ID && w.living(pid) == x {
		return now, true, nil
	}
	x.holds--
	w.check(x)
	return Info{}, false, nil
}

// living returns the watch of the process that has pid, if there is one and the process is certainly
// alive. The mutex is held.
func (w *Watcher) living(pid uint32) *watch {
	x := w.byPID[pid]
	if x == nil {
		return nil
	}
	switch over, err := w.sys.readable(x.fd); {
	case err != nil:
		return nil
	case over:
		w.end(x)
		return nil
	}
	return x
}

// arm gives a watch the pidfd fd, which it takes over, and registers it so that its end is
// reported. The mutex is held.
func (w *Watcher) arm(x *watch, fd int, info Info, user uint32, bounded bool) error {
	if x.fd >= 0 || x.over {
		_ = w.sys.close(fd) // another goroutine was faster
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

// room reports whether one more pidfd leaves enough descriptors for others. The kernel assigns the
// lowest free number (open(2)), so a number near the limit says that nearly all are in use.
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

// usable returns how many descriptors there are without the reserve.
func (w *Watcher) usable() int {
	if w.limit == 0 {
		return math.MaxInt
	}
	return usable(w.limit)
}

// usable returns how many of these descriptors are for clients; the rest are kept for the program.
func usable(descriptors int) int { return descriptors - min(reserve, descriptors/4) }

// Usable returns how many descriptors of this program are for clients by its limit of now; ok is false
// where that can't be read.
func Usable() (descriptors int, ok bool) {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return 0, false
	}
	return usable(int(min(lim.Cur, 1<<30))), true
}

// Reserved reports whether a descriptor that was just opened is one of those that are kept for the
// program: the kernel assigns the lowest free number (open(2)). It is false where that can't be told.
func Reserved(fd int) bool {
	n, ok := Usable()
	return ok && fd >= n
}

// fits reports whether there is room. However high the bound for each user is, one user gets at
// most half of all.
func (w *Watcher) fits(fd int, user uint32, bounded bool) bool {
	return fd < w.usable() && (!bounded || w.users[user] < min(w.perUser, w.usable()/2))
}

// readLimit reads how many descriptors this program may have. The mutex is held, except at the start.
func (w *Watcher) readLimit() {
	var lim unix.Rlimit
	if err := w.sys.getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return // then only the kernel says when none is left
	}
	w.limit = int(min(lim.Cur, 1<<30))
}

// Drop undoes one Hold.
func (w *Watcher) Drop(id ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.watches[id]; x != nil {
		x.holds--
		w.check(x)
	}
}

// Watch has tell called, on the watcher's goroutine, with what is known about the process: Ended
// once at its end; before that, if nobody holds the process, whether it is Alive, or Undetermined with
// the reason, after which Watch can be called again. A second Watch of the same process replaces
// the first.
//
// It is for processes that already have locks, so the bound for each user does not apply; the
// process counts for user nevertheless.
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
	case x.idle:
		w.count(x, user)
		w.report(x, Alive, nil)
	case x.fd < 0:
		w.queue = append(w.queue, id)
	case x.undetermined:
		w.report(x, Alive, nil)
	default:
		return
	}
	w.signal()
}

// Unwatch undoes Watch. A call of tell may already be under way.
func (w *Watcher) Unwatch(id ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.watches[id]; x != nil {
		x.tell = nil
		w.check(x)
	}
}

// check ends a watch that is no longer needed, or lays it by. The mutex is held.
func (w *Watcher) check(x *watch) {
	if x.holds > 0 || x.tell != nil || x.idle {
		return
	}
	if w.idles(x) {
		w.rest(x)
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
	_ = w.sys.close(x.fd) // this also removes it from the epoll set
	x.fd = -1
	if x.idle {
		w.leaveIdle(x)
		return
	}
	w.uncount(x)
}

// end notes that a process has ended, and has that reported once. The mutex is held.
func (w *Watcher) end(x *watch) {
	x.over = true
	w.disarm(x)
	if x.tell != nil {
		w.report(x, Ended, nil)
		x.tell = nil
	}
	w.check(x)
}

// report has the goroutine report a state. The mutex is held.
func (w *Watcher) report(x *watch, s State, err error) {
	x.undetermined = s == Undetermined
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
