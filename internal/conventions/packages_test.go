package conventions

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each version of a package is newer than the one before, for dpkg as well.
func TestPackageVersions(t *testing.T) {
	const day = "1767225600" // 2026-01-01
	before := "0~"
	for _, c := range []struct{ describe, epoch, want string }{
		{"5bfb838", day, "0~20260101000000.g5bfb838"},
		{"0bfb838", "1767225601", "0~20260101000001.g0bfb838"},
		{"v0.1.0-rc1", day, "0.1.0~rc1"},
		{"v0.1.0", day, "0.1.0"},
		{"v0.1.0-dirty", day, "0.1.0+dirty"},
		{"v0.1.1-0-gabcdef0", day, "0.1.1+0.gabcdef0"},
		{"v0.1.1-12-gabcdef0-dirty", day, "0.1.1+12.gabcdef0+dirty"},
		{"v1.0.0", day, "1.0.0"},
	} {
		out, err := exec.Command(filepath.Join(root, "packaging/version.sh"), c.describe, c.epoch).CombinedOutput()
		require.NoError(t, err, "%s", out)
		got := strings.TrimSpace(string(out))
		require.Equal(t, c.want, got, c.describe)
		require.NoError(t, exec.Command("dpkg", "--compare-versions", before, "lt", got).Run(), "%s < %s", before, got)
		before = got
	}
	out, err := exec.Command(filepath.Join(root, "packaging/version.sh"), "unknown", "0").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "VERSION=")
}

// A package is not removed while the kernel has locks of the service, even if the state file is
// lost; other lockspaces don't prevent the removal.
func TestRemovalLooksIntoTheKernel(t *testing.T) {
	const ours, theirs = `1 0 0 9 0 0 1 2 0 -1 1 0 24 ".dlmlockd.anchor.0123456789"`,
		`1 0 0 9 0 0 1 2 5 -1 1 0 4 "root"`
	for _, c := range []struct {
		name, setup, leave string
		asked, removed     bool
	}{
		{"nothing", ":", "true", false, true},
		{"a map", "mkdir /run/dlmlockd; touch /run/dlmlockd/state.toml", "true", true, true},
		{"a map, locks held", "mkdir /run/dlmlockd; touch /run/dlmlockd/state.toml", "false", true, false},
		{"somebody else's", "lockspace lvm '" + theirs + "'", "false", false, true},
		{"no map, an anchor", "lockspace vms '" + ours + "'", "false", true, false},
		{"no map, an anchor, unknown to the service", "lockspace vms '" + ours + "'", "true", true, false},
		{"no map, an anchor, left", "lockspace vms '" + ours + "'", "rm -r /sys/kernel/dlm/vms", true, true},
		{"can't be looked at", "mkdir -p /sys/kernel/dlm/vms", "false", true, false},
		{"can't be looked at, service asked", "mkdir -p /sys/kernel/dlm/vms", "true", true, true},
	} {
		asked, removed := remove(t, c.setup, c.leave)
		require.Equal(t, c.asked, asked, "%s: is the service asked?", c.name)
		require.Equal(t, c.removed, removed, c.name)
	}
	// Both packages ask it, and only where they are removed for good.
	for script, asks := range map[string]string{
		"debian/dlmlockd.prerm": "if [ \"$1\" = remove ]; then\n    /usr/libexec/dlmlockd/before-removal\n",
		"packaging/rpm/preun":   "[ \"$1\" = 0 ] || exit 0\n/usr/libexec/dlmlockd/before-removal\n",
	} {
		text, err := os.ReadFile(filepath.Join(root, script))
		require.NoError(t, err)
		require.Contains(t, string(text), asks, script)
	}
}

// remove runs the script of the packages in a mount namespace of its own, where leave
// stands in for dlmlockctl.
func remove(t *testing.T, setup, leave string) (asked, removed bool) {
	script, err := filepath.Abs(filepath.Join(root, "packaging/before-removal"))
	require.NoError(t, err)
	mark := filepath.Join(t.TempDir(), "asked")
	cmd := exec.Command("unshare", "--map-root-user", "--mount", "sh", "-ec", `
mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /sys/kernel
lockspace() { mkdir -p "/sys/kernel/dlm/$1" /sys/kernel/debug/dlm; echo "$2" > "/sys/kernel/debug/dlm/$1_locks"; }
`+setup+`
mkdir /run/bin; printf '#!/bin/sh\n: > "$MARK"\n%s\n' "$LEAVE" > /run/bin/dlmlockctl; chmod +x /run/bin/dlmlockctl
PATH=/run/bin:$PATH "$0"`, script)
	cmd.Env = append(cmd.Environ(), "MARK="+mark, "LEAVE="+leave)
	out, err := cmd.CombinedOutput()
	if err != nil {
		require.Contains(t, string(out), "dlmlockd is not removed")
	}
	_, noMark := os.Stat(mark)
	return noMark == nil, err == nil
}
