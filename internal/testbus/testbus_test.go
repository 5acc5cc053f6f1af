package testbus

import (
	"testing"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"
)

// Each bus starts, loads the shipped policy, and knows its users.
func TestUsersAndPolicy(t *testing.T) {
	ForEach(t, func(t *testing.T, b *Bus) {
		const name = "org.example.DlmLock"
		member := User{UID: 65534, GID: 65534, Groups: []uint32{4242}}
		for _, u := range []User{Root, Nobody, member} {
			c := b.DialAs(t, u)
			var creds map[string]godbus.Variant
			require.NoError(t, c.BusObject().Call("org.freedesktop.DBus.GetConnectionCredentials", 0,
				c.Names()[0]).Store(&creds))
			require.Equal(t, u.UID, creds["UnixUserID"].Value())
			groups, _ := creds["UnixGroupIDs"].Value().([]uint32)
			require.Contains(t, groups, u.GID)
			for _, g := range u.Groups {
				require.Contains(t, groups, g)
			}
			_, err := c.RequestName(name, godbus.NameFlagDoNotQueue)
			if u.UID == 0 {
				require.NoError(t, err)
			} else {
				require.Equal(t, "org.freedesktop.DBus.Error.AccessDenied", err.(godbus.Error).Name)
			}
		}
	})
}
