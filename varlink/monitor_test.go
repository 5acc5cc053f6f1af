package varlink

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/internal/queue"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// watchAll starts a Monitor and returns what there was.
func watchAll(c *client, parameters string) (before []map[string]any) {
	c.t.Helper()
	c.send("Monitor", parameters, "more")
	for {
		a := c.receive()
		require.Empty(c.t, a.Error, "%v", a.Parameters)
		require.True(c.t, a.Continues)
		if a.Parameters["ready"] == true {
			return before
		}
		before = append(before, a.Parameters)
	}
}

// event takes the next event and returns its kind.
func (c *client) event() (kind string, of any) {
	c.t.Helper()
	a := c.receive()
	require.Empty(c.t, a.Error)
	require.Len(c.t, a.Parameters, 1)
	for k, v := range a.Parameters {
		kind, of = k, v
	}
	return kind, of
}

// await takes events until one is of the kind.
func (c *client) await(kind string) any {
	c.t.Helper()
	for {
		if k, of := c.event(); k == kind {
			return of
		}
	}
}

func TestMonitor(t *testing.T) {
	r := newRig(t, rigConfig{})
	c, m := r.dial(), r.dial()
	c.ok("Acquire", disk)
	kinds := map[string]int{}
	for _, e := range watchAll(m, "") {
		for k := range e {
			kinds[k]++
		}
	}
	require.Equal(t, map[string]int{"serviceChanged": 1, "lockspaceChanged": 1, "lockAdded": 1}, kinds)
	c.ok("Acquire", `{"lockspace":"vms","resource":"disk2","mode":"ex","owner":"o"}`)
	added := m.await("lockAdded").(map[string]any)
	require.Equal(t, "disk2", added["resource"])
	c.ok("Convert", `{"lockspace":"vms","resource":"disk2","mode":"pr"}`)
	for m.await("lockChanged").(map[string]any)["mode"] != "pr" {
	}
	waiter := r.dial()
	waiter.send("Acquire", `{"lockspace":"vms","resource":"disk1","mode":"ex","label":"me too"}`, "more")
	added2 := m.await("requestAdded").(map[string]any)
	require.Equal(t, "me too", added2["label"])
	require.Equal(t, "ex", m.await("blocking").(map[string]any)["mode"])
	require.NoError(t, waiter.Close())
	require.Equal(t, added2["request"], m.await("requestRemoved"))
	c.ok("Release", `{"lockspace":"vms","resource":"disk2"}`)
	require.Equal(t, added["lock"], m.await("lockRemoved"))
	c.ok("LeaveLockspace", `{"lockspace":"vms","force":true}`)
	require.Equal(t, "disk1", m.await("lockLost").(map[string]any)["resource"])
	for m.await("lockspaceChanged").(map[string]any)["state"] != "left" {
	}
	r.cluster.SetQuorate(false)
	for m.await("serviceChanged").(map[string]any)["quorate"] != false {
	}
	require.Equal(t, 1, r.core.Subscribers())
	require.NoError(t, m.Close())
	require.Eventually(t, func() bool { return r.core.Subscribers() == 0 }, patience, 1e6)
}

func TestMonitorFilters(t *testing.T) {
	r := newRig(t, rigConfig{})
	c, m := r.dial(), r.dial()
	c.ok("JoinLockspace", `{"lockspace":"backup"}`)
	c.ok("Acquire", disk)
	before := watchAll(m, `{"events":["lockAdded","lockRemoved"],"lockspace":"backup","ownOnly":true}`)
	require.Empty(t, before)
	c.ok("Acquire", `{"lockspace":"vms","resource":"other","mode":"ex"}`)
	c.ok("Acquire", `{"lockspace":"backup","resource":"r","mode":"ex"}`)
	kind, of := m.event()
	require.Equal(t, "lockAdded", kind)
	require.Equal(t, "r", of.(map[string]any)["resource"])
	c.ok("Release", `{"lockspace":"backup","resource":"r"}`)
	kind, _ = m.event()
	require.Equal(t, "lockRemoved", kind)

	m = r.dial()
	require.Empty(t, watchAll(m, `{"existing":false}`))
	m = r.dial()
	m.send("Monitor", `{"events":["lockAdded","x"]}`, "more")
	a := m.receive()
	require.Equal(t, errInvalidParameter, a.Error)
	require.Equal(t, "events[1]", a.Parameters["parameter"])
	m.fails(errExpectedMore, "Monitor", "")
}

