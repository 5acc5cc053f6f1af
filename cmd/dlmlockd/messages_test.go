package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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
	require.Len(t, messageIDs, len(entries))
	for message, id := range messageIDs {
		require.Regexp(t, `^[0-9a-f]{32}$`, id, message)
		require.Contains(t, entries, id, message)
	}
}

// Each message is one that the service logs, word for word, and what its entry shows is a field
// that its log line can have.
func TestCatalogIsTrue(t *testing.T) {
	var source strings.Builder
	for _, dir := range []string{".", "../../lockd", "../../lockd/table", "../../state", "../../polkit",
		"../../onlost", "../../dlm/libdlm"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") || filepath.Base(f) == "messages.go" {
				continue
			}
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			source.Write(text)
		}
	}
	known := map[string]bool{}
	for _, field := range journalFields {
		known[field] = true
	}
	for _, key := range []string{"locks", "path", "lines", "waited"} {
		known[fieldName(key)] = true
	}
	entries := explained(t)
	for message, id := range messageIDs {
		require.Contains(t, source.String(), strconv.Quote(message))
		for _, m := range regexp.MustCompile(`@([A-Z_]+)@`).FindAllStringSubmatch(entries[id], -1) {
			require.True(t, known[m[1]], "%s shows %s", message, m[1])
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
	for _, id := range messageIDs {
		require.Contains(t, string(out), "-- "+id)
	}
}
