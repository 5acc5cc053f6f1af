package main

import (
	"encoding/json"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/internal/testprocess"
)

// keptRig is a daemon that a manager keeps descriptors for.
type keptRig struct {
	t   *testing.T
	bus *testbus.Bus
	dir string
	m   *manager
	p   *running
}

func newKeptRig(t *testing.T, most int) *keptRig {
	r := &keptRig{t: t, bus: testbus.Start(t, testbus.Daemon), dir: t.TempDir(), m: newManager(t, most)}
	r.start()
	r.dial().ok("JoinLockspace", fields{"lockspace": "vms"})
	return r
}

func (r *keptRig) start() {
	r.t.Helper()
	r.p = launchKept(r.t, r.m, program(r.t), r.bus.Address, r.dir, nil)
	r.p.awaitTold(r.t, "READY=1")
}

// kill kills the daemon when it is done with its replies.
func (r *keptRig) kill() {
	r.m.settle(r.t)
	r.p.kill()
}

func (r *keptRig) dial() *varlinkClient { return dialVarlink(r.t, r.m.socket) }

// becomes waits until exactly these resources are held.
func (r *keptRig) becomes(resources ...string) {
	r.t.Helper()
	c := r.dial()
	slices.Sort(resources)
	var held []string
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if held = c.held(); slices.Equal(slices.Sorted(slices.Values(held)), resources) {
			return
		}
	}
	require.ElementsMatch(r.t, resources, held)
}

// hold takes a lock that lives as long as its connection. With more the call goes on.
func (r *keptRig) hold(resource, flag string) *varlinkClient {
	r.t.Helper()
	c := r.dial()
	c.send("Acquire", want(resource, "connection"), flag)
	require.NotNil(r.t, c.receive().Parameters["granted"])
	return c
}

// descriptor takes a lock that lives as long as a descriptor.
func (r *keptRig) descriptor(resource string) *os.File {
	r.t.Helper()
	c := r.dial()
	c.send("Acquire", want(resource, "descriptor"), "")
	require.NoError(r.t, c.conn.SetReadDeadline(time.Now().Add(patience)))
	buf, rights := make([]byte, 4096), make([]byte, 256)
	_, n, _, _, err := c.conn.(*net.UnixConn).ReadMsgUnix(buf, rights)
	require.NoError(r.t, err)
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	require.NoError(r.t, err)
	fds, err := unix.ParseUnixRights(&messages[0])
	require.NoError(r.t, err)
	f := os.NewFile(uintptr(fds[0]), "lock")
	r.t.Cleanup(func() { _ = f.Close() })
	return f
}

// waysToEnd are the ways in which the daemon ends and comes back.
var waysToEnd = map[string]func(*keptRig){
	"restarted": func(r *keptRig) { require.Equal(r.t, exitOK, r.p.stop(r.t)) },
	"killed":    func(r *keptRig) { r.kill() },
}

// Connections and descriptors that locks hang on, and the locks, outlive the daemon. What a client
// does not notice is that it was away.
func TestKeptOverRestart(t *testing.T) {
	for name, end := range waysToEnd {
		t.Run(name, func(t *testing.T) {
			r := newKeptRig(t, 100)
			idle, holder, fd := r.hold("idle", ""), r.hold("holder", "more"), r.descriptor("fd")
			before := lockids(r.dial())
			for range 3 {
				end(r)
				idle.send("Inspect", fields{"lockspace": "vms", "resource": "idle"}, "") // waits in the socket
				r.start()
				require.Len(t, idle.receive().Parameters["locks"], 1)
				r.becomes("idle", "holder", "fd")
			}
			require.Equal(t, before, lockids(r.dial()))

			// The call that goes on tells what becomes of its lock, and the connections go on as ever.
			waiter := r.dial()
			waiter.send("Acquire", want("holder", "persistent"), "more")
			require.NotNil(t, holder.receive().Parameters["blocking"])
			require.NoError(t, holder.conn.Close())
			require.NotNil(t, waiter.receive().Parameters["granted"])
			r.becomes("idle", "holder", "fd")
			idle.ok("Release", fields{"lockspace": "vms", "resource": "idle"})
			idle.ok("Acquire", want("again", "connection"))
			require.NoError(t, fd.Close())
			r.becomes("again", "holder")
			require.NoError(t, idle.conn.Close())
			r.becomes("holder")
			require.Eventually(t, func() bool { return len(r.m.kept()) == 0 }, patience, time.Millisecond)
			require.NotContains(t, r.p.log(), "level=ERROR")
		})
	}
}

func lockids(c *varlinkClient) map[string]any {
	ids := map[string]any{}
	c.send("ListLocks", fields{}, "more")
	for {
		r := c.receive()
		l := r.Parameters["lock"].(fields)
		ids[l["resource"].(string)] = l["lockId"]
		if !r.Continues {
			return ids
		}
	}
}

// Whoever goes while the daemon is away has left its lock.
func TestKeptClientGoesMeanwhile(t *testing.T) {
	for name, end := range waysToEnd {
		t.Run(name, func(t *testing.T) {
			r := newKeptRig(t, 100)
			idle, holder, fd := r.hold("idle", ""), r.hold("holder", "more"), r.descriptor("fd")
			r.hold("stays", "")
			end(r)
			require.NoError(t, idle.conn.Close())
			require.NoError(t, holder.conn.Close())
			require.NoError(t, fd.Close())
			r.start()
			r.becomes("stays")
		})
	}
}

