package conventions

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// pureImports are the packages that lockd/table may import: none that blocks, waits, tells the
// time, or reaches outside of the process.
var pureImports = []string{
	"cmp", "container/heap", "errors", "fmt", "hash/maphash", "io/fs", "iter", "log/slog", "maps", "math", "slices",
	"sort", "strings", "syscall", "time", "unicode/utf8",
}

// pureParts are the parts that it may use of packages that offer more. slog's attributes are data;
// syscall's numbers are part of errors.
var pureParts = map[string][]string{
	"time": {"Time", "Duration", "Microsecond", "Millisecond", "Second", "Minute", "UnixMicro"},
	"slog": {"Attr", "Level", "LevelDebug", "LevelInfo", "LevelWarn", "LevelError", "String", "Int", "Uint64",
		"Duration"},
	"fs": {"ErrNotExist"}, "maphash": {"Seed", "Hash"}, "syscall": {"EPERM"},
}

// The table decides, and the driver acts: the table has no goroutine, channel, lock, clock or log.
func TestTableIsPure(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "lockd/table/*.go"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		require.NoError(t, err)
		for _, i := range f.Imports {
			name := short(strings.Trim(i.Path.Value, `"`))
			require.True(t, mine(load(t), name) || slices.Contains(pureImports, name), "%s imports %s", path, name)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt, *ast.ChanType, *ast.SelectStmt, *ast.SendStmt:
				require.Failf(t, "not pure", "%s has a goroutine or a channel: %T", path, n)
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Obj == nil && pureParts[x.Name] != nil {
					require.Contains(t, pureParts[x.Name], n.Sel.Name, "%s uses %s.%s", path, x.Name, n.Sel.Name)
				}
			}
			return true
		})
	}
}
