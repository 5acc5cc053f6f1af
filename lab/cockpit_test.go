package lab_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
	"github.com/dlmlock/dlmlockd/lab/service"
)

// The page for Cockpit on a node.

// pageTime bounds what the browser has to see.
const pageTime = 3 * time.Minute

// TestCockpit has a browser show the page of a node while another node is being
// fenced: who waits for the lost node, that the lockspace stands still and why, and
// that all goes on afterwards. cockpit-ws runs here and its bridge on the node, as
// Cockpit does with remote hosts. A second browser looks through the Cockpit of
// Debian's backports. make test-cockpit-lab runs it, and makes the pictures of the
// documents.
func TestCockpit(t *testing.T) {
	fence, released := make(chan struct{}, 1), make(chan struct{})
	c := lab.Start(t, lab.Config{Nodes: 3, Fencing: true, BeforeFence: func(*lab.Node, int) {
		select {
		case fence <- struct{}{}:
		default:
		}
		<-released
	}})
	ctx := lab.Context(t, "cluster", joinTime)
	require.NoError(t, c.JoinDLM(ctx))
	dir := t.TempDir()
	commands := filepath.Join(dir, "dlmlockctl")
	require.NoError(t, service.Go(ctx, "build", "-o", commands, "./cmd/dlmlockctl"))
	for _, n := range c.Nodes() {
		s, err := service.Install(ctx, n, buildPrograms(t).daemon, "lockspaces = [\"vms\"]\n")
		require.NoError(t, err)
		require.NoError(t, s.Start(ctx))
		require.NoError(t, n.Push(ctx, commands, "/usr/local/bin/dlmlockctl"))
	}
	take := func(node int, resource, owner string) {
		_, err := c.Node(node).Run(ctx, "dlmlockctl", "acquire", "vms", resource, "EX", "--owner="+owner)
		require.NoError(t, err)
	}
	wait := func(node int, resource, owner string) {
		_, err := c.Node(node).Daemon(ctx, owner, agent.Command{Argv: []string{"dlmlockctl", "acquire", "vms", resource, "EX",
			"--owner=" + owner, "--wait=forever"}})
		require.NoError(t, err)
	}
	take(1, "web", "web")
	take(3, "mail", "mail")
	take(2, "db", "db")
	wait(2, "web", "web-standby")
	wait(1, "mail", "mail-standby")
	wait(1, "db", "db-standby")

	n := c.Node(1)
	putPages(t, n, dir)
	control := serveControl(t, c, dir)
	backport := unpacked(t, "COCKPIT_BACKPORT")
	looking := []*browser{
		look(t, "lab", serveCockpit(t, control, cockpit{name: "installed"}), "shell"),
		look(t, "lab-backport", serveCockpit(t, control, cockpit{name: "backport", root: backport})),
	}
	all := func(do func(*browser)) {
		for _, b := range looking {
			do(b)
		}
	}
	all(func(b *browser) { b.sees(t, "loaded") })
	t.Log("node 3 is switched off")
	require.NoError(t, c.Node(3).Crash())
	select {
	case <-fence:
	case <-time.After(joinTime):
		t.Fatal("nobody fences node 3")
	}
	all(func(b *browser) { b.says(t, "fencing") })
	all(func(b *browser) { b.sees(t, "stopped") })
	close(released)
	all(func(b *browser) { b.sees(t, "recovered") })
}

// browser is the program that looks at the page, test/lab.mjs.
type browser struct {
	name  string // of its pictures
	in    *os.File
	lines chan string
}

// unpacked is a directory with packages, which a variable names.
func unpacked(t *testing.T, variable string) string {
	dir := os.Getenv(variable)
	require.NotEmpty(t, dir, "set %s, or run make test-cockpit-lab", variable)
	return dir
}

// putPages puts the page and Cockpit's shell on a node, for its bridge.
func putPages(t *testing.T, n *lab.Node, dir string) {
	repository, err := lab.Repository()
	require.NoError(t, err)
	ctx := lab.Context(t, "pages", commandTime)
	files := filepath.Join(dir, "page.tar")
	out, err := exec.CommandContext(ctx, "tar", "-chf", files, "-C", filepath.Join(repository, "cockpit"),
		"--transform=s,^dist,dlmlock,", "dist",
		"-C", filepath.Join(unpacked(t, "COCKPIT_SHELL"), "usr/share/cockpit"), "shell").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, n.Push(ctx, files, "/run/page.tar"))
	_, err = n.Shell(ctx, "mkdir -p /run/page/cockpit && tar -C /run/page/cockpit -xf /run/page.tar && "+
		"mkdir -p /usr/share/dbus-1/system-services && touch /usr/share/dbus-1/system-services/org.example.DlmLock.service")
	require.NoError(t, err)
}

