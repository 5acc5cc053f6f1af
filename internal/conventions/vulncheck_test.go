package conventions

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A check that could not be made says so and lets the other checks go on, unless the
// database that can't be reached is one that somebody has named.
func TestVulncheckSaysWhatItDidNotCheck(t *testing.T) {
	bin := t.TempDir()
	curl := "#!/bin/sh\necho 'no such host' >&2\nexit 6\n"
	require.NoError(t, os.WriteFile(filepath.Join(bin, "curl"), []byte(curl), 0o755))
	run := func(database string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "../../scripts/vulncheck.sh", "")
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "GOVULNDB="+database)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run("")
	require.NoError(t, err, out)
	require.Contains(t, out, "NOT CHECKED for known vulnerabilities: https://vuln.go.dev can't be reached (no such host).")
	out, err = run("https://db.example.org")
	require.Error(t, err)
	require.Contains(t, out, "NOT CHECKED for known vulnerabilities: https://db.example.org can't be reached")
	out, err = run("file:///nonexistent")
	require.Error(t, err, out)
}
