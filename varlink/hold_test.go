package varlink

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

const hold = `{"lockspace":"vms","resource":"disk1","mode":"ex","lifetime":"connection"}`

// with is an Acquire of disk1 with more fields.
func with(fields string) string {
	return `{"lockspace":"vms","resource":"disk1","mode":"ex",` + fields + `}`
}

var byDescriptor = with(`"lifetime":"descriptor"`)

// free waits until nobody holds the resource.
func (r *rig) free(resource string) {
	r.t.Helper()
	c := r.dial()
	c.ok("Acquire", `{"lockspace":"vms","resource":"`+resource+`","mode":"ex","waitUSec":20000000,"owner":"free"}`)
	c.ok("Release", `{"lockspace":"vms","resource":"`+resource+`","select":{"owner":"free"}}`)
}

// A lock of lifetime connection ends with its connection, by one reply or more.
func TestLifetimeConnection(t *testing.T) {
	r := newRig(t, rigConfig{})
	for _, flag := range []string{"", "more"} {
		c := r.dial()
		c.send("Acquire", hold, flag)
		a := c.receive()
		require.Empty(t, a.Error)
		require.NotNil(t, a.Parameters["granted"])
		require.Equal(t, flag == "more", a.Continues)
		r.dial().fails("WouldBlock", "Acquire", disk)
		if flag == "more" {
			c.quiet()
		} else {
			c.ok("Inspect", `{"lockspace":"vms","resource":"disk1"}`)
		}
		require.NoError(t, c.Close())
		r.free("disk1")
	}
}

// With more a call waits without limit, and tells how it is doing if that is
// wanted.
func TestWait(t *testing.T) {
	r := newRig(t, rigConfig{})
	holder := r.dial()
	holder.ok("Acquire", `{"lockspace":"vms","resource":"disk1","mode":"ex","label":"/disk1"}`)
	quiet, told := r.dial(), r.dial()
	quiet.send("Acquire", disk, "more")
	for part(r.dial().ok("Describe", ""), "service", "waitingCount") != 1.0 {
	}
	for _, l := range r.dial().all("ListLocks", "") {
		granted := part(l, "lock", "mode") != nil
		require.Equal(t, granted, part(l, "lock", "sinceUSec") != nil, "%v", l)
	}
	told.send("Acquire", with(`"progress":true,"lifetime":"connection"`), "more")
	w := told.receive()
	require.True(t, w.Continues)
	require.EqualValues(t, 2, part(w.Parameters, "waiting", "position"))
	require.Equal(t, "ex", part(w.Parameters, "waiting", "holder", "mode"))
	require.Equal(t, "/disk1", part(w.Parameters, "waiting", "holder", "label"))
	quiet.quiet()
	holder.ok("Release", `{"lockspace":"vms","resource":"disk1"}`)
	g := quiet.receive()
	require.NotNil(t, g.Parameters["granted"])
	require.False(t, g.Continues, "nothing more comes of a persistent lock")
	w = told.receive()
	require.EqualValues(t, 1, part(w.Parameters, "waiting", "position"))
	quiet.ok("Release", `{"lockspace":"vms","resource":"disk1"}`)
	for w = told.receive(); w.Parameters["waiting"] != nil; w = told.receive() {
	}
	require.NotNil(t, w.Parameters["granted"])
	require.True(t, w.Continues)
}

// A client that goes away takes its wait along, and what is granted to it at that
// moment does not stay.
func TestWaitCanceled(t *testing.T) {
	r := newRig(t, rigConfig{})
	holder := r.dial()
	holder.ok("Acquire", disk)
	for range 20 {
		c := r.dial()
		c.send("Acquire", disk, "more")
		require.NoError(t, c.Close())
	}
	for _, lifetime := range []string{"persistent", "connection", "descriptor"} {
		c := r.dial()
		c.send("Acquire", with(`"waitUSec":10000000,"lifetime":"`+lifetime+`"`), "")
		require.NoError(t, c.Close())
	}
	// Each call has come to its end, also those that were still on their way.
	require.Eventually(t, func() bool { return r.door.Connections() == 1 }, patience, time.Millisecond)
	holder.ok("Release", `{"lockspace":"vms","resource":"disk1"}`)
	r.free("disk1")
}

