package story

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// verbTable is the table of verbs as doc.go has it.
func verbTable() string {
	var b strings.Builder
	last := scope(0)
	for _, v := range verbs {
		if v.scope != last {
			last = v.scope
			fmt.Fprintf(&b, "//\n// %s:\n//\n", map[scope]string{
				ofCluster: "About the cluster and the story, without a node before them", ofNode: "About a node",
				ofCaller: "Calls of the service"}[v.scope])
		}
		mark := map[Place]string{Embedded: " (embedded)", Nodes: " (nodes)"}[v.places]
		line := strings.TrimRight(fmt.Sprintf("//\t%s %s", v.name, v.usage), " ")
		for len(line) > 100 {
			at := strings.LastIndex(line[:100], " [")
			b.WriteString(line[:at] + "\n")
			line = "//\t    " + line[at+1:]
		}
		fmt.Fprintf(&b, "%s\n//\t        %s%s\n", line, v.does, mark)
	}
	return b.String()
}

// The verbs that doc.go tells of are those that there are. With UPDATE_DOC=1 the
// test writes the table.
func TestDocumentHasTheVerbs(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	head, _, ok := strings.Cut(string(text), "// Those that only one place has are marked")
	require.True(t, ok)
	_, tail, ok := strings.Cut(string(text), "// # Other notations\n")
	require.True(t, ok)
	const marks = "// Those that only one place has are marked: (embedded), (nodes).\n"
	want := head + marks + verbTable() + "//\n// # Other notations\n" + tail
	if os.Getenv("UPDATE_DOC") != "" {
		require.NoError(t, os.WriteFile("doc.go", []byte(want), 0o644))
	}
	require.Equal(t, want, string(text), "UPDATE_DOC=1 go test ./internal/story writes the table")
}
