package dbus

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// A lock of lifetime connection ends with the connection: while the service
// looks, and where it vanished while no front end was there.
func TestConnectionLifetime(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root, holder, other := r.dial(testbus.Root), r.dial(member), r.dial(member)
		holder.acquire("r", opt("lifetime", "connection"))
		other.acquire("kept", opt("lifetime", "connection"))
		require.Len(t, root.list(opt()), 2)
		require.NoError(t, holder.conn.Close())
		only := func(want ...string) {
			require.Eventually(t, func() bool {
				var names []string
				for _, l := range root.list(opt()) {
					names = append(names, l.Resource)
				}
				return len(names) == len(want) && (len(want) == 0 || names[0] == want[0])
			}, patience, 5*time.Millisecond)
		}
		only("kept")

		// Another front end over the same service, while the holder goes.
		holder = r.dial(member)
		holder.acquire("r", opt("lifetime", "connection"))
		require.NoError(t, r.server.Shutdown(t.Context()))
		require.NoError(t, holder.conn.Close())
		conn, err := Connect(t.Context(), b.Address)
		require.NoError(t, err)
		r.core.Close()
		r.core = frontend.New(frontend.Config{})
		r.core.Start(r.api)
		r.server = New(Config{Core: r.core, Bus: conn})
		require.NoError(t, r.server.Start(t.Context()))
		require.NoError(t, r.server.RequestName())
		only("kept")
		// And one that goes without having called this front end.
		require.NoError(t, other.conn.Close())
		only()
	})
}
