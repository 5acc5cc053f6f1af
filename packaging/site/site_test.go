package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const repository = "../.."

// The site of this repository: no link is dead, and the contents have each document for readers.
func TestSite(t *testing.T) {
	dir := t.TempDir()
	n, err := build(repository, dir, "v1.2.3", contents)
	require.NoError(t, err)
	require.NoError(t, check(dir))
	require.Greater(t, n, 60)

	listed := map[string]bool{}
	for _, part := range contents {
		for _, e := range part.Entries {
			listed[e.File] = true
		}
	}
	for _, pattern := range []string{"*.md", "docs/*.md", "man/*.[158]"} {
		files, err := filepath.Glob(filepath.Join(repository, pattern))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			name, err := filepath.Rel(repository, file)
			require.NoError(t, err)
			require.True(t, listed[name], "contents.go does not list %s", name)
		}
	}
	for name, wants := range map[string][]string{
		"index.html": {"<title>dlmlockd</title>", "v1.2.3", `<a href="docs/installation.html">Installation</a>`,
			`<img src="docs/pictures/overview.svg" alt="Programs ask dlmlockd`},
		"man/dlmlockctl.1.html": {`<h2 id="EXIT-STATUS">EXIT STATUS</h2>`, `<a href="dlmlockd.8.html">dlmlockd(8)</a>`,
			`<a href="dlmlockctl.1.html" aria-current="page">dlmlockctl(1)</a>`, `<b>--bus</b>=<i>ADDRESS</i>`},
		"man/org.example.DlmLock.5.html": {"AcquireMany"},
		"data/dlmlockd.toml.html":        {"exit-on-idle"},
		"style.css":                      {"prefers-color-scheme: dark"},
	} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		for _, want := range wants {
			require.True(t, strings.Contains(string(text), want), "%s has no %s", name, want)
		}
		require.False(t, strings.Contains(string(text), "url("), "%s: a style loads something", name)
	}
}

// place makes the files of a small repository, or of a site.
func place(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return dir
}

func TestDocumentsThatLeadNowhere(t *testing.T) {
	for text, want := range map[string]string{
		"[a](b.md)":                "README.md: a link leads to b.md, which does not exist",
		"![a](b.svg)":              "README.md: a link leads to b.svg, which does not exist",
		"[a](../b.md)":             "README.md: a link leads to ../b.md, which does not exist",
		"[a](#b)":                  "index.html: a link leads to #b, which has no such heading",
		"[a](more.md#two)":         "index.html: a link leads to more.html#two, which has no such heading",
		"a <b>c</b>":               "index.html: a document has HTML in it",
		"a\n\n<script>\n</script>": "index.html: a document has HTML in it",
	} {
		source := place(t, map[string]string{"README.md": "# A\n\n" + text + "\n", "more.md": "# One\n"})
		dir := t.TempDir()
		_, err := build(source, dir, "", []section{{"A", []entry{{"README.md", "A"}, {"more.md", "More"}}}})
		if err == nil {
			err = check(dir)
		}
		require.ErrorContains(t, err, want, text)
	}
}

func TestPagesThatAreNotWhole(t *testing.T) {
	for text, want := range map[string]string{
		`<p>a`:                               "unexpected EOF",
		`<img src="https://example.org/a"/>`: "a.html: it loads https://example.org/a",
		`<link href="https://example.org"/>`: "a.html: it loads https://example.org",
		`<script src="a.js"/>`:               "a.html: it has a script",
		`<p id="a"><b id="a"/></p>`:          "a.html: the id a is there twice",
		`<a href="b.html"/>`:                 "a.html: a link leads to b.html, which is not on the site",
		`<a href="style.css#a"/>`:            "a.html: a link leads to style.css#a, which has no such heading",
	} {
		require.ErrorContains(t, check(place(t, map[string]string{"a.html": text, "style.css": ""})), want, text)
	}
	require.NoError(t, check(place(t, map[string]string{
		"a.html":   `<p id="x"><a href="b/c.html#y"/><a href="#x"/><a href="https://example.org/"/></p>`,
		"b/c.html": `<p id="y"><a href="../a.html#x">&nbsp;</a></p>`,
	})))
}

func TestWhatDocumentsBecome(t *testing.T) {
	source := place(t, map[string]string{
		"README.md": "# The `name` of it\n\n<!-- not for readers -->\n\n[d](docs/x.md#what-x--y-is) " +
			"[f](data/f.toml) [all](docs)\n",
		"docs/x.md":   "# X\n\n## What: X & Y, is?\n\n## What: X & Y, is?\n\n[p](y.png) [again](#what-x--y-is-1)\n",
		"docs/y.png":  "\x89PNG",
		"data/f.toml": "a = \"<b>\"\f\n",
	})
	dir := t.TempDir()
	_, err := build(source, dir, "", []section{{"Start", []entry{{"README.md", "A"}}}})
	require.NoError(t, err)
	require.NoError(t, check(dir))
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		return string(text)
	}
	require.Contains(t, read("index.html"), "<title>The name of it - dlmlockd</title>")
	require.NotContains(t, read("index.html"), "not for readers")
	require.Contains(t, read("docs/index.html"), `<li><a href="x.html">X</a></li>`)
	require.Contains(t, read("data/f.toml.html"), "a = &#34;&lt;b&gt;&#34;\n")
	require.Contains(t, read("docs/x.html"), `<a href="../index.html">A</a>`)
	require.Equal(t, "\x89PNG", read("docs/y.png"))
}

func TestStyled(t *testing.T) {
	bold := func(s string) string {
		var b strings.Builder
		for _, r := range s {
			b.WriteString(string(r) + "\b" + string(r))
		}
		return b.String()
	}
	under := func(s string) string {
		var b strings.Builder
		for _, r := range s {
			b.WriteString("_\b" + string(r))
		}
		return b.String()
	}
	require.Equal(t, "<h2 id=\"SEE-ALSO\">SEE ALSO</h2>\n<pre class=\"manual\">    <b>a</b> <i>\u00e9</i>&lt;</pre>\n",
		styled("\n"+bold("SEE ALSO")+"\n    "+bold("a")+" "+under("\u00e9")+"<\n\n"))
}
