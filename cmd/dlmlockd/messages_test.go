package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/message"
)

const catalogFile = "../../data/dlmlockd.catalog"

// explained are the entries of the catalog by their id.
func explained(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(catalogFile)
	require.NoError(t, err)
	all := map[string]string{}
	for _, entry := range strings.Split(string(text), "\n-- ")[1:] {
		id, rest, _ := strings.Cut(entry, "\n")
		require.NotContains(t, all, id, "twice")
		all[id] = rest
	}
	return all
}

// Each message with an id is explained, and nothing else is.
func TestCatalogIsComplete(t *testing.T) {
	entries := explained(t)
	require.Len(t, message.All(), len(entries))
	for text, id := range message.All() {
		require.Regexp(t, `^[0-9a-f]{32}$`, id, text)
		require.Contains(t, entries, id, text)
	}
}

// What the entry of a message shows is a field that its log line can have.
func TestCatalogIsTrue(t *testing.T) {
	known := map[string]bool{}
	for _, field := range journalFields {
		known[field] = true
	}
	for _, key := range []string{"locks", "path", "lines", "waited"} {
		known[fieldName(key)] = true
	}
	entries := explained(t)
	for text, id := range message.All() {
		for _, m := range regexp.MustCompile(`@([A-Z_]+)@`).FindAllStringSubmatch(entries[id], -1) {
			require.True(t, known[m[1]], "%s shows %s", text, m[1])
		}
	}
}

// journald accepts the catalog, and journalctl finds the entries.
func TestCatalogCompiles(t *testing.T) {
	_, err := exec.LookPath("journalctl")
	require.NoError(t, err, "apt-get install systemd")
	root := t.TempDir()
	text, err := os.ReadFile(catalogFile)
	require.NoError(t, err)
	dir := filepath.Join(root, "usr/lib/systemd/catalog")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "dlmlockd.catalog"), text, 0o644))
	out, err := exec.Command("journalctl", "--update-catalog", "--root="+root).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Empty(t, string(out), "no complaints")
	out, err = exec.Command("journalctl", "--dump-catalog", "--root="+root).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, id := range message.All() {
		require.Contains(t, string(out), "-- "+id)
	}
}
