package process

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const pause = 5 * time.Millisecond

// faulty is a kernel whose calls can be made to fail.
type faulty struct {
	kernel
	fail map[string]error // by name of the call; "open status" is one file
}

func newFaulty() *faulty {
	f := &faulty{kernel: linux, fail: map[string]error{}}
	f.pidfdOpen = func(pid, flags int) (int, error) {
		if err := f.fail["pidfd_open"]; err != nil {
			return -1, err
		}
		return linux.pidfdOpen(pid, flags)
	}
	f.open = func(path string, flags int, mode uint32) (int, error) {
		for what, err := range f.fail {
			if file, ok := strings.CutPrefix(what, "open "); ok && strings.HasSuffix(path, file) && err != nil {
				return -1, err
			}
		}
		return linux.open(path, flags, mode)
	}
	f.read = func(fd int, b []byte) (int, error) {
		if err := f.fail["read"]; err != nil && len(b) > 8 {
			return -1, err
		}
		return linux.read(fd, b)
	}
	f.poll = func(fds []unix.PollFd, timeout int) (int, error) {
		if err := f.fail["poll"]; err != nil && timeout == 0 {
			return -1, err
		}
		return linux.poll(fds, timeout)
	}
	f.epollCtl = func(ep, op, fd int, ev *unix.EpollEvent) error {
		if err := f.fail["epoll_ctl"]; err != nil {
			return err
		}
		return linux.epollCtl(ep, op, fd, ev)
	}
	f.readDir = func(path string, most int) ([]os.DirEntry, error) {
		if err := f.fail["readdir"]; err != nil {
			return nil, err
		}
		return linux.readDir(path, most)
	}
	return f
}

// faults are all failures of calls that say nothing about the process.
func faults() map[string][]error {
	return map[string][]error{
		"pidfd_open": {unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EINVAL, unix.ENODEV, unix.ENOENT, unix.EPERM,
			unix.ENOSYS},
		"open stat":   {unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EACCES, unix.EPERM, unix.ENOENT},
		"open status": {unix.EMFILE, unix.EACCES, unix.ENOENT},
		"read":        {unix.ENOMEM, unix.EIO, unix.EACCES, unix.ESRCH},
		"poll":        {unix.ENOMEM, unix.EINVAL},
		"epoll_ctl":   {unix.ENOMEM, unix.ENOSPC, unix.EPERM, unix.EBADF},
	}
}

// Whatever fails, a live process is never taken for one that has ended: it is not held, and the
// state of a recorded one is unknown until it can be examined.
func TestFailureIsNotTheEnd(t *testing.T) {
	for call, errs := range faults() {
		for _, errno := range errs {
			t.Run(call+"/"+errno.Error(), func(t *testing.T) {
				f := newFaulty()
				w, err := newWatcher(&f.kernel)
				require.NoError(t, err)
				defer func() { require.NoError(t, w.Close()) }()
				require.NoError(t, w.checkProc())
				pid := uint32(sleeper(t).Process.Pid)
				before := descriptors(t)
				f.fail[call] = errno
				_, err = w.Hold(pid, 0)
				var pe *Error
				require.ErrorAs(t, err, &pe)
				require.Equal(t, pid, pe.PID)
				require.False(t, certain(err), err)
				start, err := Start(pid)
				require.NoError(t, err)
				news, tell := listener()
				id := ID{pid, start}
				w.Watch(id, 0, tell)
				n := next(t, news)
				require.Equal(t, Undetermined, n.state)
				require.ErrorAs(t, n.err, &pe)
				require.Equal(t, before, descriptors(t), "a descriptor is left")
				delete(f.fail, call)
				w.Watch(id, 0, tell)
				require.Equal(t, told{id, Alive, nil}, next(t, news))
			})
		}
	}
}

// The errnos that do say that a process has ended.
func TestEndIsSaid(t *testing.T) {
	f := newFaulty()
	w, err := newWatcher(&f.kernel)
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	f.fail["pidfd_open"] = unix.ESRCH
	_, err = w.Hold(uint32(os.Getpid()), 0)
	require.ErrorIs(t, err, ErrGone)
	require.True(t, certain(err))
}

// A process that ends while its files are read has ended; one that a /proc
// with hidepid does not show has not.
func TestHidden(t *testing.T) {
	f := newFaulty()
	w, err := newWatcher(&f.kernel)
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	require.NoError(t, w.checkProc())
	cmd := sleeper(t)
	f.fail["open stat"] = unix.ENOENT
	_, err = w.Hold(uint32(cmd.Process.Pid), 0)
	require.ErrorIs(t, err, ErrHidden)
	open := f.open
	f.open = func(path string, flags int, mode uint32) (int, error) {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return open(path, flags, mode)
	}
	_, err = w.Hold(uint32(cmd.Process.Pid), 0)
	require.ErrorIs(t, err, ErrGone)
}

// A process that is held while its state was unknown is reported as alive.
func TestHeldInDoubt(t *testing.T) {
	f := newFaulty()
	w, err := newWatcher(&f.kernel)
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	pid := uint32(sleeper(t).Process.Pid)
	start, err := Start(pid)
	require.NoError(t, err)
	news, tell := listener()
	f.fail["pidfd_open"] = unix.EMFILE
	w.Watch(ID{pid, start}, 0, tell)
	require.Equal(t, Undetermined, next(t, news).state)
	delete(f.fail, "pidfd_open")
	_, err = w.Hold(pid, 0)
	require.NoError(t, err)
	w.Watch(ID{pid, start}, 0, tell)
	require.Equal(t, Alive, next(t, news).state)
}

