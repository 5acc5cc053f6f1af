package frontend

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// waiting is a request that a test has made.
type waiting struct {
	number uint64
	end    func(api.Grant, error)
	ended  chan RequestInfo
}

// requester makes requests through a session.
func requester(t *testing.T, f *fakeService, s *Session) func() waiting {
	return func() waiting {
		w := waiting{ended: make(chan RequestInfo, 1)}
		f.request = func(_ api.Caller, started func(api.Ref, error), done func(api.Grant, error)) {
			w.end = done
			started(1, nil)
		}
		m := &Request{Want: api.Want{Lockspace: "vms", Resource: "r", Mode: dlm.EX}}
		c := &testCall{answers: make(chan error, 2)}
		c.run = func(c *testCall) {
			m.Run(&c.Call, func(i RequestInfo, err error) {
				w.number = i.Number
				c.done(err)
			}, func(i RequestInfo) { w.ended <- i })
		}
		s.Submit(&c.Call, c, m)
		require.NoError(t, <-c.answers)
		return w
	}
}

// What has ended is kept for as long as the door says, and of one session not
// more than MaxEnded; nothing is kept running for it when there is nothing to
// keep.
func TestRequestsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keep = time.Minute
		f := newFakeService()
		core := New(Config{Authorizer: authorizer(func(api.Action) error { return nil })})
		defer core.Close()
		core.Start(f)
		s := core.Door("dbus:x/", DoorConfig{KeepRequests: keep}).OpenAs(":1.1", Credentials{})
		ask := requester(t, f, s)
		some := func(n int) (all []waiting) {
			for range n {
				all = append(all, ask())
			}
			for _, w := range all {
				w.end(api.Grant{Ref: 1}, nil)
				require.Equal(t, RequestGranted, (<-w.ended).State)
			}
			return all
		}
		kept := func() int {
			synctest.Wait()
			return core.Requests().Count()
		}
		waits := ask()
		early := some(10)
		time.Sleep(keep / 2)
		some(MaxEnded)
		_, ok := core.Requests().Find(early[9].number)
		require.False(t, ok, "over the bound the oldest go")
		require.Equal(t, MaxEnded+1, kept())
		time.Sleep(keep/2 + sweepEvery)
		require.Equal(t, MaxEnded+1, kept(), "kept for a minute")
		time.Sleep(keep / 2)
		require.Equal(t, 1, kept())
		require.Nil(t, core.requests.sweep)
		_, ok = core.Requests().Find(waits.number)
		require.True(t, ok, "what waits is kept for ever")
		s.Close()
		require.Zero(t, kept())
		waits.end(api.Grant{}, nil)
		<-waits.ended // whoever answers a call by that must be told
		require.Zero(t, kept())
	})
}

// A door that keeps no ended requests keeps none.
func TestRequestsNotKept(t *testing.T) {
	f := newFakeService()
	core := newCore(t, f)
	ask := requester(t, f, core.Door("varlink:x/", DoorConfig{}).OpenAs("1", Credentials{}))
	w := ask()
	place := 0
	core.Requests().Position(w.number, func(n int) { place = n })
	require.Equal(t, 7, place)
	w.end(api.Grant{}, errors.New("no"))
	require.Equal(t, RequestFailed, receive(t, w.ended).State)
	require.Zero(t, core.Requests().Count())
	require.Nil(t, core.requests.sweep)
}

// A shutdown withdraws what waits, and goes on when the last requester was told,
// not when it is known how the last request has ended.
func TestShutdownEndsRequests(t *testing.T) {
	f := newFakeService()
	core := newCore(t, f)
	door := core.Door("dbus:x/", DoorConfig{KeepRequests: time.Minute})
	s, gone := door.OpenAs(":1.1", Credentials{}), door.OpenAs(":1.2", Credentials{})
	w, other := requester(t, f, s)(), requester(t, f, gone)()
	canceled := make(chan api.Ref, 10)
	f.cancel = func(ref api.Ref) { canceled <- ref }
	ended := make(chan error, 1)
	go func() { ended <- core.Shutdown(t.Context(), nil) }()
	receive(t, canceled)
	receive(t, canceled)
	gone.Close()
	other.end(api.Grant{}, api.Canceled)
	_, _, ok := core.requests.end(mustGet(t, core, w.number), api.Grant{}, api.Canceled)
	require.True(t, ok)
	select {
	case <-ended:
		require.Fail(t, "a requester that was not told was not waited for")
	case <-time.After(10 * time.Millisecond):
	}
	core.requests.told()
	require.NoError(t, receive(t, ended))
	info, _ := core.Requests().Find(w.number)
	requireKind(t, api.ShuttingDown, info.Err)
}

// mustGet returns a request itself.
func mustGet(t *testing.T, c *Core, number uint64) *request {
	c.requests.mu.Lock()
	defer c.requests.mu.Unlock()
	r := c.requests.all[number]
	require.NotNil(t, r)
	return r
}
