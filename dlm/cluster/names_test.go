package cluster

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const conf = `# Please read the corosync.conf.5 manual page
totem {
	version: 2
	cluster_name: lab
	interface {
		linknumber: 0
	}
}

nodelist {
	node {
		ring0_addr: 10.0.0.1
		nodeid: 1
		name: alpha
	}
	node {
		# no name, and the address is no name
		ring0_addr: fd00::2
		nodeid: 2
	}
	node {
		ring0_addr: gamma.example
		nodeid: 3
	}
	node {
		name: no number
	}
}
node {
	nodeid: 9
	name: not in the list
}
`

func TestNamesOfNodes(t *testing.T) {
	root := t.TempDir()
	h := At(root)

	_, err := h.NodeNames(t.Context())
	require.ErrorIs(t, err, fs.ErrNotExist, "what can't be read is not a cluster without names")

	file := filepath.Join(root, corosyncConf)
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte(conf), 0o644))
	names, err := h.NodeNames(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[uint32]string{1: "alpha", 3: "gamma.example"}, names)

	require.NoError(t, os.WriteFile(file, []byte("totem {\n version: 2\n}\n"), 0o644))
	names, err = h.NodeNames(t.Context())
	require.NoError(t, err)
	require.Empty(t, names)
	require.NotNil(t, names)
}

func TestNamesAreNotReadFromABrokenFile(t *testing.T) {
	for what, text := range map[string]string{
		"cut":           conf[:strings.Index(conf, "nodeid: 2")],
		"no form":       "nodelist {\nnode\n}\n",
		"end too often": "}\n",
		"too large":     strings.Repeat("# comment\n", maxConf/10+1),
		"line too long": strings.Repeat("a", 100_000),
	} {
		_, err := readNames(strings.NewReader(text))
		require.Error(t, err, what)
	}
}

// FuzzNames gives readNames rubbish: what it accepts has numbers and names.
func FuzzNames(f *testing.F) {
	f.Add(conf)
	f.Fuzz(func(t *testing.T, text string) {
		names, err := readNames(strings.NewReader(text))
		require.True(t, err == nil || names == nil)
		for id, name := range names {
			require.NotZero(t, id)
			require.NotEmpty(t, name)
		}
	})
}
