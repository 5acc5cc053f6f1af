package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/process"
)

// service is a stand-in that answers what the test wants and notes what it was
// asked. The real one answers the scripts of cmd/dlmlockctl.
type service struct {
	mu     sync.Mutex
	conn   *godbus.Conn
	answer func(member string, body []any) ([]any, *godbus.Error)
	calls  []*godbus.Message
}

func (s *service) intercept(m *godbus.Message) {
	path, _ := m.Headers[godbus.FieldPath].Value().(godbus.ObjectPath)
	if m.Type != godbus.TypeMethodCall || !strings.HasPrefix(string(path), string(Path)) {
		return
	}
	s.mu.Lock()
	s.calls = append(s.calls, m)
	answer := s.answer
	s.mu.Unlock()
	reply := &godbus.Message{Type: godbus.TypeMethodReply, Headers: map[godbus.HeaderField]godbus.Variant{
		godbus.FieldDestination: m.Headers[godbus.FieldSender],
		godbus.FieldReplySerial: godbus.MakeVariant(m.Serial()),
	}}
	out, err := answer(m.Headers[godbus.FieldMember].Value().(string), m.Body)
	if err != nil {
		reply.Type = godbus.TypeError
		reply.Headers[godbus.FieldErrorName] = godbus.MakeVariant(err.Name)
		out = err.Body
	}
	if reply.Body = out; len(out) > 0 {
		reply.Headers[godbus.FieldSignature] = godbus.MakeVariant(godbus.SignatureOf(out...))
	}
	m.Type = 0 // godbus answers nothing
	go s.conn.Send(reply, nil)
}

