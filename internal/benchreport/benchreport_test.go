package benchreport

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b.md")
	text := "# B\n<!-- make x writes from here ... -->\nold\n<!-- ... to here, make x -->\nend\n"
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	require.NoError(t, Write(path, "x", "new\n"))
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "# B\n<!-- make x writes from here ... -->\n\nnew\n\n<!-- ... to here, make x -->\nend\n",
		string(got))

	require.ErrorContains(t, Write(path, "y", "new\n"), "lacks the marks")
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, got, after, "nothing was lost")
	require.ErrorIs(t, Write(path+"x", "x", ""), os.ErrNotExist)
}

func TestMachine(t *testing.T) {
	require.Regexp(t, `, \d+ cores, Linux .*, virtlockd 9, go1\.[^,]+, \d{4}-\d\d-\d\d, load [\d.]+\.\n$`,
		Machine("virtlockd 9"))
}
