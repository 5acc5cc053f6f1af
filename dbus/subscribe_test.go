package dbus

import (
	"context"
	"fmt"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// blind lets nobody but root do anything.
type blind struct{}

func (blind) Authorize(context.Context, api.Subject, api.Action, map[string]string) error {
	return &api.Error{Kind: api.AccessDenied, Text: "no"}
}

// told are the signals about objects, as text: what a subscriber hears.
func (c *client) told(room int) <-chan string {
	signals, out := make(chan *godbus.Signal, room), make(chan string, room)
	c.conn.Signal(signals)
	go func() {
		defer close(out)
		for s := range signals {
			switch s.Name {
			case ifaceManager + ".InterfacesAdded":
				out <- fmt.Sprint("+ ", s.Body[0])
			case ifaceManager + ".InterfacesRemoved":
				out <- fmt.Sprint("- ", s.Body[0])
			case ifaceProperties + ".PropertiesChanged":
				if s.Path == spacePath("vms") || s.Path == Path {
					continue // its health is looked at now and then
				}
				props := s.Body[1].(options)
				out <- fmt.Sprint(props["State"].Value(), " ", props["Mode"].Value(), " ", s.Path)
			case Name + ".SubscriptionLost":
				out <- "lost"
			}
		}
	}()
	return out
}

// A subscriber hears of each object that comes, changes and goes; nobody else
// does, whatever it listens to.
func TestSubscribe(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root, sub, other := r.dial(testbus.Root), r.dial(member), r.dial(testbus.Root)
		heard := sub.told(100)
		require.NoError(t, other.conn.AddMatchSignal(godbus.WithMatchInterface(ifaceManager)))
		overheard := other.told(100)
		next := func(format string, a ...any) {
			t.Helper()
			require.Equal(t, fmt.Sprintf(format, a...), receive(t, heard))
		}

		root.acquire("before", opt())
		sub.ok("Subscribe")
		sub.ok("Subscribe") // once more is counted, and changes nothing else
		_, lock := root.acquire("r", opt())
		next("+ %s", lock)
		root.at(lock).ok(lockIfaceName+".Convert", "PR", opt())
		next("converting EX %s", lock)
		next("held PR %s", lock)
		request := root.request("r", opt())
		next("+ %s", request)
		root.call("Acquire", "vms", "r", "EX", opt()) // refused: no object was there
		root.at(lock).ok(lockIfaceName+".Release", opt())
		next("releasing PR %s", lock)
		next("- %s", lock)
		got := []string{receive(t, heard), receive(t, heard)}
		granted := root.at(request).all(requestIfaceName)["Lock"].Value()
		require.ElementsMatch(t, []string{fmt.Sprintf("granted <nil> %s", request), fmt.Sprintf("+ %s", granted)}, got)

		root.ok("JoinLockspace", "more", opt())
		next("+ %s", spacePath("more"))
		for receive(t, heard) != fmt.Sprintf("ready <nil> %s", spacePath("more")) { // its health
		}
		root.ok("LeaveLockspace", "more", opt())
		for {
			if s := receive(t, heard); s == fmt.Sprintf("- %s", spacePath("more")) {
				break
			} else {
				require.Contains(t, s, spacePath("more"))
			}
		}

		sub.ok("Unsubscribe") // of two
		_, last := root.acquire("heard", opt())
		next("+ %s", last)
		sub.ok("Unsubscribe")
		sub.ok("Unsubscribe")
		root.acquire("unheard", opt())
		sub.ok(ifacePeer + ".Ping")
		require.Empty(t, heard)
		require.Empty(t, overheard)
	})
}

// A subscription ends with its connection, and then nothing is told any more;
// there are not more subscribers than allowed.
func TestSubscribersBounded(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		var mine []*client
		for range frontend.MaxSubscribersPerUID {
			c := r.dial(member)
			c.ok("Subscribe")
			mine = append(mine, c)
		}
		r.dial(member).refused(ErrorPrefix+"LimitExceeded", "Subscribe")
		var roots []*client
		for range frontend.MaxSubscribers - frontend.MaxSubscribersPerUID {
			roots = append(roots, r.dial(testbus.Root))
			roots[len(roots)-1].ok("Subscribe")
		}
		r.dial(testbus.Root).refused(ErrorPrefix+"LimitExceeded", "Subscribe")
		require.NoError(t, mine[0].conn.Close())
		again := r.dial(member)
		require.Eventually(t, func() bool { return again.call("Subscribe").Err == nil }, patience, 5*time.Millisecond)
		for _, c := range append(append(mine[1:], again), roots...) {
			require.NoError(t, c.conn.Close())
		}
		require.Eventually(t, func() bool { return r.core.Subscribers() == 0 && len(*r.server.subs.list.Load()) == 0 },
			patience, 5*time.Millisecond)
	})
}

