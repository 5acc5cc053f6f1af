package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// child is a process that waits, and then becomes a command. It has the process group,
// terminal and open files of this program, as under flock(1), so job control and
// Ctrl-C work as if the command had been started alone.
type child struct {
	proc   *os.Process
	before []process          // the children that this program had before
	pipe   *os.File           // writing end; the child ends if it is closed with nothing written
	done   chan struct{}      // closed when the child has ended
	gone   chan struct{}      // closed when this program has no child left
	status syscall.WaitStatus // valid when done is closed
}

// startChild starts this program again, as a shim for the command at path.
//
// The pipe gets a number that was free in this program, so it takes the place of no
// descriptor of the caller: the child has all of those under their numbers.
func startChild(path string, argv []string) (*child, error) {
	// Processes whose parent ends become children of this program, so everything that
	// the command starts can be found (tree.go). Children don't inherit this.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the subreaper of the command: %w", err)
	}
	before, err := children(os.Getpid())
	if err != nil {
		before = nil // family reports the error if the processes have to be found
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(p[0]) }()
	ch := &child{before: before, pipe: os.NewFile(uintptr(p[1]), "pipe"), done: make(chan struct{}),
		gone: make(chan struct{})}
	if _, err = unix.FcntlInt(uintptr(p[0]), unix.F_SETFD, 0); err == nil {
		// Not os.Executable: an upgrade may have replaced the file.
		ch.proc, err = os.StartProcess("/proc/self/exe", append([]string{shimName, strconv.Itoa(p[0]), path}, argv...),
			&os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	}
	if err != nil {
		_ = ch.pipe.Close()
		return nil, fmt.Errorf("start a process for the command: %w", err)
	}
	go ch.reap()
	return ch, nil
}

// reap waits for the child, and for processes that have become children of this
// program. Nothing else may wait for children here (os/exec would), because it takes all of them.
func (ch *child) reap() {
	for {
		var st syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &st, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil: // ECHILD
			close(ch.gone)
			return
		case pid == ch.proc.Pid:
			ch.status = st
			close(ch.done)
		}
	}
}

func (ch *child) pid() uint32 { return uint32(ch.proc.Pid) }

// ended reports whether the child has ended.
func (ch *child) ended() bool {
	select {
	case <-ch.done:
		return true
	default:
		return false
	}
}

// over asks the kernel whether the child has ended: reap may notice it later than the
// service does.
func (ch *child) over() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, ch.proc.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return ch.ended() || errors.Is(err, unix.ECHILD) || err == nil && info.Signo != 0
}

// becomeCommand makes the child the command. Each element of env is NAME=VALUE, which
// replaces any other value, or NAME, which is removed.
func (ch *child) becomeCommand(env []string) error {
	err := json.NewEncoder(ch.pipe).Encode(env)
	return errors.Join(err, ch.pipe.Close())
}

// giveUp ends a child that has not become the command.
func (ch *child) giveUp() {
	_ = ch.pipe.Close()
	<-ch.done
}

// outcome turns the exit code of the command into that of this program.
func (ch *child) outcome() error {
	switch {
	case ch.status.Signaled():
		return quietExit(exitSignal + int(ch.status.Signal()))
	case ch.status.ExitStatus() != 0:
		return quietExit(ch.status.ExitStatus())
	}
	return nil
}

// killed returns the signal that ended the child, if one did.
func (ch *child) killed() (syscall.Signal, bool) { return ch.status.Signal(), ch.status.Signaled() }

// catchSignals returns the signals that are to be passed on.
func (ch *child) catchSignals() (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 16)
	signal.Notify(c, heeded(unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)...)
	return c, func() { signal.Stop(c) }
}

// pass passes a signal on, unless it comes from the terminal, which sends it to the
// whole foreground process group: the command has it already.
func (ch *child) pass(s os.Signal) {
	if (s == unix.SIGINT || s == unix.SIGQUIT) && inForeground() || ch.ended() {
		return
	}
	_ = ch.proc.Signal(s) // an error means that it has ended
}

// term sends SIGTERM to the command's own process only.
func (ch *child) term() error {
	err := ch.proc.Signal(unix.SIGTERM)
	return errors.Join(err, ch.proc.Signal(unix.SIGCONT)) // a stopped process would not notice
}

// inForeground reports whether this process group is the terminal's foreground group.
func inForeground() bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer func() { _ = tty.Close() }()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
