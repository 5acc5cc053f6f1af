package dbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Bad input gets a clear error with the right name, and changes nothing.
func TestBadInput(t *testing.T) {
	long := strings.Repeat("x", 65)
	invalidName, invalidMode := ErrorPrefix+"InvalidName", ErrorPrefix+"InvalidMode"
	cases := []struct {
		name, text, member string
		args               []any
	}{
		{invalidName, "at least one", "Acquire", []any{"", "r", "EX", opt()}},
		{invalidName, "at least one", "Acquire", []any{"vms", "", "EX", opt()}},
		{invalidName, "65", "Acquire", []any{"vms", long, "EX", opt()}},
		{invalidName, "65", "Acquire", []any{long, "r", "EX", opt()}},
		{invalidName, "only letters", "Acquire", []any{"a/b", "r", "EX", opt()}},
		{invalidName, "dot", "Acquire", []any{".a", "r", "EX", opt()}},
		{invalidName, "", "Acquire", []any{"vms", api.ReservedPrefix + "anchor", "EX", opt()}},
		{invalidMode, "shared", "Acquire", []any{"vms", "r", "XX", opt()}},
		{invalidMode, "", "Acquire", []any{"vms", "r", "", opt()}},
		{invalidMode, "...", "Acquire", []any{"vms", "r", strings.Repeat("é", 5000), opt()}},
		{errInvalidArgs,
			"unknown option \"ownr\"; known here: label, lifetime, on-lost, on-lost-data, owner, pid, start-time, " +
				"value, wait-usec", "Acquire", []any{"vms", "r", "EX", opt("ownr", "x")}},
		{errInvalidArgs, "option owner: it takes the type s, not u", "Acquire",
			[]any{"vms", "r", "EX", opt("owner", uint32(1))}},
		{errInvalidArgs, "wait-usec: it takes a number (of type t, or of any other integer type), not the type s",
			"Acquire", []any{"vms", "r", "EX", opt("wait-usec", "1")}},
		{errInvalidArgs, "not the type d", "Acquire", []any{"vms", "r", "EX", opt("wait-usec", 1.0)}},
		{errInvalidArgs, "not the type b", "Release", []any{"vms", "r", opt("lockid", true)}},
		{errInvalidArgs, "option wait-usec: -1 is negative", "Acquire",
			[]any{"vms", "r", "EX", opt("wait-usec", int32(-1))}},
		{errInvalidArgs, "option token: -1 is negative", "Release", []any{"vms", "r", opt("token", int64(-1))}},
		{errInvalidArgs, "option uid: -2 is negative", "ListLocks", []any{opt("uid", int16(-2))}},
		{errInvalidArgs, "option lockid: 4294967296 is too large", "Release",
			[]any{"vms", "r", opt("lockid", int64(1)<<32)}},
		{errInvalidArgs, "option pid: 4294967296 is too large", "Acquire",
			[]any{"vms", "r", "EX", opt("lifetime", "process", "pid", uint64(1)<<32)}},
		{errInvalidArgs, "1 to 10000", "ListLocks", []any{opt("limit", int64(10001))}},
		{errInvalidArgs, "20000000", "Acquire", []any{"vms", "r", "EX", opt("wait-usec", int64(20000001))}},
		{errInvalidArgs, "20000000", "Acquire", []any{"vms", "r", "EX", opt("wait-usec", uint64(20000001))}},
		{errInvalidArgs, "20000000", "Convert", []any{"vms", "r", "EX", opt("wait-usec", ^uint64(0))}},
		{errInvalidArgs, "leave it out", "Acquire", []any{"vms", "r", "EX", opt("owner", "")}},
		{errInvalidArgs, "at most 4096", "Acquire", []any{"vms", "r", "EX", opt("owner", strings.Repeat("o", 4097))}},
		{errInvalidArgs, "persistent, connection, process", "Acquire",
			[]any{"vms", "r", "EX", opt("lifetime", "eternal")}},
		{errInvalidArgs, "lifetime", "Acquire", []any{"vms", "r", "EX", opt("pid", uint32(1))}},
		{errInvalidArgs, "0 is no process", "Acquire",
			[]any{"vms", "r", "EX", opt("lifetime", "process", "pid", uint32(0))}},
		{errInvalidArgs, "Acquire takes (sssa{sv}), the call has (sss)", "Acquire", []any{"vms", "r", "EX"}},
		{errInvalidArgs, "the call has ()", "Acquire", nil},
		{errInvalidArgs, "the call has (sssas)", "Acquire", []any{"vms", "r", "EX", []string{}}},
		{errInvalidArgs, "the call has (sssa{ss})", "Acquire", []any{"vms", "r", "EX", map[string]string{}}},
		{invalidName, "", "AcquireMany", []any{[]wantRow{{"vms", "good", "EX"}, {"vms", "", "EX"}}, opt()}},
		{invalidMode, "", "AcquireMany", []any{[]wantRow{{"vms", "good", "EX"}, {"vms", "r", "?"}}, opt()}},
		{errInvalidArgs, "2 labels for 1 locks", "AcquireMany",
			[]any{[]wantRow{{"vms", "r", "EX"}}, opt("labels", []string{"a", "b"})}},
		{errInvalidArgs, "labels", "AcquireMany",
			[]any{[]wantRow{{"vms", "r", "EX"}}, opt("label", "a", "labels", []string{"b"})}},
		{errInvalidArgs, "4097 bytes", "AcquireMany",
			[]any{[]wantRow{{"vms", "r", "EX"}}, opt("labels", []string{strings.Repeat("l", 4097)})}},
		{errInvalidArgs, "labels", "Acquire", []any{"vms", "r", "EX", opt("labels", []string{"b"})}},
		{ErrorPrefix + "LimitExceeded", "", "AcquireMany",
			[]any{slices.Repeat([]wantRow{{"vms", "r", "EX"}}, frontend.MaxLocks+1), opt()}},
		{ErrorPrefix + "NotHeld", "ListLocks", "Convert", []any{"vms", "r", "EX", opt()}},
		{errInvalidArgs, "lock, lockid, owner, token, value, wait-usec", "Convert",
			[]any{"vms", "r", "EX", opt("label", "x")}},
		{ErrorPrefix + "NotHeld", "ListLocks", "Release", []any{"vms", "r", opt()}},
		{errInvalidArgs, "lock, lockid, owner, reason, token", "Release",
			[]any{"vms", "r", opt("wait-usec", uint64(0))}},
		{errInvalidArgs, "0 is no lockid", "Release", []any{"vms", "r", opt("lockid", uint32(0))}},
		{errInvalidArgs, "path of a lock", "Release", []any{"vms", "r", opt("lock", godbus.ObjectPath("/x"))}},
		{errInvalidArgs, "path of a lock", "Release",
			[]any{"vms", "r", opt("lock", godbus.ObjectPath(LockPrefix+"01"))}},
		{errInvalidArgs, "released one by one", "ReleaseOwner", []any{"", ""}},
		{errInvalidArgs, "4097 bytes", "ReleaseOwner", []any{"", strings.Repeat("o", 4097)}},
		{errInvalidArgs, "missing or empty", "ReleaseMany", []any{[]nameRow{{"vms", "r"}}, opt()}},
		{errInvalidArgs, "", "ReleaseMany", []any{[]nameRow{{"vms", "r"}}, opt("lockid", uint32(1))}},
		{ErrorPrefix + "LimitExceeded", "", "ReleaseMany",
			[]any{[]nameRow{}, opt("owner", "o", "labels", slices.Repeat([]string{"l"}, frontend.MaxLocks+1))}},
		{errInvalidArgs, "at most", "ReleaseMany",
			[]any{[]nameRow{}, opt("owner", "o", "labels", []string{strings.Repeat("l", frontend.MaxText+1)})}},
		{ErrorPrefix + "LimitExceeded", "", "ReleaseMany",
			[]any{slices.Repeat([]nameRow{{"vms", "r"}}, frontend.MaxLocks+1), opt("owner", "o")}},
		{ErrorPrefix + "NoSuchLockspace", "", "ReleaseMany", []any{[]nameRow{{"nowhere", "r"}}, opt("owner", "o")}},
		{invalidName, "", "ReleaseOwner", []any{"a/b", "o"}},
		{invalidName, "", "Inspect", []any{"vms", ""}},
		{errInvalidArgs, "1 to 10000", "ListLocks", []any{opt("limit", uint32(0))}},
		{errInvalidArgs, "1 to 10000", "ListLocks", []any{opt("limit", uint32(10001))}},
		{errInvalidArgs, "held", "ListLocks", []any{opt("state", "lost")}},
		{errInvalidArgs, "path of a lock", "ListLocks", []any{opt("after", godbus.ObjectPath("/"))}},
		{invalidMode, "", "ListLocks", []any{opt("mode", "x")}},
		{invalidName, "", "ListLocks", []any{opt("lockspace", "")}},
		{invalidName, "", "ListLocks", []any{opt("resource", "")}},
		{invalidName, "", "JoinLockspace", []any{"a b", opt()}},
		{errInvalidArgs, "known here: none", "JoinLockspace", []any{"a", opt("force", true)}},
		{errInvalidArgs, "type b, not s", "LeaveLockspace", []any{"vms", opt("force", "yes")}},
		{ErrorPrefix + "NoSuchLockspace", "", "LeaveLockspace", []any{"nothere", opt()}},
		{ErrorPrefix + "NoSuchLockspace", "", "Acquire", []any{"nothere", "r", "EX", opt()}},
		{ErrorPrefix + "NoSuchLockspace", "", "ListOrphans", []any{"nothere"}},
		{invalidName, "", "ListOrphans", []any{""}},
		{errInvalidArgs, "", "Purge", []any{"vms", []uint32{7}, opt()}},
		{errInvalidArgs, "known here: reason, some", "Purge", []any{"vms", []uint32{}, opt("force", true)}},
		{ErrorPrefix + "NotHeld", "ListOrphans", "AdoptOrphan", []any{"vms", uint32(7), opt("owner", "vm1")}},
		{ErrorPrefix + "NoSuchLockspace", "", "AdoptOrphan", []any{"nothere", uint32(7), opt()}},
		{invalidName, "", "AdoptOrphan", []any{"", uint32(7), opt()}},
		{errInvalidArgs, "owner", "AdoptOrphan", []any{"vms", uint32(7), opt("owner", "")}},
		{errInvalidArgs, "known here: label, mode, owner, resource, uid", "AdoptOrphan",
			[]any{"vms", uint32(7), opt("lifetime", "process")}},
		{errUnknownMethod, "Introspect", "Aquire", nil},
		{errUnknownInterface, "org.example.Other", "org.example.Other.Acquire", nil},
		{errInvalidArgs, "", ifaceIntrospectable + ".Introspect", []any{1}},
		{errUnknownMethod, "", ifacePeer + ".Pong", nil},
	}
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		root := newRig(t, b, rigConfig{}).dial(testbus.Root)
		for _, c := range cases {
			text := root.refused(c.name, c.member, c.args...)
			require.Contains(t, text, c.text, "%s %v", c.member, c.args)
			require.NotEmpty(t, text)
			require.Less(t, len(text), 400)
		}
		require.Empty(t, root.list(opt()))
		require.Equal(t, 1, root.service(t))
	})
}

