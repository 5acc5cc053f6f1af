package varlink

import (
	"bufio"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// directCalls are calls that the door answers without the service.
var directCalls = []struct{ method, parameters string }{
	{"org.varlink.service.GetInfo", ""},
	{"org.varlink.service.GetInterfaceDescription", `{"interface":"org.example.DlmLock"}`},
	{"org.varlink.service.GetInterfaceDescription", `{"interface":"a.b"}`},
	{"org.varlink.service.GetInterfaceDescription", `{"bogus":1}`},
	{"io.systemd.service.Ping", ""},
	{"io.systemd.service.GetLogLevel", ""},
	{"io.systemd.service.SetLogLevel", `{"level":7}`},
	{"io.systemd.service.GetEnvironment", ""},
	{"io.systemd.service.Reload", ""},
	{"Frobnicate", ""},
	{"a.b.C", ""},
	{"ListLocks", ""}, // without "more"
}

// spender is a client that knows what its user has left.
type spender struct {
	*client
	rig  *rig
	uid  uint32
	left int64
	each int64 // for a call beside its answer
}

// call calls, and checks that the user pays.
func (s *spender) call(method, parameters string) {
	s.t.Helper()
	calls := s.rig.core.Calls()
	s.send(method, parameters, "")
	require.NoError(s.t, s.SetReadDeadline(time.Now().Add(patience)))
	text, err := s.r.ReadBytes(0)
	require.NoError(s.t, err)
	require.Equal(s.t, calls+1, s.rig.core.Calls(), method)
	s.left -= s.each + int64(len(text))
	paid := func() bool { return s.rig.core.Usage(s.uid).Credit == s.left }
	require.Eventually(s.t, paid, patience, 50*time.Microsecond, method)
}

// Calls that the door answers without the service count as calls, and their answers
// cost what they are long.
func TestDirectCallsCost(t *testing.T) {
	frozen := time.Now()
	r := newRig(t, rigConfig{now: func() time.Time { return frozen }})
	c := &spender{client: r.dial(), rig: r, left: 32 << 20}
	for _, x := range directCalls {
		c.call(x.method, x.parameters)
	}
}

// dialNobody connects as a user without rights.
func (r *rig) dialNobody() *client {
	r.t.Helper()
	for dir := filepath.Dir(r.path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		require.NoError(r.t, os.Chmod(dir, 0o755))
	}
	conn, err := testbus.Nobody.Connect(r.path)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close() })
	return &client{conn, r.t, bufio.NewReader(conn)}
}

// A user who has spent their credit waits for their turn with these calls, too. A
// client that leaves meanwhile is no fault.
func TestDirectCallsTakeTurns(t *testing.T) {
	frozen := time.Now()
	r := newRig(t, rigConfig{now: func() time.Time { return frozen }})
	nobody := testbus.Nobody.UID
	rich := &spender{client: r.dialNobody(), rig: r, uid: nobody, left: 3 << 20, each: 2 << 10}
	for rich.left > 0 {
		rich.call("org.varlink.service.GetInterfaceDescription", `{"interface":"org.example.DlmLock"}`)
	}
	for _, x := range directCalls {
		c := r.dialNobody()
		c.send(x.method, x.parameters, "")
		waiting := func(n int) func() bool { return func() bool { return r.core.Usage(nobody).Waiting == n } }
		require.Eventually(t, waiting(1), patience, time.Millisecond, x.method)
		c.quiet()
		require.NoError(t, c.Close())
		gone := func() bool {
			u := r.core.Usage(nobody)
			return r.door.Connections() == 1 && u.Waiting == 0 && u.Unanswered == 0
		}
		require.Eventually(t, gone, patience, time.Millisecond)
	}
	require.NotContains(t, r.logs.String(), "level=ERROR")
}
