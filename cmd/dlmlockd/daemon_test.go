package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// Promises 1 to 3, with the real program: a lock outlives kill -9 and an orderly stop, under the
// same lockid, and keeps others out throughout.
func TestLockOutlivesTheDaemon(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	c := newClient(bus.Dial(t))

	p := start(t, bus, dir)
	require.NoError(t, c.join("vms"))
	first, err := c.acquire("vms", "disk0", "PR", "owner", "web")
	require.NoError(t, err)
	id, err := c.acquire("vms", "disk1", "EX", "owner", "web", "label", "/images/disk1")
	require.NoError(t, err)
	require.NotEqual(t, first, id)
	require.NoError(t, c.release("vms", "disk0")) // leaves a free lockid below
	before := c.list(t)

	for _, end := range []string{"kill -9", "SIGTERM", "SIGINT", "kill -9"} {
		switch end {
		case "kill -9":
			p.kill()
		case "SIGTERM":
			require.Equal(t, exitOK, p.stop(t))
			p.awaitTold(t, "STOPPING=1")
		case "SIGINT":
			require.NoError(t, p.cmd.Process.Signal(syscall.SIGINT))
			require.Equal(t, exitOK, p.wait(t))
		}
		require.Equal(t, "org.freedesktop.DBus.Error.ServiceUnknown", errorName(c.release("vms", "disk1")),
			"nobody has the bus name")
		p = start(t, bus, dir)
		require.Equal(t, before, c.list(t), "after %s", end)
		_, err = c.acquire("vms", "disk1", "EX", "owner", "db")
		require.Equal(t, "org.example.DlmLock.Error.WouldBlock", errorName(err), "after %s", end)
		again, err := c.acquire("vms", "disk1", "EX", "owner", "web")
		require.NoError(t, err)
		require.Equal(t, id, again, "after %s", end)
		before = c.list(t)
	}
	require.NoError(t, c.release("vms", "disk1", "lockid", id))
	require.Empty(t, c.list(t))
	p.kill()
	start(t, bus, dir)
	require.Empty(t, c.list(t), "what was released stays released")
}

func TestSecondDaemonIsRefused(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	p := start(t, bus, dir)

	q := launch(t, program(t), bus.Address, dir, nil)
	require.Equal(t, exitFailed, q.wait(t))
	require.Contains(t, q.log(), "the state directory is in use")

	q = launch(t, program(t), bus.Address, t.TempDir(), nil)
	require.Equal(t, exitFailed, q.wait(t))
	require.Contains(t, q.log(), "another dlmlockd runs on this bus")

	require.Equal(t, exitOK, p.stop(t), "the first one was not disturbed")
}

// Promise 5: the daemon says what is missing and ends; it never locks locally
// instead.
func TestEngineDLMWithoutLibdlm(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	cmd := exec.Command(program(t), "--engine=dlm", "--state-dir="+dir, "--bus=unix:path=/nonexistent",
		"--config="+os.DevNull)
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Equal(t, exitNoEngine, cmd.ProcessState.ExitCode())
	require.Contains(t, string(out), "libdlm-dev")
	require.NoDirExists(t, dir)
}

func TestBadConfigurationEndsTheStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.toml")
	for text, want := range map[string]string{
		"engine = \"local\"\n[limits]\nlock-per-uid = 3\n": ":3:1: limits.lock-per-uid: unknown key",
		"group = \"no such group\"\n":                      `:1:9: group: "no such group" is not the name of a group`,
		"group = \"dlmlockd-absent\"\n":                    "groupadd --system dlmlockd-absent",
	} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		cmd := exec.Command(program(t), "--config="+file, "--engine=local", "--state-dir="+t.TempDir())
		out, err := cmd.CombinedOutput()
		require.Error(t, err)
		require.Equal(t, exitConfig, cmd.ProcessState.ExitCode(), "%s", out)
		require.Contains(t, string(out), want)
	}
}

func TestConfigurationTakesEffect(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	file := filepath.Join(dir, "c.toml")
	require.NoError(t,
		os.WriteFile(file, []byte("lockspaces = [\"vms\", \"images\"]\n[limits]\nowner-bytes = 3\nlocks-per-uid = 1\n"),
			0o600))
	p := start(t, bus, filepath.Join(dir, "state"), "--config="+file)
	c := newClient(bus.Dial(t))
	_, err := c.acquire("images", "a", "EX", "owner", "four")
	require.Equal(t, "org.example.DlmLock.Error.LimitExceeded", errorName(err))
	_, err = c.acquire("images", "a", "EX", "owner", "one")
	require.NoError(t, err)
	_, err = c.acquire("vms", "a", "EX", "owner", "one")
	require.Equal(t, "org.example.DlmLock.Error.LimitExceeded", errorName(err))

	require.NotContains(t, p.log(), "level=DEBUG")
	require.NoError(t, os.WriteFile(file, []byte("log-level = \"debug\"\n"), 0o600))
	require.NoError(t, p.cmd.Process.Signal(unix.SIGHUP))
	p.await(t, "the new level", func(_ []string, log string) bool {
		return strings.Contains(log,
			"configuration read again")
	})
	require.NoError(t, c.release("images", "a"))
	p.await(t, "a debug line", func(_ []string, log string) bool { return strings.Contains(log, "level=DEBUG") })

	require.NoError(t, os.WriteFile(file, []byte("log-level = \"loud\"\n"), 0o600))
	require.NoError(t, p.cmd.Process.Signal(unix.SIGHUP))
	p.await(t, "a complaint", func(_ []string, log string) bool {
		return strings.Contains(log,
			"c.toml:1:13: log-level")
	})
}

