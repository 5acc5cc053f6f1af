package api

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSessionRecorded(t *testing.T) {
	for _, c := range []struct {
		session       Session
		sender, busID string
	}{
		{"", "", ""},
		{"dbus:0f1e/:1.5", ":1.5", "0f1e"},
		{"dbus:0f1e/:1.5/x", ":1.5/x", "0f1e"},
		{"varlink:0f1e/7", "varlink:0f1e/7", ""},
		{"dbus:/:1.5", "dbus:/:1.5", ""},
		{"dbus:strange", "dbus:strange", ""},
	} {
		sender, busID := c.session.Recorded()
		require.Equal(t, []string{c.sender, c.busID}, []string{sender, busID}, c.session)
		require.Equal(t, c.session, RecordedSession(sender, busID))
	}
	require.Empty(t, RecordedSession("", "0f1e"), "a record of a caller without a name")
}

// A session is in its own name space and in no other.
func TestSessionIn(t *testing.T) {
	bus := MakeSession("dbus", "0f1e", "")
	name, ok := MakeSession("dbus", "0f1e", ":1.5").In(bus)
	require.True(t, ok)
	require.Equal(t, ":1.5", name)
	for _, s := range []Session{"", ":1.5", MakeSession("dbus", "0f1f", ":1.5"),
		MakeSession("varlink", "0f1e", "5"), MakeSession("dbus", "0f1", "e/:1.5")} {
		_, ok := s.In(bus)
		require.False(t, ok, s)
	}
}
