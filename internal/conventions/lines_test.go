package conventions

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

const (
	maxSourceColumns   = 120
	maxDocumentColumns = 100
)

// sources and documents are the endings of the files whose lines are measured.
var (
	sources   = []string{".go", ".c", ".h", ".sh", ".ts", ".tsx", ".mjs", ".css", ".xml", ".mk", ".service", ".socket"}
	documents = []string{".md", ".1", ".5", ".8", ".in"}
)

// translatable is a line that is one message for translators: cockpit/po.mjs finds only whole literals.
var translatable = regexp.MustCompile(`^(?:"[^"]*"|'[^']*'),$`)

// Lines fit on a screen beside another file. A tab counts as one column. The rows of a Markdown table can't
// be wrapped, and neither can a line that is one long word, or one message of the page.
func TestLinesAreShort(t *testing.T) {
	measured := 0
	for name, text := range tracked(t) {
		most := 0
		switch ext := filepath.Ext(name); {
		case slices.Contains(sources, ext):
			most = maxSourceColumns
		case slices.Contains(documents, ext):
			most = maxDocumentColumns
		}
		if most == 0 || strings.Contains(name, "testdata/") || strings.Contains(name, "/dist/") {
			continue
		}
		measured++
		for i, line := range strings.Split(string(text), "\n") {
			if n := utf8.RuneCountInString(line); n > most && !mayBeLong(name, line) {
				t.Errorf("%s:%d has %d columns, more than %d", name, i+1, n, most)
			}
		}
	}
	require.Greater(t, measured, 60)
}

func mayBeLong(name, line string) bool {
	line = strings.TrimSpace(line)
	switch filepath.Ext(name) {
	case ".md":
		if strings.HasPrefix(line, "|") {
			return true
		}
	case ".tsx":
		if translatable.MatchString(line) {
			return true
		}
	}
	return !strings.Contains(line, " ")
}
