package conventions

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The tests, scenarios and stories that docs/semantics.md names are there.
func TestSemanticsNamesTests(t *testing.T) {
	text, err := os.ReadFile("../../docs/semantics.md")
	require.NoError(t, err)
	out, err := exec.Command("git", "-C", "../..", "grep", "-hoE", `^func (Test|Fuzz)\w+`, "--", "*_test.go").Output()
	require.NoError(t, err)
	tests := strings.Fields(strings.ReplaceAll(string(out), "func ", ""))
	named := regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+\*?`).FindAllString(string(text), -1)
	require.NotEmpty(t, named)
	for _, name := range named {
		prefix, any := strings.CutSuffix(name, "*")
		found := false
		for _, test := range tests {
			found = found || test == prefix || any && strings.HasPrefix(test, prefix)
		}
		require.True(t, found, name)
	}
	scenarios := regexp.MustCompile(`scenarios? ([a-z-]+(?:, [a-z-]+)*)[ ;|(]`)
	for _, list := range scenarios.FindAllStringSubmatch(string(text), -1) {
		for _, name := range strings.Split(list[1], ", ") {
			require.FileExists(t, "../../lockd/testdata/scenarios/"+name+".txt")
		}
	}
	for _, story := range regexp.MustCompile(`\b(two|three)/(\d\d)\b`).FindAllStringSubmatch(string(text), -1) {
		found, err := filepath.Glob("../../lab/testdata/stories/" + story[1] + "/" + story[2] + "-*.txt")
		require.NoError(t, err)
		require.Len(t, found, 1, story[0])
	}
}
