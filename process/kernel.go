package process

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// kernel is every system call of this package, so that a test can let each of
// them fail: a lock must never be released because a process could not be looked at.
type kernel struct {
	pidfdOpen   func(pid, flags int) (int, error)
	open        func(path string, flags int, mode uint32) (int, error)
	read        func(fd int, b []byte) (int, error)
	write       func(fd int, b []byte) (int, error)
	close       func(fd int) error
	poll        func(fds []unix.PollFd, timeout int) (int, error)
	epollCreate func(flags int) (int, error)
	epollCtl    func(ep, op, fd int, ev *unix.EpollEvent) error
	epollWait   func(ep int, events []unix.EpollEvent, msec int) (int, error)
	eventfd     func(initial uint, flags int) (int, error)
	getrlimit   func(which int, lim *unix.Rlimit) error
	readDir     func(path string, most int) ([]os.DirEntry, error)
}

// linux is the real one.
var linux = kernel{
	pidfdOpen: unix.PidfdOpen, open: unix.Open, read: unix.Read, write: unix.Write, close: unix.Close, poll: unix.Poll,
	epollCreate: unix.EpollCreate1, epollCtl: unix.EpollCtl, epollWait: unix.EpollWait, eventfd: unix.Eventfd,
	getrlimit: unix.Getrlimit, readDir: readDir,
}

// readDir lists at most the given number of entries of a directory.
func readDir(path string, most int) ([]os.DirEntry, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	entries, err := dir.ReadDir(most)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return entries, err
}

// maxFile is the most that is read of one file of /proc. The longest line is that of the groups, of
// which a process may have 65536.
const maxFile = 1 << 20

// buffers hold files of /proc, nearly all of which fit.
var buffers = sync.Pool{New: func() any { return new([4096]byte) }}

// use reads a file of /proc and passes it to f, which must not keep it.
func (k *kernel) use(path string, f func(text []byte) error) error {
	buf := buffers.Get().(*[4096]byte)
	defer buffers.Put(buf)
	text, err := k.file(path, buf[:])
	if err != nil {
		return err
	}
	return f(text)
}

// file reads a file of /proc to its end, into buf as long as it fits. It uses the system calls and
// not package os, which would add the descriptor to the runtime's poller.
func (k *kernel) file(path string, buf []byte) ([]byte, error) {
	var fd int
	err := again(func() (err error) { fd, err = k.open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); return err })
	if err != nil {
		return nil, err
	}
	defer func() { _ = k.close(fd) }()
	for text := buf[:0]; ; {
		if len(text) == cap(text) {
			text = slices.Grow(text, cap(text))
		}
		var n int
		err := again(func() (err error) { n, err = k.read(fd, text[len(text):cap(text)]); return err })
		switch {
		case err != nil:
			return nil, err
		case n <= 0:
			return text, nil
		}
		if text = text[:len(text)+n]; len(text) > maxFile {
			return nil, unix.EFBIG
		}
	}
}

// readable reports whether a descriptor is readable. A pidfd is when its process has ended, with
// all of its threads: pidfd_open(2).
func (k *kernel) readable(fd int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	err := again(func() error { _, err := k.poll(fds, 0); return err })
	if err == nil && fds[0].Revents&unix.POLLNVAL != 0 {
		err = unix.EBADF
	}
	return err == nil && fds[0].Revents&(unix.POLLIN|unix.POLLHUP) != 0, err
}

// again repeats a call that a signal has interrupted.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
