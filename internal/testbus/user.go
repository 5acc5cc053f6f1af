package testbus

import (
	"fmt"
	"net"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// User is the user to whom a connection belongs.
type User struct {
	UID, GID uint32
	Groups   []uint32 // supplementary
}

// Two users that every system has.
var (
	Root   = User{}
	Nobody = User{UID: 65534, GID: 65534}
)

// Connect connects to a socket as the user. The kernel records the credentials of the thread that
// connects (net/unix/af_unix.c, init_peercred), so one thread becomes the user meanwhile. The raw
// system calls are intended: those of package syscall would change every thread.
func (u User) Connect(socket string) (*net.UnixConn, error) {
	// If the way back fails, the thread stays locked and ends with its goroutine, so nothing else
	// runs as this user by accident.
	runtime.LockOSThread()
	groups, err := unix.Getgroups()
	if err != nil {
		return nil, err
	}
	back := User{Groups: make([]uint32, len(groups))}
	for i, g := range groups {
		back.Groups[i] = uint32(g)
	}
	if err := setGroups(u.Groups); err != nil {
		return nil, err
	}
	if err := setEffective(unix.SYS_SETRESGID, u.GID); err != nil {
		return nil, err
	}
	if err := setEffective(unix.SYS_SETRESUID, u.UID); err != nil {
		return nil, err
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if e := setEffective(unix.SYS_SETRESUID, back.UID); e != nil {
		return nil, e
	}
	if e := setEffective(unix.SYS_SETRESGID, back.GID); e != nil {
		return nil, e
	}
	if e := setGroups(back.Groups); e != nil {
		return nil, e
	}
	runtime.UnlockOSThread()
	return conn, err
}

// setGroups sets the supplementary groups of this thread.
func setGroups(groups []uint32) error {
	var first unsafe.Pointer
	if len(groups) > 0 {
		first = unsafe.Pointer(&groups[0])
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(first), 0); e != 0 {
		return fmt.Errorf("setgroups: %w", e)
	}
	return nil
}

// setEffective sets the effective id of this thread and keeps the real and the saved one, which are
// the way back.
func setEffective(call uintptr, id uint32) error {
	keep := ^uintptr(0)
	if _, _, e := unix.RawSyscall(call, keep, uintptr(id), keep); e != 0 {
		return fmt.Errorf("become id %d: %w", id, e)
	}
	return nil
}
