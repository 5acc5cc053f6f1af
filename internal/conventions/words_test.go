package conventions

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// doorWords are words of one front end: members of the D-Bus interface and the
// spelling of its options.
var doorWords = regexp.MustCompile(`\b(ListLocks|ListLockspaces|JoinLockspace|LeaveLockspace|ListOrphans|AdoptOrphan|` +
	`AcquireMany|ReleaseOwner|ReleaseMany|wait-usec|D-Bus)\b|` +
	`\b(see|use|call|with) (Acquire|Convert|Release|Inspect|Purge|Request)\b`)

// A text that is made below the front ends names no method or option of one of
// them: what to do about an error is a hint (lockd/api), which each front end
// words in its own terms.
func TestTextsBelowTheDoors(t *testing.T) {
	texts := 0
	for _, dir := range []string{"lockd", "frontend", "dlm", "process", "state", "polkit"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") ||
				strings.Contains(path, "dlmtest") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			require.NoError(t, err)
			ast.Inspect(f, func(n ast.Node) bool {
				lit, ok := n.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					return true
				}
				text, err := strconv.Unquote(lit.Value)
				require.NoError(t, err)
				texts++
				// A text of several words; names by themselves are for the code.
				if strings.Contains(text, " ") && doorWords.MatchString(text) {
					t.Errorf("%s: %q has a word of one front end", path, text)
				}
				return true
			})
			return nil
		})
		require.NoError(t, err)
	}
	require.Greater(t, texts, 500, "the texts were not found")
}
