package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A mistake in the command line is reported before anything is touched, also one that only the start
// finds.
func TestUsageErrorsComeFirst(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	long := filepath.Join(dir, strings.Repeat("x", 108))
	for _, tc := range []struct {
		want string
		args []string
	}{
		{"--bus=none: nobody could call the service; give it --varlink=PATH", nil},
		{"there is no directory " + dir + "/absent", []string{"--varlink=" + dir + "/absent/socket"}},
		{dir + "/file is not a directory", []string{"--varlink=" + dir + "/file/socket"}},
		{"there is a regular file, not a socket", []string{"--varlink=" + dir + "/file"}},
		{"there is a directory, not a socket", []string{"--virtlockd=" + dir}},
		{"the path of a socket has at most 107 bytes", []string{"--varlink=" + long}},
	} {
		for _, engine := range []string{"dlm", "local"} {
			args := append([]string{"--engine=" + engine, "--bus=none", "--config=/dev/null",
				"--state-dir=" + dir + "/state"}, tc.args...)
			code, said, _ := ends(t, args...)
			require.Equal(t, exitUsage, code, said)
			require.Contains(t, said, tc.want)
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, entries, 1, "%s: something was left behind: %v", tc.want, entries)
		}
	}
}

// A socket may be in the state directory, or beside it, although that is made only by the start: /run is
// empty after a boot.
func TestSocketInNewStateDirectory(t *testing.T) {
	for _, socket := range []string{"run/state/socket", "run/socket"} {
		dir := t.TempDir()
		cmd := exec.Command(program(t), "--engine=local", "--bus=none", "--config="+os.DevNull,
			"--state-dir="+dir+"/run/state", "--varlink="+filepath.Join(dir, socket))
		var log strings.Builder
		cmd.Stderr = &log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		require.NoError(t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		require.Eventually(t, func() bool {
			_, err := os.Stat(filepath.Join(dir, socket))
			return err == nil || len(ended) > 0
		}, patience, time.Millisecond)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		require.NoError(t, <-ended, log.String())
	}
}
