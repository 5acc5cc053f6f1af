package main

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// varlinkClient calls the service over Varlink.
type varlinkClient struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func dialVarlink(t testing.TB, socket string) *varlinkClient {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	require.NoError(t, err)
	return newVarlinkClient(t, conn)
}

func newVarlinkClient(t testing.TB, conn net.Conn) *varlinkClient {
	t.Cleanup(func() { _ = conn.Close() })
	return &varlinkClient{t, conn, bufio.NewReader(conn)}
}

// openDirectories lets every user reach a file of the test.
func openDirectories(t *testing.T, path string) {
	t.Helper()
	for dir := filepath.Dir(path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
}

// send sends a call with a flag or "".
func (c *varlinkClient) send(method string, parameters any, flag string) {
	c.t.Helper()
	if !strings.Contains(method, ".") {
		method = "org.example.DlmLock." + method
	}
	call := map[string]any{"method": method, "parameters": parameters}
	if flag != "" {
		call[flag] = true
	}
	text, err := json.Marshal(call)
	require.NoError(c.t, err)
	_, err = c.conn.Write(append(text, 0))
	require.NoError(c.t, err)
}

// varlinkReply is a reply; the zero value is the end of the connection.
type varlinkReply struct {
	Parameters fields
	Continues  bool
	Error      string
}

type fields = map[string]any

func (c *varlinkClient) receive() (r varlinkReply) {
	c.t.Helper()
	require.NoError(c.t, c.conn.SetReadDeadline(time.Now().Add(patience)))
	text, err := c.r.ReadBytes(0)
	if err != nil {
		require.NotErrorIs(c.t, err, os.ErrDeadlineExceeded)
		return r
	}
	require.NoError(c.t, json.Unmarshal(text[:len(text)-1], &r))
	return r
}

func (c *varlinkClient) call(method string, parameters any) varlinkReply {
	c.t.Helper()
	c.send(method, parameters, "")
	return c.receive()
}

func (c *varlinkClient) ok(method string, parameters any) fields {
	c.t.Helper()
	r := c.call(method, parameters)
	require.Empty(c.t, r.Error, "%v", r.Parameters)
	return r.Parameters
}

// held are the resources that somebody holds.
func (c *varlinkClient) held() (resources []string) {
	c.t.Helper()
	c.send("ListLocks", fields{}, "more")
	for {
		r := c.receive()
		if r.Error == "" {
			resources = append(resources, r.Parameters["lock"].(fields)["resource"].(string))
		}
		if !r.Continues {
			return resources
		}
	}
}

func want(resource, lifetime string) fields {
	return fields{"lockspace": "vms", "resource": resource, "mode": "ex", "lifetime": lifetime}
}

// The Varlink door is opened by the command line or by systemd, for everybody, and
// no other program is put aside for it.
func TestVarlinkSocket(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	socket := filepath.Join(dir, "varlink")
	t.Run("command line", func(t *testing.T) {
		p := start(t, bus, filepath.Join(dir, "one"), "--varlink="+socket)
		info, err := os.Stat(socket)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o666), info.Mode().Perm())
		c := dialVarlink(t, socket)
		c.ok("JoinLockspace", fields{"lockspace": "vms"})
		c.ok("Acquire", want("disk1", "persistent"))
		require.NoError(t, newClient(bus.Dial(t)).release("vms", "disk1"), "both doors lead to the same service")
		q := launch(t, program(t), bus.Address, filepath.Join(dir, "two"), nil, "--varlink="+socket)
		require.Equal(t, exitUsage, q.wait(t))
		require.Contains(t, q.log(), "another program listens there")
		p.kill()
	})
	t.Run("a socket that is left over", func(t *testing.T) {
		require.FileExists(t, socket)
		p := start(t, bus, filepath.Join(dir, "three"), "--varlink="+socket)
		dialVarlink(t, socket).ok("io.systemd.service.Ping", fields{})
		require.Equal(t, exitOK, p.stop(t))
		require.NoFileExists(t, socket)
		require.NotContains(t, p.log(), "level=ERROR", "a stop is no failure")
	})
	t.Run("systemd", func(t *testing.T) {
		// It starts the daemon in its place at the first connection.
		activate := filepath.Join(dir, "activate")
		require.NoError(t, os.WriteFile(activate, []byte("#!/bin/sh\nexec systemd-socket-activate --listen="+socket+
			" --fdname=varlink --setenv=NOTIFY_SOCKET \"$DLMLOCKD\" \"$@\"\n"), 0o755))
		p := launch(t, activate, bus.Address, filepath.Join(dir, "four"), []string{"DLMLOCKD=" + program(t)})
		require.Eventually(t, func() bool {
			conn, err := net.Dial("unix", socket)
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		}, patience, time.Millisecond, "the package systemd")
		dialVarlink(t, socket).ok("io.systemd.service.Ping", fields{})
		require.Equal(t, exitOK, p.stop(t))
		require.FileExists(t, socket, "it is systemd's")
		require.NotContains(t, p.log(), "level=ERROR", "a stop is no failure")
	})
}

