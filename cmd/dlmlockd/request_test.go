package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/internal/testprocess"
)

// clientEnv makes the test program a client of the bus that it names.
const clientEnv = "DLMLOCKD_TEST_CLIENT"

func init() {
	if address := os.Getenv(clientEnv); address != "" {
		if err := requester(address, os.Getenv(clientEnv+"_LIFETIME")); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
}

// requester queues for vms/r, reports its progress, and ends with its input.
func requester(address, lifetime string) error {
	conn, err := godbus.Connect(address)
	if err != nil {
		return err
	}
	signals := make(chan *godbus.Signal, 10)
	conn.Signal(signals)
	if err := newClient(conn).call("Request", "vms", "r", "EX", opts("lifetime", lifetime)).Err; err != nil {
		return err
	}
	fmt.Println("queued")
	<-signals
	fmt.Println("completed")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// waiter is a requester in a process of its own.
type waiter struct {
	cmd  *exec.Cmd
	says *bufio.Reader
}

func newWaiter(t *testing.T, b *testbus.Bus, lifetime string) *waiter {
	t.Helper()
	p := &waiter{cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), clientEnv+"="+b.Address, clientEnv+"_LIFETIME="+lifetime)
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.says = bufio.NewReader(out)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	p.hear(t, "queued")
	return p
}

// hear waits for a line of the requester.
func (p *waiter) hear(t *testing.T, want string) {
	t.Helper()
	line, err := p.says.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, want+"\n", line)
}

func (p *waiter) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(s))
}

func (c client) property(t *testing.T, name string) any {
	t.Helper()
	v, err := c.obj.GetProperty("org.example.DlmLock." + name)
	require.NoError(t, err)
	return v.Value()
}

// The client is killed while it waits, while it can't receive that it has been granted, after it
// has received it, and at any moment in between: its Request is gone, its connection's lock as
// well, and a persistent lock stays.
func TestRequesterKilled(t *testing.T) {
	for _, kind := range testbus.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			bus, dir := testbus.Start(t, kind), t.TempDir()
			start(t, bus, dir)
			c := newClient(bus.Dial(t))
			require.NoError(t, c.join("vms"))
			for _, lifetime := range []string{"connection", "persistent"} {
				for _, stage := range []string{"queued", "granted unheard", "completed"} {
					t.Run(stage+" "+lifetime, func(t *testing.T) { killRequester(t, c, bus, stage, lifetime) })
				}
			}
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, seed))
			for range roundsOf(20) {
				_, err := c.acquire("vms", "r", "EX", "owner", "holder")
				require.NoError(t, err)
				p := newWaiter(t, bus, "connection")
				delay := time.Duration(random.Int64N(int64(2 * time.Millisecond)))
				go func() {
					time.Sleep(delay)
					_ = p.cmd.Process.Kill()
				}()
				time.Sleep(time.Duration(random.Int64N(int64(2 * time.Millisecond))))
				require.NoError(t, c.release("vms", "r", "owner", "holder"))
				c.becomes(t)
			}
			require.Eventually(t, func() bool { return c.property(t, "WaitingCount") == uint32(0) }, patience,
				10*time.Millisecond)
		})
	}
}

// killRequester kills a requester at one stage.
func killRequester(t *testing.T, c client, bus *testbus.Bus, stage, lifetime string) {
	_, err := c.acquire("vms", "r", "EX", "owner", "holder")
	require.NoError(t, err)
	p := newWaiter(t, bus, lifetime)
	has := func() bool {
		rows := c.list(t)
		return len(rows) == 1 && rows[0].Owner == "" && rows[0].State == "held"
	}
	switch stage {
	case "queued":
		p.signal(t, syscall.SIGKILL)
		require.Eventually(t, func() bool { return len(c.list(t)) == 1 }, patience, 5*time.Millisecond)
		require.NoError(t, c.release("vms", "r", "owner", "holder"))
		c.becomes(t)
		return
	case "granted unheard":
		require.NoError(t, testprocess.Stop(p.cmd.Process))
		require.NoError(t, c.release("vms", "r", "owner", "holder"))
	case "completed":
		require.NoError(t, c.release("vms", "r", "owner", "holder"))
		p.hear(t, "completed")
	}
	require.Eventually(t, has, patience, 5*time.Millisecond)
	p.signal(t, syscall.SIGKILL)
	_ = p.cmd.Wait()
	if lifetime == "connection" {
		c.becomes(t)
		return
	}
	// The consequences of its end come before anything that is asked after it was noticed.
	other := newWaiter(t, bus, "connection")
	other.signal(t, syscall.SIGKILL)
	require.Eventually(t, func() bool { return len(c.list(t)) == 1 }, patience, 5*time.Millisecond)
	require.True(t, has(), "a persistent lock outlives its client")
	require.NoError(t, c.release("vms", "r"))
}

