package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a process as /proc/PID/stat shows it (proc(5)).
type process struct {
	pid, parent int
	start       uint64 // in clock ticks since boot; with pid it is never used again
	state       byte
	name        string
}

func (p process) String() string { return fmt.Sprintf("%s (pid %d)", visible(p.name), p.pid) }

// is reports whether both are the same process.
func (p process) is(o process) bool { return p.pid == o.pid && p.start == o.start }

// over reports whether the process has ended and waits for its parent to notice.
func (p process) over() bool { return p.state == 'Z' || p.state == 'X' }

// processes lists the processes that this program can see.
func processes() ([]process, error) {
	// The /proc of another pid namespace would show other processes under our pids.
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return nil, fmt.Errorf("/proc belongs to another pid namespace than this program: %w", errors.Join(err,
			fs.ErrInvalid))
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []process
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			if p, err := readProcess(pid); err == nil { // it may have ended
				all = append(all, p)
			}
		}
	}
	return all, nil
}

func readProcess(pid int) (process, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	return parseStat(pid, text)
}

// parseStat reads a line of /proc/PID/stat. The name stands in parentheses and
// may hold anything, other parentheses too.
func parseStat(pid int, text []byte) (process, error) {
	open, shut := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 0 || shut < open {
		return process{}, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	const state, parent, start = 0, 1, 19 // fields 3, 4 and 22, from 0 after the name
	fields := strings.Fields(string(text[shut+1:]))
	if len(fields) <= start {
		return process{}, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	p := process{pid: pid, state: fields[state][0], name: string(text[open+1 : shut])}
	var err, err2 error
	p.parent, err = strconv.Atoi(fields[parent])
	p.start, err2 = strconv.ParseUint(fields[start], 10, 64)
	return p, errors.Join(err, err2)
}

// children lists the children of a process.
func children(of int) ([]process, error) {
	all, err := processes()
	return slices.DeleteFunc(all, func(p process) bool { return p.parent != of }), err
}

// below lists the living descendants of a process, parents first, except those in
// except and their descendants.
func below(root int, all, except []process) []process {
	kids := map[int][]process{}
	for _, p := range all {
		kids[p.parent] = append(kids[p.parent], p)
	}
	var found []process
	for queue, seen := []int{root}, map[int]bool{root: true}; len(queue) > 0; queue = queue[1:] {
		for _, p := range kids[queue[0]] {
			if seen[p.pid] || slices.ContainsFunc(except, p.is) {
				continue
			}
			seen[p.pid] = true
			queue = append(queue, p.pid)
			if !p.over() {
				found = append(found, p)
			}
		}
	}
	return found
}

// family lists the living processes that the command has started, and the command
// itself. They are all below this program, whatever their session, process group or
// namespace, because it is the subreaper of those whose parent has ended. Processes
// that the command has had another service start are not among them, and neither
// are the children that this program had when it was executed. (An orphan of such a
// child can't be told from one of the command.)
func (ch *child) family() ([]process, error) {
	select {
	case <-ch.gone: // the kernel has said that none is left
		return nil, nil
	default:
	}
	all, err := processes()
	if err != nil {
		return nil, fmt.Errorf("can't look for the processes that the command has started: %w", err)
	}
	return below(os.Getpid(), all, ch.before), nil
}

// send sends a signal to exactly this process, and not to a later one with the same
// pid.
func (p process) send(sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if now, err := readProcess(p.pid); err != nil || !now.is(p) {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

// toll says what became of the processes that were to end.
type toll struct {
	told   []process // got SIGTERM
	killed []process // got SIGKILL
	left   []string  // are still alive, and why
}

// maxSweeps limits how often one sweep looks for processes that were started
// meanwhile. A program that forks without end must not keep this program from
// what comes next, which is SIGKILL or a message.
const maxSweeps = 100

// sweep sends a signal to everyone in the family who has not had it. It looks again
// until it finds nobody new, at most maxSweeps times, to reach processes that were
// forked meanwhile.
func sweep(family func() ([]process, error), send func(process, syscall.Signal) error, sig syscall.Signal,
	had *[]process,
) (left []string, err error) {
	for range maxSweeps {
		all, err := family()
		if err != nil {
			return left, err
		}
		fresh := without(all, *had)
		if len(fresh) == 0 {
			break
		}
		for _, p := range fresh {
			*had = append(*had, p)
			if err := send(p, sig); err != nil && !errors.Is(err, unix.ESRCH) {
				left = append(left, fmt.Sprintf("%s: %v", p, err))
			}
			if sig == unix.SIGTERM {
				_ = send(p, unix.SIGCONT) // a stopped process would not notice
			}
		}
	}
	return left, nil
}

// without returns the processes of all that are not in others.
func without(all, others []process) []process {
	return slices.DeleteFunc(slices.Clone(all), func(p process) bool { return slices.ContainsFunc(others, p.is) })
}

// terminate sends SIGTERM to the command and to everything that it has started.
func (ch *child) terminate(t *toll) error {
	_, err := sweep(ch.family, process.send, unix.SIGTERM, &t.told) // whoever can't be sent it gets SIGKILL later
	return err
}

// killTime is how long the processes may take to end after SIGKILL. One may hang in
// the kernel.
const killTime = 5 * time.Second

// kill sends SIGKILL to the same processes, until none is left or killTime is over.
func (ch *child) kill(t *toll) error {
	for end := time.Now().Add(killTime); ; time.Sleep(5 * time.Millisecond) {
		refused, err := sweep(ch.family, process.send, unix.SIGKILL, &t.killed)
		if err != nil {
			return err
		}
		t.left = append(t.left, refused...)
		family, err := ch.family()
		if err != nil || len(family) == 0 {
			return err
		}
		if len(t.left) >= len(family) {
			return nil // nobody is left but those that can't be killed
		}
		if time.Now().After(end) {
			for _, p := range family {
				t.left = append(t.left, p.String()+": does not end")
			}
			return nil
		}
	}
}
