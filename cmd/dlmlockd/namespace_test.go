package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/process"
)

// container is a shell in a pid namespace of its own, with its own /proc and the bus of the host.
// It runs the lines that it is sent.
type container struct {
	t     *testing.T
	shell *exec.Cmd
	in    io.Writer
	out   *bufio.Scanner
}

func newContainer(t *testing.T, bus *testbus.Bus) *container {
	cmd := exec.Command("unshare", "-pf", "--mount-proc", "--kill-child", "sh")
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+bus.Address)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return &container{t, cmd, in, bufio.NewScanner(out)}
}

// run has the shell run a script and returns the last line that it writes.
func (c *container) run(script string) string {
	c.t.Helper()
	_, err := io.WriteString(c.in, script+"\necho .\n")
	require.NoError(c.t, err)
	last := ""
	for c.out.Scan() && c.out.Text() != "." {
		last = c.out.Text()
	}
	return last
}

// acquire is a script in which busctl, in the container, takes vms/r for a
// process; it writes the answer.
func acquireFor(more ...string) string {
	return "busctl call org.example.DlmLock /org/example/DlmLock org.example.DlmLock Acquire 'sssa{sv}' vms r EX " +
		strconv.Itoa(1+len(more)/3) + " lifetime s process " + strings.Join(more, " ") + " 2>&1"
}

// A number that a container names is never taken for a process of the host.
func TestContainerNamesAProcess(t *testing.T) {
	for _, kind := range testbus.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			bus, dir := testbus.Start(t, kind), t.TempDir()
			start(t, bus, dir)
			c := newClient(bus.Dial(t))
			require.NoError(t, c.join("vms"))
			in := newContainer(t, bus)

			// The shell is 1 there, and not busctl's child.
			require.Contains(t, in.run(acquireFor("pid", "u", "$$")), "another pid namespace")
			// Nor is anything of the host.
			require.Contains(t, in.run(acquireFor("pid", "u", strconv.Itoa(os.Getpid()))), "another pid namespace")
			require.Empty(t, c.resources(t))

			// busctl itself: the lock is granted, and ends with it.
			require.Contains(t, in.run("sh -c 'exec "+strings.ReplaceAll(acquireFor("pid", "u", "$$"), "'",
				`'\''`)+"'"), "uto ")
			c.becomes(t)

			// Without a number it is the caller, as the bus says.
			require.Contains(t, in.run(acquireFor()), "uto ")
			c.becomes(t)
		})
	}
}

// The start time that the client sees has to be that of the process here.
func TestStartTime(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Broker), t.TempDir()
	start(t, bus, dir)
	c := newClient(bus.Dial(t))
	require.NoError(t, c.join("vms"))
	child := sleeper(t)
	pid := uint32(child.Process.Pid)
	began, err := process.Start(pid)
	require.NoError(t, err)
	for _, member := range []string{"Acquire", "Request"} {
		err = c.call(member, "vms", "r", "EX", opts("lifetime", "process", "pid", pid, "start-time", began+1)).Err
		require.Equal(t, "org.freedesktop.DBus.Error.InvalidArgs", errorName(err))
		require.ErrorContains(t, err, "start-time")
	}
	_, err = c.acquire("vms", "r", "EX", "start-time", began)
	require.Equal(t, "org.freedesktop.DBus.Error.InvalidArgs", errorName(err))
	_, err = c.acquire("vms", "r", "EX", "lifetime", "process", "pid", pid, "start-time", began)
	require.NoError(t, err)
	// The caller itself has one, too.
	me, err := process.Start(uint32(os.Getpid()))
	require.NoError(t, err)
	_, err = c.acquire("vms", "me", "EX", "lifetime", "process", "start-time", me+1)
	require.Equal(t, "org.freedesktop.DBus.Error.InvalidArgs", errorName(err))
	_, err = c.acquire("vms", "me", "EX", "lifetime", "process", "start-time", me)
	require.NoError(t, err)
	// The empty list tells whether a service knows the option.
	require.NoError(t, c.call("AcquireMany", []struct{ A, B, C string }{},
		opts("lifetime", "process", "start-time", me)).Err)
	end(t, child)
	c.becomes(t, "me")
}

// In another pid namespace than the bus, the pids that a service gets from the bus mean nothing, so
// no process ends a lock.
func TestServiceInAContainer(t *testing.T) {
	for _, kind := range testbus.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			bus, dir := testbus.Start(t, kind), t.TempDir()
			wrapper := t.TempDir() + "/contained"
			require.NoError(t, os.WriteFile(wrapper,
				[]byte("#!/bin/sh\nexec unshare -pf --mount-proc --kill-child "+program(t)+" \"$@\"\n"), 0o755))
			p := launch(t, wrapper, bus.Address, dir, nil)
			p.awaitTold(t, "READY=1")
			p.await(t, "a warning", func(_ []string, log string) bool {
				return strings.Contains(log,
					"another pid namespace")
			})
			c := newClient(bus.Dial(t))
			require.NoError(t, c.join("vms"))
			for _, pairs := range [][]any{{}, {"pid", uint32(os.Getpid())}, {"pid", uint32(1)}} {
				_, err := c.acquire("vms", "r", "EX", append([]any{"lifetime", "process"}, pairs...)...)
				require.Equal(t, "org.example.DlmLock.Error.NotSupported", errorName(err))
				require.ErrorContains(t, err, "lifetime connection")
			}
			_, err := c.acquire("vms", "r", "EX", "lifetime", "connection")
			require.NoError(t, err)
		})
	}
}
