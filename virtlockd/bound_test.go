package virtlockd

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

// lines is a log whose lines somebody waits for.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

// The refusal of a connection names the bound that was reached, and asks for more descriptors only if
// these would help.
func TestRefusalNamesTheBound(t *testing.T) {
	for most, want := range map[int]string{
		0: "however large LimitNOFILE= is", DefaultMaxConnections: "however large LimitNOFILE= is",
		DefaultMaxConnections - 1: "raise LimitNOFILE= in the unit", 1: "raise LimitNOFILE= in the unit",
	} {
		log := make(lines)
		d := New(Config{MaxConnections: most, Log: slog.New(slog.NewTextHandler(log, nil))})
		for fd := range d.most {
			require.True(t, d.add(&connection{fd: fd}))
		}
		require.False(t, d.add(&connection{fd: d.most}))
		line := <-log
		require.Contains(t, line, "a connection of libvirt is refused")
		require.Contains(t, line, want)
	}
}
