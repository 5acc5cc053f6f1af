package frontend

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// subscribeTo subscribes a session, to everything or to one set of owners.
func subscribeTo(t *testing.T, s *Session, sink func(Event), of ...Owners) (sub *Subscription, err error) {
	t.Helper()
	m := &Subscribe{Sink: sink}
	if len(of) > 0 {
		m.Of = &of[0]
	}
	c := &testCall{answers: make(chan error, 2)}
	c.run = func(c *testCall) {
		var err error
		sub, err = m.Run(&c.Call)
		c.done(err)
	}
	s.Submit(&c.Call, c, m)
	err = receive(t, c.answers)
	return sub, err
}

// names are the types of events.
func collect(into *[]string) func(Event) {
	return func(e Event) { *into = append(*into, fmt.Sprintf("%T", e)) }
}

// What is about single locks goes to those who asked for it, and the service
// gives it as long as anybody in any door does. What is about all goes to all
// doors.
func TestSubscriptionsAreCounted(t *testing.T) {
	f := newFakeService()
	core := newCore(t, f)
	a, b := core.Door("dbus:x/", DoorConfig{}), core.Door("varlink:x/", DoorConfig{})
	var inA, inB, inSink []string
	a.Listen(collect(&inA))
	b.Listen(collect(&inB))
	core.Notify(api.LockAdded{})
	require.False(t, f.watching.Load())
	one, err := subscribeTo(t, a.OpenAs("1", Credentials{}), nil)
	require.NoError(t, err)
	two, err := subscribeTo(t, b.OpenAs("1", Credentials{}), collect(&inSink))
	require.NoError(t, err)
	require.True(t, f.watching.Load())
	core.Notify(api.LockAdded{})
	core.Notify(api.StatusChanged{})
	one.Close()
	require.True(t, f.watching.Load(), "another door still wants them")
	core.Notify(api.LockChanged{})
	two.Close()
	require.False(t, f.watching.Load())
	core.Notify(api.LockLost{})
	require.Equal(t, []string{"api.LockAdded", "api.StatusChanged", "api.LockLost"}, inA)
	require.Equal(t, []string{"api.StatusChanged", "api.LockLost"}, inB)
	require.Equal(t, []string{"api.LockAdded", "api.StatusChanged", "api.LockChanged"}, inSink)
}

// A subscription ends with its session, also from within an event.
func TestSubscriptionEnds(t *testing.T) {
	f := newFakeService()
	core := newCore(t, f)
	door := core.Door("varlink:x/", DoorConfig{})
	s := door.OpenAs("1", Credentials{})
	_, err := subscribeTo(t, s, func(Event) {})
	require.NoError(t, err)
	require.Equal(t, 1, core.Subscribers())
	s.Close()
	require.Zero(t, core.Subscribers())
	require.False(t, f.watching.Load())

	n := 0
	var sub *Subscription
	sub, err = subscribeTo(t, door.OpenAs("2", Credentials{}), func(Event) {
		n++
		sub.Close()
	})
	require.NoError(t, err)
	core.Notify(api.LockAdded{})
	core.Notify(api.LockAdded{})
	require.Equal(t, 1, n)
}

// Not more sessions are subscribed than may be, in all doors together.
func TestSubscriptionsBounded(t *testing.T) {
	core := newCore(t, newFakeService(), func(c *Config) {
		c.Authorizer = authorizer(func(api.Action) error { return nil })
	})
	doors := []*Door{core.Door("dbus:x/", DoorConfig{}), core.Door("varlink:x/", DoorConfig{})}
	open := func(i int, uid uint32) *Session {
		return doors[i%2].OpenAs(fmt.Sprint(uid, "-", i), Credentials{UID: uid})
	}
	for i := range MaxSubscribersPerUID {
		s := open(i, 7)
		for range 2 { // a second one of the same session takes no more room
			_, err := subscribeTo(t, s, nil)
			require.NoError(t, err)
		}
	}
	_, err := subscribeTo(t, open(0, 7), nil)
	requireKind(t, api.LimitExceeded, err)
	for i := range MaxSubscribers - MaxSubscribersPerUID {
		_, err := subscribeTo(t, open(i, 0), nil)
		require.NoError(t, err)
	}
	_, err = subscribeTo(t, open(0, 0), nil)
	requireKind(t, api.LimitExceeded, err)
}

// A lockspace is new once.
func TestLockspaceIsNewOnce(t *testing.T) {
	core := newCore(t, newFakeService()) // which has vms
	var told []string
	core.Door("dbus:x/", DoorConfig{}).Listen(func(e Event) {
		l := e.(LockspaceChanged)
		told = append(told, fmt.Sprint(l.Name, " ", l.New, " ", l.Gone))
	})
	change := func(name string, gone bool) {
		core.Notify(api.LockspaceChanged{LockspaceInfo: api.LockspaceInfo{Name: name}, Gone: gone})
	}
	change("vms", false)
	change("more", false)
	change("more", false)
	change("more", true)
	change("more", false)
	require.Equal(t, []string{
		"vms false false", "more true false", "more false false", "more false true", "more true false",
	}, told)
}