func TestWatchdogIsFed(t *testing.T) {
	bus := testbus.Start(t, testbus.Daemon)
	// The pid is the daemon's own for systemd; without WATCHDOG_PID any is meant.
	p := launch(t, program(t), bus.Address, t.TempDir(), []string{"WATCHDOG_USEC=100000"})
	p.await(t, "five pings", func(told []string, _ string) bool {
		n := 0
		for _, l := range told {
			if l == "WATCHDOG=1" {
				n++
			}
		}
		return n >= 5
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Equal(t, "STATUS=adopting the locks of the state file", p.told[0])
	require.Equal(t, "READY=1", p.told[1])
	require.Equal(t, "STATUS=engine local, node 1; 0 locks in 0 lockspaces, 0 waiting", p.told[2])
}

// A full state directory: nothing is granted that could not be recorded, releases go on, and the
// service recovers when there is room.
func TestStateDirectoryFull(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,mode=0700"))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	p := start(t, bus, dir)
	c := newClient(bus.Dial(t))
	require.NoError(t, c.join("vms"))
	_, err := c.acquire("vms", "kept", "EX")
	require.NoError(t, err)

	fill(t, filepath.Join(dir, "filler"))
	for i := 0; ; i++ {
		_, err = c.acquire("vms", strings.Repeat("x", 1+i%64), "PR")
		if err != nil {
			break
		}
		require.Less(t, i, 10_000, "the directory never fills")
	}
	require.Equal(t, "org.example.DlmLock.Error.StateWriteFailed", errorName(err))
	require.Eventually(t, func() bool {
		// What is history in the file may make room for some more.
		_, _ = c.acquire("vms", strings.Repeat("y", 64), "PR")
		p.mu.Lock()
		defer p.mu.Unlock()
		return strings.Contains(p.told[len(p.told)-1], "no space left on device")
	}, patience, 20*time.Millisecond, "a status that says why")
	granted := c.list(t)

	p.kill()
	p = start(t, bus, dir)
	require.ElementsMatch(t, granted, c.list(t), "what was granted was written down, and nothing else")

	require.NoError(t, os.Remove(filepath.Join(dir, "filler")))
	require.Eventually(t, func() bool {
		_, err := c.acquire("vms", "again", "EX", "owner", "o")
		return err == nil
	}, patience, 50*time.Millisecond, "it does not heal")
	require.NoError(t, c.release("vms", "kept"))
	require.Equal(t, exitOK, p.stop(t))
}

// fill takes what room a file system has left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	block := make([]byte, 4096)
	for {
		if _, err := f.Write(block); err != nil {
			require.ErrorIs(t, err, unix.ENOSPC)
			return
		}
	}
}

// The daemon can't serve without a bus; it ends so that it is started again,
// and finds its locks.
func TestBusGoes(t *testing.T) {
	dir := t.TempDir()
	var before []row
	var p *running
	t.Run("a bus that ends with its test", func(short *testing.T) {
		bus := testbus.Start(short, testbus.Daemon)
		p = start(t, bus, dir)
		c := newClient(bus.Dial(short))
		require.NoError(short, c.join("vms"))
		_, err := c.acquire("vms", "a", "EX", "owner", "o")
		require.NoError(short, err)
		before = c.list(short)
	})
	require.Equal(t, exitFailed, p.wait(t))
	require.Contains(t, p.log(), "the connection to the message bus is gone")

	bus := testbus.Start(t, testbus.Daemon)
	start(t, bus, dir)
	require.Equal(t, before, newClient(bus.Dial(t)).list(t))

	p = launch(t, program(t), "unix:path="+filepath.Join(dir, "absent"), t.TempDir(), nil)
	require.Equal(t, exitFailed, p.wait(t))
	require.Contains(t, p.log(), "connect to the message bus")
}

// A process or connection that ends while no daemon runs ends its locks nevertheless.
func TestLifetimesOverARestart(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	c := newClient(bus.Dial(t))
	p := start(t, bus, dir)
	require.NoError(t, c.join("vms"))
	child := exec.Command("sleep", "1000")
	require.NoError(t, child.Start())
	endChild := sync.OnceFunc(func() { _ = child.Process.Kill(); _ = child.Wait() })
	t.Cleanup(endChild)
	conn := bus.Dial(t)
	own := newClient(conn)

	_, err := c.acquire("vms", "of-process", "EX", "lifetime", "process", "pid", uint32(child.Process.Pid))
	require.NoError(t, err)
	_, err = own.acquire("vms", "of-connection", "EX", "lifetime", "connection")
	require.NoError(t, err)
	_, err = c.acquire("vms", "of-nobody", "EX")
	require.NoError(t, err)
	resources := func() string {
		var names []string
		for _, r := range c.list(t) {
			names = append(names, r.Resource)
		}
		return strings.Join(names, " ")
	}
	p.kill()
	p = start(t, bus, dir)
	require.Equal(t, "of-process of-connection of-nobody", resources(), "both are alive")

	p.kill()
	endChild()
	require.NoError(t, conn.Close())
	start(t, bus, dir)
	require.Eventually(t, func() bool { return resources() == "of-nobody" }, patience, 10*time.Millisecond)
}
