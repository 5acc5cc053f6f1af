package dbus

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// taken is in which order the messages of a send queue leave it, where each is so
// long that those of user 1 are written alone.
func taken(o *sendQueue, size map[uint32]int) (order []string) {
	for {
		batch, _ := o.take(nil)
		if len(batch) == 0 {
			return order
		}
		for i := range batch {
			order = append(order, batch[i].member)
			o.owe(batch[i].user, size[batch[i].user])
		}
	}
}

// The users of the send queue take turns, message by message where they are short, and
// a user with long messages waits until the others had as much. Each keeps its
// order.
func TestSendQueueTurns(t *testing.T) {
	o := newSendQueue(nil, nil)
	post := func(uid uint32, n int, fill func(*encoder)) {
		for i := range n {
			require.True(t, o.post(message{user: uid, member: fmt.Sprintf("%d:%d", uid, i), fill: fill}))
		}
	}
	post(1, 3, nil)
	post(2, 1, nil)
	post(3, 2, nil)
	require.Equal(t, []string{"1:0", "2:0", "3:0", "1:1", "3:1", "1:2"}, taken(o, nil))
	require.Empty(t, o.users)

	long := func(*encoder) {}
	post(1, 100, long)
	post(2, 20, nil)
	order := taken(o, map[uint32]int{1: 64 << 10, 2: 4 << 10})
	require.Len(t, order, 120)
	// Before the third long message the other user had about as many bytes.
	third := 0
	for i, m := range order {
		if m == "1:2" {
			third = i
		}
	}
	require.GreaterOrEqual(t, third, 18)
	require.Equal(t, "1:99", order[len(order)-1])
}

// A page has as many rows as fit into its bytes, and the pages have every lock.
func TestPagesAreBoundedByBytes(t *testing.T) {
	limits := api.DefaultLimits()
	limits.PageSize = 100_000
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{limits: limits})
		root := r.dial(testbus.Root)
		many := make([]wantRow, 1000)
		for i := range many {
			many[i] = wantRow{"vms", fmt.Sprint(i), "EX"}
		}
		label := make([]byte, 1000)
		for i := range label {
			label[i] = 'x'
		}
		root.ok("AcquireMany", many, opt())
		for i := range many {
			many[i].Resource += "+"
		}
		root.ok("AcquireMany", many, opt("label", string(label)))
		for _, c := range []*client{root, r.dial(testbus.Nobody)} {
			seen := map[godbus.ObjectPath]bool{}
			filter := opt("limit", uint32(frontend.MaxPage))
			for {
				before := r.server.bus.wire.wrote.Load()
				rows := c.list(filter)
				require.Less(t, r.server.bus.wire.wrote.Load()-before, uint64(frontend.LongAnswer+4096))
				require.LessOrEqual(t, len(rows), frontend.MaxRows)
				if len(rows) == 0 {
					break
				}
				for _, row := range rows {
					require.False(t, seen[row.Lock])
					seen[row.Lock] = true
				}
				filter["after"] = godbus.MakeVariant(rows[len(rows)-1].Lock)
			}
			require.Len(t, seen, 2*len(many))
		}
	})
}

// clock is a clock that the test sets.
type clock struct{ passed atomic.Int64 }

func (c *clock) now() time.Time       { return time.Unix(1e9, c.passed.Load()) }
func (c *clock) pass(d time.Duration) { c.passed.Add(int64(d)) }

// overspend has a user spend more than can be saved up, by a long message.
func (c *client) overspend() {
	c.t.Helper()
	c.refused(errInvalidArgs, "Acquire", "vms", "r", "EX", opt("label", strings.Repeat("x", 1<<20)))
}

// Who has spent their credit waits; nobody else does, and nothing is lost.
func TestOverspentWaits(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		var now clock
		r := newRig(t, b, rigConfig{now: now.now})
		root, greedy, same := r.dial(testbus.Root), r.dial(member), r.dial(member)
		same.ok("ListLocks", opt())
		greedy.overspend()
		done := make(chan *godbus.Call, 10)
		greedy.obj.Go(full("ListLocks"), 0, done, opt())
		same.obj.Go(full(ifaceIntrospectable+".Introspect"), 0, done)
		greedy.obj.Go(full(ifaceManager+".GetManagedObjects"), 0, done)
		require.Eventually(t, func() bool {
			return r.core.Usage(member.UID).Waiting == 2 // the third is behind the first in its queue
		}, patience, time.Millisecond)
		_, lock := root.acquire("r", opt())
		root.at(lock).ok(lockIfaceName+".Release", opt())
		r.dial(stranger).ok("ListLocks", opt())
		require.Empty(t, done)
		now.pass(time.Minute)
		root.ok("ListLocks", opt()) // whose end has the scheduler look again
		for range 3 {
			require.NoError(t, receive(t, done).Err)
		}
		require.Eventually(t, func() bool {
			u := r.core.Usage(member.UID)
			return u.Waiting == 0 && u.Room == 0 && u.Unanswered == 0
		}, patience, time.Millisecond)
	})
}

