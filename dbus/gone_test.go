package dbus

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// starting is as much of a service as Start asks for.
type starting struct {
	api.Service
	names func() []string // those of connections that locks hang on
	space api.Session     // of the bus

	mu   sync.Mutex
	gone []string
}

func (s *starting) Status() api.Status                               { return api.Status{Ready: true} }
func (s *starting) Lockspaces(done func([]api.LockspaceInfo, error)) { done(nil, nil) }

// Sessions also has one of another front end, and one of another bus.
func (s *starting) Sessions(done func([]api.Session)) {
	go func() {
		sessions := []api.Session{api.MakeSession("varlink", "x", "1"), api.MakeSession("dbus", "another", ":1.1")}
		for _, name := range s.names() {
			sessions = append(sessions, s.space+api.Session(name))
		}
		done(sessions)
	}()
}

func (s *starting) SessionGone(gone api.Session) {
	name, ok := gone.In(s.space)
	if !ok {
		name = string(gone)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = append(s.gone, name)
}

// told lists the names that were given to SessionGone.
func (s *starting) told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.gone)
}

// denying is a bus that answers root no call of that member.
func denying(t *testing.T, member string) *testbus.Bus {
	return testbus.StartWith(t, testbus.Daemon, map[string]string{"deny.conf": fmt.Sprintf(
		`<busconfig><policy context="mandatory"><deny send_destination="org.freedesktop.DBus" `+
			`send_interface="org.freedesktop.DBus" send_member=%q/></policy></busconfig>`, member)})
}

// begin starts a front end over s.
func begin(t *testing.T, b *testbus.Bus, s *starting) error {
	conn, err := Connect(t.Context(), b.Address)
	require.NoError(t, err)
	s.space = conn.Sessions()
	core := frontend.New(frontend.Config{})
	core.Start(s)
	server := New(Config{Core: core, Bus: conn})
	t.Cleanup(func() {
		require.NoError(t, server.Shutdown(context.Background()))
		core.Close()
	})
	return server.Start(t.Context())
}

// A connection that a lock hangs on is gone if the bus says so, and not because
// the bus does not answer.
func TestNoAnswerIsNotGone(t *testing.T) {
	s := &starting{names: func() []string { return []string{":1.999999"} }}
	require.Error(t, begin(t, denying(t, "ListNames"), s))
	require.Empty(t, s.told())
	require.NoError(t, begin(t, testbus.Start(t, testbus.Daemon), s))
	require.Equal(t, []string{":1.999999"}, s.told())
}

// A connection that comes, and takes a lock, while the service is asked what locks
// hang on, is not taken for one that has gone.
func TestAskedInOrder(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		other := b.Dial(t)
		s := &starting{names: func() []string {
			for range 50 { // time for a question that was put too early
				var there []string
				_ = other.BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&there)
			}
			return []string{b.Dial(t).Names()[0]}
		}}
		require.NoError(t, begin(t, b, s))
		require.Empty(t, s.told())
	})
}

// A bus that does not tell our own pid may count otherwise than we do: then nobody
// has a pid here.
func TestBusThatTellsNoPid(t *testing.T) {
	conn, err := Connect(t.Context(), denying(t, "GetConnectionUnixProcessID").Address)
	require.NoError(t, err)
	require.Contains(t, conn.alien, "did not give the pid")
	require.NoError(t, conn.Close())
	conn, err = Connect(t.Context(), testbus.Start(t, testbus.Broker).Address)
	require.NoError(t, err)
	require.Empty(t, conn.alien)
	require.NoError(t, conn.Close())
}
