package main

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/stretchr/testify/require"
)

// createLockspace is what libvirtd says first: CREATE_LOCKSPACE of "/x".
var createLockspace = []byte("\x00\x00\x00\x24\x0e\xa7\xbe\xef\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00\x00\x00" +
	"\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x02/x\x00\x00")

// askVirtlockd says it at a socket, and requires that it is good.
func askVirtlockd(t *testing.T, socket string) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = conn.Write(createLockspace)
	require.NoError(t, err)
	answer := make([]byte, 28)
	_, err = io.ReadFull(conn, answer)
	require.NoError(t, err)
	require.Zero(t, binary.BigEndian.Uint32(answer[24:]), "status")
}

// The door for libvirt's own lock driver is opened by the command line, by the
// configuration or by systemd, its lockspaces are joined, and no other program is
// put aside for it.
func TestVirtlockdSocket(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	socket, file := filepath.Join(dir, "sock"), filepath.Join(dir, "c.toml")
	write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	joined := func(want ...string) {
		t.Helper()
		c := newClient(bus.Dial(t))
		require.Eventually(t, func() bool {
			for _, name := range want {
				if _, err := c.acquire(name, "disk", "EX", "owner", "anybody"); err != nil {
					return false
				}
			}
			return true
		}, patience, time.Millisecond)
	}
	write("[virtlockd]\nlockspace = \"guests\"\n[virtlockd.lockspaces]\n\"/lvm\" = \"volumes\"\n")

	t.Run("command line", func(t *testing.T) {
		p := start(t, bus, filepath.Join(dir, "one"), "--config="+file, "--virtlockd="+socket)
		askVirtlockd(t, socket)
		info, err := os.Stat(socket)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		joined("guests", "volumes")
		q := launch(t, program(t), bus.Address, filepath.Join(dir, "two"), nil, "--config="+file, "--virtlockd="+socket)
		require.Equal(t, exitConfig, q.wait(t))
		require.Contains(t, q.log(), "another program, probably virtlockd, listens at "+socket)
		p.kill()
	})
	t.Run("configuration, with a socket that is left over", func(t *testing.T) {
		require.FileExists(t, socket)
		write("[virtlockd]\nsocket = \"" + socket + "\"\n")
		p := start(t, bus, filepath.Join(dir, "three"), "--config="+file)
		askVirtlockd(t, socket)
		require.Equal(t, exitOK, p.stop(t))
		require.NoFileExists(t, socket)
	})
	t.Run("systemd", func(t *testing.T) {
		write("")
		// It starts the daemon in its place at the first connection.
		activate := filepath.Join(dir, "activate")
		require.NoError(t, os.WriteFile(activate, []byte("#!/bin/sh\nexec systemd-socket-activate --listen="+socket+
			" --fdname=virtlockd --setenv=NOTIFY_SOCKET \"$DLMLOCKD\" \"$@\"\n"), 0o755))
		p := launch(t, activate, bus.Address, filepath.Join(dir, "four"), []string{"DLMLOCKD=" + program(t)},
			"--config="+file)
		require.Eventually(t, func() bool {
			conn, err := net.Dial("unix", socket)
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		}, patience, time.Millisecond, "the package systemd")
		askVirtlockd(t, socket)
		joined("libvirt")
		require.Equal(t, exitOK, p.stop(t))
		require.FileExists(t, socket, "it is systemd's")
	})
}
