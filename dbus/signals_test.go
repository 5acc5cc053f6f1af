package dbus

import (
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// listen subscribes to all signals of the service.
func (c *client) listen() <-chan *godbus.Signal {
	c.t.Helper()
	ch := make(chan *godbus.Signal, 1000)
	c.conn.Signal(ch)
	require.NoError(c.t, c.conn.AddMatchSignal(godbus.WithMatchSender(Name)))
	return ch
}

// await takes signals until one of that name comes.
func await(t *testing.T, ch <-chan *godbus.Signal, member string) *godbus.Signal {
	t.Helper()
	for {
		if s := receive(t, ch); strings.HasSuffix(s.Name, "."+member) {
			return s
		}
	}
}

// drain takes what has come: a call's answer comes after the signals before it.
func (c *client) drain(ch <-chan *godbus.Signal) (names []string) {
	c.ok(ifacePeer + ".Ping")
	time.Sleep(10 * time.Millisecond) // from the library's reader to the channel
	for {
		select {
		case s := <-ch:
			if strings.HasPrefix(s.Name, "org.example.") || strings.HasSuffix(s.Name, "PropertiesChanged") {
				names = append(names, s.Name)
			}
		default:
			return names
		}
	}
}

// Signals go to root; Blocking to the holder alone, whoever that is; others
// read the properties' changes and nothing else.
func TestSignals(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root, holder, nobody := r.dial(testbus.Root), r.dial(member), r.dial(testbus.Nobody)
		rootCh, holderCh, nobodyCh := root.listen(), holder.listen(), nobody.listen()
		_, lock := holder.acquire("r", opt("owner", "secret", "label", "secret"))
		done := make(chan *godbus.Call, 1)
		root.obj.Go(Name+".Acquire", 0, done, "vms", "r", "PR", opt("wait-usec", uint64(20e6)))
		s := await(t, holderCh, "Blocking")
		require.Equal(t, []any{lock, "r", "PR", uint32(1)}, s.Body)
		require.Equal(t, Path, s.Path)
		holder.ok("Release", "vms", "r", opt())
		require.NoError(t, receive(t, done).Err)
		root.ok("Release", "vms", "r", opt())

		root.ok("JoinLockspace", "more", opt())
		s = await(t, rootCh, "LockspaceChanged")
		for s.Body[0] != "more" || s.Body[1] != "ready" {
			s = await(t, rootCh, "LockspaceChanged")
		}
		_, lost := holder.acquire("kept", opt("owner", "secret"))
		root.ok("LeaveLockspace", "vms", opt("force", true))
		s = await(t, rootCh, "LockLost")
		require.Equal(t, []any{lost, "vms", "kept", "EX"}, s.Body[:4])
		own := await(t, holderCh, "Lost")
		require.Equal(t, lost, own.Path, "the holder is told, although the policy hides LockLost from it")
		require.Equal(t, append([]any{"vms", "kept", "EX"}, s.Body[4]), own.Body)
		for _, v := range s.Body {
			require.NotContains(t, v, "secret")
		}
		for s.Name != Name+".LockspaceChanged" || s.Body[1] != "left" {
			s = receive(t, rootCh)
		}
		root.ok("JoinLockspace", "again", opt()) // one more than before, and it stays
		changed := await(t, nobodyCh, "PropertiesChanged")
		require.Equal(t, Name, changed.Body[0])
		require.Empty(t, changed.Body[2])

		// nobody: nothing of our interface, whatever it subscribed to.
		for _, n := range append(nobody.drain(nobodyCh), changed.Name) {
			require.Equal(t, ifaceProperties+".PropertiesChanged", n)
		}
		for _, n := range root.drain(rootCh) {
			require.NotEqual(t, Name+".Blocking", n)
		}
	})
}

// Quorate is true where it is known, and QuorumState tells what else there is;
// a change is told of both.
func TestQuorumOnTheBus(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		eve := r.dial(testbus.Nobody)
		ch := eve.listen()
		st := r.service.Status()
		var now atomic.Pointer[api.Status]
		now.Store(&st)
		hook := func() api.Status { return *now.Load() }
		r.api.status.Store(&hook)
		for _, c := range []struct {
			quorum  api.Quorum
			quorate bool
			state   string
		}{
			// Differs from what was told before, whether that was known or not.
			{api.Inquorate, false, "inquorate"},
			{api.QuorumUnknown, false, "unknown"}, {api.Quorate, true, "quorate"},
			{api.QuorumUnknown, false, "unknown"}, {api.Inquorate, false, "inquorate"},
		} {
			next := st
			next.Quorum = c.quorum
			now.Store(&next)
			r.core.Notify(api.StatusChanged{Status: next})
			for {
				if state, ok := await(t, ch, "PropertiesChanged").Body[1].(options)["QuorumState"]; ok &&
					state.Value() == c.state {
					break
				}
			}
			all := eve.all(Name)
			require.Equal(t, []any{c.quorate, c.state}, []any{all["Quorate"].Value(), all["QuorumState"].Value()})
		}
	})
}

