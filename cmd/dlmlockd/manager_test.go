package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// manager does for a daemon what systemd does with descriptors: it listens at the Varlink socket
// for it, keeps what the daemon puts into the store, and passes all that on at each start. It is as
// systemd in that a descriptor beyond the limit is closed, and that one whose other end is closed
// is removed. TestDescriptorStore holds the real systemd against the same expectations.
type manager struct {
	socket   string
	listener *os.File
	most     int

	mu    sync.Mutex
	store []*os.File
}

func newManager(t *testing.T, most int) *manager {
	t.Helper()
	m := &manager{socket: filepath.Join(t.TempDir(), "varlink"), most: most}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: m.socket, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	m.listener, err = l.File()
	require.NoError(t, err)
	require.NoError(t, l.Close())
	t.Cleanup(func() {
		_ = m.listener.Close()
		m.stopped()
	})
	return m
}

// passOn has a daemon get the descriptors.
func (m *manager) passOn(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweep()
	cmd.ExtraFiles = append([]*os.File{m.listener}, m.store...)
	names := []string{"varlink"}
	for _, f := range m.store {
		names = append(names, f.Name())
	}
	cmd.Env = append(cmd.Env, fmt.Sprint("FDSTORE=", m.most), fmt.Sprint("LISTEN_FDS=", len(names)),
		"LISTEN_FDNAMES="+strings.Join(names, ":"))
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
}

// take takes a message of the daemon.
func (m *manager) take(text string, rights []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var name string
	for line := range strings.SplitSeq(text, "\n") {
		if n, ok := strings.CutPrefix(line, "FDNAME="); ok {
			name = n
		}
	}
	var fds []int
	if messages, err := unix.ParseSocketControlMessage(rights); err == nil {
		for i := range messages {
			more, _ := unix.ParseUnixRights(&messages[i])
			fds = append(fds, more...)
		}
	}
	switch {
	case strings.HasPrefix(text, "FDSTOREREMOVE=1"):
		m.remove(func(f *os.File) bool { return f.Name() == name })
	case strings.HasPrefix(text, "FDSTORE=1"):
		m.sweep()
		for len(fds) > 0 && len(m.store) < m.most {
			m.store = append(m.store, os.NewFile(uintptr(fds[0]), name))
			fds = fds[1:]
		}
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

func (m *manager) remove(which func(*os.File) bool) {
	m.store = slices.DeleteFunc(m.store, func(f *os.File) bool {
		gone := which(f)
		if gone {
			_ = f.Close()
		}
		return gone
	})
}

// sweep removes those whose other end is closed. m.mu is held.
func (m *manager) sweep() {
	m.remove(func(f *os.File) (gone bool) {
		raw, err := f.SyscallConn()
		if err == nil {
			_ = raw.Control(func(fd uintptr) {
				p := []unix.PollFd{{Fd: int32(fd)}}
				_, err := unix.Poll(p, 0)
				gone = err == nil && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
			})
		}
		return gone
	})
}

// kept are the names of what is in the store.
func (m *manager) kept() (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.store {
		names = append(names, f.Name())
	}
	return names
}

// settle waits until the daemon has noted on each connection that its last reply is written. A
// client can read the reply before that.
func (m *manager) settle(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return !slices.ContainsFunc(m.store, func(f *os.File) bool {
			unclear := false
			if raw, err := f.SyscallConn(); err == nil {
				mark, err := wire.ReadMark(raw)
				unclear = err == nil && mark == wire.Unclear
			}
			return unclear
		})
	}, patience, time.Millisecond)
}

// stopped is what systemd does when the unit is stopped.
func (m *manager) stopped() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remove(func(*os.File) bool { return true })
}