// Without a message bus the service serves Varlink, and says what is missing.
func TestVarlinkWithoutBus(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "varlink")
	p := launch(t, program(t), noBus, filepath.Join(dir, "state"), nil, "--varlink="+socket)
	p.awaitTold(t, "READY=1")
	c := dialVarlink(t, socket)
	c.ok("JoinLockspace", fields{"lockspace": "vms"})
	c.ok("Acquire", want("disk1", "persistent"))
	require.Equal(t, exitOK, p.stop(t))
	require.Contains(t, p.log(), "there is no message bus")

	p = launch(t, program(t), noBus, filepath.Join(dir, "state"), nil)
	require.Equal(t, exitUsage, p.wait(t))
	require.Contains(t, p.log(), "give it --varlink=PATH")
}

// What ends with a restart, in order or not, and what does not.
func TestVarlinkRestart(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, p *running){
		"stopped": func(t *testing.T, p *running) { require.Equal(t, exitOK, p.stop(t)) },
		"killed":  func(_ *testing.T, p *running) { p.kill() },
	} {
		t.Run(name, func(t *testing.T) {
			bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
			socket, state := filepath.Join(dir, "varlink"), filepath.Join(dir, "state")
			p := start(t, bus, state, "--varlink="+socket)
			c := dialVarlink(t, socket)
			c.ok("JoinLockspace", fields{"lockspace": "vms"})
			for _, lifetime := range []string{"persistent", "connection", "process", "descriptor"} {
				c.ok("Acquire", want(lifetime, lifetime))
			}
			_, err := newClient(bus.Dial(t)).acquire("vms", "bus", "EX", "lifetime", "connection")
			require.NoError(t, err)
			holder, waiter := dialVarlink(t, socket), dialVarlink(t, socket)
			holder.send("Acquire", want("held", "connection"), "more")
			require.NotNil(t, holder.receive().Parameters["granted"])
			waiter.send("Acquire", want("persistent", "persistent"), "more")
			end(t, p)
			for name, c := range map[string]*varlinkClient{"idle": c, "holder": holder, "waiter": waiter} {
				r := c.receive()
				if r.Error != "" {
					require.Equal(t, "org.example.DlmLock.ShuttingDown", r.Error)
					r = c.receive()
				}
				require.Empty(t, r, name)
			}
			start(t, bus, state, "--varlink="+socket)
			c = dialVarlink(t, socket)
			require.Eventually(t, func() bool { return len(c.held()) == 3 }, patience, time.Millisecond)
			require.ElementsMatch(t, []string{"persistent", "process", "bus"}, c.held())
		})
	}
}

// The lock of a client that is killed ends with it, or with its descriptor.
func TestVarlinkClientKilled(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	socket := filepath.Join(dir, "varlink")
	start(t, bus, filepath.Join(dir, "state"), "--varlink="+socket)
	c := dialVarlink(t, socket)
	c.ok("JoinLockspace", fields{"lockspace": "vms"})
	for _, lifetime := range []string{"connection", "process", "descriptor"} {
		call, err := json.Marshal(fields{"method": "org.example.DlmLock.Acquire", "parameters": want(lifetime, lifetime)})
		require.NoError(t, err)
		cmd := exec.Command("/usr/bin/perl", "-MIO::Socket::UNIX", "-e",
			`$s = IO::Socket::UNIX->new($ARGV[0]) or die; print $s "$ARGV[1]\0"; $s->flush; sleep 1000`, socket, string(call))
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool { return len(c.held()) == 1 }, patience, time.Millisecond, lifetime)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		require.Eventually(t, func() bool { return len(c.held()) == 0 }, patience, time.Millisecond, lifetime)
	}
}

// The configuration can be read again over Varlink, and its mistakes are told.
func TestVarlinkReload(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	socket, file := filepath.Join(dir, "varlink"), filepath.Join(dir, "c.toml")
	require.NoError(t, os.WriteFile(file, []byte("lockspaces = [\"vms\"]\n"), 0o600))
	start(t, bus, filepath.Join(dir, "state"), "--varlink="+socket, "--config="+file)
	c := dialVarlink(t, socket)
	c.ok("io.systemd.service.Reload", fields{})
	require.NoError(t, os.WriteFile(file, []byte("lockspaces = [\"vms\"]\nbogus = 1\n"), 0o600))
	r := c.call("io.systemd.service.Reload", fields{})
	require.Equal(t, "org.example.DlmLock.InvalidConfiguration", r.Error)
	require.Contains(t, r.Parameters["message"], "bogus")
	c.ok("io.systemd.service.SetLogLevel", fields{"level": 7})
	require.EqualValues(t, 7, c.ok("io.systemd.service.GetLogLevel", fields{})["level"])
}

// A service that nobody needs ends, and one that is served at a socket of systemd
// is not needed because of that alone.
func TestVarlinkIdle(t *testing.T) {
	d := &daemon{}
	require.Empty(t, d.varlinkNeeded())
}