// A wait may be longer than the service's own limit, and ends in time.
func TestLongWait(t *testing.T) {
	r := newRig(t, rigConfig{})
	r.dial().ok("Acquire", disk)
	c := r.dial()
	c.send("Acquire", `{"lockspace":"vms","resource":"disk1","mode":"ex","waitUSec":30000000}`, "")
	for part(r.dial().ok("Describe", ""), "service", "waitingCount") != 1.0 {
	}
	r.dial().ok("Release", `{"lockspace":"vms","resource":"disk1"}`)
	require.NotNil(t, c.receive().Parameters["granted"])

}

// The door ends such a wait, and its error is that of a short wait, with the holder.
func TestLongWaitIsOver(t *testing.T) {
	a := acquire{ended: make(chan struct{})}
	a.name = name{"vms", "disk1"}
	a.queue.Want.Mode = dlm.EX
	a.why = a.timeout()
	err := a.reason(&api.Error{Kind: api.Canceled, Holder: &api.HeldBy{Mode: dlm.EX, Owner: "vm9"}})
	require.ErrorIs(t, err, api.Timeout)

	r := newRig(t, rigConfig{})
	r.dial().ok("Acquire", with(`"owner":"vm9"`))
	e := r.dial().fails("Timeout", "Acquire", `{"lockspace":"vms","resource":"disk1","mode":"ex","waitUSec":1000}`)
	require.Equal(t, e["message"], wording.Message(err))
	require.Equal(t, "acquire vms/disk1 EX: not granted in the time given; wait longer with waitUSec, or let Acquire "+
		`wait without a limit with the flag more; held by this node (EX, uid 0, "vm9")`, e["message"])
	require.NotEmpty(t, e["holder"])
}

// The holder hears of what becomes of the lock: that somebody waits for it, that
// it is lost, that somebody has released it.
func TestHolderHears(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	c.send("Acquire", hold, "more")
	g := c.receive()
	other := r.dial()
	other.send("Acquire", `{"lockspace":"vms","resource":"disk1","mode":"pr"}`, "more")
	b := c.receive()
	require.True(t, b.Continues)
	require.Equal(t, "pr", part(b.Parameters, "blocking", "mode"))
	require.Equal(t, "vms", part(b.Parameters, "blocking", "lockspace"))
	require.Equal(t, part(g.Parameters, "granted", "lock"), part(b.Parameters, "blocking", "lock"))
	r.dial().ok("Release", `{"lockspace":"vms","resource":"disk1"}`)
	end := c.receive()
	require.False(t, end.Continues)
	require.Equal(t, true, end.Parameters["released"])
	require.NotNil(t, other.receive().Parameters["granted"])
	c.ok("Inspect", `{"lockspace":"vms","resource":"disk1"}`) // the connection goes on
	other.ok("Release", `{"lockspace":"vms","resource":"disk1"}`)

	c.send("Acquire", hold, "more")
	require.NotNil(t, c.receive().Parameters["granted"])
	r.dial().ok("LeaveLockspace", `{"lockspace":"vms","force":true}`)
	end = c.receive()
	require.False(t, end.Continues)
	require.Equal(t, "disk1", part(end.Parameters, "lost", "resource"))
	require.NotEmpty(t, part(end.Parameters, "lost", "reason"))
}

