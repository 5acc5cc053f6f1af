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
// Cockpit does with remote hosts. make test-cockpit-lab runs it, and makes the
// pictures of the documents.
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

	b := newBrowser(t, c, dir)
	b.sees(t, "loaded")
	t.Log("node 3 is switched off")
	require.NoError(t, c.Node(3).Crash())
	select {
	case <-fence:
	case <-time.After(joinTime):
		t.Fatal("nobody fences node 3")
	}
	b.says(t, "fencing")
	b.sees(t, "stopped")
	close(released)
	b.sees(t, "recovered")
}

// browser is the program that looks at the page, test/lab.mjs.
type browser struct {
	in    *os.File
	lines chan string
}

// newBrowser serves the page of node 1, and opens it.
func newBrowser(t *testing.T, c *lab.Cluster, dir string) *browser {
	repository, err := lab.Repository()
	require.NoError(t, err)
	ctx := lab.Context(t, "page", commandTime)
	files := filepath.Join(dir, "page.tar")
	shell := os.Getenv("COCKPIT_SHELL") // the packages of the shell, unpacked
	require.NotEmpty(t, shell, "set COCKPIT_SHELL, or run make test-cockpit-lab")
	out, err := exec.CommandContext(ctx, "tar", "-chf", files, "-C", filepath.Join(repository, "cockpit"),
		"--transform=s,^dist,dlmlock,", "dist", "-C", filepath.Join(shell, "usr/share/cockpit"), "shell").CombinedOutput()
	require.NoError(t, err, "%s", out)
	n := c.Node(1)
	require.NoError(t, n.Push(ctx, files, "/run/page.tar"))
	_, err = n.Shell(ctx, "mkdir -p /run/page/cockpit && tar -C /run/page/cockpit -xf /run/page.tar && "+
		"mkdir -p /usr/share/dbus-1/system-services && touch /usr/share/dbus-1/system-services/org.example.DlmLock.service")
	require.NoError(t, err)

	socket := filepath.Join(dir, "lab.sock")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	serving, end := context.WithCancel(t.Context())
	t.Cleanup(end)
	go func() { _ = c.ServeControl(serving, l) }()
	bridge := filepath.Join(dir, "bridge")
	labctl := filepath.Join(dir, "labctl")
	out, err = exec.CommandContext(ctx, "go", "build", "-o", labctl, "./cmd/labctl").CombinedOutput()
	require.NoError(t, err, "%s", out)
	script := fmt.Sprintf("#!/bin/sh\nLAB_SOCKET=%s exec %s exec -e XDG_DATA_HOME=/run/page -e HOME=/root "+
		"-e XDG_RUNTIME_DIR=/run -e LC_ALL=C.UTF-8 -e DBUS_SESSION_BUS_ADDRESS=unix:path=/run/dbus/system_bus_socket "+
		"1 -- cockpit-bridge\n", socket, labctl)
	require.NoError(t, os.WriteFile(bridge, []byte(script), 0o700))
	port := freePort(t)
	run(t, exec.CommandContext(t.Context(), "/usr/lib/cockpit/cockpit-ws", "--no-tls", "--address=127.0.0.1",
		"--port="+port, "--local-session="+bridge))
	require.Eventually(t, func() bool {
		r, err := http.Get("http://127.0.0.1:" + port + "/")
		if err == nil {
			_ = r.Body.Close()
		}
		return err == nil
	}, commandTime, 100*time.Millisecond)
	return look(t, filepath.Join(repository, "cockpit/test/lab.mjs"), port)
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

// look starts the browser's program.
func look(t *testing.T, program, port string) *browser {
	in, to, err := os.Pipe()
	require.NoError(t, err)
	from, out, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), "node", program, "http://127.0.0.1:"+port)
	cmd.Stdin, cmd.Stdout = in, out
	run(t, cmd)
	_, _ = in.Close(), out.Close()
	b := &browser{to, make(chan string)}
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
			require.True(t, ok, "the browser's program has ended before %q", word)
			t.Log("the page:", line)
			if strings.TrimSpace(line) == word {
				return
			}
		case <-end:
			t.Fatalf("the page has not shown %q", word)
		}
	}
}
