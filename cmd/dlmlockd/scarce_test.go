package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// scarce is a program that runs the daemon with so many descriptors at most.
func scarce(t *testing.T, descriptors int) string {
	path := filepath.Join(t.TempDir(), "scarce")
	text := fmt.Sprintf("#!/bin/sh\nulimit -n %d && exec %s \"$@\"\n", descriptors, program(t))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
	return path
}

// With few descriptors a lock of a process is refused before it is granted, or it is kept: a live
// process never loses one. The same is true after a restart.
func TestFewDescriptors(t *testing.T) {
	const processes = 20
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	p := launch(t, scarce(t, 24), bus.Address, dir, nil)
	p.awaitTold(t, "READY=1")
	c := newClient(bus.Dial(t))
	require.NoError(t, c.join("vms"))
	var held []string
	var children []*exec.Cmd
	for i := range processes {
		child := sleeper(t)
		name := fmt.Sprint(i)
		_, err := c.acquire("vms", name, "EX", "owner", "o"+name, "lifetime", "process", "pid",
			uint32(child.Process.Pid))
		if err != nil {
			require.Equal(t, "org.example.DlmLock.Error.LimitExceeded", errorName(err))
			require.ErrorContains(t, err, "LimitNOFILE")
			continue
		}
		held, children = append(held, name), append(children, child)
	}
	require.NotEmpty(t, held)
	require.Less(t, len(held), processes, "the limit was not met")
	t.Logf("%d of %d granted", len(held), processes)
	// What it does next comes after what a watch that failed would have done.
	require.NoError(t, c.join("other"))
	require.Equal(t, held, c.resources(t))

	// Fewer still: some can't be looked at.
	p.kill()
	p = launch(t, scarce(t, 20), bus.Address, dir, nil)
	p.awaitTold(t, "READY=1")
	p.await(t, "an error", func(_ []string, log string) bool { return strings.Contains(log, "can't tell whether") })
	require.Equal(t, held, c.resources(t))
	for _, name := range held {
		_, err := c.acquire("vms", name, "EX", "owner", "another")
		require.Equal(t, "org.example.DlmLock.Error.WouldBlock", errorName(err), name)
	}
	degraded, err := c.obj.GetProperty("org.example.DlmLock.Degraded")
	require.NoError(t, err)
	require.Contains(t, degraded.Value(), "LimitNOFILE")

	// With more descriptors it finds out, and processes that have ended meanwhile lose their locks.
	last := len(held) - 1
	end(t, children[last])
	p.kill()
	start(t, bus, dir)
	c.becomes(t, held[:last]...)
	degraded, err = c.obj.GetProperty("org.example.DlmLock.Degraded")
	require.NoError(t, err)
	require.Empty(t, degraded.Value())
	for _, child := range children[:last] {
		end(t, child)
	}
	c.becomes(t)
}

// One user can't use up everybody's descriptors.
func TestProcessesPerUser(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	conf := filepath.Join(t.TempDir(), "dlmlockd.toml")
	require.NoError(t, os.WriteFile(conf, []byte("group = \"nogroup\"\n[limits]\nprocesses-per-uid = 3\n"), 0o600))
	p := start(t, bus, dir, "--config="+conf)
	root := newClient(bus.Dial(t))
	require.NoError(t, root.join("vms"))
	nobody := newClient(bus.DialAs(t, testbus.Nobody))
	var refused error
	for i := range 4 {
		cmd := bus.Command(t, testbus.Nobody, "sleep", "1000")
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		_, refused = nobody.acquire("vms", fmt.Sprint(i), "EX", "lifetime", "process", "pid", uint32(cmd.Process.Pid))
	}
	require.ErrorContains(t, refused, "processes-per-uid")
	require.Equal(t, "org.example.DlmLock.Error.LimitExceeded", errorName(refused))
	_, err := root.acquire("vms", "mine", "EX", "lifetime", "process", "pid", uint32(sleeper(t).Process.Pid))
	require.NoError(t, err)

	// A reload raises it.
	require.NoError(t, os.WriteFile(conf, []byte("group = \"nogroup\"\n[limits]\nprocesses-per-uid = 4\n"), 0o600))
	p.forget()
	require.NoError(t, p.cmd.Process.Signal(unix.SIGHUP))
	p.awaitTold(t, "READY=1")
	cmd := bus.Command(t, testbus.Nobody, "sleep", "1000")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	_, err = nobody.acquire("vms", "3", "EX", "lifetime", "process", "pid", uint32(cmd.Process.Pid))
	require.NoError(t, err)
}

