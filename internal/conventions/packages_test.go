package conventions

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each version of a package is newer than the one before, also for dpkg.
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