// serveControl lets labctl reach the nodes, and returns a command that runs another
// one on node 1.
func serveControl(t *testing.T, c *lab.Cluster, dir string) string {
	socket, labctl := filepath.Join(dir, "lab.sock"), filepath.Join(dir, "labctl")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	serving, end := context.WithCancel(t.Context())
	t.Cleanup(end)
	go func() { _ = c.ServeControl(serving, l) }()
	out, err := exec.CommandContext(lab.Context(t, "labctl", commandTime),
		"go", "build", "-o", labctl, "./cmd/labctl").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return fmt.Sprintf("LAB_SOCKET=%s exec %s exec", socket, labctl)
}

// cockpit is a version of Cockpit: the installed one, or one unpacked below a root.
type cockpit struct{ name, root string }

// onNode is the environment of its bridge on a node, which sees this machine's files.
func (v cockpit) onNode() string {
	environment := "-e XDG_DATA_HOME=/run/page -e HOME=/root -e XDG_RUNTIME_DIR=/run -e LC_ALL=C.UTF-8 " +
		"-e DBUS_SESSION_BUS_ADDRESS=unix:path=/run/dbus/system_bus_socket"
	if v.root != "" {
		environment += " -e XDG_DATA_DIRS=/host" + v.root + "/usr/share" +
			" -e PYTHONDONTWRITEBYTECODE=1 -e PYTHONPATH=/host" + v.root + "/usr/lib/python3/dist-packages"
	}
	return environment
}

// serveCockpit runs cockpit-ws here, with its bridge on node 1, and returns the port.
func serveCockpit(t *testing.T, control string, v cockpit) string {
	program, bridge := "/usr/lib/cockpit/cockpit-ws", "cockpit-bridge"
	if v.root != "" {
		program, bridge = v.root+program, "/host"+v.root+"/usr/bin/"+bridge
	}
	script := filepath.Join(t.TempDir(), "bridge-"+v.name)
	text := fmt.Sprintf("#!/bin/sh\n%s %s 1 -- %s\n", control, v.onNode(), bridge)
	require.NoError(t, os.WriteFile(script, []byte(text), 0o700))
	port := freePort(t)
	ws := exec.CommandContext(t.Context(), program, "--no-tls", "--address=127.0.0.1",
		"--port="+port, "--local-session="+script)
	if v.root != "" {
		ws.Env = append(os.Environ(), "XDG_DATA_DIRS="+v.root+"/usr/share")
	}
	run(t, ws)
	require.Eventually(t, func() bool {
		r, err := http.Get("http://127.0.0.1:" + port + "/")
		if err == nil {
			_ = r.Body.Close()
		}
		return err == nil
	}, commandTime, 100*time.Millisecond)
	return port
}

// run starts a program that ends with the test.
func run(t *testing.T, cmd *exec.Cmd) {
	cmd.Stderr = t.Output()
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// look starts the browser's program, whose pictures have names that begin so.
func look(t *testing.T, pictures, port string, more ...string) *browser {
	repository, err := lab.Repository()
	require.NoError(t, err)
	in, to, err := os.Pipe()
	require.NoError(t, err)
	from, out, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), "node",
		append([]string{filepath.Join(repository, "cockpit/test/lab.mjs"), "http://127.0.0.1:" + port, pictures}, more...)...)
	cmd.Stdin, cmd.Stdout = in, out
	run(t, cmd)
	_, _ = in.Close(), out.Close()
	b := &browser{pictures, to, make(chan string)}
	go func() {
		defer close(b.lines)
		for lines := bufio.NewScanner(from); lines.Scan(); {
			b.lines <- lines.Text()
		}
	}()
	return b
}

func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port
}

// says tells the browser's program what has happened.
func (b *browser) says(t *testing.T, word string) {
	_, err := b.in.WriteString(word + "\n")
	require.NoError(t, err)
}

// sees waits until the browser's program has seen something.
func (b *browser) sees(t *testing.T, word string) {
	t.Helper()
	end := time.After(pageTime)
	for {
		select {
		case line, ok := <-b.lines:
			require.True(t, ok, "%s: the browser's program has ended before %q", b.name, word)
			t.Log(b.name+":", line)
			if strings.TrimSpace(line) == word {
				return
			}
		case <-end:
			t.Fatalf("%s: the page has not shown %q", b.name, word)
		}
	}
}