// An event of epoll may be about a process that had the descriptor before.
func TestOldEvent(t *testing.T) {
	f := newFaulty()
	events := make(chan unix.EpollEvent)
	f.epollWait = func(_ int, into []unix.EpollEvent, _ int) (int, error) {
		e, ok := <-events
		if !ok {
			return 0, nil
		}
		into[0] = e
		return 1, nil
	}
	w, err := newWatcher(&f.kernel)
	require.NoError(t, err)
	pid := uint32(sleeper(t).Process.Pid)
	i, err := w.Hold(pid, 0)
	require.NoError(t, err)
	news, tell := listener()
	w.Watch(i.ID, 0, tell)
	w.mu.Lock()
	fd := int32(w.watches[i.ID].fd)
	w.mu.Unlock()
	for range 3 { // when the last is taken, the first has been looked at
		events <- unix.EpollEvent{Events: unix.EPOLLIN, Fd: fd}
	}
	require.Empty(t, news)
	close(events)
	require.NoError(t, w.Close())
}

// If epoll_wait fails, the ends of processes are still noticed.
func TestEpollWaitFails(t *testing.T) {
	f := newFaulty()
	f.epollWait = func(int, []unix.EpollEvent, int) (int, error) { return -1, unix.EINVAL }
	w, err := newWatcher(&f.kernel)
	require.NoError(t, err)
	cmd := sleeper(t)
	i, err := w.Hold(uint32(cmd.Process.Pid), 0)
	require.NoError(t, err)
	news, tell := listener()
	w.Watch(i.ID, 0, tell)
	require.NoError(t, cmd.Process.Kill())
	require.Equal(t, told{i.ID, Ended, nil}, next(t, news))
	require.NoError(t, w.Close())
}

// If something that it needs is missing, there is no watcher, and no descriptor is leaked.
func TestNewWatcherFails(t *testing.T) {
	before := descriptors(t)
	for _, breakIt := range []func(*kernel){
		func(k *kernel) { k.epollCreate = func(int) (int, error) { return -1, unix.EMFILE } },
		func(k *kernel) { k.eventfd = func(uint, int) (int, error) { return -1, unix.EMFILE } },
		func(k *kernel) { k.epollCtl = func(int, int, int, *unix.EpollEvent) error { return unix.EMFILE } },
	} {
		k := linux
		breakIt(&k)
		_, err := newWatcher(&k)
		require.ErrorIs(t, err, unix.EMFILE)
	}
	require.Equal(t, before, descriptors(t))
}

// A /proc of another pid namespace is of no use; one that can't be read at the moment is tried
// again.
func TestOtherProc(t *testing.T) {
	f := newFaulty()
	w, err := newWatcher(&f.kernel)
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	f.fail["open self/status"] = unix.EMFILE
	_, err = w.Hold(uint32(os.Getpid()), 0)
	require.ErrorIs(t, err, unix.EMFILE)
	read := f.read
	f.read = func(fd int, b []byte) (int, error) {
		return copy(b, "NSpid:\t77\t1\n"), nil
	}
	delete(f.fail, "open self/status")
	f.read = func(fd int, b []byte) (int, error) {
		f.read = func(int, []byte) (int, error) { return 0, nil }
		return copy(b, "NSpid:\t77\t1\n"), nil
	}
	_, err = w.Hold(uint32(os.Getpid()), 0)
	require.ErrorIs(t, err, ErrOtherProc)
	f.read = read
	_, err = w.Hold(uint32(os.Getpid()), 0)
	require.NoError(t, err)
}

// With the real limit: the last descriptors are left for others, and no live process is taken for
// dead.
func TestDescriptorsRunOut(t *testing.T) {
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	var cmds []uint32
	for range 40 {
		cmds = append(cmds, uint32(sleeper(t).Process.Pid))
	}
	w := watcher(t)
	low := old
	low.Cur = uint64(descriptors(t) + 40)
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &low))
	defer func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) }()
	w.mu.Lock()
	w.readLimit()
	w.mu.Unlock()
	refused := 0
	for _, pid := range cmds {
		if _, err := w.Hold(pid, 0); err != nil {
			require.ErrorIs(t, err, ErrReserve)
			refused++
		}
	}
	require.Greater(t, refused, 5)
	require.Less(t, refused, 40)
	f, err := os.Open("/dev/null")
	require.NoError(t, err, "the reserve is used up")
	require.NoError(t, f.Close())
	news, tell := listener()
	start, err := Start(cmds[39])
	require.NoError(t, err)
	w.Watch(ID{cmds[39], start}, 0, tell)
	require.Equal(t, Undetermined, next(t, news).state)
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) // prlimit(1)
	w.Watch(ID{cmds[39], start}, 0, tell)
	require.Equal(t, Alive, next(t, news).state)
}

// certain reports whether an error of this package is an answer about the process, and not a
// failure to find one.
func certain(err error) bool {
	for _, e := range []error{ErrGone, ErrThread, ErrKernelThread, ErrElsewhere} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
