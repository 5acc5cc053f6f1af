package lab_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
	"github.com/dlmlock/dlmlockd/lab/logbook"
	"github.com/dlmlock/dlmlockd/lab/service"
)

// soakClient is one client: by which door it reaches the service, and what ends its
// locks.
type soakClient struct {
	door, lifetime string
	batch          int // how many locks it acquires and releases in one call; 0: one or two
}

// soakerWords returns the arguments of lab/cmd/soaker for clients with these pages.
func soakerWords(clients map[int]soakClient) (words []string) {
	for _, number := range slices.Sorted(maps.Keys(clients)) {
		c := clients[number]
		word := fmt.Sprintf("%d:%s:%s", number, c.door, c.lifetime)
		if c.batch > 0 {
			word += fmt.Sprintf(":%d", c.batch)
		}
		words = append(words, word)
	}
	return words
}

// soakProcesses has the processes of clients on each node. A process is killed or paused
// with all its clients.
var soakProcesses = [][]soakClient{
	{{"varlink", client.Persistent, 0}, {"varlink", client.Persistent, 0}, {"varlink", client.Process, 0},
		{"varlink", client.Connection, 0}},
	{{"dbus", client.Persistent, 0}, {"dbus", client.Connection, 0}, {"dbus", client.Process, 0}},
	{{"driver", client.Process, 0}, {"virtlockd", client.Process, 0}},
	{{"varlink", client.Persistent, soakBatch}, {"varlink", client.Process, soakBatch},
		{"dbus", client.Connection, soakBatch}, {"dbus", client.Persistent, soakBatch}},
}

const soakBatch = 64

// Where the programs of the clients are in the nodes.
const (
	soakerPath     = "/usr/local/bin/soaker"
	lockdriverPath = "/usr/local/bin/lockdriver"
	dlmlockPath    = "/usr/local/lib/dlmlock.so"
)

// soakPrograms has what the clients need, on this machine.
type soakPrograms struct {
	soaker string
	other  string // another build of the daemon, or ""
	root   string // of the repository
}

// buildSoakPrograms builds the programs, except those in C, which make soak has built.
// SOAK_OTHER is the commit of the other daemon.
func buildSoakPrograms(t *testing.T) *soakPrograms {
	dir := t.TempDir()
	root, err := lab.Repository()
	require.NoError(t, err)
	p := &soakPrograms{soaker: filepath.Join(dir, "soaker"), root: root}
	out, err := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", p.soaker,
		"./cmd/soaker").CombinedOutput()
	require.NoError(t, err, "%s", out)
	commit := os.Getenv("SOAK_OTHER")
	if commit == "" {
		return p
	}
	p.other = filepath.Join(dir, "dlmlockd")
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", `mkdir tree && `+
		`git -C "$ROOT" archive "$COMMIT" | tar -x -C tree && cd tree && `+
		`go build -trimpath -tags "libdlm godbus_no_tcp" -o "$OUT" ./cmd/dlmlockd`)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "ROOT="+root, "COMMIT="+commit, "OUT="+p.other)
	out, err = cmd.CombinedOutput()
	require.NoError(t, err, "SOAK_OTHER=%s: %s", commit, out)
	return p
}

func (p *soakPrograms) push(ctx context.Context, n *lab.Node) error {
	bin := filepath.Join(p.root, "bin")
	for _, file := range [][2]string{{p.soaker, soakerPath}, {filepath.Join(bin, "lockdriver"), lockdriverPath},
		{filepath.Join(bin, "dlmlock.so"), dlmlockPath}} {
		if err := n.Push(ctx, file[0], file[1]); err != nil {
			return err
		}
	}
	return nil
}

// soaker is one process of clients on a node.
type soaker struct {
	soak     *soak
	programs *soakPrograms
	node     *lab.Node
	pages    map[int]soakClient // by number
	order    []int              // the numbers, as the clients were made
	process  *agent.Process
}

// start starts the process. Its clients go on with their pages.
func (k *soaker) start(ctx context.Context) (err error) {
	argv := []string{soakerPath, "-node", strconv.Itoa(k.node.ID), "-lockspace", soakSpace,
		"-resources", strconv.Itoa(soakResources)}
	argv = append(argv, soakerWords(k.pages)...)
	k.process, err = k.node.Daemon(ctx, "soaker", agent.Command{Argv: argv})
	return err
}

