package main

import (
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// labctl runs the command line; no cluster is up.
func labctl(t *testing.T, args ...string) error {
	t.Helper()
	t.Setenv("LAB_SOCKET", filepath.Join(t.TempDir(), "s"))
	cmd := root()
	cmd.SetArgs(args)
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	return cmd.ExecuteContext(t.Context())
}

func TestCommandsSayWhatIsMissing(t *testing.T) {
	tests := []struct{ line, err string }{
		{"status", "labctl up"},
		{"down", "labctl up"},
		{"exec 1 -- true", "labctl up"},
		{"exec 1", "at least 2 arg"},
		{"exec one -- true", `"one" is no node number`},
		{"crash", "1 arg"},
		{"crash 1", "labctl up"},
		{"push 1 /no/such/file", "no such file"},
		{"prepare 5.10", `"5.10"`},
		{"up now", "unknown command"},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			require.ErrorContains(t, labctl(t, strings.Fields(tt.line)...), tt.err)
		})
	}
}

// What comes after the node is the command's, flags included.
func TestExecLeavesTheCommandAlone(t *testing.T) {
	cmd := execute()
	var got []string
	cmd.RunE = nil
	require.NoError(t, cmd.ParseFlags([]string{"-e", "A=b", "1", "--", "ls", "-la"}))
	got = cmd.Flags().Args()
	require.Equal(t, []string{"ls", "-la"}, command(got[1:]))
	require.Equal(t, []string{"ls", "-la"}, command([]string{"ls", "-la"}))
}
