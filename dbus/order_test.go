package dbus

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// A client that does not wait for answers gets what it would have got had it
// waited: each Acquire before its Release, and the Release before the next.
func TestPipelinedOrder(t *testing.T) {
	const rounds = 50 // two calls each: below the 128 that dbus-daemon allows
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root := r.dial(testbus.Root)
		for _, name := range []func(i int) string{
			func(i int) string { return fmt.Sprint("own-", i) },
			func(int) string { return "same" },
		} {
			done := make(chan *godbus.Call, 2*rounds)
			for i := range rounds {
				root.obj.Go(Name+".Acquire", 0, done, "vms", name(i), "EX", opt())
				root.obj.Go(Name+".Release", 0, done, "vms", name(i), opt())
			}
			for range 2 * rounds {
				call := receive(t, done)
				require.NoError(t, call.Err, "%s %v", call.Method, call.Args)
			}
			require.Empty(t, root.list(opt()))
		}
	})
}

// The service gets the calls of a connection in the order they were made.
func TestOrderWithinSender(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		var mu sync.Mutex
		got := map[api.Session][]string{}
		hook := func(c api.Caller, w []api.Want, _ api.AcquireOptions, done func([]api.Grant, error)) bool {
			mu.Lock()
			defer mu.Unlock()
			got[c.Session] = append(got[c.Session], w[0].Resource)
			go done([]api.Grant{{Ref: 1}}, nil)
			return true
		}
		r.api.acquire.Store(&hook)
		var want []string
		for i := range 100 {
			want = append(want, fmt.Sprint("r", i))
		}
		var wg sync.WaitGroup
		clients := []*client{r.dial(testbus.Root), r.dial(member), r.dial(member)}
		for _, c := range clients {
			wg.Go(func() {
				done := make(chan *godbus.Call, len(want))
				for _, name := range want {
					c.obj.Go(Name+".Acquire", 0, done, "vms", name, "EX", opt())
				}
				for range want {
					<-done
				}
			})
		}
		wg.Wait()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range clients {
			require.Equal(t, want, got[r.server.bus.session(c.conn.Names()[0])])
		}
	})
}

// 200 calls of several connections are under way at once; none is refused,
// none is answered twice, and all end.
func TestManyInFlight(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root := r.dial(testbus.Root)
		root.acquire("busy", opt("owner", "first"))
		done := make(chan *godbus.Call, 200)
		for range 2 {
			c := r.dial(testbus.Root)
			for range 100 {
				c.obj.Go(Name+".Acquire", 0, done, "vms", "busy", "EX", opt("wait-usec", uint64(20e6)))
			}
		}
		require.Eventually(t, func() bool { return r.service.Status().Waiting == 200 }, patience, time.Millisecond)
		// Others are served meanwhile.
		r.dial(member).acquire("other", opt())
		root.ok("Release", "vms", "busy", opt("owner", "first"))
		for range 200 {
			call := receive(t, done)
			require.NoError(t, call.Err)
			root.ok("Release", "vms", "busy", opt("lockid", call.Body[0].(uint32)))
		}
	})
}

// Beyond the bound of unanswered calls a connection is told so; when they are
// answered it may call again. Others are not concerned.
func TestTooManyCalls(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{max: 10})
		root, greedy := r.dial(testbus.Root), r.dial(testbus.Root)
		root.acquire("busy", opt())
		done := make(chan *godbus.Call, 10)
		for range 10 {
			greedy.obj.Go(Name+".Acquire", 0, done, "vms", "busy", "PR", opt("wait-usec", uint64(20e6)))
		}
		greedy.refused(errLimits, "ListLockspaces")
		greedy.ok(ifacePeer + ".Ping")
		root.ok("Release", "vms", "busy", opt())
		for range 10 {
			require.NoError(t, receive(t, done).Err)
		}
		greedy.ok("ListLockspaces")
		// A long list takes more room than one call, and gives it back.
		wait := opt("wait-usec", uint64(20e6))
		greedy.obj.Go(Name+".AcquireMany", 0, done,
			slices.Repeat([]wantRow{{"vms", "busy", "NL"}, {"vms", "x", "NL"}}, 500), wait)
		require.NoError(t, receive(t, done).Err)
		require.Eventually(t, func() bool { return r.core.Usage(0).Unanswered == 0 }, patience, time.Millisecond)
	})
}

// slowAuthorizer answers when it is let.
type slowAuthorizer struct {
	asked chan api.Subject
	let   chan error
	seen  chan map[string]string
}

