package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const home = "https://example.org/tree/"

// place makes the files of a small repository, and the list of its documents.
func place(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
	}
}

func TestLinksFitWhereTheDocumentsAre(t *testing.T) {
	place(t, map[string]string{
		"list": "# comment\nREADME.md main/\ndocs/*.md main/docs/\nplugin/README.md other/\n" +
			"data/x.rules main/examples/\nCHANGELOG.md main/\nCHANGELOG.md other/",
		"README.md":          "[a](docs/one.md#part) [b](LICENSE) [c](CHANGELOG.md) [d](https://x.org/y) [e](#here)",
		"docs/one.md":        `[a](../data/x.rules) [b](../README.md) <img src="../pic.svg"> [c](../plugin/README.md)`,
		"plugin/README.md":   "[a](../docs/one.md) [changes](../CHANGELOG.md)",
		"data/x.rules":       "[not](a/link)",
		"LICENSE":            "",
		"CHANGELOG.md":       "[a](docs/one.md)",
		"pic.svg":            "",
		"docs/more/skip.txt": "",
	})
	require.NoError(t, install("list", home, "changelog.gz", "out"))
	for name, want := range map[string]string{
		"out/main/README.md": "[a](docs/one.md#part) [b](" + home +
			"LICENSE) [c](changelog.gz) [d](https://x.org/y) [e](#here)",
		"out/main/docs/one.md": `[a](../examples/x.rules) [b](../README.md) <img src="` + home +
			`pic.svg"> [c](../../other/README.md)`,
		"out/other/README.md":       "[a](../main/docs/one.md) [changes](changelog.gz)",
		"out/main/examples/x.rules": "[not](a/link)",
		"out/main/CHANGELOG.md":     "[a](docs/one.md)",
		"out/other/CHANGELOG.md":    "[a](../main/docs/one.md)",
	} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, want, string(text), name)
	}
}

func TestALinkThatLeadsNowhere(t *testing.T) {
	place(t, map[string]string{"list": "README.md main/", "README.md": "[a](missing.md)"})
	require.ErrorContains(t, install("list", home, "", "out"),
		"README.md: a link leads to missing.md, which does not exist")
}

func TestListThatNamesNothing(t *testing.T) {
	place(t, map[string]string{"list": "docs/*.md main/"})
	require.ErrorContains(t, install("list", home, "", "out"), "there is no docs/*.md")
}
