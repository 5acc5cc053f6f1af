package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// sleeper is a process to which locks are tied.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}

// end ends a process, and waits until it is gone.
func end(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
}

// await takes one value of a channel within patience.
func await[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// resources are those of the locks that are there.
func (c client) resources(t *testing.T) []string {
	t.Helper()
	names := []string{}
	for _, r := range c.list(t) {
		names = append(names, r.Resource)
	}
	return names
}

func (c client) becomes(t *testing.T, want ...string) {
	t.Helper()
	var is []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if is = c.resources(t); slices.Equal(is, want) {
			return
		}
	}
	t.Fatalf("the locks are %v, not %v", is, want)
}

// request queues for a lock and tells when it is granted.
func (c client) request(t *testing.T, conn *godbus.Conn, resource string) <-chan time.Time {
	t.Helper()
	signals, granted := make(chan *godbus.Signal, 10), make(chan time.Time, 1)
	conn.Signal(signals)
	var path godbus.ObjectPath
	require.NoError(t, c.call("Request", "vms", resource, "EX", opts("owner", "next")).Store(&path))
	go func() {
		defer conn.RemoveSignal(signals)
		for s := range signals {
			if s.Path == path && s.Name == "org.example.DlmLock.Request.Completed" {
				granted <- time.Now()
				return
			}
		}
	}()
	return granted
}

// A lock that is tied to a process or a connection ends with it, within 100 ms on a machine that is
// not busy: measured as the time until the next waiter has the lock and knows it.
func TestLifetimeEndsSoon(t *testing.T) {
	for _, kind := range testbus.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			bus, dir := testbus.Start(t, kind), t.TempDir()
			start(t, bus, dir)
			conn := bus.Dial(t)
			c := newClient(conn)
			require.NoError(t, c.join("vms"))
			took := map[string][]time.Duration{}
			for range 20 {
				child := sleeper(t)
				_, err := c.acquire("vms", "r", "EX", "lifetime", "process", "pid", uint32(child.Process.Pid))
				require.NoError(t, err)
				granted := c.request(t, conn, "r")
				began := time.Now()
				end(t, child)
				took["process"] = append(took["process"], await(t, granted).Sub(began))
				require.NoError(t, c.release("vms", "r"))

				other := bus.Dial(t)
				_, err = newClient(other).acquire("vms", "r", "EX", "lifetime", "connection")
				require.NoError(t, err)
				granted = c.request(t, conn, "r")
				began = time.Now()
				require.NoError(t, other.Close())
				took["connection"] = append(took["connection"], await(t, granted).Sub(began))
				require.NoError(t, c.release("vms", "r"))
			}
			for lifetime, d := range took {
				slices.Sort(d)
				t.Logf("%s: the next one has the lock after %v (median), %v (worst)", lifetime, d[len(d)/2],
					d[len(d)-1])
				require.Less(t, d[len(d)/2], time.Second)
			}
		})
	}
}

// busctl leaves the bus as soon as it has its answer, which ends the lock.
func TestConnectionOfBusctl(t *testing.T) {
	for _, kind := range testbus.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			bus, dir := testbus.Start(t, kind), t.TempDir()
			start(t, bus, dir)
			c := newClient(bus.Dial(t))
			require.NoError(t, c.join("vms"))
			call := func(resource, lifetime string) {
				out, err := bus.Command(t, testbus.Root, "busctl", "call", "org.example.DlmLock",
					"/org/example/DlmLock", "org.example.DlmLock",
					"Acquire", "sssa{sv}", "vms", resource, "EX", "1", "lifetime", "s", lifetime).CombinedOutput()
				require.NoError(t, err, string(out))
			}
			call("bound", "connection")
			call("kept", "persistent")
			began := time.Now()
			c.becomes(t, "kept")
			t.Logf("gone %v after busctl", time.Since(began))
			out, err := bus.Command(t, testbus.Root, "busctl", "call", "org.example.DlmLock", "/org/example/DlmLock",
				"org.example.DlmLock",
				"Acquire", "sssa{sv}", "vms", "bound", "EX", "2", "lifetime", "s", "process", "pid", "u",
				fmt.Sprint(os.Getpid())).CombinedOutput()
			require.NoError(t, err, string(out))
			require.Equal(t, []string{"kept", "bound"}, c.resources(t), "this process is still there")
		})
	}
}