// Who subscribes and then looks has a picture that is never wrong: what the
// list does not have is told afterwards, once, and in the end it is what is
// there.
func TestSubscribeThenLook(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root := r.dial(testbus.Root)
		stop, churned := make(chan struct{}), make(chan struct{})
		var taken atomic.Int64
		go churn(root, stop, churned, &taken)
		heard := make(chan *godbus.Message, 1_000_000) // in the order of the bus
		conn := b.DialAs(t, member, godbus.WithIncomingInterceptor(func(m *godbus.Message) { heard <- m }))
		sub := &client{t, conn, conn.Object(Name, Path)}
		seen := int64(0) // how many were taken before the first look
		for i := 0; i < 20 || taken.Load() < seen+50; i++ {
			sub.ok("Subscribe")
			sub.ok(ifaceManager + ".GetManagedObjects")
			if i == 0 {
				seen = taken.Load()
			}
		}
		close(stop)
		receiveClosed(t, churned)
		want := map[godbus.ObjectPath]bool{spacePath("vms"): true}
		for _, l := range sub.list(opt()) {
			want[l.Lock] = true
		}

		var there map[godbus.ObjectPath]bool
		comes, goes := 0, 0
		for len(heard) > 0 {
			m := <-heard
			member, _ := m.Headers[godbus.FieldMember].Value().(string)
			all, list := first(m.Body).(map[godbus.ObjectPath]managed)
			switch {
			case list && there == nil:
				there = map[godbus.ObjectPath]bool{}
				for p := range all {
					there[p] = true
				}
			case list: // looking again shows what is known already
				require.Len(t, all, len(there))
				for p := range all {
					require.True(t, there[p], p)
				}
			case there != nil && member == "InterfacesAdded":
				comes++
				p := m.Body[0].(godbus.ObjectPath)
				require.False(t, there[p], p)
				there[p] = true
			case there != nil && member == "InterfacesRemoved":
				goes++
				p := m.Body[0].(godbus.ObjectPath)
				require.True(t, there[p], p)
				delete(there, p)
			}
		}
		require.Equal(t, want, there)
		require.Greater(t, min(comes, goes), 20)
	})
}

// churn takes and releases locks until it is stopped, and counts them.
func churn(c *client, stop <-chan struct{}, done chan<- struct{}, taken *atomic.Int64) {
	defer close(done)
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		taken.Store(int64(i))
		_, lock := c.acquire(fmt.Sprint(i), opt())
		if i%10 > 0 {
			c.at(lock).ok(lockIfaceName+".Release", opt())
		}
	}
}

// More changes than the bus can carry end the subscriptions, loudly: a picture
// with holes would be worse.
func TestSubscriptionLost(t *testing.T) {
	b := testbus.Start(t, testbus.Daemon)
	r := newRig(t, b, rigConfig{})
	sub := r.dial(member)
	heard := sub.told(10)
	sub.ok("Subscribe")
	r.server.out.mu.Lock()
	r.server.out.signals[toSubscriber] = maxSignals[toSubscriber]
	r.server.out.mu.Unlock()
	r.dial(testbus.Root).acquire("r", opt())
	require.Equal(t, "lost", receive(t, heard))
	require.Contains(t, r.logs.String(), "subscriptions ended")
	require.Empty(t, *r.server.subs.list.Load())
	require.Zero(t, r.core.Subscribers())
	r.server.out.mu.Lock()
	r.server.out.signals[toSubscriber] = 0
	r.server.out.mu.Unlock()
	sub.ok("Subscribe")
	_, lock := r.dial(testbus.Root).acquire("s", opt())
	require.Equal(t, fmt.Sprintf("+ %s", lock), receive(t, heard))
}

// A subscription can't be lost before its client knows that it has one.
func TestSubscriptionLostAfterTheAnswer(t *testing.T) {
	r := newRig(t, testbus.Start(t, testbus.Daemon), rigConfig{})
	of, u := r.server.session(":1.1000"), r.server.subs
	answered := false
	u.add(of, new(frontend.Subscription), 0, func() {
		answered = true
		require.NotNil(t, u.subs[of])
		require.False(t, u.mu.TryLock(), "it can be lost now")
	})
	require.True(t, answered)
	delete(u.subs, of)
}

// busctl finds its way to the objects, reads them and calls them.
func TestBusctlObjects(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root := r.dial(testbus.Root)
		_, lock := root.acquire("r", opt())
		request := root.request("r", opt())
		run := func(u testbus.User, args ...string) string {
			cmd := exec.Command("busctl", append([]string{"--address=" + b.Address}, args...)...)
			as := b.Command(t, u, cmd.Path, cmd.Args[1:]...)
			out, err := as.CombinedOutput()
			require.NoError(t, err, "%s: %s", args, out)
			return string(out)
		}
		tree := run(testbus.Nobody, "tree", Name)
		for _, p := range []godbus.ObjectPath{lock, request, spacePath("vms")} {
			require.Contains(t, tree, string(p))
		}
		require.Regexp(t, `\.State +property +s +"held" +emits-change`,
			run(testbus.Nobody, "introspect", Name, string(lock)))
		require.Regexp(t, `\.Position +property +u +1 `, run(testbus.Nobody, "introspect", Name, string(request)))
		require.Regexp(t, `\.Leave +method +a\{sv\}`, run(testbus.Nobody, "introspect", Name, string(spacePath("vms"))))
		require.Equal(t, "s \"EX\"\n", run(testbus.Nobody, "get-property", Name, string(lock), lockIfaceName, "Mode"))
		require.Contains(t, run(testbus.Nobody, "call", Name, string(Path), ifaceManager, "GetManagedObjects"),
			string(lock))
		run(testbus.Root, "call", Name, string(lock), lockIfaceName, "Release", "a{sv}", "0")
		// busctl leaves as soon as it has the answer: its Request is gone, and a
		// lock on its connection as well.
		run(testbus.Root, "call", Name, string(Path), Name, "Request", "sssa{sv}", "vms", "r", "EX", "0")
		run(testbus.Root, "call", Name, string(Path), Name, "Acquire", "sssa{sv}", "vms", "bound", "EX", "1",
			"lifetime", "s", "connection")
		require.Eventually(t, func() bool { return len(root.list(opt())) == 1 }, patience, 5*time.Millisecond)
	})
}
