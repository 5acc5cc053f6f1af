package polkit

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/internal/testpolkit"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// startBus starts a bus that polkitd may live on.
func startBus(t *testing.T) *testbus.Bus {
	return testbus.Start(t, testbus.Daemon, testpolkit.BusPolicy(t))
}

// bench is an Authority on a private bus, and a caller who is nobody.
type bench struct {
	*Authority
	bus    *testbus.Bus
	caller *godbus.Conn
	log    *lines
}

func newBench(t *testing.T, bus *testbus.Bus, change ...func(*Config)) *bench {
	log := new(lines)
	cfg := Config{Conn: bus.Dial(t), Log: slog.New(slog.NewTextHandler(log,
		&slog.HandlerOptions{Level: slog.LevelDebug})),
		Fallback: api.GroupAuthorizer{HasGroup: true, GID: 4242, Group: "locksmiths"}}
	for _, c := range change {
		c(&cfg)
	}
	return &bench{New(cfg), bus, bus.DialAs(t, testbus.Nobody), log}
}

// nobody is the subject of the caller.
func (b *bench) nobody() api.Subject {
	return api.Subject{BusName: b.caller.Names()[0], UID: testbus.Nobody.UID, GIDs: []uint32{testbus.Nobody.GID}}
}

// lines is a log that several goroutines write.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func requireKind(t *testing.T, k api.Kind, err error) {
	t.Helper()
	var le *api.Error
	require.ErrorAs(t, err, &le)
	require.Equal(t, k, le.Kind, "%v", err)
}

func disk(space, mode string) map[string]string {
	return map[string]string{"lockspace": space, "resource": "disk1", "mode": mode}
}

// Without rules polkit's defaults hold: everybody looks, nobody who is not an
// active administrator changes anything, and root is not asked about.
func TestDefaults(t *testing.T) {
	bus := startBus(t)
	testpolkit.New(t, bus, "").Start()
	b := newBench(t, bus)
	ctx := t.Context()
	require.NoError(t, b.Authorize(ctx, b.nobody(), api.ActInspect, disk("vms", "")))
	require.NoError(t, b.Authorize(ctx, b.nobody(), api.ActInspect, nil))
	for _, a := range []api.Action{api.ActAcquire, api.ActReleaseOthers, api.ActManageLockspaces, api.ActPurge} {
		err := b.Authorize(ctx, b.nobody(), a, disk("vms", "EX"))
		requireKind(t, api.AccessDenied, err)
		require.ErrorContains(t, err, "polkit refuses org.example.DlmLock."+string(a))
		require.NoError(t, b.Authorize(ctx, api.Subject{UID: 0, BusName: ":1.999"}, a, nil))
	}
	require.Contains(t, b.log.String(), `level=INFO msg="not authorized" action=acquire`)
	require.Contains(t, b.log.String(), `uid=65534 lockspace=vms resource=disk1 mode=EX err=`)
	require.Contains(t, b.log.String(), `level=DEBUG msg=authorized action=inspect`)
}

// What polkitd makes of the shipped file is what is meant.
func TestShippedActions(t *testing.T) {
	bus := startBus(t)
	testpolkit.New(t, bus, "").Start()
	type described struct {
		ID, Description, Message, Vendor, VendorURL, Icon string
		Any, Inactive, Active                             uint32
		Annotations                                       map[string]string
	}
	var got []described
	require.NoError(t, bus.Dial(t).Object(authorityName, authorityPath).Call(authorityIface+".EnumerateActions", 0,
		"C").Store(&got))
	// PolkitImplicitAuthorization.
	const no, authAdmin, authAdminKeep, yes = 0, 2, 4, 5
	type defaults struct{ Any, Inactive, Active uint32 }
	have := map[string]defaults{}
	for _, d := range got {
		have[d.ID] = defaults{d.Any, d.Inactive, d.Active}
		require.NotEmpty(t, d.Message)
		require.NotEmpty(t, d.Description)
		require.Equal(t, "dlmlockd", d.Vendor)
		require.Equal(t, "changes-prevent", d.Icon)
	}
	require.Equal(t, map[string]defaults{
		ActionPrefix + string(api.ActInspect):          {yes, yes, yes},
		ActionPrefix + string(api.ActAcquire):          {no, no, authAdminKeep},
		ActionPrefix + string(api.ActReleaseOthers):    {no, no, authAdminKeep},
		ActionPrefix + string(api.ActManageLockspaces): {no, no, authAdminKeep},
		ActionPrefix + string(api.ActPurge):            {no, no, authAdmin},
	}, have)
}

