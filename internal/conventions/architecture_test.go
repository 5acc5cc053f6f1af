package conventions

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The sequences in ARCHITECTURE.md name only functions, methods and actions that exist.
func TestSequencesNameWhatExists(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	require.NoError(t, err)
	_, lives, ok := strings.Cut(string(text), "\n## The life of ")
	require.True(t, ok)
	lives, _, _ = strings.Cut(lives, "\n## What runs where")
	known := declared(t)
	named := 0
	for i, block := range strings.Split(lives, "```") {
		if i%2 == 0 {
			continue // text between the sequences
		}
		for _, name := range regexp.MustCompile(`\b[A-Za-z]+\.[A-Za-z]+\b|\b[A-Z][a-z]+Action\b`).FindAllString(block, -1) {
			named++
			require.True(t, known[name], "ARCHITECTURE.md names %s in a sequence", name)
		}
	}
	require.Greater(t, named, 40)
}

// declared returns the methods of the repository as Type.Method, its functions as package.Func, and the
// actions of the table.
func declared(t *testing.T) map[string]bool {
	t.Helper()
	function := regexp.MustCompile(`(?m)^func (?:\(\w* ?\*?(\w+)(?:\[[^]]*\])?\) )?(\w+)`)
	action := regexp.MustCompile(`(?m)^\s*(?:type )?([A-Z]\w*Action) struct`)
	pkg := regexp.MustCompile(`(?m)^package (\w+)`)
	all := map[string]bool{}
	for name, text := range tracked(t, "*.go") {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		owner := pkg.FindStringSubmatch(string(text))
		for _, m := range function.FindAllStringSubmatch(string(text), -1) {
			if m[1] == "" && owner != nil {
				m[1] = owner[1]
			}
			all[m[1]+"."+m[2]] = true
		}
		for _, m := range action.FindAllStringSubmatch(string(text), -1) {
			all[m[1]] = true
		}
	}
	return all
}
