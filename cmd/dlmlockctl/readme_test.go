package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// The commands of README.md that begin with "$ " print what it shows, where "..." stands
// for anything.
func TestReadmeCommands(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	bus := testbus.Start(t, testbus.Daemon)
	watch := bus.Dial(t)
	service := exec.CommandContext(t.Context(), filepath.Join(programs, "dlmlockd"), "--engine=local",
		"--state-dir="+t.TempDir())
	service.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+bus.Address)
	require.NoError(t, service.Start())
	defer func() {
		_ = service.Process.Kill()
		_ = service.Wait()
	}()
	require.Eventually(t, func() bool {
		var has bool
		return watch.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, client.Name).Store(&has) == nil && has
	}, 20*time.Second, 5*time.Millisecond)
	commands := 0
	for _, block := range strings.Split(string(text), "```console\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		for _, step := range strings.Split("\n"+block, "\n$ ")[1:] {
			line, shown, _ := strings.Cut(step, "\n")
			cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
			cmd.Env = append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"), "DBUS_SYSTEM_BUS_ADDRESS="+bus.Address)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s\n%s", line, out)
			want := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimRight(shown, "\n")), `\.\.\.`, `.*`)
			require.Regexp(t, `(?s)\A`+want+`\n*\z`, string(out), line)
			commands++
		}
	}
	require.GreaterOrEqual(t, commands, 6)
}
