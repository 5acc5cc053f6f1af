package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// pair connects a client with a server in this process, so that the "node"
// is this machine.
func pair(t *testing.T, answer Handler) (*Client, *Server) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	host, node := net.Pipe()
	server, err := NewServer(node)
	require.NoError(t, err)
	client, err := NewClient(host, answer)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	t.Cleanup(func() {
		client.Close()
		require.NoError(t, <-served)
		goleak.VerifyNone(t, ignore)
	})
	return client, server
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestRunReturnsOutputAndStatus(t *testing.T) {
	c, _ := pair(t, nil)
	tests := []struct {
		name     string
		cmd      Command
		stdin    string
		out, err string
		code     int
		signal   syscall.Signal
	}{
		{name: "output", cmd: Command{Argv: []string{"sh", "-c", "echo out; echo err >&2"}}, out: "out\n", err: "err\n"},
		{name: "input to its end", cmd: Command{Argv: []string{"cat"}}, stdin: "a line\n", out: "a line\n"},
		{name: "status", cmd: Command{Argv: []string{"sh", "-c", "exit 7"}}, code: 7},
		{name: "signal", cmd: Command{Argv: []string{"sh", "-c", "kill -9 $$"}}, code: -1, signal: syscall.SIGKILL},
		{name: "environment", cmd: Command{Argv: []string{"sh", "-c", "echo $LAB_X"}, Env: []string{"LAB_X=y"}}, out: "y\n"},
		{name: "directory", cmd: Command{Argv: []string{"pwd"}, Dir: "/usr"}, out: "/usr\n"},
		{name: "a daemon left behind", cmd: Command{Argv: []string{"sh", "-c", "sleep 3 & echo started"}}, out: "started\n"},
		{name: "input nobody reads", cmd: Command{Argv: []string{"true"}}, stdin: strings.Repeat("x", 1<<20)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, errOut, err := c.Run(within(t), tt.cmd, strings.NewReader(tt.stdin))
			if tt.code == 0 {
				require.NoError(t, err)
			} else {
				failed, ok := errors.AsType[*ExitError](err)
				require.True(t, ok, "%v", err)
				require.Equal(t, tt.code, failed.Code)
				require.Equal(t, tt.signal, failed.Signal)
			}
			require.Equal(t, tt.out, string(out))
			require.Equal(t, tt.err, string(errOut))
		})
	}
}

func TestRunOfNothing(t *testing.T) {
	c, _ := pair(t, nil)
	_, _, err := c.Run(within(t), Command{Argv: []string{"/no/such/program"}}, nil)
	require.ErrorContains(t, err, "/no/such/program")
	_, _, err = c.Run(within(t), Command{}, nil)
	require.ErrorContains(t, err, "no command")
}

// Several processes at once, each driven over its own pipes, is what a
// conformance run needs.
func TestProcessesAreDrivenOverTheirPipes(t *testing.T) {
	c, _ := pair(t, nil)
	const n = 5
	procs := make([]*Process, n)
	outs := make([]*io.PipeReader, n)
	for i := range procs {
		r, w := io.Pipe()
		p, err := c.Start(within(t), Command{Argv: []string{"cat"}, Stdout: w})
		require.NoError(t, err)
		procs[i], outs[i] = p, r
	}
	for round := range 20 {
		for i, p := range procs {
			msg := []byte{byte('a' + i), byte('0' + round%10)}
			_, err := p.Write(msg)
			require.NoError(t, err)
			got := make([]byte, 2)
			_, err = io.ReadFull(outs[i], got)
			require.NoError(t, err)
			require.Equal(t, msg, got)
		}
	}
	for _, p := range procs {
		require.NoError(t, p.CloseInput())
		require.NoError(t, p.Wait(within(t)))
	}
}

func TestKillAndSignal(t *testing.T) {
	c, _ := pair(t, nil)
	p, err := c.Start(within(t), Command{Argv: []string{"sleep", "100"}})
	require.NoError(t, err)
	require.NoError(t, p.Kill(within(t)))
	failed, ok := errors.AsType[*ExitError](p.Wait(within(t)))
	require.True(t, ok)
	require.Equal(t, syscall.SIGKILL, failed.Signal)
	require.ErrorIs(t, syscall.Kill(p.PID, 0), syscall.ESRCH)
	require.NoError(t, p.Kill(within(t)), "killing what is dead is no error")
}

// A command given up by the host must not go on in the node, nor its children.
func TestContextEndKillsTheGroup(t *testing.T) {
	c, _ := pair(t, nil)
	ctx, cancel := context.WithCancel(within(t))
	pids := filepath.Join(t.TempDir(), "pids")
	running := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, _, err := c.Run(ctx, Command{
			Argv:   []string{"sh", "-c", "sleep 100 & echo $! > " + pids + "; echo go; wait"},
			Stdout: writerFunc(func() { close(running) }),
		}, nil)
		done <- err
	}()
	<-running
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	text, err := os.ReadFile(pids)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		state, err := os.ReadFile("/proc/" + strings.TrimSpace(string(text)) + "/stat")
		return err != nil || bytes.Contains(state, []byte(") Z "))
	}, time.Minute, 10*time.Millisecond)
}

