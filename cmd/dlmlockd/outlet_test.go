package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A log that takes no line holds nobody up for long, and reports later how many lines it has lost.
func TestSlowLog(t *testing.T) {
	open := make(chan struct{})
	text := &slowText{open: open}
	c := newLogControl(text, slog.LevelInfo)
	log := c.logger()
	for n := range 3 * outletRoom {
		log.Info("a line", "n", n)
	}
	require.True(t, c.outlet.stuck.Load())
	close(open)
	require.Eventually(t, func() bool {
		return !c.outlet.stuck.Load() && strings.Contains(text.String(), "log lines dropped")
	}, patience, time.Millisecond)
	require.Contains(t, text.String(), "a line\" n=0\n")
	require.NotContains(t, text.String(), fmt.Sprintf("n=%d\n", 3*outletRoom-1))

	log.Info("and now at once")
	require.Contains(t, text.String(), "and now at once")
}

// A log that only pauses loses nothing of thousands of lines, and a program that ends meanwhile waits for
// them; also if there are too many, and then for what it says of that.
func TestLogThatPauses(t *testing.T) {
	for lines, dropped := range map[int]bool{5000: false, 2 * outletRoom: true} {
		open := make(chan struct{})
		text := &slowText{open: open}
		c := newLogControl(text, slog.LevelInfo)
		for n := range lines {
			c.logger().Info("a line", "n", n)
		}
		time.AfterFunc(2*outletPatience, func() { close(open) })
		c.outlet.flush()
		require.Contains(t, text.String(), fmt.Sprintf("n=%d\n", min(lines, outletRoom)-1))
		require.Equal(t, dropped, strings.Contains(text.String(), "log lines dropped"))
	}
}

// slowText takes no text until open is closed.
type slowText struct {
	open <-chan struct{}
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *slowText) Write(b []byte) (int, error) {
	<-s.open
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *slowText) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// logTo starts the service with a log that goes to a file, and waits until it serves a socket.
func logTo(t *testing.T, log *os.File, dir string) (cmd *exec.Cmd, ended <-chan error) {
	t.Helper()
	cmd = exec.Command(program(t), "--engine=local", "--bus=none", "--config="+os.DevNull, "--state-dir="+dir+"/state",
		"--varlink="+dir+"/varlink", "--virtlockd="+dir+"/virtlockd")
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	end := make(chan error, 1)
	go func() { end <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	require.Eventually(t, func() bool {
		conn, err := net.Dial("unix", filepath.Join(dir, "varlink"))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, patience, time.Millisecond)
	return cmd, end
}

// If nobody reads the log, as when journald hangs, each call is answered all the same, and the service
// ends when it is told to.
func TestLogThatNobodyReads(t *testing.T) {
	dir := t.TempDir()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	cmd, ended := logTo(t, w, dir)
	// Full: whoever writes waits.
	fd := int(w.Fd()) // once, because Fd makes the pipe blocking again
	require.NoError(t, syscall.SetNonblock(fd, true))
	for err = nil; err == nil; {
		_, err = syscall.Write(fd, []byte("x"))
	}
	require.ErrorIs(t, err, syscall.EAGAIN)
	require.NoError(t, syscall.SetNonblock(fd, false)) // of the service as well
	require.NoError(t, w.Close())

	v := dialVarlink(t, dir+"/varlink")
	v.ok("JoinLockspace", fields{"lockspace": "vms"})
	askVirtlockd(t, dir+"/virtlockd")
	v.ok("io.systemd.service.Reload", fields{})
	v.ok("io.systemd.service.SetLogLevel", fields{"level": 7})
	v.ok("Acquire", fields{"lockspace": "vms", "resource": "disk", "mode": "ex"})
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(patience):
		t.Fatal("the service does not end")
	}
}

// If whoever reads the log has ended, as journald may have, the service goes on.
func TestLogWithoutReader(t *testing.T) {
	dir := t.TempDir()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd, ended := logTo(t, w, dir)
	require.NoError(t, w.Close())
	require.NoError(t, r.Close())
	v := dialVarlink(t, dir+"/varlink")
	v.ok("io.systemd.service.Reload", fields{}) // logs a line before it is answered
	v.ok("JoinLockspace", fields{"lockspace": "vms"})
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, <-ended)
}