// serve starts a bus with a stand-in on it, and connects.
func serve(t *testing.T, answer func(string, []any) ([]any, *godbus.Error)) (*service, *Client, *testbus.Bus) {
	t.Helper()
	bus := testbus.Start(t, testbus.Daemon)
	s := &service{answer: answer}
	s.conn = bus.Dial(t, godbus.WithIncomingInterceptor(s.intercept))
	_, err := s.conn.RequestName(Name, 0)
	require.NoError(t, err)
	c, err := Dial(t.Context(), bus.Address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return s, c, bus
}

// answers changes what is answered from now on.
func (s *service) answers(answer func(member string, body []any) ([]any, *godbus.Error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// all returns the calls that came.
func (s *service) all() []*godbus.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

func (s *service) last() *godbus.Message {
	all := s.all()
	return all[len(all)-1]
}

func refuse(name string) func(string, []any) ([]any, *godbus.Error) {
	return func(string, []any) ([]any, *godbus.Error) { return nil, godbus.NewError(name, []any{"the text"}) }
}

// Only what was set goes over the bus, with the types of the contract.
func TestOptions(t *testing.T) {
	s, c, _ := serve(t, func(member string, _ []any) ([]any, *godbus.Error) {
		switch member {
		case "Acquire":
			return []any{uint32(2), uint64(7), godbus.ObjectPath("/org/example/DlmLock/lock/1")}, nil
		case "Convert":
			return []any{uint64(8)}, nil
		}
		return nil, nil
	})
	ctx := t.Context()
	g, err := c.Acquire(ctx, Want{"vms", "d", "exclusive"}, Options{Owner: "o", Label: "l", Lifetime: Process,
		PID: 1 << 30, Wait: 15 * time.Second})
	require.NoError(t, err)
	require.Equal(t, Grant{"vms", "d", "EX", 2, 7, "/org/example/DlmLock/lock/1"}, g)
	require.Equal(t, []any{"vms", "d", "exclusive"}, s.last().Body[:3])
	opts := s.last().Body[3].(map[string]godbus.Variant)
	wait := opts["wait-usec"].Value().(uint64)
	require.InDelta(t, 15e6, wait, 10e6, "it becomes less while the call is made")
	delete(opts, "wait-usec")
	require.Equal(t, map[string]godbus.Variant{"owner": godbus.MakeVariant("o"), "label": godbus.MakeVariant("l"),
		"lifetime": godbus.MakeVariant("process"), "pid": godbus.MakeVariant(uint32(1 << 30))}, opts)

	// With a process that is there goes when it began.
	_, err = c.Acquire(ctx, Want{"vms", "d", "EX"}, Options{Lifetime: Process, PID: uint32(os.Getpid())})
	require.NoError(t, err)
	start, err := process.Start(uint32(os.Getpid()))
	require.NoError(t, err)
	require.Equal(t, godbus.MakeVariant(start), s.last().Body[3].(map[string]godbus.Variant)["start-time"])

	_, err = c.Acquire(ctx, Want{"vms", "d", "EX"}, Options{})
	require.NoError(t, err)
	require.Empty(t, s.last().Body[3])

	token, err := c.Convert(ctx, Want{"vms", "d", "PR"}, Selector{LockID: 2, Token: 7, Lock: g.Lock}, 0)
	require.NoError(t, err)
	require.EqualValues(t, 8, token)
	require.Equal(t, map[string]godbus.Variant{"lockid": godbus.MakeVariant(uint32(2)),
		"token": godbus.MakeVariant(uint64(7)),
		"lock":  godbus.MakeVariant(g.Lock)}, s.last().Body[3])

	require.NoError(t, c.Leave(ctx, "vms", true))
	require.Equal(t, map[string]godbus.Variant{"force": godbus.MakeVariant(true)}, s.last().Body[1])
}

// The flags of the message are those asked for; godbus's own Call drops one.
func TestFlags(t *testing.T) {
	s, c, _ := serve(t, func(string, []any) ([]any, *godbus.Error) { return nil, nil })
	for _, tc := range []struct {
		ask, start bool
		want       godbus.Flags
	}{
		{false, true, 0},
		{true, true, godbus.FlagAllowInteractiveAuthorization},
		{true, false, godbus.FlagAllowInteractiveAuthorization | godbus.FlagNoAutoStart},
		{false, true, 0},
	} {
		c.AllowInteraction(tc.ask)
		c.AutoStart(tc.start)
		require.NoError(t, c.Join(t.Context(), "vms"))
		require.Equal(t, tc.want, s.last().Flags)
	}
}

// Every error name of the contract becomes its kind.
func TestErrorKinds(t *testing.T) {
	s, c, bus := serve(t, nil)
	for name, want := range map[string]Kind{
		"org.example.DlmLock.Error.WouldBlock":                        WouldBlock,
		"org.example.DlmLock.Error.OfANewerService":                   "OfANewerService",
		"org.freedesktop.DBus.Error.AccessDenied":                     AccessDenied,
		"org.freedesktop.DBus.Error.InteractiveAuthorizationRequired": InteractionRequired,
		"org.freedesktop.DBus.Error.InvalidArgs":                      InvalidArgs,
		"org.freedesktop.DBus.Error.NoReply":                          NoAnswer,
		"org.freedesktop.DBus.Error.Spawn.ChildExited":                NotRunning,
		"org.freedesktop.systemd1.UnitMasked":                         NotRunning,
		"org.freedesktop.DBus.Error.ServiceUnknown":                   NotRunning,
		"org.freedesktop.DBus.Error.UnknownMethod":                    Unknown,
		"org.freedesktop.DBus.Error.Failed":                           Failed,
		"com.example.Else":                                            Failed,
		"org.freedesktop.DBus.Error.UnknownObject":                    NotHeld,
		"org.freedesktop.DBus.Error.LimitsExceeded":                   LimitExceeded,
	} {
		s.answers(refuse(name))
		err := c.Release(t.Context(), "vms", "d", Selector{})
		var e *Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, Error{Op: "Release", Kind: want, Name: name, Message: "the text", Err: e.Err}, *e)
		require.ErrorIs(t, err, want)
	}

	_, err := s.conn.ReleaseName(Name)
	require.NoError(t, err)
	require.ErrorIs(t, c.Join(t.Context(), "vms"), NotRunning)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, c.Join(ctx, "vms"), Canceled)
	_, err = Dial(ctx, bus.Address)
	require.ErrorIs(t, err, NoBus)
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.Join(t.Context(), "vms"), NoBus)
}