type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) { f(); return len(p), nil }

func TestPutGet(t *testing.T) {
	c, _ := pair(t, nil)
	path := filepath.Join(t.TempDir(), "new", "file")
	body := bytes.Repeat([]byte("0123456789"), 30_000)
	require.NoError(t, c.Put(within(t), path, 0o750, bytes.NewReader(body)))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o750), info.Mode())
	var got bytes.Buffer
	require.NoError(t, c.Get(within(t), path, &got))
	require.Equal(t, body, got.Bytes())

	require.ErrorContains(t, c.Get(within(t), path+".none", io.Discard), "no such file")
	require.ErrorContains(t, c.Put(within(t), path+"/below", 0o600, bytes.NewReader(body)), "not a directory")
}

func TestDial(t *testing.T) {
	c, _ := pair(t, nil)
	addr := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", addr)
	require.NoError(t, err)
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}
	}()
	conn, err := c.Dial(within(t), "unix", addr)
	require.NoError(t, err)
	_, err = conn.Write([]byte("ping"))
	require.NoError(t, err)
	got := make([]byte, 4)
	_, err = io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, "ping", string(got))
	require.NoError(t, conn.Close())
	_, err = conn.Read(got)
	require.Error(t, err, "Close ends a read")

	_, err = c.Dial(within(t), "unix", addr+".none")
	require.ErrorContains(t, err, "no such file")
}

// The other side sees the user; the agent's own ids stay as they were.
func TestDialAs(t *testing.T) {
	require.Zero(t, os.Geteuid(), "only root can be another user: make test runs this with sudo")
	c, _ := pair(t, nil)
	addr := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: addr})
	require.NoError(t, err)
	defer l.Close()
	for dir := filepath.Dir(addr); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	require.NoError(t, os.Chmod(addr, 0o666))
	for _, want := range []unix.Ucred{{Uid: 1000, Gid: 100}, {}} {
		conn, err := c.DialAs(within(t), "unix", addr, want.Uid, want.Gid)
		require.NoError(t, err)
		defer conn.Close()
		seen, err := l.AcceptUnix()
		require.NoError(t, err)
		defer seen.Close()
		raw, err := seen.SyscallConn()
		require.NoError(t, err)
		var cred *unix.Ucred
		require.NoError(t, raw.Control(func(fd uintptr) {
			cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		}))
		require.NoError(t, err)
		require.Equal(t, [2]uint32{want.Uid, want.Gid}, [2]uint32{cred.Uid, cred.Gid})
	}
}

func TestTheNodeAsksTheHost(t *testing.T) {
	_, s := pair(t, func(op string, args []string) (string, error) {
		if op != "fence" {
			return "", errors.New("no such question")
		}
		return "fenced " + args[0], nil
	})
	text, err := s.Ask("fence", "3")
	require.NoError(t, err)
	require.Equal(t, "fenced 3", text)
	_, err = s.Ask("other")
	require.EqualError(t, err, "no such question")
}

// The end of the session is the end of a node: whoever waits must hear it.
func TestSessionEndEndsProcesses(t *testing.T) {
	c, _ := pair(t, nil)
	p, err := c.Start(within(t), Command{Argv: []string{"sleep", "100"}})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.ErrorContains(t, p.Wait(within(t)), "the node is gone")
	<-c.Done()
	_, err = c.Start(within(t), Command{Argv: []string{"true"}})
	require.Error(t, err)
}

func TestReadFrameRefusesDamage(t *testing.T) {
	_, _, err := readFrame(bytes.NewReader([]byte{'o', 0xff, 0xff, 0xff, 0xff}))
	require.ErrorContains(t, err, "limit")
	_, _, err = readFrame(bytes.NewReader([]byte{'o', 0, 0, 0, 9, 1}))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// Input that a process does not read must not stand in the way of its end.
func TestKillPassesUnreadInput(t *testing.T) {
	c, _ := pair(t, nil)
	p, err := c.Start(within(t), Command{Argv: []string{"sleep", "100"}})
	require.NoError(t, err)
	_, err = p.Write(make([]byte, 4<<20))
	require.NoError(t, err)
	require.NoError(t, p.Kill(within(t)))
}

// A process that writes at once does not overtake the reply that it was started.
func TestReplyBeforeOutput(t *testing.T) {
	c, _ := pair(t, nil)
	for range 200 {
		out, _, err := c.Run(within(t), Command{Argv: []string{"echo", "x"}}, nil)
		require.NoError(t, err)
		require.Equal(t, "x\n", string(out))
	}
}
