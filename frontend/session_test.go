package frontend

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// held is a service whose releases a test answers by itself, in the order in
// which they came.
func held(f *fakeService) <-chan func(error) {
	began := make(chan func(error), 100)
	f.release = func(_ api.Caller, done func(error)) { began <- done }
	return began
}

// The calls of a session whose answers come in order begin when the one before
// is answered; those of other sessions don't wait for it.
func TestSerialSession(t *testing.T) {
	f := newFakeService()
	began := held(f)
	door := newCore(t, f).Door("varlink:x/", DoorConfig{Serial: true})
	s := door.OpenAs("1", Credentials{UID: 1000})
	first, second, third := release(s), release(s), release(s)
	done := receive(t, began)
	other := release(door.OpenAs("2", Credentials{UID: 1000}))
	receive(t, began)(nil)
	require.NoError(t, receive(t, other.answers))
	require.Empty(t, began)
	done(errors.New("first"))
	require.EqualError(t, receive(t, first.answers), "first")
	receive(t, began)(nil)
	require.NoError(t, receive(t, second.answers))

	// A session that goes takes those that have not begun with it.
	receive(t, began)
	fourth := release(s)
	s.Close()
	require.Equal(t, api.Session("varlink:x/1"), receive(t, f.gone))
	require.Empty(t, third.answers)
	require.Empty(t, fourth.answers)
	require.Empty(t, began)
}

// The calls of other sessions begin in order, and are answered as they end.
func TestPipelinedSession(t *testing.T) {
	f := newFakeService()
	began := held(f)
	s := newCore(t, f).Door("dbus:x/", DoorConfig{}).OpenAs(":1.1", Credentials{UID: 1000})
	calls := []*testCall{release(s), release(s), release(s)}
	var ends []func(error)
	for range calls {
		ends = append(ends, receive(t, began))
	}
	for i := len(calls) - 1; i >= 0; i-- {
		ends[i](nil)
		require.NoError(t, receive(t, calls[i].answers))
	}
}

// A door reports those of its own sessions that are not alive any more, and
// nobody else's; and none if it could not look.
func TestMissed(t *testing.T) {
	f := newFakeService()
	f.sessions = []api.Session{"dbus:x/:1.1", "varlink:x/1", "varlink:x/2", "varlink:y/1"}
	door := newCore(t, f).Door("varlink:x/", DoorConfig{})
	require.Error(t, door.Missed(t.Context(), func(context.Context) ([]string, error) { return nil, errors.New("no") }))
	require.Empty(t, f.gone)
	require.NoError(t, door.Missed(t.Context(), func(context.Context) ([]string, error) { return []string{"2"}, nil }))
	require.Equal(t, api.Session("varlink:x/1"), receive(t, f.gone))
	require.Empty(t, f.gone)
}

// A caller of whom nobody knows who it is, is refused; the next call asks again.
func TestUnknownCaller(t *testing.T) {
	f := newFakeService()
	unknown := true
	s := newCore(t, f).Door("dbus:x/", DoorConfig{}).Open(":1.1", func(context.Context) (Credentials, error) {
		if unknown {
			return Credentials{}, errors.New("the bus is busy")
		}
		return Credentials{UID: 1000}, nil
	})
	requireKind(t, api.AccessDenied, receive(t, release(s).answers))
	_, known := s.Credentials()
	require.False(t, known)
	unknown = false
	require.NoError(t, receive(t, release(s).answers))
	who, known := s.Credentials()
	require.True(t, known)
	require.EqualValues(t, 1000, who.UID)
}

// Beyond the bounds of a session, and of its user over all doors, calls are
// refused; root has no bound but that of a session.
func TestBounds(t *testing.T) {
	f := newFakeService()
	began := held(f)
	core := newCore(t, f, func(c *Config) { c.MaxCalls, c.MaxUserCalls = 3, 5 })
	a, b := core.Door("dbus:x/", DoorConfig{}), core.Door("varlink:x/", DoorConfig{})
	one, two := a.OpenAs("1", Credentials{UID: 7}), b.OpenAs("1", Credentials{UID: 7})
	for range 3 {
		release(one)
	}
	requireKind(t, api.TooManyCalls, receive(t, release(one).answers))
	for range 2 {
		release(two)
	}
	requireKind(t, api.TooManyCalls, receive(t, release(two).answers))
	require.Equal(t, 5, core.Usage(7).Unanswered)
	for range 2 {
		root := b.OpenAs("root", Credentials{})
		for range 3 {
			release(root)
		}
		requireKind(t, api.TooManyCalls, receive(t, release(root).answers))
	}
	for range 5 + 2*3 {
		receive(t, began)(nil)
	}
	require.Zero(t, core.Usage(7).Unanswered)
	require.Zero(t, core.Pending())
}

// A panic in a door ends its call and nothing else.
func TestPanicEndsTheCall(t *testing.T) {
	core := newCore(t, newFakeService())
	s := core.Door("dbus:x/", DoorConfig{}).OpenAs(":1.1", Credentials{UID: 7})
	m := &Release{Lockspace: "vms", Resource: "r"}
	for _, run := range []func(c *testCall){
		func(*testCall) { panic("serve") },
		func(c *testCall) { m.Run(&c.Call, func(error) { panic("done") }) },
	} {
		c := &testCall{answers: make(chan error, 2), run: run}
		s.Submit(&c.Call, c, m)
		requireKind(t, api.Internal, receive(t, c.answers))
	}
	require.NoError(t, receive(t, release(s).answers))
	require.Eventually(t, func() bool { return core.Pending() == 0 }, patience, time.Millisecond)
}

