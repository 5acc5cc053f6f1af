package client

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var updateAPI = flag.Bool("update-api", false, "write testdata/api.txt")

// What other people's programs use does not change unnoticed: docs/versioning.md promises
// it. After a deliberate change: go test ./client -run API -update-api.
func TestAPI(t *testing.T) {
	sources, err := filepath.Glob("*.go")
	require.NoError(t, err)
	var names []string
	for _, source := range sources {
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), source, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.FileExports(file)
		for _, d := range file.Decls {
			for _, one := range apart(d) {
				var b strings.Builder
				require.NoError(t, printer.Fprint(&b, token.NewFileSet(), one))
				names = append(names, strings.Join(strings.Fields(b.String()), " "))
			}
		}
	}
	slices.Sort(names)
	text := strings.Join(names, "\n") + "\n"
	if *updateAPI {
		require.NoError(t, os.WriteFile("testdata/api.txt", []byte(text), 0o644))
	}
	want, err := os.ReadFile("testdata/api.txt")
	require.NoError(t, err)
	require.Equal(t, string(want), text)
}

// apart makes a declaration of each name of a declaration, without bodies and values.
func apart(d ast.Decl) (all []ast.Decl) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		d.Body = nil
		if exported(d.Recv) {
			all = append(all, d)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			if v, ok := spec.(*ast.ValueSpec); ok && d.Tok == token.VAR {
				v.Values = nil
			}
			if d.Tok != token.IMPORT {
				all = append(all, &ast.GenDecl{Tok: d.Tok, Specs: []ast.Spec{spec}})
			}
		}
	}
	return all
}

// exported reports whether the type of a receiver has a name for others; no receiver has.
func exported(receiver *ast.FieldList) bool {
	if receiver == nil {
		return true
	}
	typ := receiver.List[0].Type
	if pointer, ok := typ.(*ast.StarExpr); ok {
		typ = pointer.X
	}
	name, ok := typ.(*ast.Ident)
	return ok && name.IsExported()
}