// A lock of lifetime descriptor ends with the last copy of the descriptor, and
// not with the connection.
func TestDescriptor(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	c.send("Acquire", byDescriptor, "")
	fd := c.receiveFile(t)
	require.NoError(t, c.Close())
	r.dial().fails("WouldBlock", "Acquire", disk)
	list := r.dial().all("ListLocks", "")
	require.Equal(t, "connection", part(list[0], "lock", "lifetime"))
	dup, err := unix.Dup(fd)
	require.NoError(t, err)
	_, err = unix.Write(dup, []byte("whatever"))
	require.NoError(t, err)
	require.NoError(t, unix.Close(fd))
	r.dial().fails("WouldBlock", "Acquire", disk)
	require.NoError(t, unix.Close(dup))
	r.free("disk1")

	// Refused: nothing stays.
	c = r.dial()
	c.ok("Acquire", disk)
	before := openFiles(t)
	for range 50 {
		c.fails("WouldBlock", "Acquire", byDescriptor)
		c.send("Acquire", byDescriptor, "oneway")
	}
	c.ok("Release", `{"lockspace":"vms","resource":"disk1"}`)
	require.Eventually(t, func() bool { return openFiles(t) <= before }, patience, time.Millisecond)

	// Lost: whoever has the descriptor can see it.
	c = r.dial()
	c.send("Acquire", byDescriptor, "")
	fd = c.receiveFile(t)
	defer unix.Close(fd)
	c.ok("LeaveLockspace", `{"lockspace":"vms","force":true}`)
	require.NotZero(t, events(t, fd, patience)&unix.POLLERR)
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

// receiveFile takes a reply with a descriptor.
func (c *client) receiveFile(t *testing.T) int {
	t.Helper()
	text, oob := make([]byte, 4096), make([]byte, 4096)
	n, m, _, _, err := c.ReadMsgUnix(text, oob)
	require.NoError(t, err)
	require.Contains(t, string(text[:n]), `"lockFileDescriptor":0`)
	messages, err := unix.ParseSocketControlMessage(oob[:m])
	require.NoError(t, err)
	fds, err := unix.ParseUnixRights(&messages[0])
	require.NoError(t, err)
	require.Len(t, fds, 1)
	return fds[0]
}

// oneway calls do their work, though the client is gone at once.
func TestOneway(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	c.send("Acquire", disk, "oneway")
	require.NoError(t, c.Close())
	require.Eventually(t, func() bool { return len(r.logs.String()) > 0 && r.held("disk1") }, patience, time.Millisecond)
	c = r.dial()
	c.send("Release", `{"lockspace":"vms","resource":"disk1"}`, "oneway")
	require.NoError(t, c.Close())
	r.free("disk1")
	c = r.dial()
	c.send("Acquire", hold, "oneway")
	require.NoError(t, c.Close())
	r.free("disk1")
}

func (r *rig) held(resource string) bool {
	c := r.dial()
	defer c.Close()
	c.send("ListLocks", `{"resource":"`+resource+`","state":"held"}`, "more")
	return c.receive().Error == ""
}

// A lock of lifetime process is that of the client, or of a process that it
// names.
func TestLifetimeProcess(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	c.ok("Acquire", `{"lockspace":"vms","resource":"disk1","mode":"ex","lifetime":"process"}`)
	list := c.all("ListLocks", "")
	require.EqualValues(t, os.Getpid(), part(list[0], "lock", "processId"))
	require.Equal(t, "process", part(list[0], "lock", "lifetime"))
	e := c.fails(errInvalidParameter, "Acquire",
		with(fmt.Sprintf(`"owner":"o","lifetime":"process","processId":%d,"processStartTicks":1`, os.Getpid())))
	require.NotEmpty(t, e["message"])
}

// When the service ends, calls without an end of their own are told, and locks of
// lifetime connection stay until the next start, which releases them.
func TestRestart(t *testing.T) {
	r := newRig(t, rigConfig{})
	holder, waiter, watcher, keeper, plain := r.dial(), r.dial(), r.dial(), r.dial(), r.dial()
	keeper.ok("Acquire", `{"lockspace":"vms","resource":"kept","mode":"ex"}`)
	plain.ok("Acquire", `{"lockspace":"vms","resource":"disk2","mode":"ex","lifetime":"connection"}`)
	holder.send("Acquire", hold, "more")
	require.NotNil(t, holder.receive().Parameters["granted"])
	waiter.send("Acquire", disk, "more")
	watcher.send("Describe", "", "more")
	require.True(t, watcher.receive().Continues)
	monitor := r.dial()
	watchAll(monitor, `{"events":[]}`)
	fds := r.dial()
	fds.send("Acquire", `{"lockspace":"vms","resource":"disk3","mode":"ex","lifetime":"descriptor"}`, "")
	fd := fds.receiveFile(t)
	defer unix.Close(fd)
	require.True(t, holder.receive().Continues) // blocking
	r.stop()
	for name, c := range map[string]*client{"holder": holder, "waiter": waiter, "watcher": watcher, "monitor": monitor} {
		m := c.receive()
		for name == "watcher" && m.Continues { // how many locks there are, which may take a moment
			m = c.receive()
		}
		require.Equal(t, Interface+".ShuttingDown", m.Error, name)
		require.Empty(t, c.receive(), name)
	}
	require.Empty(t, plain.receive())
	require.NotZero(t, events(t, fd, 0)&unix.POLLERR)

	again := newRig(t, rigConfig{after: r})
	after := again.dial()
	require.Eventually(t, func() bool { return len(after.all("ListLocks", "")) == 1 }, patience, time.Millisecond)
	require.Equal(t, "kept", part(after.all("ListLocks", "")[0], "lock", "resource"))
}
