package main

import (
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// systemd hears that hold waits, holds the lock, and stops; and READY=1 not before
// the lock is held.
func TestHoldTellsSystemd(t *testing.T) {
	f, bus := startFake(t)
	f.block = make(chan struct{})
	path := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer func() { _ = systemd.Close() }()
	hear := func() string {
		t.Helper()
		buf := make([]byte, 4096)
		require.NoError(t, systemd.SetReadDeadline(time.Now().Add(time.Minute)))
		n, err := systemd.Read(buf)
		require.NoError(t, err)
		return string(buf[:n])
	}
	cmd := bus.Command(t, testbus.Root, filepath.Join(programs, "dlmlockctl"), "hold", "vms", "a\nREADY=1", "--quiet",
		"--wait=15s")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+path)
	require.NoError(t, cmd.Start())
	require.Equal(t, `STATUS=Waiting for vms/a\nREADY=1`, hear())
	require.Eventually(t, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.flags) > 0
	}, time.Minute, 5*time.Millisecond)
	close(f.block)
	require.Equal(t, "READY=1\nSTATUS=Holding vms/a\\nREADY=1 in EX, token 2", hear())
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(t, "STOPPING=1", hear())
	require.NoError(t, cmd.Wait())
}