func (a *slowAuthorizer) Authorize(ctx context.Context, s api.Subject, _ api.Action, details map[string]string) error {
	a.asked <- s
	a.seen <- details
	select {
	case err := <-a.let:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A slow authorisation holds up its own sender, in order, and nobody else; it
// ends when the sender goes.
func TestSlowAuthorizer(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		a := &slowAuthorizer{make(chan api.Subject, 10), make(chan error), make(chan map[string]string, 10)}
		r := newRig(t, b, rigConfig{auth: a})
		slow, root := r.dial(member), r.dial(testbus.Root)
		done := make(chan *godbus.Call, 2)
		slow.obj.Go(Name+".Acquire", godbus.FlagAllowInteractiveAuthorization, done, "vms", "r", "PW", opt())
		slow.obj.Go(Name+".Release", 0, done, "vms", "r", opt())
		who := receive(t, a.asked)
		require.Equal(t, member.UID, who.UID)
		require.True(t, slices.Contains(who.GIDs, membersGID))
		require.Equal(t, map[string]string{"lockspace": "vms", "resource": "r", "mode": "PW"}, receive(t, a.seen))
		root.acquire("other", opt()) // never asks
		require.Empty(t, done)
		a.let <- nil
		require.NoError(t, receive(t, done).Err)
		require.NoError(t, receive(t, done).Err) // a Release of one's own asks nobody

		slow.obj.Go(Name+".Acquire", 0, done, "vms", "r", "EX", opt())
		receive(t, a.asked)
		receive(t, a.seen)
		a.let <- &api.Error{Op: "acquire", Kind: api.InteractionRequired, Text: "ask a person"}
		require.Equal(t, errInteractive, receive(t, done).Err.(godbus.Error).Name)

		slow.obj.Go(Name+".Acquire", 0, done, "vms", "r", "EX", opt())
		receive(t, a.asked)
		receive(t, a.seen)
		require.NoError(t, slow.conn.Close())
		require.Eventually(t, func() bool { return r.core.Pending() == 0 }, patience, time.Millisecond)
	})
}

// Who is not allowed changes nothing: others may look, members may lock and
// release their own, root may do everything.
func TestAuthorisation(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root, some, nobody := r.dial(testbus.Root), r.dial(member), r.dial(testbus.Nobody)
		require.Contains(t, nobody.refused(errAccessDenied, "Acquire", "vms", "r", "EX", opt()),
			"members of the group members")
		nobody.refused(errAccessDenied, "AcquireMany", []wantRow{{"vms", "r", "EX"}}, opt())
		nobody.refused(errAccessDenied, "Convert", "vms", "r", "EX", opt())
		for _, c := range []*client{nobody, some} {
			c.refused(errAccessDenied, "JoinLockspace", "more", opt())
			c.refused(errAccessDenied, "LeaveLockspace", "vms", opt("force", true))
			c.refused(errAccessDenied, "Purge", "vms", []uint32{}, opt())
		}
		root.acquire("root's", opt("owner", "o"))
		some.refused(errAccessDenied, "Release", "vms", "root's", opt())
		some.refused(errAccessDenied, "Convert", "vms", "root's", "NL", opt())
		some.acquire("mine", opt("owner", "o"))
		require.Len(t, nobody.list(opt("owner", "o")), 2)
		require.Len(t, nobody.list(opt("uid", member.UID)), 1)
		nobody.ok("Inspect", "vms", "mine")
		nobody.ok("ListLockspaces")
		nobody.ok("ListOrphans", "vms")
		// The same uid without the group may still let go of what is its own.
		nobody.ok("Release", "vms", "mine", opt())
		some.acquire("mine", opt("owner", "o"))
		root.ok("Release", "vms", "mine", opt())
		some.acquire("mine", opt("owner", "o"))
		var n uint32
		require.NoError(t, root.ok("ReleaseOwner", "vms", "o").Store(&n))
		require.Equal(t, uint32(2), n)
	})
}

// othersAuthorizer lets members release what is others'.
type othersAuthorizer struct{ api.GroupAuthorizer }

func (a othersAuthorizer) Authorize(ctx context.Context, s api.Subject, act api.Action, d map[string]string) error {
	if act == api.ActReleaseOthers {
		return nil
	}
	return a.GroupAuthorizer.Authorize(ctx, s, act, d)
}

// Whoever is authorised to may release another's lock.
func TestReleaseOthers(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{auth: othersAuthorizer{}})
		root, some := r.dial(testbus.Root), r.dial(member)
		root.acquire("r", opt())
		some.ok("Release", "vms", "r", opt())
		require.Empty(t, root.list(opt()))
	})
}

// Several locks match: the error lists them, and each way to name one works.
func TestAmbiguous(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		root := newRig(t, b, rigConfig{}).dial(testbus.Root)
		var ids []uint32
		for _, o := range []options{opt("owner", "vm1"), opt("label", "web"), opt()} {
			var id uint32
			var token uint64
			var lock godbus.ObjectPath
			require.NoError(t, root.ok("Acquire", "vms", "r", "PR", o).Store(&id, &token, &lock))
			ids = append(ids, id)
		}
		text := root.refused(ErrorPrefix+"Ambiguous", "Release", "vms", "r", opt())
		require.Contains(t, text, `for owner "vm1"`)
		require.Contains(t, text, "(web)")
		require.Contains(t, text, fmt.Sprintf("lockid %d in PR", ids[2]))
		root.ok("Release", "vms", "r", opt("lockid", ids[2]))
		root.ok("Release", "vms", "r", opt("owner", "vm1"))
		root.ok("Release", "vms", "r", opt())
	})
}

