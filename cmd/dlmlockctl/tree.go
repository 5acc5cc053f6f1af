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

// is reports whether two are the same process.
func (p process) is(o process) bool { return p.pid == o.pid && p.start == o.start }

// over reports whether the process has ended and only waits for its parent.
func (p process) over() bool { return p.state == 'Z' || p.state == 'X' }

// processes lists all that this program can see.
func processes() ([]process, error) {
	// Another pid namespace's /proc would show other processes under our numbers.
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return nil, fmt.Errorf("/proc belongs to another pid namespace than this program: %w", errors.Join(err, fs.ErrInvalid))
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

// below lists the living descendants of a process, parents first, without those
// in except and theirs.
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

// family lists what the command has started and what lives, itself included. As
// this program is the one that orphans come to, they are all below it, whatever
// session, process group or namespace they are in. Not among them are what the
// command has had another service start, and the children that this program had
// when it was executed. (An orphan of such a child can't be told from one of the
// command.)
func (ch *child) family() ([]process, error) {
	select {
	case <-ch.gone: // the kernel says that there is none
		return nil, nil
	default:
	}
	all, err := processes()
	if err != nil {
		return nil, fmt.Errorf("can't look for the processes that the command has started: %w", err)
	}
	return below(os.Getpid(), all, ch.before), nil
}

// send sends a signal to exactly that process, not to one that has its number
// meanwhile.
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

// toll is what has become of a family that was to end.
type toll struct {
	told   []process // got SIGTERM
	killed []process // got SIGKILL
	left   []string  // live on, and why
}

// sweep sends a signal to all of the family that have not had it, until a look
// finds no more: whoever forks meanwhile is found by the next look.
func (ch *child) sweep(sig syscall.Signal, had *[]process) (left []string, err error) {
	for {
		family, err := ch.family()
		if err != nil {
			return left, err
		}
		fresh := without(family, *had)
		if len(fresh) == 0 {
			return left, nil
		}
		for _, p := range fresh {
			*had = append(*had, p)
			if err := p.send(sig); err != nil && !errors.Is(err, unix.ESRCH) {
				left = append(left, fmt.Sprintf("%s: %v", p, err))
			}
			if sig == unix.SIGTERM {
				_ = p.send(unix.SIGCONT) // a stopped one would not notice
			}
		}
	}
}

// without are those of all that are not in others.
func without(all, others []process) []process {
	return slices.DeleteFunc(slices.Clone(all), func(p process) bool { return slices.ContainsFunc(others, p.is) })
}

// terminate sends SIGTERM to the command and all that it has started.
func (ch *child) terminate(t *toll) error {
	_, err := ch.sweep(unix.SIGTERM, &t.told) // what can't be told is tried again with SIGKILL
	return err
}

// killTime is how long those that got SIGKILL may take: one may hang in the
// kernel.
const killTime = 5 * time.Second

// kill sends SIGKILL to all of them, until none lives or the time is over.
func (ch *child) kill(t *toll) error {
	for end := time.Now().Add(killTime); ; time.Sleep(5 * time.Millisecond) {
		refused, err := ch.sweep(unix.SIGKILL, &t.killed)
		if err != nil {
			return err
		}
		t.left = append(t.left, refused...)
		family, err := ch.family()
		if err != nil || len(family) == 0 {
			return err
		}
		if len(t.left) >= len(family) {
			return nil // only those that can't be killed
		}
		if time.Now().After(end) {
			for _, p := range family {
				t.left = append(t.left, p.String()+": does not end")
			}
			return nil
		}
	}
}