// Nobody who has overspent holds up the end of the service, and they are
// answered too.
func TestOverspentHoldsUpNoEnd(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		var now clock
		r := newRig(t, b, rigConfig{now: now.now})
		c := r.dial(member)
		c.overspend()
		done := make(chan *godbus.Call, 2)
		for range cap(done) {
			c.obj.Go(full("ListLocks"), 0, done, opt())
		}
		c.ok(ifacePeer + ".Ping") // they have come
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		require.NoError(t, r.server.Shutdown(ctx))
		for range cap(done) {
			require.NoError(t, receive(t, done).Err)
		}
	})
}

// A call that is longer than is read whole is answered, whatever it is for, and
// the connection goes on; a message that is no call is read past. Its sender
// pays for it.
func TestLongMessages(t *testing.T) {
	b := testbus.Start(t, testbus.Daemon) // dbus-broker takes less from one user than MaxCall
	var now clock
	r := newRig(t, b, rigConfig{now: now.now})
	root, c := r.dial(testbus.Root), r.dial(member)
	long := strings.Repeat("x", MaxCall)
	text := c.refused(errLimits, "Acquire", "vms", "r", "EX", opt("label", long))
	require.Contains(t, text, fmt.Sprint(MaxCall))
	require.Negative(t, r.core.Usage(member.UID).Credit)
	now.pass(time.Hour)
	c.refused(errLimits, "NoSuchMethod", long)

	// One that does not fit beside another is not refused before its turn.
	done := make(chan *godbus.Call, 2)
	for range 2 {
		c.obj.Go(Name+".Acquire", 0, done, "vms", "r", "EX", opt("label", long[:MaxCall/2]))
	}
	c.ok(ifacePeer + ".Ping") // both have come
	require.Empty(t, done)
	now.pass(time.Hour)
	root.ok("ListLocks", opt()) // whose end has the scheduler look again
	receive(t, done)
	now.pass(time.Hour)
	root.ok("ListLocks", opt())
	require.Equal(t, errLimits, receive(t, done).Err.(godbus.Error).Name)
	r.core.Usage(0) // it takes a lock that was taken after the reader's last write
	require.LessOrEqual(t, cap(r.server.bus.wire.buf), maxHeader)

	before := r.server.bus.wire.unread.Load()
	require.NoError(t, c.conn.Emit(Path, "org.example.Other.Signal", "to nobody"))
	msg := &godbus.Message{Type: godbus.TypeSignal, Body: []any{long}, Headers: map[godbus.HeaderField]godbus.Variant{
		godbus.FieldDestination: godbus.MakeVariant(r.server.bus.conn.Names()[0]), godbus.FieldPath: godbus.MakeVariant(Path),
		godbus.FieldInterface: godbus.MakeVariant("org.example.Other"), godbus.FieldMember: godbus.MakeVariant("Signal"),
		godbus.FieldSignature: godbus.MakeVariant(godbus.SignatureOf(long))}}
	c.conn.Send(msg, nil)
	require.Eventually(t, func() bool { return r.server.bus.wire.unread.Load() == before+1 }, patience, time.Millisecond)
	root.ok("ListLocks", opt())
}

// Locks are paid for: by who takes many, and by who releases many.
func TestLocksArePaidFor(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		const n, lockCost = 1000, 1 << 10
		var now clock // no credit grows
		r := newRig(t, b, rigConfig{now: now.now})
		c := r.dial(member)
		c.ok("ListLocks", opt())
		many := make([]wantRow, n)
		for i := range many {
			many[i] = wantRow{"vms", fmt.Sprint(i), "EX"}
		}
		credit := func() int64 { return r.core.Usage(member.UID).Credit }
		before := credit()
		c.ok("AcquireMany", many, opt("owner", "o"))
		require.GreaterOrEqual(t, before-credit(), int64((n-1)*lockCost))
		before = credit()
		c.ok("ReleaseOwner", "", "o")
		require.GreaterOrEqual(t, before-credit(), int64(n*lockCost))
	})
}

// What a client is told of a Request or lock comes after the answer that tells it
// of that, also where its user has had long answers and their turn is passed over.
// What is for everybody waits for no user.
func TestSignalsComeAfterTheirAnswers(t *testing.T) {
	s, p := testServer(t, ":1.7")
	s.bus = &Bus{guid: "test"}
	answer := func(member string, fill func(*encoder)) {
		s.out.post(message{call: &call{srv: s, from: p}, member: member, fill: fill})
	}
	answer("long", func(*encoder) {})
	answer("answer", nil)
	first, _ := s.out.take(nil)
	require.Len(t, first, 1)
	s.out.owe(member.UID, 1<<20) // of the long one

	s.completed(p)(frontend.RequestInfo{UID: member.UID})
	held := api.LockInfo{Session: s.bus.session(p.name)}
	s.blocking(api.BlockingNotice{LockInfo: held})
	s.lost(api.LockLost{Lost: api.Lost{LockInfo: held}})
	require.Equal(t, []string{"LockLost", "answer", "Completed", "Blocking", "Lost"}, taken(s.out, nil))
}

// A long message costs more than its bytes.
func TestBusCost(t *testing.T) {
	require.EqualValues(t, 100, busCost(100))
	require.EqualValues(t, frontend.LongAnswer, busCost(frontend.LongAnswer))
	require.EqualValues(t, 16*frontend.LongAnswer, busCost(4*frontend.LongAnswer))
}
