package main

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The socket of a program that is too busy to take connections stays, and so does one of which it can't be
// told whether somebody listens.
func TestSocketOfBusyProgramStays(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "socket")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	require.NoError(t, unix.Listen(fd, 0))
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer conn.Close()
	_, err = net.Dial("unix", path)
	require.ErrorIs(t, err, unix.EAGAIN)
	code, said, _ := ends(t, "--engine=local", "--bus=none", "--config="+os.DevNull, "--state-dir="+dir+"/state",
		"--varlink="+path)
	require.Equal(t, exitUsage, code, said)
	require.Contains(t, said, "another program listens there")
	require.FileExists(t, path)
}