// A new connection that asks for what its owner holds takes over the lock: it ends with the new
// connection, even if the daemon was restarted in between.
func TestRebind(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Broker), t.TempDir()
	p := start(t, bus, dir)
	c := newClient(bus.Dial(t))
	require.NoError(t, c.join("vms"))
	first, second, third := bus.Dial(t), bus.Dial(t), bus.Dial(t)
	take := func(conn *godbus.Conn) uint32 {
		id, err := newClient(conn).acquire("vms", "r", "EX", "owner", "vm1", "lifetime", "connection")
		require.NoError(t, err)
		return id
	}
	id := take(first)
	require.Equal(t, id, take(second))
	require.NoError(t, first.Close())
	_, err := c.acquire("vms", "fence", "EX") // after what the end of first began
	require.NoError(t, err)
	require.Equal(t, []string{"r", "fence"}, c.resources(t))

	p.kill()
	start(t, bus, dir)
	require.Equal(t, []string{"r", "fence"}, c.resources(t), "its connection outlived the daemon")
	require.Equal(t, id, take(third))
	require.NoError(t, second.Close())
	require.NoError(t, c.release("vms", "fence"))
	require.Equal(t, []string{"r"}, c.resources(t))
	require.NoError(t, third.Close())
	c.becomes(t)
}

// The locks of a connection that ends while the daemon is down end when it is back; a connection
// that stays keeps its locks.
func TestConnectionsOverARestart(t *testing.T) {
	for _, kind := range testbus.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			bus, dir := testbus.Start(t, kind), t.TempDir()
			p := start(t, bus, dir)
			c := newClient(bus.Dial(t))
			require.NoError(t, c.join("vms"))
			var conns []*godbus.Conn
			for i := range 20 {
				conn := bus.Dial(t)
				conns = append(conns, conn)
				_, err := newClient(conn).acquire("vms", fmt.Sprint(i), "EX", "lifetime", "connection")
				require.NoError(t, err)
			}
			p.kill()
			var stay []string
			for i, conn := range conns {
				if i%2 == 0 {
					require.NoError(t, conn.Close())
				} else {
					stay = append(stay, fmt.Sprint(i))
				}
			}
			start(t, bus, dir)
			c.becomes(t, stay...)
			for _, conn := range conns {
				_ = conn.Close()
			}
			c.becomes(t)
		})
	}
}

// If a process ends while no daemon runs and another process gets its pid, the lock is released,
// and the other process is not affected.
func TestReusedPID(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	p := start(t, bus, dir)
	c := newClient(bus.Dial(t))
	require.NoError(t, c.join("vms"))
	var heir *exec.Cmd
	for round := 0; heir == nil; round++ {
		require.Less(t, round, 20, "another process always comes first")
		child := sleeper(t)
		pid := child.Process.Pid
		_, err := c.acquire("vms", "r", "EX", "lifetime", "process", "pid", uint32(pid))
		require.NoError(t, err)
		p.kill()
		end(t, child)
		// A start time counts in ticks of 10 ms (proc(5), field 22), and no kernel reuses a pid within
		// one tick.
		time.Sleep(20 * time.Millisecond)
		heir = withPID(t, pid)
		p = start(t, bus, dir)
		c.becomes(t)
	}
	_, err := c.acquire("vms", "r", "EX", "lifetime", "process", "pid", uint32(heir.Process.Pid))
	require.NoError(t, err)
	p.kill()
	start(t, bus, dir)
	require.Equal(t, []string{"r"}, c.resources(t), "this one is alive")
	end(t, heir)
	c.becomes(t)
}

// withPID starts a process with that pid, which is free. It returns nil if another process or thread
// has got the pid and keeps it.
func withPID(t *testing.T, pid int) *exec.Cmd {
	const last = "/proc/sys/kernel/ns_last_pid" // proc(5); needs CONFIG_CHECKPOINT_RESTORE
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		err := os.WriteFile(last, []byte(strconv.Itoa(pid-1)), 0)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EROFS) {
			t.Skipf("this kernel does not let a test choose a pid: %v", err)
		}
		require.NoError(t, err)
		cmd := sleeper(t)
		if cmd.Process.Pid == pid {
			return cmd
		}
		_ = cmd.Process.Kill() // another process came first
		_ = cmd.Wait()
	}
	return nil
}
