package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/data"
	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// foreignClients is where "make varlink-clients" puts what Debian 12 has not.
const foreignClients = "../../bin/varlink-clients"

// varlinkctls are the varlinkctl programs with their versions.
func varlinkctls(t *testing.T) map[int]string {
	t.Helper()
	found := map[int]string{}
	paths, err := filepath.Glob(foreignClients + "/varlinkctl-*")
	require.NoError(t, err)
	for _, path := range paths {
		out, err := exec.Command(path, "--version").Output()
		require.NoError(t, err, path)
		version, err := strconv.Atoi(strings.Fields(string(out))[1])
		require.NoError(t, err, path)
		found[version], err = filepath.Abs(path)
		require.NoError(t, err)
	}
	require.NotEmpty(t, found, "no varlinkctl: make varlink-clients")
	return found
}

// run runs a program and returns what it printed, also to standard error.
func runClient(path string, args ...string) (out string, code int) {
	cmd := exec.Command(path, args...)
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// systemd's varlinkctl can do all that a person wants to do.
func TestVarlinkctl(t *testing.T) {
	for version, path := range varlinkctls(t) {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
			socket := filepath.Join(dir, "varlink")
			start(t, bus, filepath.Join(dir, "state"), "--varlink="+socket)
			dialVarlink(t, socket).ok("JoinLockspace", fields{"lockspace": "vms"})
			run := func(want int, args ...string) string {
				t.Helper()
				out, code := runClient(path, args...)
				require.Equal(t, want, code, out)
				return out
			}
			const i = "org.example.DlmLock."
			require.Contains(t, run(0, "info", socket), "org.example.DlmLock")
			require.Contains(t, run(0, "list-methods", socket), "org.example.DlmLock.AcquireMany")
			require.Contains(t, run(0, "introspect", socket), "method GetInfo")
			idl := filepath.Join(dir, "idl")
			require.NoError(t, os.WriteFile(idl, []byte(data.Varlink), 0o600))
			run(0, "validate-idl", idl)

			out := run(0, "call", socket, i+"Acquire", `{"lockspace":"vms","resource":"disk1","mode":"ex","owner":"vm1"}`)
			require.Contains(t, out, `"granted"`)
			out = run(1, "call", socket, i+"Acquire", `{"lockspace":"vms","resource":"disk1","mode":"ex"}`)
			require.Contains(t, out, "org.example.DlmLock.WouldBlock")
			require.Contains(t, out, `"message"`)
			run(1, "call", socket, i+"Acquire", `{"lockspace":"vms","resource":"disk1","mode":"ex","x":1}`)
			require.Contains(t, run(0, "--more", "call", socket, i+"ListLocks", "{}"), `"disk1"`)
			require.Contains(t, run(0, "--collect", "call", socket, i+"ListLockspaces", "{}"), `"vms"`)
			run(0, "--oneway", "call", socket, i+"ReleaseOwner", `{"owner":"vm1"}`)
			c := dialVarlink(t, socket)
			require.Eventually(t, func() bool { return len(c.held()) == 0 }, patience, time.Millisecond)
			run(0, "--graceful="+i+"NoSuchLock", "--collect", "call", socket, i+"ListLocks", "{}")
		})
	}
}

// The service is not a program for one connection: with exec:PROGRAM of varlinkctl it ends, and says
// what to do instead, also while the node's service has the state directory, which it leaves alone.
func TestVarlinkctlStartsNoService(t *testing.T) {
	for version, path := range varlinkctls(t) {
		dir := t.TempDir()
		script := filepath.Join(dir, "service")
		require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\nexec "+program(t)+
			" --engine=local --bus=none --config=/dev/null --state-dir="+dir+"/state\n"), 0o755))
		said, code := runClient(path, "call", "exec:"+script, "org.example.DlmLock.Describe", "{}")
		require.NotZero(t, code, version)
		require.Contains(t, said, "connect to its socket, "+usualVarlinkSocket)
		require.NoDirExists(t, filepath.Join(dir, "state"))
	}
}

// The socket is reached through ssh, which is played here: it connects to the path that it gets, as
// sshd does for it.
func TestVarlinkctlOverSSH(t *testing.T) {
	const relay = `#!/usr/bin/python3
import os, socket, sys, threading
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[sys.argv.index("-W") + 1])
def send():
    while data := os.read(0, 65536):
        s.sendall(data)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
while data := s.recv(65536):
    os.write(1, data)
`
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	socket, ssh := filepath.Join(dir, "varlink"), filepath.Join(dir, "ssh")
	require.NoError(t, os.WriteFile(ssh, []byte(relay), 0o755))
	start(t, bus, filepath.Join(dir, "state"), "--varlink="+socket)
	t.Setenv("SYSTEMD_SSH", ssh)
	for version, path := range varlinkctls(t) {
		said, code := runClient(path, "call", "ssh-unix:node2:"+socket, "org.example.DlmLock.Describe", "{}")
		require.Zero(t, code, "%d: %s", version, said)
		require.Contains(t, said, `"lockCount"`)
	}
}