// The shipped example lets a group in, for one lockspace.
func TestExampleRules(t *testing.T) {
	example, err := os.ReadFile("../data/examples/50-dlmlock.rules")
	require.NoError(t, err)
	bus := startBus(t)
	// nobody is in nogroup and not in operator.
	rules := bytes.Replace(example, []byte(`isInGroup("operator")`), []byte(`isInGroup("nogroup")`), 1)
	p := testpolkit.New(t, bus, string(example))
	p.Start()
	b := newBench(t, bus)
	s := b.nobody()
	requireKind(t, api.AccessDenied, b.Authorize(t.Context(), s, api.ActAcquire, disk("backup", "EX")))

	p.Stop()
	p.Rules(string(rules))
	p.Start()
	require.NoError(t, b.Authorize(t.Context(), s, api.ActAcquire, disk("backup", "EX")))
	requireKind(t, api.AccessDenied, b.Authorize(t.Context(), s, api.ActAcquire, disk("vms", "EX")))
	requireKind(t, api.AccessDenied, b.Authorize(t.Context(), s, api.ActReleaseOthers, disk("backup", "")))
	requireKind(t, api.AccessDenied, b.Authorize(t.Context(), s, api.ActAcquire, nil))
}

// Rules see every detail, and text that is no text never reaches them.
func TestRulesSeeDetails(t *testing.T) {
	bus := startBus(t)
	testpolkit.New(t, bus, `polkit.addRule(function(action, subject) {
		if (action.lookup("lockspace") == "vms" && action.lookup("resource") == "disk1" && action.lookup("mode") == "PR" &&
		    action.lookup("owner") == "vm \u2603" && subject.user == "nobody") return polkit.Result.YES;
	});`).Start()
	b := newBench(t, bus)
	d := disk("vms", "PR")
	d["owner"] = "vm \u2603"
	require.NoError(t, b.Authorize(t.Context(), b.nobody(), api.ActAcquire, d))
	for key := range d {
		other := disk("vms", "PR")
		other["owner"] = "vm \u2603"
		other[key] += "x"
		requireKind(t, api.AccessDenied, b.Authorize(t.Context(), b.nobody(), api.ActAcquire, other))
	}
	for _, bad := range []string{"a\xff", "a\x00b"} {
		d["resource"] = bad
		err := b.Authorize(t.Context(), b.nobody(), api.ActAcquire, d)
		requireKind(t, api.AccessDenied, err)
		require.ErrorContains(t, err, "the resource is not UTF-8")
	}
}

const askAdmin = `polkit.addAdminRule(function(action, subject) { return ["unix-user:0"]; });
polkit.addRule(function(action, subject) {
	if (action.id != "org.example.DlmLock.inspect") return polkit.Result.AUTH_ADMIN; });`

// A person is asked only if the caller allows it, and sees what it is about.
func TestInteraction(t *testing.T) {
	bus := startBus(t)
	testpolkit.New(t, bus, askAdmin).Start()
	b := newBench(t, bus)
	s := b.nobody()
	err := b.Authorize(t.Context(), s, api.ActAcquire, disk("vms", "EX"))
	requireKind(t, api.InteractionRequired, err)
	require.ErrorContains(t, err, "allow interactive authorization")

	s.Interactive = true
	err = b.Authorize(t.Context(), s, api.ActAcquire, disk("vms", "EX"))
	requireKind(t, api.AccessDenied, err)
	require.ErrorContains(t, err, "no authentication agent")

	a := newAgent(t, bus, authenticate)
	require.NoError(t, b.Authorize(t.Context(), s, api.ActAcquire, disk("vms", "EX")))
	q := <-a.asked
	require.Equal(t, "org.example.DlmLock.acquire", q.Action)
	require.Equal(t, "Authentication is required to lock disk1 in the lockspace vms for the whole cluster (mode EX)",
		q.Message)
	require.Equal(t, "changes-prevent", q.Icon)
	require.NoError(t, b.Authorize(t.Context(), s, api.ActPurge, map[string]string{"lockspace": "vms"}))
	require.Contains(t, (<-a.asked).Message, "orphaned locks of the lockspace vms;")

	// Not asked now, although an agent is there.
	s.Interactive = false
	requireKind(t, api.InteractionRequired, b.Authorize(t.Context(), s, api.ActAcquire, disk("vms", "EX")))
	require.Empty(t, a.asked)
}

func TestDismissed(t *testing.T) {
	bus := startBus(t)
	testpolkit.New(t, bus, askAdmin).Start()
	b := newBench(t, bus)
	newAgent(t, bus, dismiss)
	s := b.nobody()
	s.Interactive = true
	err := b.Authorize(t.Context(), s, api.ActAcquire, disk("vms", "EX"))
	requireKind(t, api.AccessDenied, err)
	require.ErrorContains(t, err, "dismissed")
}

