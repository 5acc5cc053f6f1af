package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// server is the store over HTTP.
func server(t *testing.T, dir string) *httptest.Server {
	s, err := OpenStore(dir)
	require.NoError(t, err)
	h := httptest.NewServer(s.Handler())
	t.Cleanup(h.Close)
	return h
}

// put writes a block and returns the status.
func put(t *testing.T, h *httptest.Server, name, token, data string) int {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, h.URL+"/blocks/"+name,
		bytes.NewBufferString(data))
	require.NoError(t, err)
	if token != "" {
		r.Header.Set(TokenHeader, token)
	}
	return do(t, r).status
}

type answer struct {
	status      int
	token, text string
}

func do(t *testing.T, r *http.Request) answer {
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return answer{resp.StatusCode, resp.Header.Get(TokenHeader), string(text)}
}

func get(t *testing.T, h *httptest.Server, name string) answer {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL+"/blocks/"+name, nil)
	require.NoError(t, err)
	return do(t, r)
}

// A token that is smaller than one that was seen is refused, even after a restart of the store; the
// same one and larger ones are accepted.
func TestStaleTokens(t *testing.T) {
	dir := t.TempDir()
	h := server(t, dir)
	require.Equal(t, http.StatusNotFound, get(t, h, "disk1").status)
	require.Equal(t, http.StatusNoContent, put(t, h, "disk1", "7", "a"))
	require.Equal(t, http.StatusNoContent, put(t, h, "disk1", "7", "b"))
	require.Equal(t, http.StatusPreconditionFailed, put(t, h, "disk1", "6", "c"))
	require.Equal(t, answer{http.StatusOK, "7", "b"}, get(t, h, "disk1"))
	require.Equal(t, http.StatusNoContent, put(t, h, "other", "6", "c"), "tokens are those of one resource")

	h = server(t, dir)
	require.Equal(t, http.StatusPreconditionFailed, put(t, h, "disk1", "6", "c"))
	require.Equal(t, http.StatusNoContent, put(t, h, "disk1", "18446744073709551615", "d"))
	require.Equal(t, answer{http.StatusOK, "18446744073709551615", "d"}, get(t, h, "disk1"))
}

// A holder that reads in order to write what it has read with a change sends its token with the
// read: from then on the write of the holder before it is refused, and can't get lost.
func TestReadUnderAToken(t *testing.T) {
	dir := t.TempDir()
	h := server(t, dir)
	read := func(token string) answer {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL+"/blocks/set", nil)
		require.NoError(t, err)
		r.Header.Set(TokenHeader, token)
		return do(t, r)
	}
	require.Equal(t, answer{http.StatusOK, "7", ""}, read("7"), "a block that is not there yet is empty")
	require.Equal(t, http.StatusNoContent, put(t, h, "set", "7", "a"))
	require.Equal(t, answer{http.StatusOK, "7", "a"}, read("7"))
	require.Equal(t, answer{http.StatusOK, "8", "a"}, read("8"))
	require.Equal(t, http.StatusPreconditionFailed, put(t, h, "set", "7", "a b"), "the next holder has read")
	require.Equal(t, http.StatusPreconditionFailed, read("7").status)
	h = server(t, dir)
	require.Equal(t, http.StatusPreconditionFailed, put(t, h, "set", "7", "a b"), "nor after a restart")
	require.Equal(t, http.StatusNoContent, put(t, h, "set", "8", "a c"))
	require.Equal(t, answer{http.StatusOK, "8", "a c"}, get(t, h, "set"))
	for _, token := range []string{"0", "-1", "x"} {
		require.Equal(t, http.StatusPreconditionRequired, read(token).status, token)
	}
}

// A write without a token could come from anybody.
func TestBadRequests(t *testing.T) {
	dir := t.TempDir()
	h := server(t, dir)
	for _, token := range []string{"", "0", "-1", "x", "18446744073709551616"} {
		require.Equal(t, http.StatusPreconditionRequired, put(t, h, "disk1", token, "a"), token)
	}
	for _, name := range []string{"..", "a%2fb", "%2e%2e%2fx", "a~", "b%00"} {
		require.NotEqual(t, http.StatusNoContent, put(t, h, name, "1", "a"), name)
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "short"), []byte("x"), 0o600))
	require.Equal(t, http.StatusInternalServerError, put(t, h, "short", "1", "a"), "a damaged block is not overwritten")
}