// A thread, and a thread of the kernel, are refused as what they are.
func TestNamedThreads(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	start(t, bus, dir)
	c := newClient(bus.Dial(t))
	require.NoError(t, c.join("vms"))
	threads, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	refused := 0
	for _, thread := range threads {
		var tid uint32
		_, err := fmt.Sscan(thread.Name(), &tid)
		require.NoError(t, err)
		if tid == uint32(os.Getpid()) {
			continue
		}
		_, err = c.acquire("vms", "r", "EX", "lifetime", "process", "pid", tid)
		require.Equal(t, "org.freedesktop.DBus.Error.InvalidArgs", errorName(err))
		require.ErrorContains(t, err, "thread")
		refused++
	}
	require.NotZero(t, refused)
	_, err = c.acquire("vms", "r", "EX", "lifetime", "process", "pid", uint32(2))
	require.ErrorContains(t, err, "kernel")
}

// flood opens connections until some are refused, and returns those that are answered.
func flood(t *testing.T, socket string, call []byte) (open []net.Conn) {
	const most = 100
	for range most {
		conn, err := net.Dial("unix", socket)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		_, err = conn.Write(call)
		if err == nil {
			_, err = conn.Read(make([]byte, 4096))
		}
		if err == nil {
			open = append(open, conn)
		}
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	require.Less(t, len(open), most, "all are served")
	return open
}

// scarceRig is a daemon with few descriptors and all doors.
type scarceRig struct {
	*testing.T
	p                *running
	bus              client
	libvirt, varlink string
}

func newScarceRig(t *testing.T) *scarceRig {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	r := &scarceRig{T: t, libvirt: filepath.Join(dir, "libvirt"), varlink: filepath.Join(dir, "varlink")}
	r.p = launch(t, scarce(t, 64), bus.Address, filepath.Join(dir, "state"), nil, "--virtlockd="+r.libvirt,
		"--varlink="+r.varlink)
	r.p.awaitTold(t, "READY=1")
	r.bus = newClient(bus.Dial(t))
	require.NoError(t, r.bus.join("vms"))
	return r
}

// work has the daemon need its state file, and descriptors for it.
func (r *scarceRig) work() {
	r.Helper()
	for i := range 20 {
		_, err := r.bus.acquire("vms", fmt.Sprint(i), "EX", "owner", "o")
		require.NoError(r, err)
		require.NoError(r, r.bus.release("vms", fmt.Sprint(i), "owner", "o"))
	}
	require.NotContains(r, r.p.log(), unix.EMFILE.Error())
}

// Locks that hang on descriptors and processes, and connections, together leave descriptors for the
// state file and the bus, and the locks leave some for connections.
func TestLocksLeaveDescriptors(t *testing.T) {
	const most = 64
	r := newScarceRig(t)
	v := dialVarlink(t, r.varlink)
	var files []*os.File
	for i := range most {
		v.send("Acquire", want(fmt.Sprint("file", i), "descriptor"), "")
		var file *os.File
		reply := v.receiveWithFile(&file)
		if reply.Error != "" {
			require.Equal(t, "org.example.DlmLock.LimitExceeded", reply.Error)
			break
		}
		files = append(files, file)
	}
	t.Logf("%d locks of descriptors", len(files))
	require.NotEmpty(t, files)
	require.Less(t, len(files), most)
	r.work()
	open := flood(t, r.varlink, getInfo)
	t.Logf("%d connections over Varlink", len(open))
	require.NotEmpty(t, open)
	r.work()
	for i := range most {
		child := sleeper(t)
		if _, err := r.bus.acquire("vms", fmt.Sprint("process", i), "EX", "lifetime", "process", "pid",
			uint32(child.Process.Pid)); err != nil {
			require.Equal(t, "org.example.DlmLock.Error.LimitExceeded", errorName(err))
			break
		}
	}
	t.Logf("%d connections of libvirt", len(flood(t, r.libvirt, createLockspace)))
	r.work()
	for _, file := range files {
		_, err := file.Write([]byte{0})
		require.NoError(t, err, "nobody has taken it")
		require.NoError(t, file.Close())
	}
}

var getInfo = []byte(`{"method":"org.varlink.service.GetInfo"}` + "\x00")

// However few descriptors there are, the clients of one door leave some for the others and for the
// state file.
func TestConnectionsLeaveDescriptors(t *testing.T) {
	r := newScarceRig(t)
	guests := flood(t, r.libvirt, createLockspace)
	t.Logf("%d connections of libvirt", len(guests))
	require.NotEmpty(t, guests)
	r.work()
	open := flood(t, r.varlink, getInfo)
	t.Logf("%d connections over Varlink", len(open))
	require.NotEmpty(t, open)
	r.work()
	for _, conn := range guests {
		_ = conn.Close()
	}
	require.Eventually(t, func() bool {
		conn, err := net.Dial("unix", r.libvirt)
		require.NoError(t, err)
		defer conn.Close()
		_, _ = conn.Write(createLockspace)
		n, _ := conn.Read(make([]byte, 28))
		return n > 0
	}, patience, time.Millisecond)
}
