package dbus

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/lockd"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = time.Minute

// rig is the real service over the embedded engine and a real state file, on a
// real bus with the shipped policy.
type rig struct {
	t       testing.TB
	bus     *testbus.Bus
	cluster *local.Cluster
	service *lockd.Service
	api     *tampered
	core    *frontend.Core
	server  *Server
	logs    *logBook
	control logSettings
	lost    chan api.LostRun // helpers that were to be run
}

// rigConfig changes what newRig makes.
type rigConfig struct {
	auth   api.Authorizer
	limits api.Limits
	raw    []string // lockspaces for raw values
	max    int      // unanswered calls of a connection
	user   int      // of a user
	now    func() time.Time
}

// members may change locks in the tests, beside root.
const membersGID = 4242

var member = testbus.User{UID: 65534, GID: 65534, Groups: []uint32{membersGID}}

func newRig(t testing.TB, bus *testbus.Bus, cfg rigConfig) *rig {
	r := &rig{t: t, bus: bus, cluster: local.NewCluster("test"), logs: &logBook{}, lost: make(chan api.LostRun, 10)}
	log := slog.New(slog.NewTextHandler(r.logs, nil))
	node := r.cluster.AddNode(1)
	header := state.Header{BootID: "boot", NodeID: 1, Engine: "local"}
	file, contents, err := state.Open(t.TempDir(), state.Options{Header: header, Log: log})
	require.NoError(t, err)
	conn, err := Connect(t.Context(), bus.Address)
	require.NoError(t, err)
	if cfg.auth == nil {
		cfg.auth = api.GroupAuthorizer{GID: membersGID, HasGroup: true, Group: "members"}
	}
	r.core = frontend.New(frontend.Config{Authorizer: cfg.auth, Log: log, MaxCalls: cfg.max, MaxUserCalls: cfg.user,
		Now: cfg.now})
	r.server = New(Config{Core: r.core, Bus: conn, Log: log, LogControl: &r.control, Version: "1.2.3",
		Commit: "0123abc", BuildDate: "2026-01-02T03:04:05Z", StateFile: file.Path()})
	r.service = lockd.New(lockd.Config{
		Engine: node.Engine(), Journal: file, Contents: contents, BootID: header.BootID,
		Node: dlm.NodeInfo{ID: 1, Name: "node1", Cluster: "test"}, Sessions: []api.Session{conn.Sessions()},
		Lockspaces: []string{"vms"}, RawValues: cfg.raw, Limits: cfg.limits, Notify: r.core.Notify, Log: log,
		HealthInterval: 50 * time.Millisecond,
		OnLost: lockd.OnLost{
			Helpers: map[string]api.HelperPolicy{"guard": {GID: membersGID, HasGroup: true}, "admin": {}},
			RunLost: func(run api.LostRun, ended func()) { r.lost <- run; ended() },
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.service.Run(ctx) }()
	t.Cleanup(func() {
		end, stop := context.WithTimeout(context.Background(), patience)
		defer stop()
		require.NoError(t, r.server.Shutdown(end))
		r.core.Close()
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, file.Close())
		if t.Failed() && os.Getenv("TEST_LOGS") != "" {
			t.Log(r.logs.String())
		}
	})
	<-r.service.Ready()
	r.api = &tampered{Service: r.service}
	r.core.Start(r.api)
	require.NoError(t, r.server.Start(t.Context()))
	require.NoError(t, r.server.RequestName())
	return r
}

// testServer is a server without a bus, and a session of a member.
func testServer(t *testing.T, name string) (*Server, *session) {
	core := frontend.New(frontend.Config{})
	t.Cleanup(core.Close)
	core.Start(fixedStatus{})
	door := core.Door("dbus:test/", frontend.DoorConfig{})
	s := &Server{core: core, door: door, out: newSendQueue(nil, nil), sessions: map[string]*session{}}
	s.subs = newSubscribers(s)
	of := &session{Session: door.OpenAs(name, frontend.Credentials{UID: member.UID}), name: name}
	s.sessions[name] = of
	return s, of
}

// tampered is the service with hooks for what it never does by itself.
type tampered struct {
	api.Service
	inspect atomic.Pointer[func(done func(api.Inspection, error))]
	status  atomic.Pointer[func() api.Status]
	acquire atomic.Pointer[func(c api.Caller, w []api.Want, o api.AcquireOptions, done func([]api.Grant, error)) bool]
	gone    atomic.Pointer[func(api.Session)]
	ending  atomic.Bool // Lock answers as a service that ends
}

func (a *tampered) Lock(ref api.Ref, done func(api.LockInfo, error)) {
	if a.ending.Load() {
		done(api.LockInfo{}, &api.Error{Op: "lock", Kind: api.ShuttingDown, Text: "the service has stopped"})
		return
	}
	a.Service.Lock(ref, done)
}

func (a *tampered) Inspect(lockspace, resource string, done func(api.Inspection, error)) {
	if f := a.inspect.Load(); f != nil {
		(*f)(done)
		return
	}
	a.Service.Inspect(lockspace, resource, done)
}

func (a *tampered) Status() api.Status {
	if f := a.status.Load(); f != nil {
		return (*f)()
	}
	return a.Service.Status()
}

func (a *tampered) Acquire(c api.Caller, w []api.Want, o api.AcquireOptions, done func([]api.Grant, error)) {
	if f := a.acquire.Load(); f != nil && (*f)(c, w, o, done) {
		return
	}
	a.Service.Acquire(c, w, o, done)
}

func (a *tampered) SessionGone(gone api.Session) {
	a.Service.SessionGone(gone)
	if f := a.gone.Load(); f != nil {
		(*f)(gone) // after it: what the test calls then comes later in the service, too
	}
}

// logBook keeps the log.
type logBook struct {
	mu   sync.Mutex
	text []byte
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	return len(p), nil
}

func (b *logBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

// client calls the service.
type client struct {
	t    testing.TB
	conn *godbus.Conn
	obj  godbus.BusObject
}

func (r *rig) dial(u testbus.User) *client {
	r.t.Helper()
	c := r.bus.DialAs(r.t, u)
	return &client{r.t, c, c.Object(Name, Path)}
}

// call calls a member of our interface; a dot in the name means another one.
func (c *client) call(member string, args ...any) *godbus.Call {
	return c.obj.CallWithContext(c.t.Context(), full(member), 0, args...)
}

func full(member string) string {
	for _, r := range member {
		if r == '.' {
			return member
		}
	}
	return Name + "." + member
}

// ok calls and expects success.
func (c *client) ok(member string, args ...any) *godbus.Call {
	c.t.Helper()
	call := c.call(member, args...)
	require.NoError(c.t, call.Err, member)
	return call
}

// refused calls and expects an error; the text of it is returned.
func (c *client) refused(name, member string, args ...any) string {
	c.t.Helper()
	err := c.call(member, args...).Err
	require.Error(c.t, err, member)
	e, ok := err.(godbus.Error)
	require.True(c.t, ok, "%s: %v", member, err)
	require.Equal(c.t, name, e.Name, "%s: %s", member, e)
	return e.Error()
}

// acquire takes vms/resource in EX.
func (c *client) acquire(resource string, o options) (lockid uint32, lock godbus.ObjectPath) {
	c.t.Helper()
	var token uint64
	require.NoError(c.t, c.ok("Acquire", "vms", resource, "EX", o).Store(&lockid, &token, &lock))
	return lockid, lock
}

// list is ListLocks.
func (c *client) list(filter options) []lockRow {
	c.t.Helper()
	var rows []lockRow
	require.NoError(c.t, c.ok("ListLocks", filter).Store(&rows))
	return rows
}

// options are an a{sv}.
type options = map[string]godbus.Variant

// opt makes options of pairs.
func opt(pairs ...any) options {
	o := options{}
	for i := 0; i < len(pairs); i += 2 {
		o[pairs[i].(string)] = godbus.MakeVariant(pairs[i+1])
	}
	return o
}

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

// stranger is another user than member. The reference bus knows only users of
// the system.
var stranger = testbus.User{UID: 1, GID: 1}
