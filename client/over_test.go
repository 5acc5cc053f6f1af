package client

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

func TestOverAConnectedStream(t *testing.T) {
	bus := testbus.Start(t, testbus.Daemon)
	dial := func() net.Conn {
		conn, err := net.Dial("unix", strings.TrimPrefix(bus.Address, "unix:path="))
		require.NoError(t, err)
		return conn
	}
	c, err := Over(t.Context(), dial())
	require.NoError(t, err)
	c.AutoStart(false)
	_, err = c.Status(t.Context())
	require.ErrorIs(t, err, NotRunning)
	require.NoError(t, c.Close())
	<-c.Done()
}

// A bus that does not answer does not hold up the caller for longer than it
// wants.
func TestOverEndsWithItsContext(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := Over(ctx, near)
	require.ErrorIs(t, err, NoBus)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}
