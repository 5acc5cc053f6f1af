package conventions

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	maxFileLines     = 500
	longFunction     = 40 // a wish
	maxFunctionLines = 80 // a rule, but for tests
	maxLongShare     = 10 // percent of functions that may be longer than the wish
)

var forbiddenNames = []string{"util", "utils", "helper", "helpers", "common", "misc", "manager2"}

func TestSizesAndNames(t *testing.T) {
	functions, long := 0, 0
	for name, p := range load(t) {
		for part := range strings.SplitSeq(name, "/") {
			require.NotContains(t, forbiddenNames, part, "package %s", name)
		}
		files, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		require.NoError(t, err)
		for _, path := range files {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			require.LessOrEqualf(t, bytes.Count(text, []byte("\n")), maxFileLines, "lines of %s", path)
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			for fn, lines := range functionLengths(t, path, text) {
				functions++
				require.LessOrEqualf(t, lines, maxFunctionLines, "lines of %s in %s", fn, path)
				if lines > longFunction {
					long++
					t.Logf("%d lines: %s in %s", lines, fn, path)
				}
			}
		}
	}
	t.Logf("%d of %d functions have more than %d lines", long, functions, longFunction)
	require.LessOrEqual(t, long*100, functions*maxLongShare, "too many long functions")
}

func functionLengths(t *testing.T, path string, text []byte) map[string]int {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, path, text, 0)
	require.NoError(t, err)
	lengths := map[string]int{}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		lengths[fn.Name.Name] = max(lengths[fn.Name.Name], set.Position(fn.End()).Line-set.Position(fn.Pos()).Line+1)
	}
	return lengths
}
