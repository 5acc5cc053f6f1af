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

// child is a process that waits first and then becomes a command. It has this
// program's process group, terminal and open files, as under flock(1), so that
// job control and Ctrl-C work as if the command had been started alone.
type child struct {
	proc   *os.Process
	before []process          // children that this program had already
	pipe   *os.File           // writing end; its closing without a word ends the child
	done   chan struct{}      // closed when the child has ended
	gone   chan struct{}      // closed when this program has no child left at all
	status syscall.WaitStatus // valid when done is closed
}

// startChild starts this program anew as a shim for the command at path.
//
// The pipe has a number that was free in this program, so that no descriptor of
// the caller gives way to it: the child has them all, under their numbers.
func startChild(path string, argv []string) (*child, error) {
	// Whoever loses its parent becomes a child of this process, so that all that
	// the command starts can be found (tree.go). It is not inherited.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the subreaper of the command: %w", err)
	}
	before, err := children(os.Getpid())
	if err != nil {
		before = nil // the same is said when it matters: when all are to be ended
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(p[0]) }()
	ch := &child{before: before, pipe: os.NewFile(uintptr(p[1]), "pipe"), done: make(chan struct{}), gone: make(chan struct{})}
	if _, err = unix.FcntlInt(uintptr(p[0]), unix.F_SETFD, 0); err == nil {
		// Not os.Executable: the file may have been replaced by an upgrade.
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

// reap waits for the child and for the orphans that have become this program's.
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

// ended reports whether the child has.
func (ch *child) ended() bool {
	select {
	case <-ch.done:
		return true
	default:
		return false
	}
}

// over reports whether the child has ended, as the kernel knows it: reap may
// learn it later than the service does.
func (ch *child) over() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, ch.proc.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return ch.ended() || errors.Is(err, unix.ECHILD) || err == nil && info.Signo != 0
}

// becomeCommand makes the child the command. Each of env is NAME=VALUE, which
// takes the place of another value, or NAME, which is removed.
func (ch *child) becomeCommand(env []string) error {
	err := json.NewEncoder(ch.pipe).Encode(env)
	return errors.Join(err, ch.pipe.Close())
}

// giveUp ends a child that has not become the command.
func (ch *child) giveUp() {
	_ = ch.pipe.Close()
	<-ch.done
}

// outcome is the command's exit code as this program's.
func (ch *child) outcome() error {
	switch {
	case ch.status.Signaled():
		return quietExit(exitSignal + int(ch.status.Signal()))
	case ch.status.ExitStatus() != 0:
		return quietExit(ch.status.ExitStatus())
	}
	return nil
}

// killed reports which signal has ended the child, if one has.
func (ch *child) killed() (syscall.Signal, bool) { return ch.status.Signal(), ch.status.Signaled() }

// catchSignals takes over the signals that are passed on.
func (ch *child) catchSignals() (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 16)
	signal.Notify(c, heeded(unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)...)
	return c, func() { signal.Stop(c) }
}

// pass passes a signal on. What the terminal sends, it sends to the whole
// foreground process group: the command has it already.
func (ch *child) pass(s os.Signal) {
	if (s == unix.SIGINT || s == unix.SIGQUIT) && inForeground() || ch.ended() {
		return
	}
	_ = ch.proc.Signal(s) // an error says that it has ended
}

// term asks the command's process alone to end.
func (ch *child) term() error {
	err := ch.proc.Signal(unix.SIGTERM)
	return errors.Join(err, ch.proc.Signal(unix.SIGCONT)) // a stopped one would not notice
}

// inForeground reports whether this process group has the terminal.
func inForeground() bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer func() { _ = tty.Close() }()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