// A command runs under a lock with nothing of ours installed, and the lock ends
// with it.
func TestVarlinkctlExec(t *testing.T) {
	tried := 0
	for version, path := range varlinkctls(t) {
		if version < 258 {
			continue
		}
		tried++
		bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
		socket := filepath.Join(dir, "varlink")
		start(t, bus, filepath.Join(dir, "state"), "--varlink="+socket)
		c := dialVarlink(t, socket)
		c.ok("JoinLockspace", fields{"lockspace": "vms"})
		call := []string{"--exec", "call", socket, "org.example.DlmLock.Acquire",
			`{"lockspace":"vms","resource":"disk1","mode":"ex","lifetime":"descriptor"}`, "--"}
		cmd := exec.Command(path, append(call, "sh", "-c", "echo $LISTEN_FDS; exec sleep 1000")...)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		text := make([]byte, 2)
		_, err = out.Read(text)
		require.NoError(t, err)
		require.Equal(t, "1\n", string(text))
		require.Equal(t, []string{"disk1"}, c.held())
		said, code := runClient(path, append(call, "true")...)
		require.NotZero(t, code)
		require.Contains(t, said, "WouldBlock")
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		require.Eventually(t, func() bool { return len(c.held()) == 0 }, patience, time.Millisecond)
		_, code = runClient(path, append(call, "sh", "-c", "exit 7")...)
		require.Equal(t, 7, code)
	}
	require.Positive(t, tried, "a varlinkctl of systemd 258 or newer")
}

// A unit with Type=notify is active while it has the lock: varlinkctl says READY=1 at
// the grant and not before.
func TestVarlinkctlNotify(t *testing.T) {
	tried := 0
	for version, path := range varlinkctls(t) {
		if version < 259 {
			continue
		}
		tried++
		bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
		socket, notify := filepath.Join(dir, "varlink"), filepath.Join(dir, "notify")
		start(t, bus, filepath.Join(dir, "state"), "--varlink="+socket)
		c := dialVarlink(t, socket)
		c.ok("JoinLockspace", fields{"lockspace": "vms"})
		c.ok("Acquire", want("disk1", "persistent"))
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
		require.NoError(t, err)
		defer l.Close()
		cmd := exec.Command(path, "call", "-E", socket, "org.example.DlmLock.Acquire",
			`{"lockspace":"vms","resource":"disk1","mode":"ex","lifetime":"connection"}`)
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify)
		require.NoError(t, cmd.Start())
		waiting := func() bool {
			return c.ok("Describe", fields{})["service"].(fields)["waitingCount"] == 1.0
		}
		require.Eventually(t, waiting, patience, time.Millisecond)
		text := make([]byte, 1000)
		require.NoError(t, l.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		_, err = l.Read(text)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		c.ok("Release", fields{"lockspace": "vms", "resource": "disk1"})
		require.NoError(t, l.SetReadDeadline(time.Now().Add(patience)))
		n, err := l.Read(text)
		require.NoError(t, err)
		require.Contains(t, string(text[:n]), "READY=1")
		require.Equal(t, []string{"disk1"}, c.held())
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		_ = cmd.Wait()
		require.Eventually(t, func() bool { return len(c.held()) == 0 }, patience, time.Millisecond)
	}
	require.Positive(t, tried, "a varlinkctl of systemd 259 or newer")
}

// Python's Varlink module calls the service.
func TestPythonVarlink(t *testing.T) {
	varlinkctls(t) // they come together
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	socket := filepath.Join(dir, "varlink")
	start(t, bus, filepath.Join(dir, "state"), "--varlink="+socket)
	dialVarlink(t, socket).ok("JoinLockspace", fields{"lockspace": "vms"})
	modules, err := filepath.Abs(foreignClients + "/python/usr/lib/python3/dist-packages")
	require.NoError(t, err)
	run := func(args ...string) string {
		cmd := exec.Command("/usr/bin/python3", append([]string{"-m", "varlink.cli"}, args...)...)
		cmd.Env = append(os.Environ(), "PYTHONPATH="+modules)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	require.Contains(t, run("info", "unix:"+socket), "dlmlockd")
	require.Contains(t, run("help", "unix:"+socket+"/org.example.DlmLock"), "method Acquire")
	at := "unix:" + socket + "/org.example.DlmLock."
	require.Contains(t, run("call", at+"Acquire", `{"lockspace":"vms","resource":"disk1","mode":"ex"}`), `"granted"`)
	require.Contains(t, run("call", at+"Acquire", `{"lockspace":"vms","resource":"disk1","mode":"ex"}`), "WouldBlock")
	require.Contains(t, run("call", "--more", at+"ListLocks", "{}"), `"disk1"`)
}

// The program in docs/varlink.md works.
func TestVarlinkDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/varlink.md")
	require.NoError(t, err)
	_, program, found := strings.Cut(string(text), "```\nimport json")
	require.True(t, found)
	program, _, _ = strings.Cut("import json"+program, "```")
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	socket := filepath.Join(dir, "varlink")
	start(t, bus, filepath.Join(dir, "state"), "--varlink="+socket)
	c := dialVarlink(t, socket)
	c.ok("JoinLockspace", fields{"lockspace": "vms"})
	program = strings.ReplaceAll(program, "/run/dlmlock/org.example.DlmLock", socket)
	out, err := exec.Command("/usr/bin/python3", "-c", program+"print(lock['granted']['resource'])").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "disk1\n", string(out))
	require.Eventually(t, func() bool { return len(c.held()) == 0 }, patience, time.Millisecond)
}
