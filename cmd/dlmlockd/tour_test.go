package main

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// command is one line of the tour in docs/busctl.md that begins with "$ ", and what
// it prints.
type command struct{ line, output string }

// tour reads the console blocks of docs/busctl.md.
func tour(t *testing.T) []command {
	t.Helper()
	text, err := os.ReadFile("../../docs/busctl.md")
	require.NoError(t, err)
	var all []command
	for _, block := range strings.Split(string(text), "```console\n")[1:] {
		block, _, closed := strings.Cut(block, "```")
		require.True(t, closed)
		for line := range strings.Lines(block) {
			if cmd, ok := strings.CutPrefix(line, "$ "); ok {
				all = append(all, command{line: cmd})
			} else {
				all[len(all)-1].output += line
			}
		}
	}
	return all
}

// matcher is what the tour shows, with "..." for anything.
func matcher(shown string) *regexp.Regexp {
	return regexp.MustCompile(`(?s)\A` + strings.ReplaceAll(regexp.QuoteMeta(shown), `\.\.\.`, `.*`) + `\z`)
}

// The tour, typed into one shell, does what it says.
func TestBusctlTour(t *testing.T) {
	commands := tour(t)
	require.Greater(t, len(commands), 10)
	bus := testbus.Start(t, testbus.Daemon)
	start(t, bus, t.TempDir())

	// Every command's output ends with a line of its own.
	const mark = "--- end of output"
	var script bytes.Buffer
	script.WriteString("shopt -s expand_aliases\nexec 2>&1\n")
	for _, c := range commands {
		script.WriteString(c.line + "echo '" + mark + "'\n")
	}
	cmd := exec.CommandContext(t.Context(), "bash")
	cmd.Stdin = &script
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+bus.Address)
	out, err := cmd.Output()
	require.NoError(t, err)
	printed := strings.Split(string(out), mark+"\n")
	require.Len(t, printed, len(commands)+1)
	for i, c := range commands {
		require.Regexp(t, matcher(c.output), printed[i], "$ %s", c.line)
	}
}
