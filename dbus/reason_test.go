package dbus

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// A reason is logged with who did what, when it is done, and not when it is not.
func TestReasonIsLogged(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root, one := r.dial(testbus.Root), r.dial(member)
		why := func(text string) options { return opt("reason", text) }
		one.acquire("a", opt("owner", "vm1"))
		one.refused(ErrorPrefix+"NotHeld", "Release", "vms", "b", why("not done"))
		root.ok("Release", "vms", "a", why("the guest is gone\nfor good"))
		_, lock := one.acquire("b", opt())
		root.at(lock).ok(lockIfaceName+".Release", why("by its object"))
		one.acquire("c", opt("owner", "vm2"))
		one.ok("ReleaseMany", []nameRow{{"vms", "c"}}, opt("owner", "vm2", "reason", "all of it"))
		one.acquire("d", opt())
		root.refused(ErrorPrefix+"LockspaceInUse", "LeaveLockspace", "vms", why("not left"))
		root.ok("Purge", "vms", []uint32{}, why("nothing there"))
		root.ok("LeaveLockspace", "vms", opt("force", true, "reason", "maintenance"))
		root.refused(errInvalidArgs, "Release", "vms", "a", why(strings.Repeat("x", 1025)))

		log := r.logs.String()
		require.NotContains(t, log, "not done")
		require.NotContains(t, log, "not left")
		for _, line := range []string{
			`op=release lockspace=vms resource=a uid=0 session=`, `reason="the guest is gone\\nfor good"`,
			`op=release lockspace=vms resource=b uid=0 session=`, `reason="by its object"`,
			`op=release owner=vm2 uid=65534 session=`, `reason="all of it"`,
			`op=purge lockspace=vms uid=0 session=`, `reason="nothing there"`,
			`op=leave lockspace=vms uid=0 session=`, `reason=maintenance`,
		} {
			require.Contains(t, log, line)
		}
	})
}
