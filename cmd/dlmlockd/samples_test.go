package main

import (
	"bufio"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// typing is a service, and a shell with what its documents take for granted.
type typing struct {
	t      *testing.T
	bus    *testbus.Bus
	socket string
	path   string // where varlinkctl is found
	c      *varlinkClient
}

func startTyping(t *testing.T) typing {
	all := varlinkctls(t)
	newest := all[slices.Max(slices.Collect(maps.Keys(all)))]
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	s := typing{t: t, bus: bus, socket: filepath.Join(dir, "varlink"), path: filepath.Join(dir, "bin")}
	require.NoError(t, os.Mkdir(s.path, 0o755))
	require.NoError(t, os.Symlink(newest, filepath.Join(s.path, "varlinkctl")))
	start(t, bus, filepath.Join(dir, "state"), "--varlink="+s.socket)
	s.c = dialVarlink(t, s.socket)
	s.c.ok("JoinLockspace", fields{"lockspace": "vms"})
	return s
}

// command is a line of a document, with the socket of this service and no job.
func (s typing) command(line string) *exec.Cmd {
	line = strings.NewReplacer("/run/dlmlock/org.example.DlmLock", s.socket, "/usr/local/bin/backup", "true").Replace(line)
	cmd := s.bus.Typed(s.t, line, s.path)
	cmd.Env = append(cmd.Env, "S="+s.socket, "I=org.example.DlmLock")
	return cmd
}

// works runs a line that ends by itself, and returns what it prints.
func (s typing) works(line string) string {
	out, err := s.command(line).CombinedOutput()
	require.NoError(s.t, err, "%s\n%s", line, out)
	return string(out)
}

// prints runs a line that does not end, until it prints a text.
func (s typing) prints(line, text string) {
	cmd := s.command(line)
	out, err := cmd.StdoutPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, cmd.Start())
	lines, found := bufio.NewScanner(out), false
	for !found && lines.Scan() {
		found = strings.Contains(lines.Text(), text)
	}
	require.True(s.t, found, "%s: no %q", line, text)
	require.NoError(s.t, cmd.Process.Signal(syscall.SIGKILL))
	_ = cmd.Wait()
}

// The examples of org.example.DlmLock(5) work.
func TestSamplesOfTheInterfaceManual(t *testing.T) {
	s := startTyping(t)
	text, err := os.ReadFile("../../man/org.example.DlmLock.5.in")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(text), "\n.Sh EXAMPLES\n")
	require.True(t, ok)
	displays := regexp.MustCompile(`(?s)\.Bd [^\n]*\n(.*?)\.Ed`).FindAllStringSubmatch(section, -1)
	require.Len(t, displays, 2)
	commands := 0
	for _, d := range displays {
		for _, line := range strings.Split(strings.ReplaceAll(strings.TrimSpace(d[1]), "\\e\n", ""), "\n") {
			s.works(line)
			commands++
		}
	}
	require.Equal(t, 5, commands)
	require.Empty(t, s.c.held())
}

// The commands of docs/varlink.md work, as the newest varlinkctl has them.
func TestVarlinkDocumentCommands(t *testing.T) {
	s := startTyping(t)
	text, err := os.ReadFile("../../docs/varlink.md")
	require.NoError(t, err)
	commands := 0
	typed := regexp.MustCompile(`(?m)^(?:[$#] |ExecStart=)((?:varlinkctl|printf) .*)$`)
	for _, m := range typed.FindAllStringSubmatch(strings.ReplaceAll(string(text), "\\\n", ""), -1) {
		line := m[1]
		commands++
		switch {
		case strings.Contains(line, "call -E") && strings.Contains(line, "Monitor"):
			s.prints(line, "ready")
		case strings.Contains(line, "call -E"):
			s.prints(line, "granted")
		case strings.HasSuffix(line, `"mode":"ex"}'`):
			s.c.ok("Acquire", want("disk1", "persistent"))
			out, err := s.command(line).CombinedOutput()
			require.Error(t, err)
			require.Contains(t, string(out), "Acquire() failed: org.example.DlmLock.WouldBlock")
			s.c.ok("Release", fields{"lockspace": "vms", "resource": "disk1"})
		default:
			s.works(line)
		}
	}
	require.Equal(t, 12, commands)
	require.Eventually(t, func() bool { return len(s.c.held()) == 0 }, patience, time.Millisecond)
}
