package cluster

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/dlm"
)

// users are the processes, other than this one, that have the device of a
// lockspace open.
type users struct {
	host *Host
	pids map[int]bool
	err  error // why a process could not be examined
}

// Users lists the processes, other than this one, that have the device of a lockspace open, and the
// threads with locks in it whose process does not. held reports whether this process has the lock
// with that lockid; nil stands for none.
//
// The device is searched for among all descriptors of all processes in /proc. That takes root with
// CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH: a process that can't be examined is an error. Not seen
// are a descriptor in transit through a socket, and a process of a pid namespace that is not below
// this one. Locks are searched for in debugfs, if it is available.
func (h *Host) Users(ctx context.Context, lockspace string, held func(dlm.LockID) bool) ([]dlm.User, error) {
	if err := h.member(lockspace); err != nil {
		return nil, err
	}
	u := h.users(ctx, lockspace)
	var found []dlm.User
	for pid := range u.pids {
		found = append(found, dlm.User{PID: pid, Name: h.program(pid)})
	}
	others, err := h.lockers(lockspace, u, held)
	found = append(found, others...)
	slices.SortFunc(found, func(a, b dlm.User) int { return cmp.Compare(a.PID, b.PID) })
	if err = errors.Join(u.err, err); err != nil && len(found) == 0 {
		return nil, &dlm.Error{Op: "look", Lockspace: lockspace, Err: err,
			Advice: "only root with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH can see " +
				"who uses a lockspace; the dlmlockd.service of this version grants both"}
	}
	return found, nil
}

// lockers finds the threads of other processes that have locks, without orphans and the users that
// are already known.
func (h *Host) lockers(lockspace string, u *users, held func(dlm.LockID) bool) ([]dlm.User, error) {
	table, err := os.Open(h.path(debugfs, lockspace+"_all"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EPERM) { // not mounted; the kernel is locked down
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer table.Close()
	tids := map[int]bool{}
	err = readTable(table, func([]byte) bool { return true }, func(r *resource) bool {
		for i := range r.locks {
			e := &r.locks[i]
			switch {
			case r.master == 0 && e.node != 0: // another node's
			case held != nil && held(e.id):
			case e.flags&dlm.Persistent == 0:
				tids[e.pid] = true
			}
		}
		return true
	})
	var found []dlm.User
	for tid := range tids {
		// pid is 0 if the thread has ended: its process may still be there, with other threads.
		if pid := h.process(tid); pid != os.Getpid() && !u.pids[pid] {
			found = append(found, dlm.User{PID: tid, Name: h.program(tid), Locked: true})
		}
	}
	return found, err
}

// users searches /proc. Examining a file of a network file system that does not answer can hang for
// ever; ctx ends that.
func (h *Host) users(ctx context.Context, lockspace string) *users {
	done := make(chan *users, 1)
	go func() { done <- h.scan(ctx, lockspace) }()
	select {
	case u := <-done:
		return u
	case <-ctx.Done():
		return &users{host: h, err: fmt.Errorf("looking through /proc took too long: %w", ctx.Err())}
	}
}

func (h *Host) scan(ctx context.Context, lockspace string) *users {
	u := &users{host: h, pids: make(map[int]bool)}
	device, err := h.device(lockspace)
	if err != nil {
		u.err = err
		return u
	}
	processes, err := os.ReadDir(h.path("proc"))
	if err != nil {
		u.err = err
		return u
	}
	if !slices.ContainsFunc(processes, func(p fs.DirEntry) bool { return p.Name() == "1" }) {
		u.err = errHidden // there is always a process with pid 1
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if err := ctx.Err(); err != nil {
			u.err = cmp.Or(u.err, err)
			return u
		}
		open, err := h.hasOpen(p.Name(), device)
		switch {
		case open:
			u.pids[pid] = true
		case err != nil && u.err == nil:
			u.err = fmt.Errorf("process %d can't be examined: %w", pid, err)
		}
	}
	return u
}

// errHidden: /proc does not show the processes of other users (hidepid in proc(5)).
var errHidden = errors.New("/proc does not show all processes")

// hasOpen reports whether a process has a device open. A process that has ended has not.
func (h *Host) hasOpen(pid string, device uint64) (bool, error) {
	files, err := os.ReadDir(h.path("proc", pid, "fd"))
	var failed error
	if err != nil && !ended(err) {
		failed = err
	}
	for _, f := range files {
		path := h.path("proc", pid, "fd", f.Name())
		target, err := os.Readlink(path)
		if err == nil && !strings.HasPrefix(target, "/") && !strings.HasPrefix(target, "(unreachable)") {
			continue // a socket, a pipe, an event
		}
		// DONT_SYNC and only the type are enough for a device, and no file server has to answer.
		var st unix.Statx_t
		if err == nil {
			err = unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
		}
		switch {
		case err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && unix.Mkdev(st.Rdev_major, st.Rdev_minor) == device:
			return true, nil
		case err != nil && !ended(err) && failed == nil:
			failed = err
		}
	}
	return false, failed
}

// ended reports whether the error of a look at a process means that the process, or its descriptor,
// no longer exists.
func ended(err error) bool { return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESRCH) }

// miscMajor is the major number of the devices in /proc/misc (MISC_MAJOR).
const miscMajor = 10

// device returns the device number of a lockspace.
func (h *Host) device(lockspace string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(h.path("dev/misc", "dlm_"+lockspace), &st); err == nil {
		return st.Rdev, nil
	}
	// udev may not have created it yet.
	f, err := os.Open(h.path("proc/misc"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		minor, name, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if n, err := strconv.ParseUint(minor, 10, 32); err == nil && name == "dlm_"+lockspace {
			return unix.Mkdev(miscMajor, uint32(n)), nil
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("the lockspace has no device: %w", syscall.ENODEV)
}

// has reports whether the thread tid belongs to one of the users.
func (u *users) has(tid int) bool {
	if len(u.pids) == 0 {
		return false
	}
	return u.pids[u.host.process(tid)]
}

// process returns the process to which a thread belongs, or 0 if it no longer exists.
func (h *Host) process(tid int) int {
	f, err := os.Open(h.path("proc", strconv.Itoa(tid), "status"))
	if err != nil {
		return 0
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "Tgid:"); ok {
			pid, _ := strconv.Atoi(strings.TrimSpace(text))
			return pid
		}
	}
	return 0
}

// program returns the name of a process's or thread's program, or "" if it is unknown.
func (h *Host) program(pid int) string {
	b, _ := os.ReadFile(h.path("proc", strconv.Itoa(pid), "comm"))
	return strings.TrimSpace(string(b))
}