// A caller that gives up connecting finds that in the error.
func TestDialCanceled(t *testing.T) {
	silent, err := net.Listen("unix", t.TempDir()+"/bus")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, _ := silent.Accept()
		cancel()
		accepted <- conn
	}()
	_, err = Dial(ctx, "unix:path="+silent.Addr().String())
	require.ErrorIs(t, err, NoBus)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, (<-accepted).Close())
	require.NoError(t, silent.Close())
}

// A connection that has ended is the bus's fault, in whatever words godbus says
// it.
func TestConnectionGone(t *testing.T) {
	for _, end := range []error{
		godbus.ErrClosed, io.EOF,
		&net.OpError{Op: "read", Err: net.ErrClosed},
		&net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPIPE)},
		&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)},
	} {
		require.ErrorIs(t, wrap("Join", end), NoBus, "%v", end)
	}
}

// A service that does not answer holds nobody longer than the context.
func TestDeadline(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	_, c, _ := serve(t, func(string, []any) ([]any, *godbus.Error) { <-hang; return nil, nil })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, c.Join(ctx, "vms"), NoAnswer)
}

// A lock is not held only if the service says so, and nobody starts it for that.
func TestHeld(t *testing.T) {
	props := map[string]godbus.Variant{"Mode": godbus.MakeVariant("EX"), "State": godbus.MakeVariant("held")}
	s, c, _ := serve(t, func(string, []any) ([]any, *godbus.Error) { return []any{props}, nil })
	mode, err := c.Held(t.Context(), Grant{Lock: Path + "/lock/1"})
	require.NoError(t, err)
	require.Equal(t, "EX", mode)
	require.Equal(t, godbus.FlagNoAutoStart, s.last().Flags)
	s.answers(func(string, []any) ([]any, *godbus.Error) {
		return []any{map[string]godbus.Variant{"State": godbus.MakeVariant("releasing")}}, nil
	})
	_, err = c.Held(t.Context(), Grant{Lock: Path + "/lock/1"})
	require.ErrorIs(t, err, NotHeld)
	s.answers(func(string, []any) ([]any, *godbus.Error) { return []any{map[string]godbus.Variant{}}, nil })
	_, err = c.Held(t.Context(), Grant{Lock: Path + "/lock/1"})
	require.ErrorIs(t, err, Failed)
	for name, want := range map[string]Kind{
		busErrors + "UnknownObject": NotHeld, ownErrors + "ShuttingDown": ShuttingDown,
		busErrors + "AccessDenied": AccessDenied, busErrors + "NoReply": NoAnswer,
	} {
		s.answers(func(string, []any) ([]any, *godbus.Error) { return nil, godbus.NewError(name, []any{"no"}) })
		_, err := c.Held(t.Context(), Grant{Lock: Path + "/lock/1"})
		require.ErrorIs(t, err, want)
	}
}

// Listings are fetched page by page, to the end or to the limit.
func TestPages(t *testing.T) {
	limit := func(body []any) uint32 { return body[0].(map[string]godbus.Variant)["limit"].Value().(uint32) }
	s, c, _ := serve(t, func(_ string, body []any) ([]any, *godbus.Error) {
		opts := body[0].(map[string]godbus.Variant)
		first := 1
		if after, ok := opts["after"].Value().(godbus.ObjectPath); ok {
			first = int(after[len(after)-1]-'0') + 1
		}
		rows := []lockRow{}
		for n := first; n < first+2 && n <= 5 && len(rows) < int(limit(body)); n++ {
			rows = append(rows, lockRow{Lock: godbus.ObjectPath("/l/" + string(rune('0'+n))), Mode: "EX",
				Since: uint64(n) * 1e6})
		}
		return []any{rows}, nil
	})
	locks, err := c.Locks(t.Context(), Filter{Lockspace: "vms", UID: 0, HasUID: true})
	require.NoError(t, err)
	require.Len(t, locks, 5)
	require.Equal(t, time.Unix(5, 0), locks[4].Since)
	require.Len(t, s.all(), 4)
	require.Equal(t, godbus.MakeVariant(uint32(0)), s.last().Body[0].(map[string]godbus.Variant)["uid"])

	locks, err = c.Locks(t.Context(), Filter{Limit: 3})
	require.NoError(t, err)
	require.Len(t, locks, 3)
	require.Len(t, s.all(), 6)
	require.EqualValues(t, 3, limit(s.all()[4].Body))
	require.EqualValues(t, 1, limit(s.all()[5].Body))
}