// service counts the lockspaces: a bad call changed none.
func (c *client) service(t *testing.T) int {
	var spaces []spaceRow
	require.NoError(t, c.ok("ListLockspaces").Store(&spaces))
	return len(spaces)
}

// What the service limits is refused by it, in the bus's words.
func TestLimits(t *testing.T) {
	limits := api.DefaultLimits()
	limits.LocksPerUID, limits.OwnerBytes, limits.LabelBytes, limits.PageSize = 3, 10, 10, 2
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		root := newRig(t, b, rigConfig{limits: limits}).dial(testbus.Root)
		require.Error(t, root.call("Acquire", "vms", "r", "EX", opt("owner", strings.Repeat("o", 11))).Err)
		require.Error(t, root.call("Acquire", "vms", "r", "EX", opt("label", strings.Repeat("o", 11))).Err)
		for i := range 3 {
			root.acquire(fmt.Sprint(i), opt())
		}
		root.refused(ErrorPrefix+"LimitExceeded", "Acquire", "vms", "more", "EX", opt())
		page := root.list(opt())
		require.Len(t, page, 2)
		page = root.list(opt("after", page[1].Lock, "limit", uint32(10)))
		require.Len(t, page, 1)
		require.Empty(t, root.list(opt("after", page[0].Lock)))
	})
}

