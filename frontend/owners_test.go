package frontend

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// subscribeOf subscribes a session of its own to owners.
func subscribeOf(t *testing.T, d *Door, uid uint32, of Owners, sink func(Event)) (*Session, *Subscription) {
	t.Helper()
	s := d.OpenAs(fmt.Sprint(uid, "-", of.Name, of.Prefix), Credentials{UID: uid})
	sub, err := subscribeTo(t, s, sink, of)
	require.NoError(t, err)
	return s, sub
}

func allowAll(c *Config) { c.Authorizer = authorizer(func(api.Action) error { return nil }) }

func lockOf(uid uint32, owner string) api.LockInfo {
	return api.LockInfo{UID: uid, Owner: owner, HasOwner: owner != ""}
}

// A subscription to owners gets only events about their locks and requests, only those of its
// user, and nothing about lockspaces and the service.
func TestOwnersAlone(t *testing.T) {
	f := newFakeService()
	core := newCore(t, f, allowAll)
	door := core.Door("varlink:x/", DoorConfig{})
	got := map[string][]string{}
	var subs []*Subscription
	for name, of := range map[string]Owners{"web": {Name: "web"}, "web-": {Name: "web-", Prefix: true},
		"w": {Name: "w", Prefix: true}} {
		_, sub := subscribeOf(t, door, 7, of, func(e Event) { got[name] = append(got[name], fmt.Sprintf("%T", e)) })
		subs = append(subs, sub)
	}
	require.True(t, f.watching.Load())
	core.Notify(api.LockAdded{LockInfo: lockOf(7, "web")})
	core.Notify(api.LockChanged{LockInfo: lockOf(7, "web-1")})
	core.Notify(api.LockLost{Lost: api.Lost{LockInfo: lockOf(7, "web-1")}})
	core.Notify(api.BlockingNotice{LockInfo: lockOf(7, "web")})
	core.hub.publish(RequestAdded{RequestInfo{UID: 7, Owner: "web"}})
	for _, e := range []api.Notice{api.LockLost{Lost: api.Lost{LockInfo: lockOf(8, "web")}}, // another user's
		api.LockRemoved{LockInfo: lockOf(7, "")}, api.LockRemoved{LockInfo: lockOf(7, "we")},
		api.StatusChanged{}, api.LockspaceChanged{}} {
		core.Notify(e)
	}
	require.Equal(t, map[string][]string{
		"web":  {"api.LockAdded", "api.BlockingNotice", "frontend.RequestAdded"},
		"web-": {"api.LockChanged", "api.LockLost"},
		"w": {"api.LockAdded", "api.LockChanged", "api.LockLost", "api.BlockingNotice", "frontend.RequestAdded",
			"api.LockRemoved"},
	}, got)
	for _, sub := range subs {
		sub.Close()
		sub.Close()
	}
	require.False(t, f.watching.Load())
	require.Zero(t, core.Subscribers())
	require.Empty(t, core.hub.owners.users)
}

// Subscriptions to owners are not counted against those to everything, and end with their
// sessions.
func TestOwnersAreNotCounted(t *testing.T) {
	f := newFakeService()
	heard := make([]int, 4*MaxSubscribers)
	f.gone = make(chan api.Session, len(heard))
	core := newCore(t, f, allowAll)
	door := core.Door("varlink:x/", DoorConfig{})
	var sessions []*Session
	for i := range heard {
		s, _ := subscribeOf(t, door, 7, Owners{Name: fmt.Sprint(i), Prefix: i%2 == 0}, func(Event) { heard[i]++ })
		sessions = append(sessions, s)
	}
	require.Equal(t, len(heard), core.Subscribers())
	for i := range MaxSubscribersPerUID {
		_, err := subscribeTo(t, door.OpenAs(fmt.Sprint("all", i), Credentials{UID: 7}), func(Event) {})
		require.NoError(t, err)
	}
	_, err := subscribeTo(t, door.OpenAs("more", Credentials{UID: 7}), func(Event) {})
	requireKind(t, api.LimitExceeded, err)
	core.Notify(api.LockLost{Lost: api.Lost{LockInfo: lockOf(7, "101")}})
	for i, n := range heard {
		require.Equal(t, i == 101 || i == 10, n == 1, i) // "10" is a prefix
	}
	for _, s := range sessions {
		s.Close()
	}
	require.Equal(t, MaxSubscribersPerUID, core.Subscribers())
	require.Empty(t, core.hub.owners.users)
}

func TestOwnersAreChecked(t *testing.T) {
	requireKind(t, api.InvalidArgs, (&Subscribe{Of: &Owners{}}).Validate())
	require.NoError(t, (&Subscribe{}).Validate())
	require.NoError(t, (&Subscribe{Of: &Owners{Name: "o"}}).Validate())
}

// The cost of a change of one lock, by the kind and number of the subscriptions.
func BenchmarkNotice(b *testing.B) {
	e := api.LockChanged{LockInfo: lockOf(0, "owner-7")}
	for _, n := range []int{0, 1, 64, 1000, 4000} {
		for _, of := range []string{"owners", "all"} {
			b.Run(fmt.Sprintf("%s=%d", of, n), func(b *testing.B) {
				core := newCore(b, newFakeService())
				door := core.Door("varlink:x/", DoorConfig{})
				for i := range n {
					s := &Subscription{hub: core.hub, session: door.OpenAs(fmt.Sprint(i), Credentials{}), sink: func(Event) {}}
					if of == "owners" {
						s.of = &Owners{Name: fmt.Sprint("owner-", i)}
						core.hub.owners.add(s)
						continue
					}
					core.hub.subscribed[s.session] = append(core.hub.subscribed[s.session], s)
				}
				core.hub.changed()
				for b.Loop() {
					core.Notify(e)
				}
			})
		}
	}
}