// What changes while very much is listed is neither missed nor told twice: in the
// end a client that follows knows what there is.
func TestMonitorWhileThingsHappen(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	batch := func(owner string, n int) {
		var wanted []string
		for i := range n {
			wanted = append(wanted, fmt.Sprintf(`{"lockspace":"vms","resource":"%s-%d","mode":"ex"}`, owner, i))
		}
		c.ok("AcquireMany", fmt.Sprintf(`{"owner":"%s","wanted":[%s]}`, owner, strings.Join(wanted, ",")))
	}
	for i := range 20 {
		batch(fmt.Sprint("old", i), 100)
	}
	done, ready := make(chan bool), make(chan bool)
	busy := r.dial()
	go func() {
		defer close(done)
		for i := range 20 {
			busy.ok("ReleaseOwner", fmt.Sprintf(`{"owner":"old%d"}`, (i*7)%20))
			busy.ok("Acquire", fmt.Sprintf(`{"lockspace":"vms","resource":"new%d","mode":"ex","owner":"new"}`, i))
		}
		// This lock must not be on a page of the list: events from before the page could still come after it.
		<-ready
		busy.ok("Acquire", `{"lockspace":"vms","resource":"end","mode":"ex"}`)
	}()
	m := r.dial()
	known := map[string]bool{}
	m.send("Monitor", `{"events":["lockAdded","lockRemoved"]}`, "more")
	for !known["end"] {
		a := m.receive()
		require.Empty(t, a.Error)
		if l, ok := a.Parameters["lockAdded"].(map[string]any); ok {
			require.False(t, known[l["lock"].(string)], "told twice: %v", l)
			known[l["lock"].(string)] = true
			known["end"] = known["end"] || l["resource"] == "end"
		}
		if gone, ok := a.Parameters["lockRemoved"].(string); ok {
			delete(known, gone)
		}
		if a.Parameters["ready"] != nil {
			close(ready)
		}
	}
	<-done
	delete(known, "end")
	list := c.all("ListLocks", "")
	require.Len(t, known, len(list))
	for _, l := range list {
		require.True(t, known[part(l, "lock", "lock").(string)])
	}
}

// A client that does not read is told that it has missed something, and costs no
// more memory than that.
func TestMonitorOverflow(t *testing.T) {
	m := &monitor{call: &call{replies: queue.New[message](0)}}
	m.upTo = 1 << 62
	for range maxEvents {
		m.call.unread.Add(1)
	}
	m.call.door = &Door{}
	m.event(api.LockRemoved{LockInfo: api.LockInfo{Ref: 7}})
	batch := m.call.replies.Take(nil)
	require.Len(t, batch.Items, 1)
	require.False(t, batch.Items[0].more)
	require.Equal(t, monitorOut{Overflow: some(true)}, batch.Items[0].parameters)
}

// Whoever hears of an overflow may begin anew: what has ended does not count any more.
func TestOverflowEndsTheSubscription(t *testing.T) {
	r := newRig(t, rigConfig{auth: everybody{}})
	session := r.core.Door("test:x/", frontend.DoorConfig{}).OpenAs("1", frontend.Credentials{})
	defer session.Close()
	m := &monitor{kinds: map[string]bool{"lockRemoved": true}}
	m.Existing = some(false)
	c := &call{door: r.door, in: m, replies: queue.New[message](0)}
	session.Submit(&c.Call, c, nil)
	defer func() { // as if the last reply were written
		c.Release()
		c.Sent(0)
	}()
	<-c.replies.Wake()
	require.Len(t, c.replies.Take(nil).Items, 1)
	require.Equal(t, 1, r.core.Subscribers())
	c.unread.Store(maxEvents)
	m.event(api.LockRemoved{LockInfo: api.LockInfo{Ref: 7}})
	require.Equal(t, monitorOut{Overflow: some(true)}, c.replies.Take(nil).Items[0].parameters)
	require.Zero(t, r.core.Subscribers())
}