// Unknown objects, interfaces and members have the standard errors; Peer
// answers everywhere; the interface may be left out.
func TestUnknown(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		c := newRig(t, b, rigConfig{}).dial(testbus.Nobody)
		refused := func(name string, path godbus.ObjectPath, method string) {
			err := c.conn.Object(Name, path).Call(method, 0).Err
			require.Error(t, err)
			require.Equal(t, name, err.(godbus.Error).Name, "%s %s", path, method)
		}
		for _, p := range []godbus.ObjectPath{"/org/example/Other", "/x", Path + "/",
			godbus.ObjectPath(LockPrefix) + "1/2", Path + "/locks/1"} {
			if p.IsValid() {
				refused(errUnknownObject, p, Name+".ListLockspaces")
				refused(errUnknownObject, p, ifaceIntrospectable+".Introspect")
			}
		}
		for _, p := range []string{LockPrefix + "1", LockPrefix + "x", LockPrefix + "01", RequestPrefix + "1",
			LockspacePrefix + "other", LockspacePrefix + "vm_73", LockspacePrefix + "_7"} {
			refused(errUnknownObject, godbus.ObjectPath(p), ifaceIntrospectable+".Introspect")
			refused(errUnknownInterface, godbus.ObjectPath(p), Name+".ListLockspaces")
		}
		refused(errUnknownInterface, "/", Name+".ListLockspaces")
		refused(errUnknownInterface, "/org", ifaceProperties+".GetAll")
		refused(errUnknownMethod, Path, Name+".Nothing")
		for _, p := range []godbus.ObjectPath{"/", "/x", Path} {
			require.NoError(t, c.conn.Object(Name, p).Call(ifacePeer+".Ping", 0).Err)
		}
		// Without an interface in the header.
		bare := func(member string) error {
			msg := &godbus.Message{Type: godbus.TypeMethodCall, Headers: map[godbus.HeaderField]godbus.Variant{
				godbus.FieldDestination: godbus.MakeVariant(Name), godbus.FieldPath: godbus.MakeVariant(Path),
				godbus.FieldMember: godbus.MakeVariant(member)}}
			return (<-c.conn.Send(msg, make(chan *godbus.Call, 1)).Done).Err
		}
		require.NoError(t, bare("ListLockspaces"))
		require.Equal(t, errUnknownMethod, bare("Nothing").(godbus.Error).Name)
	})
}