// A stop of the unit ends the connections, as systemd drops what it has kept.
func TestKeptUntilStop(t *testing.T) {
	r := newKeptRig(t, 100)
	idle, holder, fd := r.hold("idle", ""), r.hold("holder", "more"), r.descriptor("fd")
	require.Equal(t, exitOK, r.p.stop(t))
	r.m.stopped()
	require.Empty(t, idle.receive())
	require.Empty(t, holder.receive())
	_, err := fd.Write([]byte{0})
	require.ErrorIs(t, err, syscall.EPIPE)
	r.start()
	r.becomes()
}

// A call that was under way when the daemon was killed is answered: its outcome is not known. In an
// orderly end it is withdrawn.
func TestKeptWithACallUnderWay(t *testing.T) {
	for name, kind := range map[string]string{"killed": "Internal", "restarted": "ShuttingDown"} {
		t.Run(name, func(t *testing.T) {
			r := newKeptRig(t, 100)
			r.dial().ok("Acquire", want("taken", "persistent"))
			waiter := r.hold("mine", "")
			waiter.send("Acquire", want("taken", "connection"), "more")
			c := r.dial()
			require.Eventually(t, func() bool {
				return c.ok("Describe", fields{})["service"].(fields)["waitingCount"] == 1.0
			}, patience, time.Millisecond)
			waysToEnd[name](r)
			r.start()
			reply := waiter.receive()
			require.Equal(t, "org.example.DlmLock."+kind, reply.Error, "%v", reply)
			require.NotContains(t, reply.Parameters["message"], "log says")
			r.becomes("taken", "mine")
			waiter.ok("Release", fields{"lockspace": "vms", "resource": "mine"})
			r.becomes("taken")
		})
	}
}

// A conversation that was cut in the middle of a call ends, and the lock with it; one that was cut
// before the daemon has read any of it goes on.
func TestKeptInTheMiddleOfACall(t *testing.T) {
	r := newKeptRig(t, 100)
	half := func(c *varlinkClient) (rest []byte) {
		text, err := json.Marshal(fields{"method": "io.systemd.service.Ping"})
		require.NoError(t, err)
		_, err = c.conn.Write(text[:20])
		require.NoError(t, err)
		return append(text[20:], 0)
	}
	read, unread, pipelined := r.hold("read", ""), r.hold("unread", ""), r.hold("pipelined", "more")
	r.m.settle(t)
	half(read)
	pipelined.send("io.systemd.service.Ping", fields{}, "")
	require.Eventually(t, func() bool { return unreadBytes(t, read) == 0 && unreadBytes(t, pipelined) == 0 },
		patience, time.Millisecond)
	r.dial().ok("Describe", fields{})
	require.NoError(t, testprocess.Stop(r.p.cmd.Process))
	rest := half(unread)
	r.p.kill()
	r.start()
	require.Empty(t, read.receive())
	require.Empty(t, pipelined.receive())
	_, err := unread.conn.Write(rest)
	require.NoError(t, err)
	require.Empty(t, unread.receive().Error)
	r.becomes("unread")
	r.p.await(t, "the reason", logs("a kept connection can't go on"))
	require.Eventually(t, func() bool { return len(r.m.kept()) == 1 }, patience, time.Millisecond)
}

// unreadBytes is how much memory the kernel has for what the other end has not read.
func unreadBytes(t *testing.T, c *varlinkClient) (n int) {
	raw, err := c.conn.(*net.UnixConn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }))
	require.NoError(t, err)
	return n
}

// A store that is full, for everybody or for one user, and none at all: the lock ends with the
// daemon, and the client sees that.
func TestKeptInAFullStore(t *testing.T) {
	r := newKeptRig(t, 2)
	one, two, three := r.hold("one", ""), r.hold("two", ""), r.hold("three", "")
	r.kill()
	require.Empty(t, three.receive())
	r.start()
	r.becomes("one", "two")
	require.NoError(t, one.conn.Close())
	r.becomes("two")
	require.Eventually(t, func() bool { return len(r.m.kept()) == 1 }, patience, time.Millisecond)
	four := r.hold("four", "more")
	r.kill()
	r.start()
	r.becomes("two", "four")
	require.NoError(t, two.conn.Close())
	require.NoError(t, four.conn.Close())
	r.becomes()
}

// Locks that are released by others, moved, or lost while their holder is kept, and those that were
// lost while the daemon was away.
func TestKeptAndLost(t *testing.T) {
	r := newKeptRig(t, 100)
	a, b := r.hold("a", "more"), r.descriptor("b")
	c := r.hold("c", "more")
	r.kill()
	r.start()
	root := r.dial()
	root.ok("Release", fields{"lockspace": "vms", "resource": "a"})
	root.ok("Release", fields{"lockspace": "vms", "resource": "b"})
	require.Equal(t, true, a.receive().Parameters["released"])
	require.Eventually(t, func() bool { _, err := b.Write([]byte{0}); return err != nil }, patience, time.Millisecond)
	a.ok("io.systemd.service.Ping", fields{})
	root.ok("LeaveLockspace", fields{"lockspace": "vms", "force": true})
	require.NotNil(t, c.receive().Parameters["lost"])
	root.ok("JoinLockspace", fields{"lockspace": "vms"})

	d, e := r.hold("d", "more"), r.descriptor("e")
	r.kill()
	forgetRecord(t, r.dir, "d")
	r.start()
	end := d.receive()
	require.True(t, end.Parameters["lost"] != nil || end.Parameters["released"] == true, "%v", end)
	r.becomes("e")
	require.NoError(t, e.Close())
	r.becomes()
}

// forgetRecord takes the record of a lock out of the state file.
func forgetRecord(t *testing.T, dir, resource string) {
	t.Helper()
	file := dir + "/state.toml"
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	i := strings.Index(string(text), `resource = "`+resource+`"`)
	require.Positive(t, i)
	text[i+len(`resource = "`)] = 'D' // its check value does not fit any more
	require.NoError(t, os.WriteFile(file, text, 0o600))
}
