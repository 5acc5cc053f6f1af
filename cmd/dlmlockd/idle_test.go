package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// configured writes a configuration file.
func configured(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "dlmlockd.toml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func logs(text string) func([]string, string) bool {
	return func(_ []string, log string) bool { return strings.Contains(log, text) }
}

// staying is the configuration of a service that does not end by itself.
const staying = "lockspaces = [\"vms\"]\nlog-level = \"debug\"\n"

// mayGo has the service end when nobody has needed it for a second, from now on. Before that, a
// second may pass between two calls of a test.
func (p *running) mayGo(t *testing.T, file string) {
	t.Helper()
	require.NoError(t, os.WriteFile(file, []byte(staying+"exit-on-idle = \"1s\"\n"), 0o600))
	require.NoError(t, p.cmd.Process.Signal(unix.SIGHUP))
	p.await(t, "the configuration", logs("configuration read again"))
}

// A service that nobody needs ends in order, a persistent lock stays, and the
// next start has it.
func TestExitOnIdle(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, bus *testbus.Bus) {
		dir := t.TempDir()
		file := configured(t, staying)
		p := start(t, bus, dir, "--config="+file)
		conn := bus.Dial(t)
		c := newClient(conn)
		id, err := c.acquire("vms", "disk", "EX", "owner", "web")
		require.NoError(t, err)
		p.mayGo(t, file)
		require.Equal(t, exitOK, p.wait(t), "the connection is still there, but needs nothing")
		p.awaitTold(t, "STOPPING=1")
		require.Contains(t, p.log(), "nobody needs the service")

		start(t, bus, dir, "--config="+configured(t, staying))
		again, err := c.acquire("vms", "disk", "EX", "owner", "web")
		require.NoError(t, err)
		require.Equal(t, id, again)
	})
}

// Everything that needs the service keeps it running. There is something at all times.
func TestNeededService(t *testing.T) {
	bus := testbus.Start(t, testbus.Daemon)
	file := configured(t, staying)
	p := start(t, bus, t.TempDir(), "--config="+file)
	conn := bus.Dial(t)
	c := newClient(conn)

	_, err := c.acquire("vms", "bound", "EX", "lifetime", "connection")
	require.NoError(t, err)
	p.mayGo(t, file)
	p.await(t, "the reason", logs(`"idle, but needed" reason="locks are tied to 1 connections or processes"`))

	_, err = c.acquire("vms", "mine", "EX", "lifetime", "process")
	require.NoError(t, err)
	require.NoError(t, c.call("Subscribe").Err)
	require.NoError(t, c.release("vms", "bound"))
	p.await(t, "the reason", logs(`reason="1 connections are subscribed"`))

	_, err = c.acquire("vms", "held", "EX")
	require.NoError(t, err)
	require.NoError(t, c.call("Request", "vms", "held", "EX", opts()).Err)
	require.NoError(t, c.call("Unsubscribe").Err)
	require.NoError(t, c.release("vms", "mine"))
	p.await(t, "the reason", logs(`reason="1 requests wait or have just ended"`))
	require.NoError(t, conn.Close())
	require.Equal(t, exitOK, p.wait(t))
}

// SIGHUP takes over everything that can change, reports what can't, and refuses a file with a
// mistake as a whole.
func TestReload(t *testing.T) {
	bus := testbus.Start(t, testbus.Daemon)
	file := configured(t, "lockspaces = [\"vms\"]\n")
	p := launch(t, program(t), bus.Address, t.TempDir(), nil, "--config="+file)
	p.awaitTold(t, "READY=1")
	c := newClient(bus.Dial(t))
	reload := func(text, says string) {
		t.Helper()
		p.forget()
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		require.NoError(t, p.cmd.Process.Signal(unix.SIGHUP))
		p.awaitTold(t, "RELOADING=1")
		p.awaitTold(t, "MONOTONIC_USEC=")
		p.awaitTold(t, "READY=1")
		p.await(t, says, logs(says)) // the pipe may be slower than the socket
	}

	reload("lockspaces = [\"images\"]\n[limits]\nowner-bytes = 3\n", "configuration read again")
	p.await(t, "what is left", logs("stay joined"))
	_, err := c.acquire("images", "a", "EX", "owner", "four", "wait-usec", uint64(20e6))
	require.Equal(t, "org.example.DlmLock.Error.LimitExceeded", errorName(err))
	require.NoError(t, c.join("images"), "it is being joined, if not yet there")
	_, err = c.acquire("images", "a", "EX", "owner", "one")
	require.NoError(t, err)
	_, err = c.acquire("vms", "a", "EX", "owner", "one")
	require.NoError(t, err, "what is joined stays")

	reload("[limits]\nowner-bytes = 2\nowner-byte = 4\n", "limits.owner-byte: unknown key")
	p.await(t, "the refusal", logs("the configuration has mistakes; the one before stays in force"))
	_, err = c.acquire("images", "b", "EX", "owner", "one")
	require.NoError(t, err)
	reload("group = \"dlmlockd-absent\"\n[limits]\nowner-bytes = 2\n", "groupadd --system dlmlockd-absent")
	_, err = c.acquire("images", "b", "EX", "owner", "one")
	require.NoError(t, err)

	nobody := newClient(bus.DialAs(t, testbus.Nobody))
	_, err = nobody.acquire("images", "c", "EX")
	require.Equal(t, "org.freedesktop.DBus.Error.AccessDenied", errorName(err))
	reload("engine = \"dlm\"\ngroup = \"nogroup\"\n", "configuration read again")
	_, err = nobody.acquire("images", "c", "EX")
	require.NoError(t, err)
	reload("exit-on-idle = \"1s\"\n", "configuration read again")
	require.Equal(t, exitOK, p.wait(t))
}

// What needs a restart is reported, once for each reload.
func TestReloadCannotChangeTheEngine(t *testing.T) {
	before, after := options{}, options{}
	before.Engine, after.Engine = "dlm", "local"
	require.Equal(t, []string{"engine"}, needRestart(before, after))
	require.Empty(t, needRestart(before, before))
	require.Equal(t, []string{"a"}, missing([]string{"a", "b"}, []string{"b", "c"}))
}