// What is not there stays unknown; what a newer service adds does no harm.
func TestInspectDecodes(t *testing.T) {
	s, c, _ := serve(t, nil)
	give := func(d map[string]godbus.Variant) (Inspection, error) {
		s.answers(func(string, []any) ([]any, *godbus.Error) { return []any{d}, nil })
		return c.Inspect(t.Context(), "vms", "d")
	}
	in, err := give(map[string]godbus.Variant{"missing": godbus.MakeVariant([]string{"debugfs"}),
		"of-a-newer": godbus.MakeVariant("x")})
	require.NoError(t, err)
	require.Equal(t, Inspection{Locks: []Lock{}, Lost: []Lost{}, Missing: []string{"debugfs"}}, in)
	text, err := json.Marshal(in)
	require.NoError(t, err)
	require.JSONEq(t, `{"locks":[],"lost":[],"missing":["debugfs"]}`, string(text))

	type queued struct {
		LockID, Node uint32
		Mode, Wanted string
	}
	in, err = give(map[string]godbus.Variant{
		"locks":   godbus.MakeVariant([]lockRow{{Lock: "/l/1", Resource: "d", Mode: "EX", Since: 1}}),
		"lost":    godbus.MakeVariant([]lostRow{{Lock: "/l/2", Reason: "r", When: 2}}),
		"granted": godbus.MakeVariant([]queued{{1, 2, "EX", ""}}), "complete": godbus.MakeVariant(false),
		"value": godbus.MakeVariant([]byte{0xab, 1}), "value-invalid": godbus.MakeVariant(true),
		"holder": godbus.MakeVariant(struct {
			Node  uint32
			Mode  string
			Token uint64
			Who   string
		}{2, "EX", 9, "vm"}),
		"stopped": godbus.MakeVariant(true), "quorate": godbus.MakeVariant(false),
		"members":  godbus.MakeVariant([]uint32{1, 2}),
		"recovery": godbus.MakeVariant(uint32(3)), "reason": godbus.MakeVariant("why"),
		"master": godbus.MakeVariant(uint32(2)),
	})
	require.NoError(t, err)
	yes, no, three := true, false, uint32(3)
	require.Equal(t, Inspection{
		Locks: []Lock{{Lock: "/l/1", Resource: "d", Mode: "EX", Since: time.UnixMicro(1)}}, Lost: []Lost{{Lock: "/l/2",
			Reason: "r", When: time.UnixMicro(2)}},
		Granted: []Queued{{1, 2, "EX", ""}}, Master: 2, Complete: &no, Value: Hex{0xab,
			1}, ValueInvalid: &yes, Holder: &Holder{2, "EX", 9, "vm"},
		Health: Health{&yes, &no, "why", []uint32{1, 2}, &three},
	}, in)
	text, err = json.Marshal(in)
	require.NoError(t, err)
	require.Contains(t, string(text), `"value":"ab01"`)

	_, err = give(map[string]godbus.Variant{"granted": godbus.MakeVariant("nonsense")})
	require.ErrorIs(t, err, Failed)
}