func (s *soak) startClients(ctx context.Context, n *lab.Node) error {
	for _, k := range s.on(n) {
		if err := k.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// on returns the processes of a node.
func (s *soak) on(n *lab.Node) (out []*soaker) {
	for _, k := range s.soakers {
		if k.node == n {
			out = append(out, k)
		}
	}
	return out
}

func (k *soaker) give(o logbook.Order) {
	for _, number := range k.order {
		k.soak.logbook.Page(number).Give(o)
	}
}

// obeyed waits until all clients follow the last order.
func (k *soaker) obeyed(ctx context.Context) error {
	for _, number := range k.order {
		p := k.soak.logbook.Page(number)
		for !p.Obeyed() {
			select {
			case <-k.process.Done():
				return fmt.Errorf("the clients on %s have ended: %w", k.node.Name, k.process.Wait(ctx))
			case <-ctx.Done():
				h := p.Holding()
				return fmt.Errorf("client %d on %s, %v: holds %v, has lost %v: %w", number, k.node.Name, k.pages[number],
					h.Held, h.Lost, context.Cause(ctx))
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return nil
}

// paused keeps the clients of a node from making calls while do runs.
func (s *soak) paused(ctx context.Context, n *lab.Node, do func() error) error {
	for _, k := range s.on(n) {
		k.give(logbook.Pause)
	}
	defer func() {
		for _, k := range s.on(n) {
			k.give(logbook.Work)
		}
	}()
	for _, k := range s.on(n) {
		if err := k.obeyed(ctx); err != nil {
			return err
		}
	}
	return do()
}

// died records that all locks of a node's clients have ended, at that time or later. The
// clients make no calls meanwhile. kept says whether the service may still have something
// that has to be released.
func (s *soak) died(n *lab.Node, at uint64, kept bool) {
	for _, k := range s.on(n) {
		for _, number := range k.order {
			p := s.logbook.Page(number)
			for name := range p.Holding().Held {
				p.Begin(soakEnd(name, at, kept))
			}
		}
	}
}

func soakEnd(name int, at uint64, kept bool) logbook.Entry {
	return logbook.Entry{Op: logbook.End, Outcome: logbook.Done, Resource: name, Mode: dlm.None, Kept: kept, Call: at}
}

// buried records that no locks are left of a node that went off: it has come back, so
// the other nodes have recovered its locks.
func (s *soak) buried(n *lab.Node) {
	for _, k := range s.on(n) {
		for _, number := range k.order {
			p := s.logbook.Page(number)
			for _, places := range p.Holding().Open {
				for _, i := range places {
					p.Close(i)
				}
			}
		}
	}
}

// killClients ends a process of clients as kill -9 does. A new process goes on.
func (s *soak) killClients(ctx context.Context, n *lab.Node) error {
	all := s.on(n)
	k := all[s.rand.IntN(len(all))]
	at := s.logbook.Now()
	if err := k.process.Kill(ctx); err != nil {
		return err
	}
	for _, number := range k.order {
		c, p := k.pages[number], s.logbook.Page(number)
		if c.lifetime == client.Persistent {
			continue
		}
		h := p.Holding()
		for name := range h.Held {
			end := max(at, h.Since[name])
			kind := logbook.Daemon
			if c.door == "dbus" {
				kind = logbook.Bus
			}
			if broken := s.logbook.Broken(n.ID, kind, h.Since[name]); c.lifetime == client.Connection && broken != 0 {
				end = min(end, broken)
			}
			p.Begin(soakEnd(name, end, true))
		}
	}
	return k.start(ctx)
}

// pauseClients stops a process of clients for a while, so there are holders that don't
// answer.
func (s *soak) pauseClients(ctx context.Context, n *lab.Node) error {
	all := s.on(n)
	return s.stopped(ctx, n, "kill -%s "+strconv.Itoa(all[s.rand.IntN(len(all))].process.PID))
}

// TestSoakClients runs the clients of a soak on this machine, with a daemon of its own,
// and judges what they recorded.
func TestSoakClients(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "make", "-C", "..", "--no-print-directory", "bin/lockdriver",
		"bin/dlmlock.so").CombinedOutput()
	require.NoError(t, err, "%s", out)
	dir := t.TempDir()
	l, err := logbook.Create(filepath.Join(dir, "logbook"))
	require.NoError(t, err)
	var work sync.WaitGroup
	stop := make(chan struct{})
	work.Go(func() { l.Run(stop) })
	defer work.Wait()
	defer close(stop)

	daemon := startLocal(t, dir)
	clients := []soakClient{{"varlink", client.Persistent, 0}, {"varlink", client.Process, 0},
		{"varlink", client.Connection, 0}, {"driver", client.Process, 0}, {"virtlockd", client.Process, 0},
		{"varlink", client.Persistent, 3}, {"varlink", client.Connection, 3}}
	start := func() *exec.Cmd { return startSoaker(t, dir, clients) }
	process := start()
	for number := range clients {
		l.Page(number).Reset(uint64(number))
		l.Page(number).Give(logbook.Work)
	}
	rounds := func(n int) {
		t.Helper()
		for number := range clients {
			from := l.Page(number).Len()
			require.Eventually(t, func() bool { return l.Page(number).Len() >= from+n }, time.Minute, time.Millisecond,
				"client %v", clients[number])
		}
	}
	rounds(30)
	over := l.Mark(1, logbook.Daemon)
	require.NoError(t, daemon.Process.Kill())
	_ = daemon.Wait()
	startLocal(t, dir)
	over()
	rounds(30)

	at := l.Now()
	require.NoError(t, process.Process.Kill())
	_ = process.Wait()
	for number, c := range clients {
		for name := range l.Page(number).Holding().Held {
			if c.lifetime != client.Persistent {
				l.Page(number).Begin(soakEnd(name, at, true))
			}
		}
	}
	start()
	rounds(30)
	a := newAccount()
	for number, c := range clients {
		p := l.Page(number)
		p.Give(logbook.Finish)
		require.Eventually(t, p.Obeyed, time.Minute, time.Millisecond, "client %v holds %v", c, p.Holding().Held)
		a.read(fmt.Sprint(number), c.door, p)
	}
	h := &history{ops: a.ops}
	h.check(t, filepath.Join(dir, "history.html"))
	for name, seen := range a.tokens {
		require.Empty(t, wrongToken(seen), "tokens of %s", name)
	}
	t.Logf("%+v %v", a.report, a.why)
	for _, c := range clients {
		require.NotZero(t, a.report.Doors[c.door])
	}
	require.Greater(t, a.report.Granted, 100)
}

// startLocal starts a daemon with an engine of its own in a directory.
func startLocal(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	config := filepath.Join(dir, "dlmlockd.toml")
	require.NoError(t, os.WriteFile(config, []byte("lockspaces = [\"vms\"]\n"), 0o644))
	program := buildPrograms(t).daemon
	cmd := exec.Command(program, "--engine=local", "--bus=none", "--config="+config,
		"--state-dir="+filepath.Join(dir, "state"), "--varlink="+filepath.Join(dir, "varlink"),
		"--virtlockd="+filepath.Join(dir, "virtlockd"))
	cmd.Stderr = t.Output()
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func startSoaker(t *testing.T, dir string, clients []soakClient) *exec.Cmd {
	t.Helper()
	program := filepath.Join(dir, "soaker")
	if _, err := os.Stat(program); err != nil {
		require.NoError(t, service.Go(t.Context(), "build", "-C", "lab", "-o", program, "./cmd/soaker"))
	}
	conf := filepath.Join(dir, "qemu-dlmlock.conf")
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, "transport = \"varlink\"\nvarlink_socket = %q\n",
		filepath.Join(dir, "varlink")), 0o644))
	argv := []string{"-logbook", filepath.Join(dir, "logbook"), "-resources", "4",
		"-varlink", filepath.Join(dir, "varlink"), "-virtlockd", filepath.Join(dir, "virtlockd"),
		"-lockdriver", "../bin/lockdriver", "-driver", "../bin/dlmlock.so", "-driver-conf", conf}
	argv = append(argv, soakerWords(maps.Collect(slices.All(clients)))...)
	cmd := exec.Command(program, argv...)
	cmd.Stderr = t.Output()
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}