// A message with descriptors reaches no method, and none of them stays open.
func TestDescriptors(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		null, err := os.Open("/dev/null")
		require.NoError(t, err)
		defer func() { _ = null.Close() }()
		fd := godbus.UnixFD(null.Fd())
		for _, u := range []testbus.User{testbus.Root, testbus.Nobody} {
			c := r.dial(u)
			c.ok(ifacePeer + ".Ping")
			before := openFiles(t)
			for _, m := range newTree().nodes[string(Path)].iface(Name).methods {
				for _, body := range [][]any{{fd},
					{"vms", "r", "EX", map[string]godbus.Variant{"owner": godbus.MakeVariant(fd)}}} {
					for _, dest := range []string{Name, r.server.bus.conn.Names()[0]} {
						ctx, cancel := context.WithTimeout(t.Context(), patience)
						err := c.conn.Object(dest, Path).CallWithContext(ctx, Name+"."+m.name, 0, body...).Err
						require.NoError(t, ctx.Err(), "no answer")
						cancel()
						require.Error(t, err, m.name)
					}
				}
				if !c.conn.Connected() {
					c = r.dial(u)
				}
			}
			// A connection that the bus has ended is closed a moment later.
			require.Eventually(t, func() bool { return openFiles(t) <= before }, patience, time.Millisecond)
			require.NoError(t, r.dial(testbus.Root).call(ifacePeer+".Ping").Err)
		}
	})
}

