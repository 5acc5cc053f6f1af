package wire

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/internal/boottime"
)

// Peer is who is at the other end of a connection, as the kernel says it: the
// process that called connect(2), or that made a pair of connected sockets.
// Another process may use the connection as well, or instead: a child, or one
// that was handed the socket.
type Peer struct {
	UID  uint32
	GID  uint32
	GIDs []uint32 // its supplementary groups; GID is not among them
	PID  uint32   // in this process's pid namespace; 0: it has none there
	// Seen is the time since boot when the connection was accepted; 0: it can't
	// be told.
	Seen time.Duration

	raw syscall.RawConn
}

// soPassRights (SO_PASSRIGHTS, Linux 6.16) is whether descriptors may be sent
// to a socket.
const soPassRights = 83

// refuseDescriptors has the kernel refuse descriptors to whoever sends them to a
// connection of this listener, where it can.
func refuseDescriptors(l *net.UnixListener) {
	if raw, err := l.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, soPassRights, 0) })
	}
}

// readPeer asks the kernel who is there. The kernel has noted it at connect(2), so it
// stays the same when the process changes its user, or ends.
func readPeer(raw syscall.RawConn) (Peer, error) {
	p := Peer{raw: raw}
	var err error
	cerr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		p.UID, p.GID, p.PID = cred.Uid, cred.Gid, uint32(max(cred.Pid, 0))
		p.GIDs, err = peerGroups(int(fd))
	})
	if err = errors.Join(cerr, err); err != nil {
		return p, fmt.Errorf("ask who has connected: %w", err)
	}
	p.Seen, _ = boottime.Now() // 0: not known
	return p, nil
}

// peerGroups reads the supplementary groups (SO_PEERGROUPS, Linux 4.13).
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 32)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch errno {
		case 0:
			return groups[: size/4 : size/4], nil
		case unix.ERANGE:
			groups = make([]uint32, max(int(size/4), len(groups)*2))
		default:
			return nil, os.NewSyscallError("getsockopt SO_PEERGROUPS", errno)
		}
	}
}

// ErrNoPidfd is Start's error on a kernel that gives no pidfd of a peer
// (SO_PEERPIDFD, Linux 6.5): then nothing ties the pid to the connection.
var ErrNoPidfd = errors.New("this kernel has no SO_PEERPIDFD (Linux 6.5)")

// Start returns when the process with the peer's pid has started, in clock ticks
// since boot (proc(5), field 22 of /proc/PID/stat). It is certainly that of the
// peer: the kernel says that the peer has not ended after it was read. Any error
// means that it can't be told, or that the peer has ended.
func (p *Peer) Start() (ticks uint64, err error) {
	if p.PID == 0 {
		return 0, errors.New("the peer has no pid in the service's pid namespace")
	}
	var fd int
	cerr := p.raw.Control(func(sock uintptr) {
		fd, err = unix.GetsockoptInt(int(sock), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	})
	switch {
	case cerr != nil:
		return 0, cerr
	case errors.Is(err, unix.ENOPROTOOPT):
		return 0, ErrNoPidfd
	case err != nil:
		return 0, os.NewSyscallError("getsockopt SO_PEERPIDFD", err)
	}
	defer unix.Close(fd)
	if ticks, err = startTime(p.PID); err != nil {
		return 0, err
	}
	// A pidfd is readable once its process has ended (pidfd_open(2)). If it has not, the
	// pid was not free to be given to another process when the file was read.
	// A signal can interrupt even a poll that does not wait (EINTR), but only if nothing was ready.
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	if errors.Is(err, unix.EINTR) {
		n, err = 0, nil
	}
	if err == nil && n != 0 {
		err = errors.New("the peer has ended")
	}
	return ticks, err
}

// startTime reads field 22 of /proc/PID/stat.
func startTime(pid uint32) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is in parentheses and may contain anything.
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: it has %d fields", pid, len(fields))
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
