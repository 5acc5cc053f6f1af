package main

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// The watchdog's SIGABRT, and a panic, end the process by a signal. The Go runtime would end it
// with exit code 2 in both cases, which is that of a bad command line, after which systemd does not
// start the service again.
func TestAbortIsNoExitCode(t *testing.T) {
	p := start(t, testbus.Start(t, testbus.Daemon), t.TempDir())
	require.NoError(t, p.cmd.Process.Signal(unix.SIGABRT))
	p.wait(t)
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(t, ok)
	require.True(t, status.Signaled(), "exit status %d", status.ExitStatus())
	require.Equal(t, unix.SIGABRT, status.Signal())
	require.Contains(t, p.log(), "goroutine ", "where the service stood is in the log")
}