// Requests end with the daemon and leave nothing: what was held is held, and a client that asks
// again waits again.
func TestDaemonKilledWithRequests(t *testing.T) {
	const n = 200
	for _, kind := range testbus.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			bus, dir := testbus.Start(t, kind), t.TempDir()
			p := start(t, bus, dir)
			conn := bus.Dial(t)
			c := newClient(conn)
			require.NoError(t, c.join("vms"))
			id, err := c.acquire("vms", "r", "EX", "owner", "holder")
			require.NoError(t, err)
			var path godbus.ObjectPath
			for i := range n {
				require.NoError(t, c.call("Request", "vms", "r", "EX", opts("owner", fmt.Sprint(i))).Store(&path))
			}
			require.Eventually(t, func() bool { return c.property(t, "WaitingCount") == uint32(n) }, patience,
				10*time.Millisecond)
			p.kill()
			p = start(t, bus, dir)
			rows := c.list(t)
			require.Len(t, rows, 1)
			require.Equal(t, id, rows[0].LockID)
			require.Equal(t, uint32(0), c.property(t, "WaitingCount"))
			require.Equal(t, "org.freedesktop.DBus.Error.UnknownObject",
				errorName(conn.Object("org.example.DlmLock", path).Call("org.example.DlmLock.Request.Cancel", 0).Err))
			granted := c.request(t, conn, "r")
			require.NoError(t, c.release("vms", "r", "owner", "holder"))
			await(t, granted)
			require.Zero(t, p.stop(t))
		})
	}
}

// TestCrashInRequest kills the program before every step of a Request that waits and is granted:
// what the client was told is true, and what it was not told is wholly done or wholly undone, so
// asking again is enough.
func TestCrashInRequest(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	conn := bus.Dial(t)
	c := newClient(conn)
	p := start(t, bus, dir)
	require.NoError(t, c.join(crashSpace))
	p.kill()
	for n, done := 1, false; !done; n++ {
		p, ready := launchHooked(t, bus, dir, n)
		told := ready && requestInTurn(t, c, conn, p)
		select {
		case <-p.exited:
		default:
			done = told
			p.kill()
		}
		p = start(t, bus, dir)
		if told {
			rows := c.list(t)
			require.Len(t, rows, 1, "step %d", n)
			require.Equal(t, "next", rows[0].Owner)
		}
		for _, owner := range []string{"holder", "next"} {
			require.NoError(t, c.call("ReleaseOwner", "", owner).Err)
		}
		require.Empty(t, c.settled(t), "step %d", n)
		require.Empty(t, c.granted(t, "r"), "step %d", n)
		p.kill()
		if done {
			t.Logf("%d steps", n-1)
			require.Greater(t, n, 10, "the hook does not see the steps")
		}
	}
}

// requestInTurn has one owner wait for another, and reports whether it learned of its grant before
// the daemon died.
func requestInTurn(t *testing.T, c client, conn *godbus.Conn, p *running) bool {
	if _, err := c.acquire(crashSpace, "r", "EX", "owner", "holder"); err != nil {
		return false
	}
	signals := make(chan *godbus.Signal, 100)
	conn.Signal(signals)
	defer conn.RemoveSignal(signals)
	if c.call("Request", crashSpace, "r", "EX", opts("owner", "next")).Err != nil ||
		c.release(crashSpace, "r", "owner", "holder") != nil {
		return false
	}
	for {
		select {
		case s := <-signals:
			if s.Name == "org.example.DlmLock.Request.Completed" {
				require.Equal(t, "granted", s.Body[0])
				return true
			}
		case <-p.exited:
			// What it said before is on its way: a question to the bus comes after it.
			_ = conn.BusObject().Call("org.freedesktop.DBus.GetId", 0).Err
			select {
			case s := <-signals:
				return s.Name == "org.example.DlmLock.Request.Completed"
			case <-time.After(50 * time.Millisecond):
				return false
			}
		}
	}
}
