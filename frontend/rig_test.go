package frontend

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = time.Minute

// receive takes one value of a channel within patience.
func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-ch:
		require.True(t, ok, "closed")
		return v
	case <-time.After(patience):
		require.Fail(t, "nothing came")
		panic("unreachable")
	}
}

// fakeService is as much of a service as the tests ask for. Its functions run on
// the caller's goroutine unless a test replaces them.
type fakeService struct {
	api.Service
	gone     chan api.Session
	sessions []api.Session
	watching atomic.Bool
	release  func(c api.Caller, done func(error))
	request  func(c api.Caller, started func(api.Ref, error), done func(api.Grant, error))
	cancel   func(ref api.Ref)
}

func newFakeService() *fakeService { return &fakeService{gone: make(chan api.Session, 100)} }

func (f *fakeService) Lockspaces(done func([]api.LockspaceInfo, error)) {
	done([]api.LockspaceInfo{{Name: "vms"}}, nil)
}
func (f *fakeService) Idle(done func(string))             { done("") }
func (f *fakeService) SessionGone(s api.Session)          { f.gone <- s }
func (f *fakeService) Sessions(done func([]api.Session))  { done(f.sessions) }
func (f *fakeService) Watch(on bool)                      { f.watching.Store(on) }
func (f *fakeService) Position(_ api.Ref, done func(int)) { done(7) }

func (f *fakeService) Release(c api.Caller, _, _ string, _ api.Selector, done func(error)) {
	if f.release == nil {
		done(nil)
		return
	}
	f.release(c, done)
}

func (f *fakeService) Request(c api.Caller, _ api.Want, _ api.AcquireOptions, started func(api.Ref, error),
	done func(api.Grant, error)) {
	f.request(c, started, done)
}

func (f *fakeService) CancelRequest(_ api.Caller, ref api.Ref, done func(error)) {
	if f.cancel != nil {
		f.cancel(ref)
	}
	done(nil)
}

func (f *fakeService) Snapshot(_ int, done func([]api.LockspaceInfo, []api.LockInfo, func(api.Ref) int)) {
	done(nil, []api.LockInfo{{Ref: 1}}, nil)
}

// newCore makes a started Core over a service.
func newCore(t testing.TB, s api.Service, change ...func(*Config)) *Core {
	var cfg Config
	for _, c := range change {
		c(&cfg)
	}
	core := New(cfg)
	t.Cleanup(core.Close)
	core.Start(s)
	return core
}

// testCall is a door's call. run serves it; answers come as they are given.
type testCall struct {
	Call
	run     func(c *testCall)
	answers chan error
}

func (c *testCall) Serve() { c.run(c) }

func (c *testCall) Fail(err error) {
	if c.Answer() {
		c.Release()
		c.answers <- err
		c.Sent(100)
	}
}

// done answers the call.
func (c *testCall) done(err error) { c.Fail(err) }

// release submits a Release of vms/r.
func release(s *Session) *testCall {
	m := &Release{Lockspace: "vms", Resource: "r"}
	c := &testCall{answers: make(chan error, 2), run: func(c *testCall) { m.Run(&c.Call, c.done) }}
	s.Submit(&c.Call, c, m)
	return c
}

func requireKind(t *testing.T, k api.Kind, err error) {
	t.Helper()
	var e *api.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, k, e.Kind, "%v", err)
}
