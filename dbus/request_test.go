package dbus

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// outcome is the body of Completed, with the Request that it is of.
type outcome struct {
	request   godbus.ObjectPath
	State     string
	Lock      godbus.ObjectPath
	LockID    uint32
	Token     uint64
	ErrorName string
	ErrorText string
}

// completions are the Completed signals of this connection. They need no match,
// because they are sent to it alone.
func (c *client) completions(room int) <-chan outcome {
	signals, out := make(chan *godbus.Signal, room), make(chan outcome, room)
	c.conn.Signal(signals)
	go func() {
		defer close(out)
		for s := range signals {
			if s.Name != requestIfaceName+".Completed" {
				continue
			}
			o := outcome{request: s.Path}
			if godbus.Store(s.Body, &o.State, &o.Lock, &o.LockID, &o.Token, &o.ErrorName, &o.ErrorText) == nil {
				out <- o
			}
		}
	}()
	return out
}

// request queues for vms/resource in EX.
func (c *client) request(resource string, o options) (path godbus.ObjectPath) {
	c.t.Helper()
	require.NoError(c.t, c.ok("Request", "vms", resource, "EX", o).Store(&path))
	return path
}

// at is another object of the service, for the same caller.
func (c *client) at(path godbus.ObjectPath) *client {
	return &client{c.t, c.conn, c.conn.Object(Name, path)}
}

// all are the properties of an object's own interface.
func (c *client) all(iface string) (props options) {
	c.t.Helper()
	require.NoError(c.t, c.ok(ifaceProperties+".GetAll", iface).Store(&props))
	return props
}

// A Request waits without blocking, is granted in its turn, and tells the
// requester alone; it can be read before and after.
func TestRequest(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root, bob, eve := r.dial(testbus.Root), r.dial(member), r.dial(stranger)
		done, overheard := bob.completions(10), root.completions(10)
		_, held := root.acquire("r", opt())

		first := bob.request("r", opt("owner", "vm1", "label", "disk"))
		second := bob.request("r", opt())
		props := eve.at(first).all(requestIfaceName)
		require.Equal(t, "waiting", props["State"].Value())
		require.Equal(t, "vm1", props["Owner"].Value())
		require.Equal(t, "disk", props["Label"].Value())
		require.Equal(t, godbus.ObjectPath("/"), props["Lock"].Value())
		require.Equal(t, uint32(1), props["Position"].Value())
		require.Equal(t, uint32(2), eve.at(second).all(requestIfaceName)["Position"].Value())
		require.InDelta(t, time.Now().UnixMicro(), props["Since"].Value(), 20e6)

		root.at(held).ok(lockIfaceName+".Release", opt())
		o := receive(t, done)
		require.Equal(t, outcome{request: first, State: "granted", Lock: o.Lock, LockID: o.LockID, Token: o.Token}, o)
		require.NotZero(t, o.LockID)
		require.NotZero(t, o.Token)
		after := eve.at(first).all(requestIfaceName)
		require.Equal(t, []any{"granted", o.Lock, o.LockID, o.Token, uint32(0)},
			[]any{after["State"].Value(), after["Lock"].Value(), after["LockID"].Value(), after["Token"].Value(),
				after["Position"].Value()})
		rows := bob.list(opt("state", "held"))
		require.Len(t, rows, 1)
		require.Equal(t, "vm1", rows[0].Owner)
		require.Equal(t, o.Lock, rows[0].Lock)

		// Whose it is may cancel it, and root.
		require.Equal(t, errAccessDenied, eve.at(second).call(requestIfaceName+".Cancel").Err.(godbus.Error).Name)
		bob.at(second).ok(requestIfaceName + ".Cancel")
		o = receive(t, done)
		require.Equal(t, []any{second, "canceled", ErrorPrefix + "Canceled"}, []any{o.request, o.State, o.ErrorName})
		require.Equal(t, ErrorPrefix+"NotHeld", bob.at(second).call(requestIfaceName+".Cancel").Err.(godbus.Error).Name)
		third := bob.request("r", opt())
		root.at(third).ok(requestIfaceName + ".Cancel")
		require.Equal(t, third, receive(t, done).request)

		// At once, if nothing is in the way; refused at once if it can't be.
		free := bob.request("free", opt())
		require.Equal(t, free, receive(t, done).request)
		bob.refused(ErrorPrefix+"NoSuchLockspace", "Request", "other", "r", "EX", opt())
		bob.refused(errInvalidArgs, "Request", "vms", "r", "EX", opt("wait-usec", uint64(1)))
		bob.refused(errInvalidArgs, "Request", "vms", "r", "EX", opt("pid", uint32(1)))
		eve.refused(errAccessDenied, "Request", "vms", "r", "EX", opt())
		require.Empty(t, overheard)
	})
}