// What can't be a D-Bus string is escaped, so that no answer fails to encode.
func TestAnswersAlwaysEncode(t *testing.T) {
	b := testbus.Start(t, testbus.Daemon)
	r := newRig(t, b, rigConfig{})
	root := r.dial(testbus.Root)
	bad := api.LockInfo{Ref: 7, Lockspace: "vms", Resource: "a\xff\x00b", Mode: dlm.EX, Label: "\x80", Owner: "\x00"}
	hook := func(done func(api.Inspection, error)) {
		go done(api.Inspection{Locks: []api.LockInfo{bad}, Missing: []string{"\xfe"}, HasQueues: true, HasHealth: true,
			HasHolder: true, Holder: api.Holder{Who: "\xc3"}, Lost: []api.Lost{{LockInfo: bad, Reason: "\xff"}}}, nil)
	}
	r.api.inspect.Store(&hook)
	d := root.ok("Inspect", "vms", "r").Body[0].(options)
	require.Contains(t, fmt.Sprint(d["locks"].Value()), `a\xff\x00b`)
	failing := func(done func(api.Inspection, error)) {
		go done(api.Inspection{}, &api.Error{Op: "inspect", Kind: api.NotHeld, Text: "no\x00\xff"})
	}
	r.api.inspect.Store(&failing)
	require.Contains(t, root.refused(ErrorPrefix+"NotHeld", "Inspect", "vms", "r"), `no\x00\xff`)
}

// Introspection, properties and listings run in a loop while locks and
// lockspaces come and go.
func TestLookingWhileChanging(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		loop := func(u testbus.User, f func(c *client, i int)) {
			c := r.dial(u)
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					f(c, i)
				}
			})
		}
		check := func(c *client, member string, args ...any) {
			if err := c.call(member, args...).Err; err != nil && ctx.Err() == nil {
				t.Errorf("%s: %v", member, err)
			}
		}
		loop(member, func(c *client, i int) {
			check(c, "Acquire", "vms", "r", "EX", opt("owner", fmt.Sprint(i)))
			check(c, "Release", "vms", "r", opt())
		})
		loop(testbus.Root, func(c *client, i int) {
			check(c, "JoinLockspace", fmt.Sprint("ls", i%3), opt())
			check(c, "LeaveLockspace", fmt.Sprint("ls", i%3), opt())
		})
		loop(testbus.Nobody, func(c *client, _ int) {
			check(c, ifaceIntrospectable+".Introspect")
			check(c, ifaceProperties+".GetAll", Name)
		})
		loop(testbus.Nobody, func(c *client, _ int) {
			check(c, "ListLocks", opt())
			check(c, "ListLockspaces")
			check(c, "Inspect", "vms", "r")
		})
		wg.Wait()
	})
}

// Shutdown answers what was asked, and frees the name for the next.
func TestShutdown(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		first := newRig(t, b, rigConfig{})
		conn, err := Connect(t.Context(), b.Address)
		require.NoError(t, err)
		core := frontend.New(frontend.Config{})
		core.Start(first.api)
		second := New(Config{Core: core, Bus: conn, Log: slog.New(slog.DiscardHandler)})
		require.NoError(t, second.Start(t.Context()))
		require.ErrorContains(t, second.RequestName(), "another dlmlockd")

		root := first.dial(testbus.Root)
		root.acquire("busy", opt("owner", "x"))
		done := make(chan *godbus.Call, 1)
		root.obj.Go(Name+".Acquire", 0, done, "vms", "busy", "EX", opt("wait-usec", uint64(20e6)))
		require.Eventually(t, func() bool { return first.service.Status().Waiting == 1 }, patience, time.Millisecond)
		ended := make(chan error, 1)
		go func() { ended <- first.server.Shutdown(context.Background()) }()
		require.Eventually(t, func() bool { return second.RequestName() == nil }, patience, time.Millisecond)
		root.ok("Release", "vms", "busy", opt("owner", "x")) // through the second
		require.NoError(t, receive(t, done).Err)
		require.NoError(t, receive(t, ended))
		require.NoError(t, second.Shutdown(t.Context()))
		core.Close()
	})
}

// A bus that goes away ends the Server, which is how the daemon learns of it.
func TestBusGone(t *testing.T) {
	a, err := Connect(t.Context(), testbus.Start(t, testbus.Daemon).Address)
	require.NoError(t, err)
	core := frontend.New(frontend.Config{})
	defer core.Close()
	core.Start(&tampered{Service: fixedStatus{}})
	s := New(Config{Core: core, Bus: a})
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, a.wire.conn.Close())
	receiveClosed(t, s.Done())
	_ = s.Shutdown(t.Context()) // what remains to be ended ends
}

// fixedStatus is a service that has nothing.
type fixedStatus struct{ api.Service }

func (fixedStatus) Status() api.Status                               { return api.Status{} }
func (fixedStatus) Idle(done func(string))                           { done("") }
func (fixedStatus) Sessions(done func([]api.Session))                { done(nil) }
func (fixedStatus) SessionGone(api.Session)                          {}
func (fixedStatus) Lockspaces(done func([]api.LockspaceInfo, error)) { done(nil, nil) }

func receiveClosed(t *testing.T, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		require.Fail(t, "not closed")
	}
}
