package model

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const table = "../lockd/table/"

// step is STEP(line, action) of the model, or a line of a table in lockd/table.
type step struct{ line, action string }

// modelled returns the steps of the inline function of a name, in their order, or all of them for "".
func modelled(t *testing.T, name string) []step {
	t.Helper()
	text, err := os.ReadFile("order.pml")
	require.NoError(t, err)
	body := string(text)
	if name != "" {
		_, after, found := strings.Cut(body, "\ninline "+name+"(")
		require.True(t, found, name)
		body, _, _ = strings.Cut(after, "\n}\n")
	}
	var out []step
	for _, m := range regexp.MustCompile(`\bSTEP\((\w+), ([a-z-]+)\);`).FindAllStringSubmatch(body, -1) {
		out = append(out, step{m[1], m[2]})
	}
	require.NotEmpty(t, out, name)
	return out
}

// actions is how the tables of lockd/table name the actions.
var actions = map[string]string{
	"Lock without": "lock", "Convert": "convert", "Unlock": "unlock", "reply": "reply",
	"append the new mode": "append-mark",
	`append "granted"`:    "append-granted", `append "held"`: "append-held", `append "releasing"`: "append-releasing",
	`append "gone"`: "append-gone",
}

// tabled returns the steps of the table in the head comment of a file of lockd/table.
func tabled(t *testing.T, file string) []step {
	t.Helper()
	text, err := os.ReadFile(table + file)
	require.NoError(t, err)
	_, comment, found := strings.Cut(string(text), "\n// The order of events of ")
	require.True(t, found, file)
	comment, _, _ = strings.Cut(comment, "\n\n")
	var out []step
	for _, m := range regexp.MustCompile(`(?m)^//\t(\w+) +(.+)$`).FindAllStringSubmatch(comment, -1) {
		s := step{line: m[1]}
		for words, action := range actions {
			if strings.Contains(m[2], words) {
				require.Empty(t, s.action, "%s: %s could be two actions", file, m[0])
				s.action = action
			}
		}
		require.NotEmpty(t, s.action, "%s: an action that is not known here: %s", file, m[0])
		out = append(out, s)
	}
	require.Greater(t, len(out), 3, file)
	return out
}

// Every line of the tables is a step of the model, in the same order.
func TestStepsAreThoseOfTheTables(t *testing.T) {
	for _, name := range []string{"acquire", "convert", "release"} {
		rest := modelled(t, name)
		for _, want := range tabled(t, name+".go") {
			for len(rest) > 0 && rest[0] != want {
				rest = rest[1:]
			}
			require.NotEmpty(t, rest, "%s.go has %v; the model has it not, or elsewhere", name, want)
			rest = rest[1:]
		}
	}
}

// Every other step of the model is named after a function of lockd/table, and every action is one of its; what the
// code has beyond that, README.md names as left out.
func TestStepsAreNamedAsInTheCode(t *testing.T) {
	files, err := filepath.Glob(table + "*.go")
	require.NoError(t, err)
	var code strings.Builder
	lines := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		code.Write(text)
	}
	for _, name := range []string{"acquire", "convert", "release"} {
		for _, s := range tabled(t, name+".go") {
			lines[s.line] = true
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^func (?:\([^)]*\) )?(\w+)\(`).FindAllStringSubmatch(code.String(), -1) {
		lines[m[1]] = true
	}
	used := map[string]bool{}
	for _, s := range modelled(t, "") {
		require.True(t, lines[s.line], "%v: neither a line of a table nor a function", s)
		used[s.action] = true
	}

	text, err := os.ReadFile(table + "actions.go")
	require.NoError(t, err)
	_, steps, found := strings.Cut(string(text), "// Step implements Action")
	require.True(t, found)
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, left, found := strings.Cut(string(readme), "## What is left out")
	require.True(t, found)
	known := map[string]bool{}
	for _, m := range regexp.MustCompile(`return "([a-z-]+)"`).FindAllStringSubmatch(steps, -1) {
		known[m[1]] = true
		named := regexp.MustCompile(`Steps?\b[^.]*\b` + m[1] + `(,|\.|\n| which)`).MatchString(left)
		require.True(t, used[m[1]] != named, "%s is modelled (%v), and README.md leaves it out (%v)", m[1], used[m[1]], named)
	}
	for action := range used {
		require.True(t, known[action], "no action has the step %s", action)
	}
}
