package varlink

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// everybody is an authoriser that permits everything.
type everybody struct{}

func (everybody) Authorize(context.Context, api.Subject, api.Action, map[string]string) error {
	return nil
}

// watched is one of many holders: a lock with an owner of its own, and a Monitor of it.
type watched struct {
	*client
	resource string
}

// hears checks that the next event is of this kind and about its own lock, and returns the
// service's name of the lock.
func (h *watched) hears(want string) string {
	h.t.Helper()
	kind, of := h.event()
	require.Equal(h.t, want, kind, h.resource)
	if name, ok := of.(string); ok {
		return name
	}
	require.Equal(h.t, h.resource, of.(map[string]any)["resource"])
	return of.(map[string]any)["lock"].(string)
}

// A thousand holders of root and some hundreds of another user, with the same owners, watch their
// locks at once, far more than may watch everything. Each gets only the events of its own lock.
func TestManyHoldersWatch(t *testing.T) {
	r := newRig(t, rigConfig{auth: everybody{}})
	var all []*watched
	var takers []func()
	for _, of := range []struct {
		count int
		dial  func() *client
	}{{1000, r.dial}, {300, r.dialNobody}} {
		taker, of := of.dial(), of
		first := len(all)
		for i := range of.count {
			h := &watched{of.dial(), fmt.Sprint(first, "-", i)}
			require.Empty(t, watchAll(h.client, fmt.Sprintf(
				`{"existing":false,"owner":"h%d","events":["lockAdded","lockLost","lockRemoved"]}`, i)))
			all = append(all, h)
		}
		takers = append(takers, func() {
			for i, h := range all[first : first+of.count] {
				taker.ok("Acquire", fmt.Sprintf(`{"lockspace":"vms","resource":"%s","mode":"ex","owner":"h%d"}`, h.resource, i))
			}
		})
	}
	require.Equal(t, len(all), r.core.Subscribers())
	for i := range frontend.MaxSubscribers { // there is still room for those who watch everything
		watchAll(r.dial(), fmt.Sprintf(`{"existing":false,"events":[],"ownOnly":%v}`, i%2 == 0))
	}
	m := r.dial()
	m.send("Monitor", `{"existing":false}`, "more")
	refused := m.receive()
	require.Equal(t, Interface+".LimitExceeded", refused.Error)
	require.Equal(t, "monitor: 64 connections are subscribed to everything, 64 of this user; at most 64 and 8 are "+
		"allowed; call Monitor with owner or ownerPrefix, which does not count", refused.Parameters["message"])
	admin := r.dial()
	for range 2 { // an event too many of the first round would come before those of the second
		for _, take := range takers {
			take()
		}
		admin.ok("LeaveLockspace", `{"lockspace":"vms","force":true}`)
		admin.ok("JoinLockspace", `{"lockspace":"vms"}`)
		for _, h := range all {
			lock := h.hears("lockAdded")
			require.Equal(t, lock, h.hears("lockLost"))
			require.Equal(t, lock, h.hears("lockRemoved"))
		}
	}
}

// A user may have many Monitors of owners, so few events wait in each to be read. Root's wait as in
// one of everything.
func TestOwnEventsAreBounded(t *testing.T) {
	r := newRig(t, rigConfig{auth: everybody{}})
	const locks = 1000
	for name, dial := range map[string]func() *client{"root": r.dial, "nobody": r.dialNobody} {
		m, taker := dial(), dial()
		require.Empty(t, watchAll(m, `{"existing":false,"owner":"o","events":["lockAdded","lockRemoved"]}`))
		var wanted []string
		for i := range locks {
			wanted = append(wanted, fmt.Sprintf(`{"lockspace":"vms","resource":"%s%d","mode":"ex"}`, name, i))
		}
		for range 3 {
			taker.ok("AcquireMany", fmt.Sprintf(`{"owner":"o","wanted":[%s]}`, strings.Join(wanted, ",")))
			taker.ok("ReleaseOwner", `{"owner":"o"}`)
		}
		if name == "nobody" {
			for kind, _ := m.event(); kind != "overflow"; kind, _ = m.event() {
			}
			continue
		}
		for range 6 * locks {
			kind, _ := m.event()
			require.Contains(t, []string{"lockAdded", "lockRemoved"}, kind)
		}
	}
}

// Owners and their prefixes select locks and requests of the caller's user, also among those that
// exist already.
func TestMonitorOwners(t *testing.T) {
	r := newRig(t, rigConfig{auth: everybody{}})
	c, nobody := r.dial(), r.dialNobody()
	take := func(c *client, owner, resource string) {
		c.ok("Acquire", fmt.Sprintf(`{"lockspace":"vms","resource":"%s","mode":"ex","owner":"%s"}`, resource, owner))
	}
	take(c, "web-1", "a")
	take(c, "web", "b")
	take(nobody, "web", "c")
	c.ok("Acquire", `{"lockspace":"vms","resource":"d","mode":"ex"}`)
	for filter, want := range map[string][]string{
		`"owner":"web"`: {"b"}, `"ownerPrefix":"web"`: {"a", "b"}, `"ownerPrefix":"web-"`: {"a"}, `"owner":"we"`: nil,
		`"owner":"web","lockspace":"other"`: nil, `"owner":"web","ownOnly":false`: {"b"},
		`"owner":"web","events":["lockLost"]`: nil} {
		var got []string
		for _, e := range watchAll(r.dial(), "{"+filter+"}") {
			require.Contains(t, e, "lockAdded", "nothing about lockspaces and the service")
			got = append(got, part(e, "lockAdded", "resource").(string))
		}
		require.Equal(t, want, got, filter)
	}
	m := r.dial()
	require.Empty(t, watchAll(m, `{"owner":"new"}`))
	waiter := r.dial()
	waiter.send("Acquire", `{"lockspace":"vms","resource":"a","mode":"ex","owner":"new"}`, "more")
	kind, _ := m.event()
	require.Equal(t, "requestAdded", kind)
	take(c, "new", "e")
	kind, _ = m.event()
	require.Equal(t, "lockAdded", kind)

	for parameters, field := range map[string]string{
		`{"owner":""}`: "owner", `{"ownerPrefix":""}`: "ownerPrefix", `{"owner":"a","ownerPrefix":"a"}`: "ownerPrefix",
		`{"owner":"a","events":["lockLost","serviceChanged"]}`:        "events[1]",
		`{"ownerPrefix":"a","events":["lockspaceChanged"]}`:           "events[0]",
		`{"owner":"` + strings.Repeat("x", frontend.MaxText+1) + `"}`: "owner",
	} {
		m := r.dial()
		m.send("Monitor", parameters, "more")
		a := m.receive()
		require.Equal(t, errInvalidParameter, a.Error, parameters)
		require.Equal(t, field, a.Parameters["parameter"])
	}
}