// Several changes come in one PropertiesChanged, with their new values.
func TestPropertiesChanged(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		ch := r.dial(testbus.Nobody).listen()
		st := r.service.Status()
		st.Quorum, st.Locks, st.Degraded, st.Node.ID = api.Inquorate, 42, "full", 9
		hook := func() api.Status { return st }
		r.api.status.Store(&hook)
		r.core.Notify(api.StatusChanged{Status: st})
		r.core.Notify(api.StatusChanged{Status: st})
		for {
			changed := await(t, ch, "PropertiesChanged").Body[1].(options)
			if changed["Degraded"].Value() == "full" {
				require.Equal(t, uint32(42), changed["LockCount"].Value())
				require.Equal(t, "inquorate", changed["QuorumState"].Value())
				require.Equal(t, uint32(9), changed["NodeID"].Value())
				require.NotContains(t, changed, "Version")
				require.NotContains(t, changed, "LocksGranted")
				break
			}
		}
		// What nobody says is seen all the same.
		more := st
		more.Locks = 43
		again := func() api.Status { return more }
		r.api.status.Store(&again)
		require.Equal(t, options{"LockCount": godbus.MakeVariant(uint32(43))},
			await(t, ch, "PropertiesChanged").Body[1])
	})
}

// An answer and a signal that was said after it keep their order.
func TestSignalAfterAnswer(t *testing.T) {
	b := testbus.Start(t, testbus.Daemon)
	r := newRig(t, b, rigConfig{})
	var order []string
	events := make(chan string, 4)
	watch := b.DialAs(t, testbus.Root, godbus.WithIncomingInterceptor(func(m *godbus.Message) {
		if member, _ := m.Headers[godbus.FieldMember].Value().(string); member == "LockLost" ||
			m.Type == godbus.TypeMethodReply && len(m.Body) == 3 {
			events <- m.Type.String()
		}
	}))
	require.NoError(t, watch.AddMatchSignal(godbus.WithMatchSender(Name)))
	hook := func(_ api.Caller, _ []api.Want, _ api.AcquireOptions, done func([]api.Grant, error)) bool {
		go func() {
			r.core.Notify(api.LockLost{Lost: api.Lost{LockInfo: api.LockInfo{Mode: dlm.EX}}})
			done([]api.Grant{{Ref: 1}}, nil)
			r.core.Notify(api.LockLost{Lost: api.Lost{LockInfo: api.LockInfo{Mode: dlm.EX}}})
		}()
		return true
	}
	r.api.acquire.Store(&hook)
	require.NoError(t, watch.Object(Name, Path).Call(Name+".Acquire", 0, "vms", "r", "EX", opt()).Err)
	for range 3 {
		order = append(order, receive(t, events))
	}
	require.Equal(t, []string{"signal", "reply", "signal"}, order)
}

// A bus that takes nothing makes signals be dropped, with a log line, and
// blocks nobody.
func TestSignalsBounded(t *testing.T) {
	o := newSendQueue(nil, nil)
	for _, k := range []class{broadcast, toSubscriber} {
		for range maxSignals[k] {
			require.True(t, o.post(message{class: k}))
		}
		require.False(t, o.post(message{class: k}))
	}
	require.True(t, o.post(message{class: mustSend}))
	require.True(t, o.post(message{call: new(call)}))
}

// busctl reads and calls it all: what people type works.
func TestBusctl(t *testing.T) {
	if _, err := exec.LookPath("busctl"); err != nil {
		t.Fatal("busctl is missing: apt-get install systemd")
	}
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		newRig(t, b, rigConfig{})
		run := func(u testbus.User, want string, args ...string) {
			out, err := b.Command(t, u, "busctl",
				append([]string{"--address=" + b.Address}, args...)...).CombinedOutput()
			require.NoError(t, err, string(out))
			require.Contains(t, string(out), want, args)
		}
		path := string(Path)
		run(testbus.Nobody, ".Acquire", "introspect", Name, path)
		run(testbus.Nobody, ".LockCount", "introspect", Name, path)
		run(testbus.Nobody, path, "tree", Name)
		run(testbus.Nobody, `s "1.2.3"`, "get-property", Name, path, Name, "Version")
		run(testbus.Nobody, "(tta(tt)) 0 0 17 100 0 250 0 ", "get-property", Name, path, Name, "GrantLatency")
		run(testbus.Root, LockPrefix, "call", Name, path, Name, "Acquire", "sssa{sv}", "vms", "disk1", "EX", "1",
			"owner", "s", "vm1")
		run(testbus.Nobody, `"disk1"`, "call", Name, path, Name, "ListLocks", "a{sv}", "0")
		run(testbus.Root, "", "call", Name, path, Name, "Release", "ssa{sv}", "vms", "disk1", "1", "owner", "s", "vm1")
		out, err := b.Command(t, testbus.Nobody, "busctl", "--address="+b.Address, "set-property", Name, path, Name,
			"Version", "s", "2").CombinedOutput()
		require.Error(t, err, string(out))
	})
}
