package conventions

import (
	"bytes"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// maxTracked is how many bytes a file in git may have: every clone has it, for ever.
const maxTracked = 256 << 10

// conflict is what git leaves in a file that it could not merge.
var conflict = regexp.MustCompile(`(?m)^(<<<<<<<|>>>>>>>) `)

// tracked yields the names, relative to the root, and the texts of the files in git that match the
// patterns of paths, or of all files if there are no patterns.
func tracked(t *testing.T, patterns ...string) iter.Seq2[string, []byte] {
	out, err := exec.Command("git", append([]string{"-C", root, "ls-files", "-z"}, patterns...)...).Output()
	require.NoError(t, err)
	return func(yield func(string, []byte) bool) {
		for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
			text, err := os.ReadFile(filepath.Join(root, name))
			if os.IsNotExist(err) {
				continue // removed, and not committed yet
			}
			require.NoError(t, err)
			if !yield(name, text) {
				return
			}
		}
	}
}

// What was built, or merged halfway, is not committed.
func TestOnlySourcesAreTracked(t *testing.T) {
	for name, text := range tracked(t) {
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
