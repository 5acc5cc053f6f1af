package lab_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lab"
)

// TestFailover does on two nodes what dlmlockctl(1) says under UNITS, with the files
// and commands of the manual page itself: a service that runs on one node at a time.
// It prints how long the service is away when its lock is released, when the program
// that holds the lock is killed, and when the node loses its power. The same nodes then
// have the units of docs/programs.md (patterns_test.go).
func TestFailover(t *testing.T) {
	rig := newUnitRig(t)
	f := failover{rig}
	sample := unitsOfManual(t)
	f.install(t, sample)
	one := f.running(t)
	t.Logf("node %d runs the service at first", one.ID)

	t.Run("the lock is released", func(t *testing.T) {
		two := f.moves(t, one, func() { f.on(t, one, "systemctl stop "+failoverLock) })
		f.on(t, one, "! systemctl is-active "+failoverService)
		f.on(t, one, "systemctl start --no-block "+failoverLock)
		one = two
	})
	t.Run("the holder of the lock is killed", func(t *testing.T) {
		two := f.moves(t, one, func() { f.on(t, one, "systemctl kill --signal=KILL "+failoverLock) })
		f.on(t, one, "! systemctl is-active "+failoverService)
		f.await(t, one, "activating", "systemctl is-active "+failoverLock)
		one = two
	})
	t.Run("a timer runs a job once in the cluster", f.timer)
	t.Run("a socket starts a service that holds a lock", f.socket)
	t.Run("the node loses its power", func(t *testing.T) {
		f.moves(t, one, func() { require.NoError(t, one.Crash()) })
		require.Len(t, f.cluster.Fenced(), 1, "not before it was fenced")
	})
}

const (
	failoverLock    = "dlmlock@vms-failover.service"
	failoverService = "failover.service"
)

// failover is two nodes of which one runs the service.
type failover struct{ unitRig }

// install puts the programs, a configuration and the sample on both nodes.
func (f failover) install(t *testing.T, s manualSample) {
	control := filepath.Join(t.TempDir(), "dlmlockctl")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "godbus_no_tcp", "-o", control, "./cmd/dlmlockctl")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, f.cluster.JoinDLM(lab.Context(t, "joining", joinTime)))
	ctx := lab.Context(t, "installing", commandTime)
	for _, n := range f.cluster.Nodes() {
		require.NoError(t, n.Push(ctx, control, "/usr/bin/dlmlockctl"))
		require.NoError(t, n.Put(ctx, "/etc/dlmlockd.toml", 0o644, []byte("lockspaces = [\"vms\"]\n")))
		for path, text := range s.files {
			_, err := n.Run(ctx, "mkdir", "-p", filepath.Dir(path))
			require.NoError(t, err)
			require.NoError(t, n.Put(ctx, path, 0o644, []byte(text)))
		}
		f.on(t, n, s.commands)
	}
}

// on runs lines on a node, which must succeed.
func (f failover) on(t *testing.T, n *lab.Node, lines string) {
	t.Helper()
	unitRig{t, f.cluster, n, nil}.run("set -e\n" + lines)
}

// await repeats a line on a node until its output has text.
func (f failover) await(t *testing.T, n *lab.Node, text, line string) {
	t.Helper()
	unitRig{t, f.cluster, n, nil}.await(text, line)
}

// running returns the node that runs the service. The other one must not.
func (f failover) running(t *testing.T) *lab.Node {
	t.Helper()
	var found []*lab.Node
	require.Eventually(t, func() bool {
		found = found[:0]
		for _, n := range f.cluster.Nodes() {
			if f.active(n) {
				found = append(found, n)
			}
		}
		return len(found) > 0
	}, commandTime, 200*time.Millisecond, "no node runs the service")
	require.Len(t, found, 1, "one node alone runs the service")
	return found[0]
}

// active reports whether a node is up and runs the service.
func (f failover) active(n *lab.Node) bool {
	if !n.Up() {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	_, err := n.Run(ctx, "systemctl", "is-active", "--quiet", failoverService)
	return err == nil
}

// moves does something to the node that runs the service, and waits until the other
// one does.
func (f failover) moves(t *testing.T, from *lab.Node, do func()) (to *lab.Node) {
	t.Helper()
	to = f.cluster.Node(3 - from.ID)
	began := time.Now()
	do()
	require.Eventually(t, func() bool { return f.active(to) }, commandTime, 50*time.Millisecond,
		"node %d does not run the service", to.ID)
	t.Logf("node %d runs the service after %.1f s", to.ID, time.Since(began).Seconds())
	return to
}

// manualSample is what the manual page tells to write and to type on each node.
type manualSample struct {
	files    map[string]string
	commands string
}

// unitsOfManual reads the section UNITS of dlmlockctl(1): a display after the name
// of a file below /etc is that file, the one after them the commands.
func unitsOfManual(t *testing.T) manualSample {
	text, err := os.ReadFile("../man/dlmlockctl.1")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(text), "\n.Sh UNITS\n")
	require.True(t, ok, "the section UNITS of dlmlockctl(1)")
	section, _, _ = strings.Cut(section, "\n.Sh ")
	s := manualSample{files: map[string]string{}}
	display := regexp.MustCompile(`(?s)\.Bd -literal[^\n]*\n(.*?)\.Ed`)
	name := regexp.MustCompile(`\.Pa (/etc/\S+)`)
	last := 0
	for _, m := range display.FindAllStringSubmatchIndex(section, -1) {
		body := unescape(section[m[2]:m[3]])
		if named := name.FindAllStringSubmatch(section[last:m[0]], -1); named != nil {
			s.files[unescape(named[len(named)-1][1])] = body
		} else {
			s.commands += body
		}
		last = m[1]
	}
	require.Len(t, s.files, 2, "files in the section UNITS")
	require.Contains(t, s.commands, "systemctl")
	return s
}

// unescape makes text of roff.
func unescape(roff string) string {
	return strings.NewReplacer(`\-`, "-", `\&`, "", `\e`, `\`).Replace(roff)
}