func openFiles(t *testing.T) int {
	d, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(d)
}

// A panic anywhere is told to the caller and logged, and the daemon lives.
func TestPanic(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root := r.dial(testbus.Root)
		inLine := func(func(api.Inspection, error)) { panic("in the line of the sender") }
		r.api.inspect.Store(&inLine)
		root.refused(errFailed, "Inspect", "vms", "r")
		inAnswer := func(done func(api.Inspection, error)) {
			go done(api.Inspection{Locks: make([]api.LockInfo, 1)}, nil)
		}
		r.api.inspect.Store(&inAnswer)
		root.ok("Inspect", "vms", "r")
		none := func(_ api.Caller, _ []api.Want, _ api.AcquireOptions, done func([]api.Grant, error)) bool {
			go done(nil, nil) // no grant: the answer's index panics
			return true
		}
		r.api.acquire.Store(&none)
		root.refused(errFailed, "Acquire", "vms", "r", "EX", opt())
		inReader := func() api.Status { panic("in the reader") }
		r.api.status.Store(&inReader)
		root.refused(errFailed, ifaceProperties+".GetAll", Name)
		r.api.status.Store(nil)
		r.api.acquire.Store(nil)
		r.api.inspect.Store(nil)
		root.acquire("r", opt())
		require.Equal(t, 3, strings.Count(r.logs.String(), "a call panicked"))
		require.Contains(t, r.logs.String(), "stack=")
	})
}

// However deep the arguments are nested, as far as the bus lets them through,
// the connection and so the daemon live, and the caller gets an answer; a
// signal that anybody may send to us does no harm either. (godbus ends a
// connection when a body is nested deeper than it reads, and dbus-daemon lets
// deeper ones through; or when a dictionary's keys are of some types.)
func TestDeepNesting(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		passed := map[string]int{}
		for n := 20; n <= 70; n++ {
			for sig, body := range map[string][]byte{
				"v":     append(bytes.Repeat([]byte("\x01v\x00"), n), "\x01y\x00z"...),
				"av":    deepArrays(n),
				"a{gu}": {8, 0, 0, 0, 0, 0, 0, 0, 1, 's', 0, 0, 1, 0, 0, 0},
				"a{by}": {5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1},
			} {
				raw := dialRaw(t, b)
				_ = raw.send(godbus.TypeSignal, r.server.bus.conn.Names()[0], Path, Name, "Release", sig, body)
				_ = raw.conn.Close()
				raw = dialRaw(t, b)
				if raw.call(t, "Release", sig, body) {
					passed[sig] = n
				}
				_ = raw.conn.Close()
			}
		}
		// The deepest that the bus let through came near its limit of 64.
		require.Greater(t, passed["v"], 60)
		require.Greater(t, passed["av"], 28)
		require.Equal(t, 70, passed["a{gu}"])
		require.Equal(t, 70, passed["a{by}"])
		c := r.dial(testbus.Nobody)
		c.ok(ifacePeer + ".Ping")
		select {
		case <-r.server.Done():
			t.Fatal("the connection to the bus broke")
		default:
		}
	})
}