// Events come from the service alone: any other program on the bus can send
// signals that look the same.
func TestWatchBelievesTheServiceAlone(t *testing.T) {
	s, c, bus := serve(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	events, err := c.Watch(ctx)
	require.NoError(t, err)
	me := c.Conn().Names()[0]
	lost := func(from *godbus.Conn, resource string) {
		// Straight to us: no match and no name is needed for that.
		m := &godbus.Message{Type: godbus.TypeSignal, Headers: map[godbus.HeaderField]godbus.Variant{
			godbus.FieldDestination: godbus.MakeVariant(me), godbus.FieldPath: godbus.MakeVariant(Path),
			godbus.FieldInterface: godbus.MakeVariant(Name), godbus.FieldMember: godbus.MakeVariant("LockLost"),
			godbus.FieldSignature: godbus.MakeVariant(godbus.ParseSignatureMust("ossss")),
		}, Body: []any{godbus.ObjectPath("/l/1"), "vms", resource, "EX", "because"}}
		require.NoError(t, from.Send(m, nil).Err)
	}
	forger := bus.DialAs(t, testbus.Nobody)
	lost(forger, "forged")
	// A call and its answer: what was sent before has arrived.
	require.NoError(t, forger.BusObject().Call("org.freedesktop.DBus.GetId", 0).Err)
	lost(s.conn, "real")
	e := <-events
	require.Equal(t, Event{Time: e.Time, Kind: LockLost, Lock: "/l/1", Lockspace: "vms", Resource: "real", Mode: "EX",
		Reason: "because", Details: map[string]any{}}, e)

	lost(s.conn, "the same again") // as Lost to the holder, who may hear LockLost, too
	require.NoError(t, s.conn.Emit("/org/example/DlmLock/lock/1", Name+".Lock.Lost", "vms", "own", "EX", "because"))
	require.NoError(t, s.conn.Emit("/org/example/DlmLock/lock/1", Name+".Lock.Lost", "vms", "own", "EX", "because"))
	e = <-events
	require.Equal(t, Event{Time: e.Time, Kind: LockLost, Lock: "/org/example/DlmLock/lock/1", Lockspace: "vms",
		Resource: "own", Mode: "EX", Reason: "because", Details: map[string]any{}}, e)
	require.NoError(t, s.conn.Emit(Path, Name+".Blocking", godbus.ObjectPath("/l/2"), "r", "PR", uint32(2)))
	e = <-events
	require.Equal(t, Event{Time: e.Time, Kind: Blocking, Lock: "/l/2", Resource: "r", Mode: "PR", Node: 2,
		Details: map[string]any{}}, e)

	require.NoError(t, s.conn.Emit(Path, Name+".LockspaceChanged", "vms", "failed",
		map[string]godbus.Variant{"error": godbus.MakeVariant("why")}))
	e = <-events
	require.Equal(t, Event{Time: e.Time, Kind: LockspaceChanged, Lockspace: "vms", State: "failed",
		Details: map[string]any{"error": "why"}}, e)
	require.NoError(t, s.conn.Emit(Path, Name+".OfANewerService"))
	require.NoError(t, s.conn.Emit(Path, "org.freedesktop.DBus.Properties.PropertiesChanged", Name,
		map[string]godbus.Variant{"LockCount": godbus.MakeVariant(uint32(3))}, []string{}))
	e = <-events
	require.Equal(t, Event{Time: e.Time, Kind: StatusChanged, Details: map[string]any{"LockCount": uint32(3)}}, e)

	_, err = s.conn.ReleaseName(Name)
	require.NoError(t, err)
	require.Equal(t, ServiceStopped, (<-events).Kind)
	lost(s.conn, "not the service any more")
	_, err = s.conn.RequestName(Name, 0)
	require.NoError(t, err)
	require.Equal(t, ServiceStarted, (<-events).Kind)
	lost(s.conn, "again")
	require.Equal(t, "again", (<-events).Resource)

	cancel()
	_, open := <-events
	require.False(t, open)
	second, err := c.Watch(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.Close())
	_, open = <-second
	require.False(t, open, "the end of the connection ends the watch")
}

// again, in a bubble of fake time: how often is asked, for how long, and when
// it ends.
func TestAgain(t *testing.T) {
	fail := func(k Kind) error { return &Error{Kind: k} }
	type step struct {
		takes time.Duration
		err   error
	}
	for _, tc := range []struct {
		name       string
		wait       time.Duration
		idempotent bool
		script     []step
		asked      []time.Duration // wait of each call
		want       error
	}{
		{"no wait asks once", 0, true, []step{{0, fail(WouldBlock)}}, []time.Duration{0}, WouldBlock},
		{"no wait does not retry", 0, true, []step{{0, fail(ShuttingDown)}}, []time.Duration{0}, ShuttingDown},
		{"granted", time.Minute, false, []step{{time.Second, nil}}, []time.Duration{MaxWait}, nil},
		{"short wait in one call", 5 * time.Second, false, []step{{5 * time.Second, fail(Timeout)}},
			[]time.Duration{5 * time.Second}, Timeout},
		{"long wait in slices", 50 * time.Second, false,
			[]step{{MaxWait, fail(Timeout)}, {MaxWait, fail(Timeout)}, {10 * time.Second, fail(Timeout)}},
			[]time.Duration{MaxWait, MaxWait, 10 * time.Second}, Timeout},
		{"granted in the second slice", 50 * time.Second, false, []step{{MaxWait, fail(Timeout)}, {time.Second, nil}},
			[]time.Duration{MaxWait, MaxWait}, nil},
		{"for ever", -1, false, []step{{MaxWait, fail(Timeout)}, {MaxWait, fail(Timeout)}, {1, nil}},
			[]time.Duration{MaxWait, MaxWait, MaxWait}, nil},
		{"not there at first", time.Minute, true, []step{{0, fail(NotRunning)}}, []time.Duration{MaxWait}, NotRunning},
		{"restarts meanwhile", time.Minute, false, []step{{time.Second, fail(ShuttingDown)}, {0, fail(NotRunning)}, {0, nil}},
			[]time.Duration{MaxWait, MaxWait, MaxWait}, nil},
		{"dies over it: asking again could take two locks", time.Minute, false, []step{{time.Second, fail(NoAnswer)}},
			[]time.Duration{MaxWait}, NoAnswer},
		{"dies over it: an owner asks again", time.Minute, true, []step{{time.Second, fail(NoAnswer)}, {0, nil}},
			[]time.Duration{MaxWait, MaxWait}, nil},
		{"other errors end it", time.Minute, true, []step{{time.Second, fail(Deadlock)}}, []time.Duration{MaxWait}, Deadlock},
		{"the time is over while it restarts", 300 * time.Millisecond, true,
			[]step{{0, fail(ShuttingDown)}, {0, fail(NotRunning)}, {0, fail(NotRunning)}},
			[]time.Duration{300 * time.Millisecond, 100 * time.Millisecond, time.Microsecond}, NotRunning},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked []time.Duration
				err := again(t.Context(), tc.wait, tc.idempotent, func(wait time.Duration) error {
					s := tc.script[len(asked)]
					asked = append(asked, wait)
					time.Sleep(s.takes)
					return s.err
				})
				require.ErrorIs(t, err, tc.want)
				require.Equal(t, tc.asked, asked)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := Patiently(ctx, func() error { return fail(NotRunning) })
		require.ErrorIs(t, err, NotRunning)
		require.Error(t, ctx.Err(), "tried as long as it could")
		require.NoError(t, Patiently(t.Context(), func() error { return nil }))
		boom := errors.New("boom")
		require.ErrorIs(t, Patiently(t.Context(), func() error { return boom }), boom)
	})
}

func TestLatency(t *testing.T) {
	l := Latency{Count: 4, Sum: 4000, Buckets: []Bucket{{Bound: 100, Count: 1}, {Bound: 500, Count: 2}}}
	require.Equal(t, time.Millisecond, l.Mean())
	d, ok := l.Within(0.5)
	require.True(t, ok)
	require.Equal(t, 500*time.Microsecond, d)
	_, ok = l.Within(0.99)
	require.False(t, ok, "longer than any bound")
	_, ok = new(Latency).Within(0.5)
	require.False(t, ok)
	require.Zero(t, new(Latency).Mean())
}
