package conventions

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a reader can hold in the head. A type that grows beyond it has more than one responsibility, and
// each of them wants a type of its own.
const (
	maxFields        = 20
	maxMethods       = 60
	functionLinesP99 = 45
)

// No struct has too many fields, no type too many methods, and hardly any function too many lines. Tests
// don't count.
func TestTypesAreSmall(t *testing.T) {
	fields, methods := map[string]int{}, map[string]int{}
	var lines []int
	for name, p := range load(t) {
		files, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		require.NoError(t, err)
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, path, text, 0)
			require.NoError(t, err)
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.TypeSpec:
					if s, ok := n.Type.(*ast.StructType); ok {
						fields[name+"."+n.Name.Name] = s.Fields.NumFields()
					}
				case *ast.FuncDecl:
					lines = append(lines, set.Position(n.End()).Line-set.Position(n.Pos()).Line+1)
					if n.Recv != nil {
						methods[name+"."+receiver(n.Recv.List[0].Type)]++
					}
				}
				return true
			})
		}
	}
	require.Greater(t, len(fields), 300, "the types were not found")
	for name, n := range fields {
		require.LessOrEqual(t, n, maxFields, "fields of %s", name)
	}
	for name, n := range methods {
		require.LessOrEqual(t, n, maxMethods, "methods of %s", name)
	}
	slices.Sort(lines)
	require.LessOrEqual(t, lines[len(lines)*99/100], functionLinesP99, "lines of all functions but one in a hundred")
}

// receiver returns the name of a receiver's type.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}
