package libdlm

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// uevents is a socket on which the kernel sends its device events.
type uevents struct{ file *os.File }

// openUevents subscribes to the kernel's own events (multicast group 1 of NETLINK_KOBJECT_UEVENT),
// not to those that udev sends.
func openUevents() (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK,
		unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return &uevents{file: os.NewFile(uintptr(fd), "uevents")}, nil
}

// watch calls removed with the name of each lockspace whose device the kernel removes. That is the
// first thing the kernel does when the node leaves the lockspace (release_lockspace in
// fs/dlm/lockspace.c); then it waits until every process has closed the device. watch calls lost
// when events were dropped, or may have been because reading failed. It returns after close.
func (u *uevents) watch(removed func(lockspace string), lost func()) {
	buffer := make([]byte, 16<<10)
	for {
		n, err := u.file.Read(buffer)
		switch {
		case err == nil:
			if name, ok := removedLockspace(buffer[:n]); ok {
				removed(name)
			}
		case errors.Is(err, syscall.ENOBUFS):
			lost()
		case errors.Is(err, os.ErrClosed):
			return
		default:
			time.Sleep(recheckPause)
			lost()
		}
	}
}

func (u *uevents) close() { u.file.Close() }

// removedLockspace parses one event: "ACTION@DEVPATH" and then KEY=VALUE, each ended by a zero byte
// (kobject_uevent_env in lib/kobject_uevent.c).
func removedLockspace(message []byte) (string, bool) {
	head, _, _ := bytes.Cut(message, []byte{0})
	name, ok := bytes.CutPrefix(head, []byte("remove@/devices/virtual/misc/dlm_"))
	if !ok || len(name) == 0 {
		return "", false
	}
	return string(name), true
}
