package conventions

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

const profile = root + "/data/apparmor/dlmlockd"

// apparmor_parser takes the profile without a word, as it is shipped and with what an
// administrator adds; a mistake in it is noticed.
func TestAppArmorProfile(t *testing.T) {
	parser, err := exec.LookPath("apparmor_parser")
	require.NoError(t, err, "apt-get install apparmor")
	parse := func(file string) (string, error) {
		// Nothing is loaded, read from a cache or written to one.
		out, err := exec.Command(parser, "-QTK", file).CombinedOutput()
		return regexp.MustCompile(`(?m)^Cache read/write disabled: .*\n`).ReplaceAllString(string(out), ""), err
	}
	out, err := parse(profile)
	require.NoError(t, err, out)
	require.Empty(t, out)

	text, err := os.ReadFile(profile)
	require.NoError(t, err)
	broken := filepath.Join(t.TempDir(), "dlmlockd")
	for _, mistake := range []string{"/srv/** rwz,\n}", "capability sys_nothing,\n}", "include <no/such/file>\n}"} {
		require.NoError(t, os.WriteFile(broken, regexp.MustCompile(`\}\n$`).ReplaceAll(text, []byte(mistake)), 0o644))
		_, err = parse(broken)
		require.Error(t, err, mistake)
	}
}

// The profile knows the sockets and directories that the units name, and the program.
func TestAppArmorProfileKnowsTheUnits(t *testing.T) {
	text, err := os.ReadFile(profile)
	require.NoError(t, err)
	units, err := filepath.Glob(root + "/systemd/*")
	require.NoError(t, err)
	sockets := regexp.MustCompile(`(?m)^ListenStream=(/run/\S+)$`)
	known := regexp.MustCompile(`^/run/(dlmlockd-controld\.sock|dlmlock/.+)$`)
	for _, unit := range units {
		body, err := os.ReadFile(unit)
		require.NoError(t, err)
		for _, m := range sockets.FindAllSubmatch(body, -1) {
			require.Regexp(t, known, string(m[1]), "%s: a socket that the profile does not allow", unit)
		}
	}
	for _, rule := range []string{"/run/dlmlockd-controld.sock rw,", "/run/dlmlock/{,**} rw,", "/run/dlmlockd/ rwk,",
		"/run/dlmlockd/** rwkl,"} {
		require.Contains(t, string(text), "\n  "+rule+"\n")
	}
}
