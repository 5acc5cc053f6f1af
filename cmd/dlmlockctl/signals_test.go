package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// A signal while the bus has not answered yet is no failure of the bus.
func TestInterruptedWhileConnecting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus")
	silent, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer func() { _ = silent.Close() }()
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		var errs bytes.Buffer
		cmd := exec.Command(filepath.Join(programs, "dlmlockctl"), "list", "--bus", "unix:path="+path)
		cmd.Stderr = &errs
		require.NoError(t, cmd.Start())
		conn, err := silent.Accept()
		require.NoError(t, err)
		require.NoError(t, cmd.Process.Signal(s))
		_ = cmd.Wait()
		require.NoError(t, conn.Close())
		require.Equal(t, exitSignal+int(s), cmd.ProcessState.ExitCode(), errs.String())
		require.Equal(t, "dlmlockctl: interrupted ("+s.String()+")\n", errs.String())
	}
}

// A signal to the process group that ends the command's process before it has
// become the command is told as one.
func TestSignalBeforeTheCommand(t *testing.T) {
	f, bus := startFake(t)
	f.block = make(chan struct{})
	cmd := bus.Command(t, testbus.Root, filepath.Join(programs, "dlmlockctl"), "run", "-l", "vms", "-r", "a", "--",
		"echo", "NEVER")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.flags) > 0 // it has asked for the lock, so the shim is there
	}, time.Minute, 5*time.Millisecond)
	shims, err := children(cmd.Process.Pid)
	require.NoError(t, err)
	require.Len(t, shims, 1)
	shim, err := os.FindProcess(shims[0].pid)
	require.NoError(t, err)
	require.NoError(t, shim.Signal(syscall.SIGTERM))
	require.Eventually(t, func() bool {
		left, err := children(cmd.Process.Pid)
		return err == nil && len(left) == 0
	}, time.Minute, 5*time.Millisecond)
	close(f.block)
	_ = cmd.Wait()
	require.Equal(t, exitSignal+int(syscall.SIGTERM), cmd.ProcessState.ExitCode(), errs.String())
	require.Equal(t, "dlmlockctl: interrupted ("+syscall.SIGTERM.String()+")\n", errs.String())
	require.Empty(t, out.String())
}

// A signal while the service has not answered leaves open whether it was done.
func TestInterruptedCall(t *testing.T) {
	f, bus := startFake(t)
	f.block = make(chan struct{})
	defer close(f.block)
	cmd := bus.Command(t, testbus.Root, filepath.Join(programs, "dlmlockctl"), "acquire", "vms", "a", "EX")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.flags) > 0
	}, time.Minute, 5*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	_ = cmd.Wait()
	require.Equal(t, exitSignal+int(syscall.SIGINT), cmd.ProcessState.ExitCode())
	require.Equal(t, "dlmlockctl: interrupted (interrupt)\ndlmlockctl: hint: "+hints[client.NoAnswer]+"\n", errs.String())
}