// The answer of Request comes before Completed, also where the lock is free.
func TestCompletedAfterAnswer(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		events := make(chan string, 1000)
		watch := b.DialAs(t, testbus.Root, godbus.WithIncomingInterceptor(func(m *godbus.Message) {
			if member, _ := m.Headers[godbus.FieldMember].Value().(string); member == "Completed" {
				events <- fmt.Sprint("completed ", m.Headers[godbus.FieldPath].Value())
			} else if p, ok := first(m.Body).(godbus.ObjectPath); ok && m.Type == godbus.TypeMethodReply {
				events <- fmt.Sprint("answer ", p)
			}
		}))
		c := &client{t, watch, watch.Object(Name, Path)}
		for i := range 100 {
			path := c.request(fmt.Sprint(i), opt())
			require.Equal(t, fmt.Sprint("answer ", path), receive(t, events))
			require.Equal(t, fmt.Sprint("completed ", path), receive(t, events))
		}
		require.Len(t, r.core.Requests().List(1000), 100)
	})
}

func first(body []any) any {
	if len(body) == 0 {
		return nil
	}
	return body[0]
}

// Who leaves the bus takes its Requests with it, and their objects; a lock that
// was granted stays, as its lifetime says.
func TestRequesterGone(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root, bob := r.dial(testbus.Root), r.dial(member)
		_, held := root.acquire("r", opt())
		waiting := bob.request("r", opt())
		granted := bob.request("free", opt())
		bound := bob.request("bound", opt("lifetime", "connection"))
		for _, p := range []godbus.ObjectPath{waiting, granted, bound} {
			root.at(p).all(requestIfaceName)
		}
		// Who goes before the grant takes that with it, too.
		require.Eventually(t, func() bool { return len(root.list(opt("state", "held"))) == 3 }, patience,
			5*time.Millisecond)
		require.NoError(t, bob.conn.Close())
		require.Eventually(t, func() bool { return len(root.list(opt())) == 2 && r.core.Requests().Count() == 0 },
			patience, 5*time.Millisecond)
		for _, p := range []godbus.ObjectPath{waiting, granted, bound} {
			require.Equal(t, errUnknownObject,
				root.at(p).call(ifaceProperties+".GetAll", requestIfaceName).Err.(godbus.Error).Name)
		}
		root.at(held).ok(lockIfaceName+".Release", opt())
		rows := root.list(opt())
		require.Len(t, rows, 1)
		require.Equal(t, "free", rows[0].Resource)
	})
}

// A service that is stopped in order withdraws the Requests and says so.
func TestRequestShutdown(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		c := r.dial(testbus.Root)
		done := c.completions(10)
		c.acquire("r", opt())
		for range 3 {
			c.request("r", opt())
		}
		require.NoError(t, r.server.Shutdown(t.Context()))
		for range 3 {
			o := receive(t, done)
			require.Equal(t, []any{"failed", ErrorPrefix + "ShuttingDown"}, []any{o.State, o.ErrorName})
		}
		held := make(chan []api.LockInfo, 1)
		r.service.List(api.Filter{}, func(page api.Page, _ error) { held <- page.Locks })
		require.Len(t, receive(t, held), 1)
		// A Request is answered when it is withdrawn; the lock manager ends it a
		// moment later.
		require.Eventually(t, func() bool { return r.service.Status().Waiting == 0 }, patience, time.Millisecond)
	})
}

