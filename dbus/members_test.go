package dbus

import (
	"testing"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// Every member does what its documentation says, over each bus.
func TestMembers(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root := r.dial(testbus.Root)

		id, lock := root.acquire("disk1", opt("owner", "vm1", "label", "web"))
		require.NotZero(t, id)
		require.Equal(t, LockPrefix+"1", string(lock)[:len(LockPrefix)]+"1")
		again, same := root.acquire("disk1", opt("owner", "vm1"))
		require.Equal(t, id, again)
		require.Equal(t, lock, same)

		rows := root.list(opt())
		require.Len(t, rows, 1)
		row := rows[0]
		require.NotZero(t, row.Since)
		require.Empty(t, row.Details)
		row.Since, row.PID, row.Details = 0, 0, nil
		require.Equal(t, lockRow{Lock: lock, Lockspace: "vms", Resource: "disk1", LockID: id, Mode: "EX", State: "held",
			Token: row.Token, Owner: "vm1", Label: "web", Lifetime: "persistent"}, row)

		var token uint64
		require.NoError(t, root.ok("Convert", "vms", "disk1", "shared", opt("owner", "vm1")).Store(&token))
		require.Equal(t, "PR", root.list(opt("mode", "pr"))[0].Mode)
		require.Empty(t, root.list(opt("mode", "EX")))

		details := root.ok("Inspect", "vms", "disk1").Body[0].(options)
		require.Equal(t, "a(ossussstsssuuta{sv})", details["locks"].Signature().String())
		require.Len(t, details["locks"].Value(), 1)
		require.Contains(t, details, "missing")

		require.Empty(t, root.ok("Release", "vms", "disk1", opt("lock", lock)).Body)
		require.Empty(t, root.list(opt()))

		var many []grantRow
		require.NoError(t, root.ok("AcquireMany", []wantRow{}, opt()).Err)
		wanted := []wantRow{{"vms", "b", "EX"}, {"vms", "a", "PR"}}
		require.NoError(t, root.ok("AcquireMany", wanted,
			opt("owner", "vm2", "labels", []string{"the b", "the a"})).Store(&many))
		require.Equal(t, "the a", root.list(opt("resource", "a"))[0].Label)
		require.Len(t, many, 2)
		require.Equal(t, "b", many[0].Resource)
		require.Equal(t, "a", many[1].Resource)
		var released uint32
		require.NoError(t, root.ok("ReleaseMany", []nameRow{{"vms", "a"}, {"vms", "a"}, {"vms", "other"}},
			opt("owner", "vm2")).Store(&released))
		require.Equal(t, uint32(1), released)
		require.Equal(t, "b", root.list(opt())[0].Resource)
		require.NoError(t, root.ok("AcquireMany", wanted,
			opt("owner", "vm2", "labels", []string{"the b", "the a"})).Err)
		require.NoError(t, root.ok("ReleaseMany", []nameRow{},
			opt("owner", "vm2", "labels", []string{"the a", "none"})).Store(&released))
		require.Equal(t, uint32(1), released)
		require.Equal(t, "b", root.list(opt())[0].Resource)
		require.NoError(t, root.ok("ReleaseOwner", "", "vm2").Store(&released))
		require.Equal(t, uint32(1), released)
	})
}

type nameRow struct{ Lockspace, Resource string }

type wantRow struct{ Lockspace, Resource, Mode string }

// Lockspaces are joined, listed and left.
func TestLockspaces(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root := r.dial(testbus.Root)
		root.ok("JoinLockspace", "more", opt())
		var spaces []spaceRow
		require.NoError(t, root.ok("ListLockspaces").Store(&spaces))
		require.Len(t, spaces, 2)
		require.Equal(t, "more", spaces[0].Name)
		require.Equal(t, "ready", spaces[0].State)
		root.ok("Acquire", "more", "x", "EX", opt())
		require.Contains(t, root.refused(ErrorPrefix+"LockspaceInUse", "LeaveLockspace", "more", opt()), "force")
		root.ok("LeaveLockspace", "more", opt("force", true))
		root.refused(ErrorPrefix+"NoSuchLockspace", "Acquire", "more", "x", "EX", opt())
		var orphans []orphanRow
		require.NoError(t, root.ok("ListOrphans", "vms").Store(&orphans))
		require.Empty(t, orphans)
		var purged uint32
		require.NoError(t, root.ok("Purge", "vms", []uint32{}, opt()).Store(&purged))
		require.Zero(t, purged)
	})
}

// Properties are there with their types, and can't be set.
func TestProperties(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		nobody := r.dial(testbus.Nobody)
		var all options
		require.NoError(t, nobody.ok(ifaceProperties+".GetAll", Name).Store(&all))
		require.Len(t, all, len(rootProperties))
		for _, p := range rootProperties {
			var v godbus.Variant
			if p.name == "GrantLatency" { // godbus forgets the types in a structure; TestBusctl doesn't
				continue
			}
			require.Equal(t, p.sig, all[p.name].Signature(), p.name)
			require.NoError(t, nobody.ok(ifaceProperties+".Get", Name, p.name).Store(&v))
			require.Equal(t, p.sig, v.Signature())
			nobody.refused(errReadOnly, ifaceProperties+".Set", Name, p.name, v)
		}
		require.Equal(t, "1.2.3", all["Version"].Value())
		require.Equal(t, "0123abc", all["Commit"].Value())
		require.Equal(t, "2026-01-02T03:04:05Z", all["BuildDate"].Value())
		require.Equal(t, "local", all["Engine"].Value())
		require.Equal(t, "node1", all["NodeName"].Value())
		require.Equal(t, uint32(1), all["LockspaceCount"].Value())
		require.NoError(t, nobody.ok(ifaceProperties+".GetAll", ifacePeer).Store(&all))
		nobody.refused(errUnknownProperty, ifaceProperties+".Get", Name, "Nothing")
		nobody.refused(errUnknownProperty, ifaceProperties+".Set", Name, "Nothing", godbus.MakeVariant(1))
		nobody.refused(errUnknownInterface, ifaceProperties+".Get", "org.example.Other", "Version")
		nobody.refused(errUnknownInterface, ifaceProperties+".GetAll", "org.example.Other")
	})
}