// A caller who goes away takes the dialog along, nobody else waits for it, and
// a dialog has an end.
func TestCancellation(t *testing.T) {
	bus := startBus(t)
	testpolkit.New(t, bus, askAdmin).Start()
	b := newBench(t, bus)
	a := newAgent(t, bus, ponder)
	s := b.nobody()
	s.Interactive = true
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() { result <- b.Authorize(ctx, s, api.ActAcquire, disk("vms", "EX")) }()
	q := <-a.asked

	require.NoError(t, b.Authorize(t.Context(), b.nobody(), api.ActInspect, nil), "others are served meanwhile")
	select {
	case err := <-result:
		t.Fatal("the dialog is still open, and yet: ", err)
	default:
	}
	cancel()
	requireKind(t, api.Canceled, <-result)
	<-a.waiter(q.Cookie)

	quick := newBench(t, bus, func(c *Config) { c.Interaction = 50 * time.Millisecond })
	s.BusName = quick.caller.Names()[0]
	err := quick.Authorize(t.Context(), s, api.ActAcquire, disk("vms", "EX"))
	requireKind(t, api.AccessDenied, err)
	require.ErrorContains(t, err, "did not answer in time")
	<-a.waiter((<-a.asked).Cookie)
}

// Without polkitd the configured group decides; when it comes it decides, and
// when it goes the group does again.
func TestComesAndGoes(t *testing.T) {
	bus := startBus(t)
	p := testpolkit.New(t, bus,
		`polkit.addRule(function(action, subject) { if (action.lookup("lockspace") == "vms") return polkit.Result.YES; });`)
	b := newBench(t, bus)
	nobody, member := b.nobody(), b.nobody()
	member.GIDs = []uint32{65534, 4242}
	group := func() {
		t.Helper()
		require.NoError(t, b.Authorize(t.Context(), member, api.ActAcquire, disk("vms", "EX")))
		err := b.Authorize(t.Context(), nobody, api.ActAcquire, disk("vms", "EX"))
		requireKind(t, api.AccessDenied, err)
		require.ErrorContains(t, err, "locksmiths")
	}
	rules := func() {
		t.Helper()
		require.NoError(t, b.Authorize(t.Context(), nobody, api.ActAcquire, disk("vms", "EX")))
		requireKind(t, api.AccessDenied, b.Authorize(t.Context(), member, api.ActAcquire, disk("backup", "EX")))
	}
	group()
	p.Start()
	rules()
	p.Stop()
	group()
	p.Start()
	rules()
	require.Equal(t, 2, bytes.Count([]byte(b.log.String()), []byte("no polkit on the bus")))
	require.Equal(t, 2, bytes.Count([]byte(b.log.String()), []byte("polkit is on the bus")))

	member.BusName = ""
	require.NoError(t, b.Authorize(t.Context(), member, api.ActAcquire, disk("backup", "EX")),
		"not on the bus: the group")
}

// A polkitd that hangs lets nobody in and holds nobody up for ever; one that
// dies over a question is asked again when it is back, and it is not.
func TestHangsAndDies(t *testing.T) {
	bus := startBus(t)
	p := testpolkit.New(t, bus, `polkit.addRule(function() { return polkit.Result.YES; });`)
	p.Start()
	b := newBench(t, bus, func(c *Config) { c.Timeout = time.Second }) // it hangs, or the machine is busy
	member := b.nobody()
	member.GIDs = []uint32{4242}
	p.Signal(syscall.SIGSTOP)
	err := b.Authorize(t.Context(), member, api.ActAcquire, disk("vms", "EX"))
	requireKind(t, api.AccessDenied, err)
	require.ErrorContains(t, err, "did not answer in time")
	p.Signal(syscall.SIGCONT)
	require.Eventually(t, func() bool {
		return b.Authorize(t.Context(), member, api.ActAcquire, disk("vms", "EX")) == nil
	}, time.Minute, 10*time.Millisecond)

	slow := newBench(t, bus)
	p.Signal(syscall.SIGSTOP)
	result := make(chan error)
	go func() { result <- slow.Authorize(t.Context(), member, api.ActAcquire, disk("vms", "EX")) }()
	time.Sleep(50 * time.Millisecond) // so that the question is with polkitd; sooner is well too
	p.Stop()
	require.NoError(t, <-result, "the group decides, polkitd is gone")
	require.Contains(t, slow.log.String(), "no polkit on the bus")
}

// A missing policy file is said, not guessed over.
func TestActionsNotInstalled(t *testing.T) {
	bus := startBus(t)
	p := testpolkit.New(t, bus, "")
	require.NoError(t, os.Remove(p.Actions()))
	p.Start()
	b := newBench(t, bus)
	err := b.Authorize(t.Context(), b.nobody(), api.ActInspect, nil)
	requireKind(t, api.AccessDenied, err)
	require.ErrorContains(t, err, "org.example.DlmLock.policy")
}

// polkit not installed at all: the bus has no policy for it either, so it may
// say "denied" where it would say "unknown". That is an absent polkitd too.
func TestNotInstalled(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, bus *testbus.Bus) {
		b := newBench(t, bus)
		member := b.nobody()
		member.GIDs = []uint32{4242}
		require.NoError(t, b.Authorize(t.Context(), member, api.ActAcquire, disk("vms", "EX")))
		requireKind(t, api.AccessDenied, b.Authorize(t.Context(), b.nobody(), api.ActAcquire, disk("vms", "EX")))
		require.Contains(t, b.log.String(), "no polkit on the bus")
	})
}
