package conventions

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every exported type, function, method, constant and variable has a comment: its own, or that of the group that
// it is declared in. A method that an interface of its package, or a well-known one, asks for has its comment there.
func TestExportedNamesAreDocumented(t *testing.T) {
	names := 0
	for _, p := range load(t) {
		files, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		require.NoError(t, err)
		set := token.NewFileSet()
		var decls []ast.Decl
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(set, path, nil, parser.ParseComments)
			require.NoError(t, err)
			decls = append(decls, f.Decls...)
		}
		promised := interfaceMethods(decls)
		for _, d := range decls {
			for _, n := range undocumented(d, promised, &names) {
				t.Errorf("%s: %s has no comment", set.Position(n.Pos()), n.Name)
			}
		}
	}
	require.Greater(t, names, 1000, "the exported names were not found")
}

// wellKnown are methods whose meaning is that of an interface of the standard library.
var wellKnown = map[string]bool{"Error": true, "Unwrap": true, "String": true, "Is": true, "Close": true}

// interfaceMethods returns the names of the methods of all interfaces that are declared, and have to be documented
// with them.
func interfaceMethods(decls []ast.Decl) map[string]bool {
	promised := map[string]bool{}
	for _, d := range decls {
		ast.Inspect(d, func(n ast.Node) bool {
			i, ok := n.(*ast.InterfaceType)
			if !ok {
				return true
			}
			for _, m := range i.Methods.List {
				for _, name := range m.Names {
					promised[name.Name] = m.Doc.Text() != "" || m.Comment.Text() != ""
				}
			}
			return true
		})
	}
	return promised
}

// undocumented returns the exported names of a declaration that have no comment, and counts all.
func undocumented(d ast.Decl, promised map[string]bool, names *int) (found []*ast.Ident) {
	note := func(n *ast.Ident, comments ...*ast.CommentGroup) {
		if !n.IsExported() {
			return
		}
		*names++
		for _, c := range comments {
			if c.Text() != "" {
				return
			}
		}
		found = append(found, n)
	}
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv != nil && (!ast.IsExported(receiver(d.Recv.List[0].Type)) || wellKnown[d.Name.Name] ||
			promised[d.Name.Name]) {
			return nil
		}
		note(d.Name, d.Doc)
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				note(s.Name, d.Doc, s.Doc, s.Comment)
			case *ast.ValueSpec:
				for _, n := range s.Names {
					note(n, d.Doc, s.Doc, s.Comment)
				}
			}
		}
	}
	return found
}