// Of concurrent writes, none with a smaller token comes after one with a larger one.
func TestWritesAtOnce(t *testing.T) {
	s, err := OpenStore(t.TempDir())
	require.NoError(t, err)
	var all sync.WaitGroup
	for token := uint64(1); token <= 50; token++ {
		all.Go(func() { _ = s.Write("r", token, fmt.Append(nil, token)) })
	}
	all.Wait()
	data, token, err := s.Read("r")
	require.NoError(t, err)
	require.Equal(t, uint64(50), token)
	require.Equal(t, "50", string(data))
}

// The story for which tokens exist, with the real service: the lock of a client that stands still
// is given to another client; when the first goes on, its write is refused.
func TestLateHolder(t *testing.T) {
	bus := testbus.Start(t, testbus.Daemon)
	startDaemon(t, bus)
	h := server(t, t.TempDir())
	ctx := t.Context()
	dial := func() *client.Client {
		c, err := client.Dial(ctx, bus.Address)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	first, second := dial(), dial()
	disk := client.Want{Lockspace: "vms", Resource: "disk1", Mode: "EX"}
	a, err := first.Acquire(ctx, disk, client.Options{Owner: "first"})
	require.NoError(t, err)
	write := func(g client.Grant, data string) int {
		return put(t, h, "disk1", strconv.FormatUint(g.Token, 10), data)
	}
	require.Equal(t, http.StatusNoContent, write(a, "of the first"))

	// The first client stands still. The administrator releases its lock.
	_, err = second.ReleaseOwner(ctx, "vms", "first")
	require.NoError(t, err)
	b, err := second.Acquire(ctx, disk, client.Options{Owner: "second"})
	require.NoError(t, err)
	require.Equal(t, http.StatusNoContent, write(b, "of the second"))

	require.Equal(t, http.StatusPreconditionFailed, write(a, "too late"))
	require.Equal(t, "of the second", get(t, h, "disk1").text)
}

// The commands of docs/tokens.md, but for the start of the store, which runs here already.
func TestDocumentedCommands(t *testing.T) {
	text, err := os.ReadFile("../../docs/tokens.md")
	require.NoError(t, err)
	_, commands, ok := strings.Cut(string(text), "```\nfencedstore --dir=/srv/blocks &\n")
	require.True(t, ok)
	commands, _, _ = strings.Cut(commands, "```")
	bus := testbus.Start(t, testbus.Daemon)
	startDaemon(t, bus)
	h, dir := server(t, t.TempDir()), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "block"), []byte("data"), 0o600))
	cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", strings.NewReplacer("http://127.0.0.1:8080", h.URL,
		"curl", "curl --silent --show-error --write-out '%{http_code}'").Replace(commands))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+bus.Address)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "200204", string(out), "a read under the token, and a write")
	require.Equal(t, "data", get(t, h, "disk1").text)
}

// startDaemon runs the real program on the bus, with the embedded engine.
func startDaemon(t *testing.T, bus *testbus.Bus) {
	dir := t.TempDir()
	program := filepath.Join(dir, "dlmlockd")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../cmd/dlmlockd").CombinedOutput()
	require.NoError(t, err, string(out))
	settings := filepath.Join(dir, "dlmlockd.toml")
	require.NoError(t, os.WriteFile(settings, []byte("lockspaces = [\"vms\"]\n"), 0o600))
	ctx, cancel := context.WithCancel(context.Background())
	daemon := exec.CommandContext(ctx, program, "--engine=local", "--config="+settings,
		"--state-dir="+filepath.Join(dir, "state"), "--bus="+bus.Address)
	daemon.Cancel = func() error { return daemon.Process.Signal(syscall.SIGTERM) }
	daemon.WaitDelay = 10 * time.Second
	var log bytes.Buffer
	daemon.Stdout, daemon.Stderr = &log, &log
	require.NoError(t, daemon.Start())
	t.Cleanup(func() {
		cancel()
		_ = daemon.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	conn := bus.DialAs(t, testbus.Root)
	require.Eventually(t, func() bool {
		var there bool
		err := conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, client.Name).Store(&there)
		return err == nil && there
	}, time.Minute, 5*time.Millisecond, "the daemon takes its name")
}