// Ten thousand Requests wait for one resource: no goroutine each, little
// memory, and they are granted in the order of the calls.
func TestManyRequests(t *testing.T) {
	const n = manyRequests
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		c := r.dial(testbus.Root)
		done := c.completions(n)
		_, lock := c.acquire("r", opt())
		goroutines, threads, heap := runtime.NumGoroutine(), osThreads(t), heapInUse()
		began := time.Now()
		paths := c.pipeline(n, func(i int, ch chan *godbus.Call) *godbus.Call {
			return c.obj.Go(Name+".Request", 0, ch, "vms", "r", "EX", opt("owner", fmt.Sprint("vm", i)))
		})
		queued := time.Since(began)
		require.Eventually(t, func() bool { return r.service.Status().Waiting == n }, patience, time.Millisecond)
		// The client's library has one for each call, which end in their time.
		require.Eventually(t, func() bool { return runtime.NumGoroutine() < goroutines+20 }, patience, time.Millisecond)
		require.Less(t, osThreads(t), threads+20)
		each := (heapInUse() - heap) / n
		require.Less(t, each, 8<<10, "bytes of a Request that waits")

		began = time.Now()
		for i := range n {
			c.at(lock).ok(lockIfaceName+".Release", opt())
			o := receive(t, done)
			require.Equal(t, paths[i], o.request, "number %d", i)
			require.Equal(t, "granted", o.State)
			lock = o.Lock
		}
		t.Logf("%d requests queued in %v, %d bytes each; granted one after the other in %v", n,
			queued.Round(time.Millisecond), each, time.Since(began).Round(time.Millisecond))
		require.Equal(t, frontend.MaxEnded, r.core.Requests().Count())
	})
}

// pipeline makes n calls that answer with a path, some at a time, in order.
func (c *client) pipeline(n int, ask func(i int, ch chan *godbus.Call) *godbus.Call) []godbus.ObjectPath {
	const ahead = 100
	paths, flying := make([]godbus.ObjectPath, 0, n), []*godbus.Call{}
	for i := 0; len(paths) < n; {
		for ; i < n && len(flying) < ahead; i++ {
			flying = append(flying, ask(i, make(chan *godbus.Call, 1)))
		}
		call := receive(c.t, flying[0].Done)
		var p godbus.ObjectPath
		require.NoError(c.t, call.Store(&p))
		paths, flying = append(paths, p), flying[1:]
	}
	return paths
}

// osThreads is how many threads this process has.
func osThreads(t *testing.T) int {
	tasks, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	return len(tasks)
}

func heapInUse() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// Of ten thousand locks that are lost at once, each is told to its holder and to
// root.
func TestManyLost(t *testing.T) {
	const n = 10_000
	b := testbus.Start(t, testbus.Daemon)
	r := newRig(t, b, rigConfig{})
	root, holder := r.dial(testbus.Root), r.dial(member)
	heard := map[string]<-chan *godbus.Signal{"LockLost": root.listen(), "Lost": holder.listen()}
	many := make([]wantRow, 1000)
	for at := 0; at < n; at += len(many) {
		for i := range many {
			many[i] = wantRow{"vms", fmt.Sprint(at + i), "EX"}
		}
		holder.ok("AcquireMany", many, opt())
	}
	root.ok("LeaveLockspace", "vms", opt("force", true))
	for member, signals := range heard {
		for range n {
			await(t, signals, member)
		}
	}
	require.NotContains(t, r.logs.String(), "signal dropped")
}

// Ten thousand that wait are canceled at once when the lockspace is left, and
// each is told: none is dropped.
func TestManyFail(t *testing.T) {
	const n = manyRequests
	b := testbus.Start(t, testbus.Broker)
	r := newRig(t, b, rigConfig{})
	c := r.dial(testbus.Root)
	done := c.completions(n)
	c.acquire("r", opt())
	c.pipeline(n, func(_ int, ch chan *godbus.Call) *godbus.Call {
		return c.obj.Go(Name+".Request", 0, ch, "vms", "r", "PR", opt())
	})
	c.ok("LeaveLockspace", "vms", opt("force", true))
	for range n {
		o := receive(t, done)
		require.Equal(t, "failed", o.State)
		require.True(t, strings.HasPrefix(o.ErrorName, ErrorPrefix), o.ErrorName)
	}
	require.NotContains(t, r.logs.String(), "signal dropped")
}
