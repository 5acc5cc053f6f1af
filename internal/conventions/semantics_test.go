package conventions

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The tests and stories that docs/semantics.md names exist.
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
	stories := regexp.MustCompile(`\b(?:story|stories) ([a-z-]+(?:, [a-z-]+)*)[ ;|(]`)
	lists := stories.FindAllStringSubmatch(string(text), -1)
	require.NotEmpty(t, lists)
	for _, list := range lists {
		for _, name := range strings.Split(list[1], ", ") {
			require.FileExists(t, "../story/testdata/stories/"+name+".txt")
		}
	}
}