// Whose lock it is, the service knows: the authoriser is asked about the locks of
// others alone, and then the call is made again.
func TestReleaseOfOthers(t *testing.T) {
	f := newFakeService()
	f.release = func(c api.Caller, done func(error)) {
		if !c.Privileged {
			done(&api.Error{Op: "release", Kind: api.AccessDenied, Text: "the lock belongs to another user"})
			return
		}
		done(nil)
	}
	asked := make(chan api.Action, 10)
	var refusal error
	auth := authorizer(func(a api.Action) error {
		asked <- a
		return refusal
	})
	core := newCore(t, f, func(c *Config) { c.Authorizer = auth })
	door := core.Door("dbus:x/", DoorConfig{})
	s := door.OpenAs(":1.1", Credentials{UID: 7})
	require.NoError(t, receive(t, release(s).answers))
	require.Equal(t, api.ActReleaseOthers, receive(t, asked))
	refusal = &api.Error{Op: "release-others", Kind: api.AccessDenied, Text: "no"}
	err := receive(t, release(s).answers)
	requireKind(t, api.AccessDenied, err)
	require.EqualError(t, err, "release vms/r: no")
	<-asked
	require.NoError(t, receive(t, release(door.OpenAs(":1.2", Credentials{})).answers))
	require.Empty(t, asked, "root is not asked about")
}

type authorizer func(api.Action) error

func (a authorizer) Authorize(_ context.Context, _ api.Subject, act api.Action, _ map[string]string) error {
	return a(act)
}

// A shutdown waits for the calls that came before and refuses those that come
// after.
func TestShutdownAnswers(t *testing.T) {
	f := newFakeService()
	began := held(f)
	core := newCore(t, f)
	s := core.Door("dbus:x/", DoorConfig{}).OpenAs(":1.1", Credentials{UID: 7})
	first := release(s)
	end := receive(t, began)
	ended := make(chan error, 1)
	go func() { ended <- core.Shutdown(t.Context(), nil) }()
	require.Eventually(t, func() bool {
		c := release(s)
		select {
		case err := <-c.answers:
			requireKind(t, api.ShuttingDown, err)
			return true
		case end := <-began:
			end(nil) // it came before
			return false
		}
	}, patience, time.Millisecond)
	require.Empty(t, ended)
	end(nil)
	require.NoError(t, receive(t, first.answers))
	require.NoError(t, receive(t, ended))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, core.Shutdown(ctx, nil), "nothing is left to be waited for")
}

// The end of the Core is not the end of a connection: its locks stay.
func TestCoreEndsAndSessionsStay(t *testing.T) {
	f := newFakeService()
	core := newCore(t, f)
	s := core.Door("dbus:x/", DoorConfig{}).OpenAs(":1.1", Credentials{})
	serving, ended := make(chan bool), make(chan bool)
	c := &testCall{answers: make(chan error, 2), run: func(c *testCall) {
		serving <- true
		<-ended
		c.done(nil)
	}}
	s.Submit(&c.Call, c, &Release{Lockspace: "vms", Resource: "r"})
	receive(t, serving)
	core.Close()
	close(ended)
	require.NoError(t, receive(t, c.answers))
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return !s.working
	}, patience, time.Millisecond)
	require.Empty(t, f.gone)
}

// A call that its door has answered before its turn, because the client is gone, is not served, and
// leaves nothing taken.
func TestAnsweredBeforeItsTurn(t *testing.T) {
	asked, who := make(chan struct{}), make(chan Credentials)
	core := newCore(t, newFakeService())
	s := core.Door("varlink:x/", DoorConfig{}).Open("1", func(context.Context) (Credentials, error) {
		close(asked)
		return <-who, nil
	})
	early := &testCall{answers: make(chan error, 2), run: func(*testCall) { t.Error("it was served") }}
	s.Submit(&early.Call, early, &ListLocks{})
	<-asked
	gone := errors.New("the client is gone")
	early.Fail(gone)
	require.True(t, early.Answered())
	who <- Credentials{UID: 7}
	require.NoError(t, receive(t, release(s).answers)) // behind it in the queue
	require.Equal(t, gone, receive(t, early.answers))
	require.Eventually(t, func() bool { // a moment after the answer
		usage := core.Usage(7)
		return usage.Room == 0 && usage.Unanswered == 0 && core.Pending() == 0
	}, patience, time.Millisecond)
}

// Each door says what a message costs its user; by default that is the length.
func TestMessagesCostWhatTheDoorSays(t *testing.T) {
	core := newCore(t, newFakeService())
	const size = 1 << 20
	left := func(cost func(int) int64) int64 {
		s := core.Door("dbus:x/", DoorConfig{Cost: cost}).OpenAs(":1.1", Credentials{UID: 7})
		c := &Call{core: core, session: s, Size: size}
		return c.toll() - userRate.each
	}
	require.EqualValues(t, size, left(nil))
	require.EqualValues(t, 3*size, left(func(bytes int) int64 { return 3 * int64(bytes) }))
}