// deepArrays is an array of a variant of an array of ..., n deep, as it is on
// the wire behind the length of the outermost.
func deepArrays(n int) []byte {
	var body []byte
	var lengths []int
	for range n {
		for len(body)%4 != 0 {
			body = append(body, 0)
		}
		lengths = append(lengths, len(body))
		body = append(body, 0, 0, 0, 0)
		body = append(body, "\x02av\x00"...)
	}
	for len(body)%4 != 0 {
		body = append(body, 0)
	}
	body = append(body, 0, 0, 0, 0)
	for _, at := range lengths {
		binary.LittleEndian.PutUint32(body[at:], uint32(len(body)-at-4))
	}
	return body
}

// An unread answer of a NO_REPLY call is never sent; the call is made.
func TestNoReply(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root := r.dial(testbus.Root)
		var mu sync.Mutex
		answers := 0
		watch := r.bus.DialAs(t, testbus.Root, godbus.WithIncomingInterceptor(func(m *godbus.Message) {
			mu.Lock()
			defer mu.Unlock()
			if m.Type != godbus.TypeSignal {
				answers++
			}
		}))
		mu.Lock()
		answers = 0
		mu.Unlock()
		obj := watch.Object(Name, Path)
		require.NoError(t, obj.Call(Name+".Acquire", godbus.FlagNoReplyExpected, "vms", "quiet", "EX", opt()).Err)
		require.NoError(t, obj.Call(Name+".Nothing", godbus.FlagNoReplyExpected).Err)
		require.NoError(t, obj.Call(ifacePeer+".Ping", godbus.FlagNoReplyExpected).Err)
		require.NoError(t, obj.Call(Name+".ListLocks", 0, opt()).Err)
		mu.Lock()
		require.Equal(t, 1, answers)
		mu.Unlock()
		require.Equal(t, "quiet", root.list(opt())[0].Resource)
	})
}

// A caller that is killed with calls under way is told to the service after
// its last call, and leaves nothing.
func TestVanishedCaller(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root := r.dial(testbus.Root)
		root.acquire("held", opt())
		type event struct {
			what    string
			session api.Session
		}
		events := make(chan event, 1000)
		acquired := func(c api.Caller, _ []api.Want, _ api.AcquireOptions, _ func([]api.Grant, error)) bool {
			events <- event{"acquire", c.Session}
			return false
		}
		gone := func(s api.Session) { events <- event{"gone", s} }
		r.api.acquire.Store(&acquired)
		r.api.gone.Store(&gone)
		victim := r.dial(testbus.Root)
		name := r.server.bus.session(victim.conn.Names()[0])
		for range 20 {
			victim.obj.Go(Name+".Acquire", 0, nil, "vms", "held", "EX", opt("wait-usec", uint64(20e6)))
		}
		require.Equal(t, event{"acquire", name}, receive(t, events))
		require.NoError(t, victim.conn.Close())
		for {
			if e := receive(t, events); e.session == name && e.what == "gone" {
				break
			}
		}
		require.Empty(t, events)
		root.ok("Release", "vms", "held", opt())
		require.Eventually(t, func() bool { return len(root.list(opt())) == 0 }, patience, 5*time.Millisecond)
		r.server.mu.Lock()
		require.NotContains(t, r.server.sessions, name)
		r.server.mu.Unlock()
	})
}

// kill -9 of a process with a call under way.
func TestKilledCaller(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root := r.dial(testbus.Root)
		root.acquire("held", opt())
		waiting := make(chan api.Session, 1)
		hook := func(c api.Caller, _ []api.Want, _ api.AcquireOptions, _ func([]api.Grant, error)) bool {
			waiting <- c.Session
			return false
		}
		r.api.acquire.Store(&hook)
		cmd := b.Command(t, testbus.Root, "busctl", "--address="+b.Address, "call", Name, string(Path), Name, "Acquire",
			"sssa{sv}", "vms", "held", "PR", "1", "wait-usec", "t", "20000000")
		require.NoError(t, cmd.Start())
		receive(t, waiting)
		require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
		_ = cmd.Wait()
		require.Eventually(t, func() bool { return len(root.list(opt("state", "acquiring"))) == 0 }, patience,
			5*time.Millisecond)
	})
}
