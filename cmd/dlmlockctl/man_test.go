package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
)

func manPage(t *testing.T) string {
	text, err := os.ReadFile("../../man/dlmlockctl.1")
	require.NoError(t, err)
	return string(text)
}

// dlmlockctl(1) knows every command and every option, and no other.
func TestManualKnowsTheCommands(t *testing.T) {
	text := manPage(t)
	root := new(app).root()
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) { requireFlag(t, text, root, f) })
	for _, c := range root.Commands() {
		_, section, ok := strings.Cut(text, "\n.It Cm "+c.Name())
		require.True(t, ok, c.Name())
		if c.Name() == "run" {
			_, section, _ = strings.Cut(text, "\n.Sh RUN")
			section, _, _ = strings.Cut(section, "\n.Sh ")
		} else {
			section, _, _ = strings.Cut(section, "\n.It Cm ")
		}
		if c.Name() == "convert" {
			// Its options are told by reference.
			require.Contains(t, section, "Takes\n.Fl \\-wait ,\n.Fl \\-value\nand the options of\n.Cm release .")
			continue
		}
		if c.Name() != "completion" {
			c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) { requireFlag(t, section, c, f) })
		}
	}
	for _, name := range regexp.MustCompile(`\n\.It Cm ([a-z-]+)`).FindAllStringSubmatch(text, -1) {
		found, _, err := root.Find([]string{name[1]})
		require.NoError(t, err)
		require.Equal(t, name[1], found.Name())
	}
	for _, name := range regexp.MustCompile(`Fl \\-([a-z-]+)`).FindAllStringSubmatch(text, -1) {
		require.True(t, hasFlag(root, name[1]), name[1])
	}
}

func requireFlag(t *testing.T, text string, c *cobra.Command, f *pflag.Flag) {
	t.Helper()
	if f.Name == "help" || f.Name == "version" {
		return
	}
	item := `(?m)^\.It (Fl ` + f.Shorthand + ` , )?Fl \\-` + f.Name + `( Ns = Ns .*)?$`
	if f.Shorthand != "" {
		item = strings.Replace(item, ")?Fl", ")Fl", 1)
	}
	require.Regexp(t, item, text, "%s --%s", c.Name(), f.Name)
	require.Equal(t, f.Value.Type() != "bool", regexp.MustCompile(`\\-`+f.Name+` Ns = Ns `).MatchString(text),
		"%s --%s takes a value", c.Name(), f.Name)
}

func hasFlag(c *cobra.Command, name string) bool {
	if c.Flags().Lookup(name) != nil || c.PersistentFlags().Lookup(name) != nil || name == "help" || name == "version" {
		return true
	}
	for _, sub := range c.Commands() {
		if hasFlag(sub, name) {
			return true
		}
	}
	return false
}

// Every exit code is told.
func TestManualKnowsTheExitCodes(t *testing.T) {
	_, text, ok := strings.Cut(manPage(t), ".Sh EXIT STATUS")
	require.True(t, ok)
	for _, code := range []int{exitOK, exitFailed, exitUsage, exitContradicts, exitNotThere, exitUnavailable,
		exitInternal, exitRefused, exitLost, exitDenied, exitNoExec, exitNoCommand} {
		require.Contains(t, text, fmt.Sprintf("\n.It %d\n", code))
	}
	require.Contains(t, text, fmt.Sprintf("\n.It %d+n\n", exitSignal))
}

// Every field of the JSON is told.
func TestManualKnowsTheFields(t *testing.T) {
	_, text, ok := strings.Cut(manPage(t), ".Sh JSON")
	require.True(t, ok)
	text, _, _ = strings.Cut(text, "\n.Sh ")
	for _, v := range []any{client.Grant{}, client.Lock{}, client.Lost{}, client.Queued{}, client.Holder{},
		client.Inspection{},
		client.Health{}, client.Lockspace{}, client.Orphan{}, client.Event{}, client.Waiter{},
		client.Blocker{}, waiterOut{}, blockerOut{}, verdict{}, period{}, waitOn{}, check{}} {
		typ := reflect.TypeOf(v)
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if typ.Field(i).Anonymous || !typ.Field(i).IsExported() {
				continue
			}
			require.NotEmpty(t, name, "%s.%s", typ, typ.Field(i).Name)
			require.Regexp(t, `(?m)[ (]`+name+`( |$)`, text, "%s.%s", typ, typ.Field(i).Name)
		}
	}
}

// Every kind of error has an exit code, and every hint can be filled in.
func TestEveryKindHasAnExitCode(t *testing.T) {
	kinds := 0
	file, err := parser.ParseFile(token.NewFileSet(), "../../client/errors.go", nil, 0)
	require.NoError(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 {
			if id, ok := v.Type.(*ast.Ident); ok && id.Name == "Kind" {
				kinds++
				kind := client.Kind(strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`))
				require.NotZero(t, exits[kind], kind)
				full := judge(new(app), nil, about(&client.Error{Kind: kind, Message: "m"}, "the space", "it's"))
				require.Equal(t, exits[kind], full.Exit)
				require.NotContains(t, full.Hint, "%")
				bare := judge(new(app), nil, &client.Error{Kind: kind, Message: "m"})
				require.NotContains(t, bare.Hint, "%")
			}
		}
		return true
	})
	require.Greater(t, kinds, 25)
	require.Equal(t, `"dlmlockctl join 'the space'" joins it; "dlmlockctl lockspaces" lists those that are joined`,
		judge(new(app), nil, about(&client.Error{Kind: client.NoSuchLockspace}, "the space", `it's`)).Hint)
	require.Contains(t, judge(new(app), nil, about(&client.Error{Kind: client.WouldBlock}, "s", "it's")).Hint,
		`inspect s 'it'\''s'`)
	require.Equal(t, exitInternal, judge(new(app), nil, &client.Error{Kind: "OfANewerService"}).Exit)
}
