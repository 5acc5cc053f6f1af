//go:build cgo

package cpg

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/peers"
)

// fault tells the fake libcpg what to do.
var fault string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "cpg")
	if err != nil {
		panic(err)
	}
	fault = filepath.Join(dir, "fault")
	os.Setenv("FAKE_CPG", fault) // the library reads it when it is used: before cgo has begun
	if os.Getenv("FAKE_CPG_LIBRARY") == "" {
		library := filepath.Join(dir, "libfakecpg.so")
		out, err := exec.Command("gcc", "-shared", "-fPIC", "-o", library, "testdata/fakecpg.c").CombinedOutput()
		if err != nil {
			panic(string(out))
		}
		os.Setenv("FAKE_CPG_LIBRARY", library)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// serve runs a relay, and returns how to reach it.
func serve(t *testing.T, library string) func(context.Context) (peers.Link, error) {
	path := filepath.Join(t.TempDir(), "relay")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, library, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return peers.DialRelay(path)
}

// setFault makes the fake libcpg fail in a way; "": it does not.
func setFault(t *testing.T, what string) {
	require.NoError(t, os.WriteFile(fault, []byte(what), 0o600))
}

func receive(t *testing.T, l peers.Link) peers.Event {
	ev, err := l.Receive()
	require.NoError(t, err)
	return ev
}

func TestRelayCopies(t *testing.T) {
	setFault(t, "")
	dial := serve(t, os.Getenv("FAKE_CPG_LIBRARY"))
	for range 3 { // connections come one after the other, and each begins anew
		l, err := dial(t.Context())
		require.NoError(t, err)
		self := peers.Member{Node: 5, PID: uint32(os.Getpid())}
		require.Equal(t, peers.Event{Self: self, Members: []peers.Member{self, {Node: 6, PID: 66}}}, receive(t, l))
		for _, n := range []int{1, 1000, peers.MaxMessage} {
			data := bytes.Repeat([]byte{byte(n)}, n)
			require.NoError(t, l.Send(data))
			require.Equal(t, peers.Event{From: self, Data: data}, receive(t, l))
		}
		require.NoError(t, l.Close())
	}
}

func TestRelayWaitsForBusyCorosync(t *testing.T) {
	setFault(t, "busy")
	dial := serve(t, os.Getenv("FAKE_CPG_LIBRARY"))
	l, err := dial(t.Context())
	require.NoError(t, err)
	receive(t, l)
	for i := range byte(20) {
		require.NoError(t, l.Send([]byte{i}))
		require.Equal(t, []byte{i}, receive(t, l).Data)
	}
	require.NoError(t, l.Close())
}

func TestRelaySaysWhyItEnds(t *testing.T) {
	dial := serve(t, os.Getenv("FAKE_CPG_LIBRARY"))
	ends := func() string {
		l, err := dial(t.Context())
		require.NoError(t, err)
		defer func() { require.NoError(t, l.Close()) }()
		for {
			if _, err := l.Receive(); err != nil {
				return err.Error()
			}
		}
	}
	setFault(t, "down")
	require.Contains(t, ends(), "corosync does not run")
	setFault(t, "ended")
	require.Contains(t, ends(), "has ended (exchange messages)")

	dial = serve(t, "libabsent.so.9")
	require.Contains(t, ends(), "libcpg, which comes with corosync, can't be loaded")
}

// A service that does not read makes neither the relay nor corosync wait.
func TestRelayDropsWhatTheServiceDoesNotRead(t *testing.T) {
	setFault(t, "")
	dial := serve(t, os.Getenv("FAKE_CPG_LIBRARY"))
	l, err := dial(t.Context())
	require.NoError(t, err)
	data := bytes.Repeat([]byte{1}, peers.MaxMessage)
	for range 100 {
		require.NoError(t, l.Send(data), "the relay still takes messages")
	}
	require.NoError(t, l.Close())
	l, err = dial(t.Context())
	require.NoError(t, err)
	receive(t, l)
	require.NoError(t, l.Close())
}

// With the real corosync, alone in a network of its own.
func TestRelayWithCorosync(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start corosync")
	}
	if os.Getenv("CPG_TEST_INSIDE") == "" {
		cmd := exec.Command("unshare", "--mount", "--net", "--ipc", os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), "CPG_TEST_INSIDE=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "--- PASS", "%s", out)
		return
	}
	for _, c := range [][]string{{"ip", "link", "set", "lo", "up"}, {"mount", "-t", "tmpfs", "none", "/dev/shm"},
		{"mount", "-t", "tmpfs", "none", "/run"}, {"mount", "-t", "tmpfs", "none", "/var/lib/corosync"}} {
		out, err := exec.Command(c[0], c[1:]...).CombinedOutput()
		require.NoError(t, err, "%v: %s", c, out)
	}
	conf := filepath.Join(t.TempDir(), "corosync.conf")
	require.NoError(t, os.WriteFile(conf, []byte(`totem {
  version: 2
  cluster_name: alone
  transport: udpu
}
logging {
  to_stderr: yes
  to_syslog: no
}
nodelist {
  node {
    ring0_addr: 127.0.0.1
    nodeid: 3
    name: alone
  }
}
`), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	corosync := exec.CommandContext(ctx, "corosync", "-f", "-c", conf)
	var log bytes.Buffer
	corosync.Stderr = &log
	require.NoError(t, corosync.Start(), "install corosync")
	gone := make(chan error, 1)
	go func() { gone <- corosync.Wait() }()
	defer func() { cancel(); <-gone }()

	dial := serve(t, Library)
	var l peers.Link
	var ev peers.Event
	require.Eventually(t, func() bool {
		var err error
		if l, err = dial(t.Context()); err != nil {
			return false
		}
		if ev, err = l.Receive(); err != nil {
			_ = l.Close()
		}
		return err == nil
	}, 30*time.Second, 50*time.Millisecond, "%s", &log)
	self := peers.Member{Node: 3, PID: uint32(os.Getpid())}
	require.Equal(t, peers.Event{Self: self, Members: []peers.Member{self}}, ev)
	for _, n := range []int{1, peers.MaxMessage} {
		data := bytes.Repeat([]byte{7}, n)
		require.NoError(t, l.Send(data))
		require.Equal(t, peers.Event{From: self, Data: data}, receive(t, l))
	}

	// Without corosync the relay says so, and goes on when it is back.
	cancel()
	gone <- <-gone
	_, err := l.Receive()
	require.ErrorContains(t, err, "corosync does not run, or has ended")
	require.NoError(t, l.Close())
}
