package conventions

import (
	"os"
	"os/exec"
	"path"
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

// The files and functions that docs/semantics.md names as those that keep a promise exist.
func TestSemanticsNamesWhatKeepsPromises(t *testing.T) {
	text, err := os.ReadFile("../../docs/semantics.md")
	require.NoError(t, err)
	functions := map[string]bool{}
	for name := range declared(t) {
		functions[name[strings.LastIndex(name, ".")+1:]] = true
	}
	files := map[string]bool{}
	for name := range tracked(t, "*.go") {
		files[path.Base(name)] = true
	}
	named := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			continue // a promise, what keeps it, and the tests
		}
		for _, name := range regexp.MustCompile(`\b\w+\.go\b`).FindAllString(cells[2], -1) {
			named++
			require.True(t, files[name], "%s, in the row of %s", name, cells[1])
		}
		for _, name := range regexp.MustCompile(`\b[a-z]+[A-Z]\w*\b`).FindAllString(cells[2], -1) {
			named++
			require.True(t, functions[name], "%s, in the row of %s", name, cells[1])
		}
	}
	require.Greater(t, named, 30)
}
