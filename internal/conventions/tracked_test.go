package conventions

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// maxTracked is how many bytes a file in git may have: everybody who clones gets it, for ever.
const maxTracked = 256 << 10

// conflict is what git leaves in a file that it could not merge.
var conflict = regexp.MustCompile(`(?m)^(<<<<<<<|>>>>>>>) `)

// tracked returns the names of the files in git, relative to the root.
func tracked(t *testing.T) []string {
	out, err := exec.Command("git", "-C", root, "ls-files", "-z").Output()
	require.NoError(t, err)
	return strings.Split(strings.TrimRight(string(out), "\x00"), "\x00")
}

// What was built, or merged halfway, is not committed.
func TestOnlySourcesAreTracked(t *testing.T) {
	for _, name := range tracked(t) {
		text, err := os.ReadFile(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // removed, and not committed yet
		}
		require.NoError(t, err)
		if len(text) > maxTracked {
			t.Errorf("%s has %d bytes, more than %d", name, len(text), maxTracked)
		}
		if bytes.HasPrefix(text, []byte("\x7fELF")) {
			t.Errorf("%s is a program", name)
		}
		if at := conflict.FindIndex(text); at != nil {
			t.Errorf("%s has a conflict at byte %d that was not resolved", name, at[0])
		}
	}
}
