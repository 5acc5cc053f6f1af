package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// child is a process that waits first and then becomes a command. It has this
// program's process group, terminal and open files, as under flock(1), so that
// job control and Ctrl-C work as if the command had been started alone.
type child struct {
	cmd  *exec.Cmd
	pipe *os.File      // writing end; its closing without a word ends the child
	done chan struct{} // closed when the child has ended
}

// startChild starts this program anew as a shim for the command at path.
func startChild(path string, argv []string) (*child, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	ch := &child{pipe: w, done: make(chan struct{}), cmd: &exec.Cmd{
		// Not os.Executable: the file may have been replaced by an upgrade.
		Path:       "/proc/self/exe",
		Args:       append([]string{shimName, path}, argv...),
		Stdin:      os.Stdin,
		Stdout:     os.Stdout,
		Stderr:     os.Stderr,
		ExtraFiles: []*os.File{r},
	}}
	if err := ch.cmd.Start(); err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("start a process for the command: %w", err)
	}
	go func() {
		_ = ch.cmd.Wait() // outcome reads ProcessState
		close(ch.done)
	}()
	return ch, nil
}

func (ch *child) pid() uint32 { return uint32(ch.cmd.Process.Pid) }

// becomeCommand makes the child the command, with more environment.
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
	st := ch.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case st.Signaled():
		return quietExit(exitSignal + int(st.Signal()))
	case st.ExitStatus() != 0:
		return quietExit(st.ExitStatus())
	}
	return nil
}

// killed reports which signal has ended the child, if one has.
func (ch *child) killed() (syscall.Signal, bool) {
	st := ch.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return st.Signal(), st.Signaled()
}

// catchSignals takes over the signals that are passed on.
func (ch *child) catchSignals() (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 16)
	signal.Notify(c, heeded(unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)...)
	return c, func() { signal.Stop(c) }
}

// pass passes a signal on. What the terminal sends, it sends to the whole
// foreground process group: the command has it already.
func (ch *child) pass(s os.Signal) {
	if (s == unix.SIGINT || s == unix.SIGQUIT) && inForeground() {
		return
	}
	_ = ch.cmd.Process.Signal(s) // an error says that it has ended
}

func (ch *child) terminate() {
	_ = ch.cmd.Process.Signal(unix.SIGTERM)
	_ = ch.cmd.Process.Signal(unix.SIGCONT) // a stopped one would not notice
}

func (ch *child) kill() { _ = ch.cmd.Process.Kill() }

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
