package lab_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
	"github.com/dlmlock/dlmlockd/lab/service"
)

// setFault happens to the holders of all sets on a node, which stand between read and
// write.
type setFault struct {
	name string
	most time.Duration // how long it takes, unless others have written in all sets
	node bool          // it is one of the whole node
	cut  bool          // the cluster may go on without the node
	do   func(context.Context, *setRig, *setEpisode) error
	undo func(context.Context, *setRig, *setEpisode) error // nil: they get their answers
}

// setEpisode is one fault.
type setEpisode struct {
	node   *lab.Node
	caught map[string]*caughtHolder
}

func (e *setEpisode) tell(op string) {
	for _, c := range e.caught {
		c.tell(setMessage{Op: op})
	}
}

// answer lets the holders have what they have read.
func (e *setEpisode) answer() {
	for _, c := range e.caught {
		c.tell(setMessage{Op: "answer", Text: c.text, Hold: c.hold})
	}
}

// The time of a fault is longer than any lease and token timeout: a holder that is
// paused for less is not noticed by anybody.
const (
	processFaultTime = 15 * time.Second
	nodeFaultTime    = time.Minute
)

var setFaults = []setFault{
	{name: "holder stopped (SIGSTOP), then resumed", most: processFaultTime,
		do: func(_ context.Context, _ *setRig, e *setEpisode) error {
			e.tell("stop")
			e.answer() // which they find when they go on
			return nil
		},
		undo: func(_ context.Context, _ *setRig, e *setEpisode) error {
			e.tell("cont")
			return nil
		}},
	{name: "holder killed, with its tool", most: processFaultTime,
		do: func(_ context.Context, _ *setRig, e *setEpisode) error {
			e.tell("kill")
			return nil
		}},
	{name: "tool killed, the command lives on", most: processFaultTime,
		do: func(_ context.Context, _ *setRig, e *setEpisode) error {
			e.tell("killtool")
			return nil
		}},
	{name: "lock service of the node killed and restarted", most: processFaultTime,
		do: func(ctx context.Context, r *setRig, e *setEpisode) error { return r.locks.killService(ctx, e.node) }},
	{name: "lock released by an administrator", most: processFaultTime,
		do: func(ctx context.Context, r *setRig, e *setEpisode) error {
			for _, set := range setNames {
				if err := r.locks.release(ctx, e.node, set); err != nil {
					return err
				}
			}
			return nil
		}},
	{name: "node cut off", most: nodeFaultTime, node: true, cut: true,
		do: func(_ context.Context, _ *setRig, e *setEpisode) error {
			e.node.Isolate()
			return nil
		}},
	{name: "node suspended, then resumed", most: nodeFaultTime, node: true, cut: true,
		do: func(_ context.Context, _ *setRig, e *setEpisode) error { return e.node.Pause() },
		undo: func(_ context.Context, _ *setRig, e *setEpisode) error {
			if err := e.node.Resume(); err != nil && e.node.Up() {
				return err
			}
			e.answer()
			return nil
		}},
}

// setTally is what faults of a kind have come to in a set.
type setTally struct {
	faults, lost, refused int
	waits                 []time.Duration // until somebody else wrote; 0: not before the fault was over
}

// episode lets one fault happen, and counts what it has cost.
func (r *setRig) episode(t *testing.T, f setFault, n *lab.Node, tallies map[string]*setTally) {
	ctx := lab.Context(t, f.name, 5*time.Minute)
	before := map[string][2]int{}
	caught, err := r.catchHolders(ctx, n.ID)
	require.NoError(t, err, f.name)
	e := &setEpisode{n, caught}
	for _, set := range setNames {
		_, lost, refused, err := r.storage.count(set)
		require.NoError(t, err)
		before[set] = [2]int{lost, refused}
	}
	begin := time.Now()
	r.logf("fault: %s, on %s", f.name, n.Name)
	require.NoError(t, f.do(ctx, r, e), f.name)
	waits := r.waitForOthers(ctx, caught, begin, f.most)
	r.logf("fault over: %v", waits)
	if f.undo == nil {
		e.answer()
	} else {
		require.NoError(t, f.undo(ctx, r, e), f.name)
	}
	for _, c := range caught {
		select {
		case <-c.over:
		case <-c.gone:
		case <-time.After(nodeFaultTime):
			r.logf("the holder of %s has not ended", c.set)
		}
	}
	require.NoError(t, r.again(ctx, n, f.cut))
	for _, set := range setNames {
		_, lost, refused, err := r.storage.count(set)
		require.NoError(t, err)
		tally := tallies[set]
		tally.faults++
		tally.lost += lost - before[set][0]
		tally.refused += refused - before[set][1]
		tally.waits = append(tally.waits, waits[set])
		r.logf("%s: %d lost, %d refused", set, lost-before[set][0], refused-before[set][1])
	}
}

// again makes the node as it was at first.
func (r *setRig) again(ctx context.Context, n *lab.Node, cut bool) error {
	if err := r.locks.again(ctx, n, cut); err != nil {
		return err
	}
	r.mu.Lock()
	clients := r.clients[n.ID]
	r.mu.Unlock()
	for _, c := range clients {
		select {
		case <-c.gone:
			return r.startClients(ctx, n)
		default:
		}
	}
	return nil
}

// waitForOthers waits until others have written in all sets, and returns after how
// long they did in each.
func (r *setRig) waitForOthers(ctx context.Context, caught map[string]*caughtHolder, begin time.Time,
	most time.Duration) map[string]time.Duration {
	waits, end := map[string]time.Duration{}, time.After(most)
	for {
		changed := r.storage.change()
		for _, set := range setNames {
			if at := r.storage.after(set, begin, caught[set].setClient); waits[set] == 0 && !at.IsZero() {
				waits[set] = at.Sub(begin)
			}
		}
		if len(waits) == len(setNames) {
			return waits
		}
		select {
		case <-changed:
		case <-end:
			return waits
		case <-ctx.Done():
			return waits
		}
	}
}

// TestHeldSet counts the updates that are lost in a set under a lock: make
// test-held-set. HELDSET_TIMES is how often each fault happens (3; those of a whole
// node: HELDSET_NODE_TIMES, 2).
func TestHeldSet(t *testing.T) {
	lab.Require(t)
	etcd := os.Getenv("ETCD")
	if etcd == "" {
		t.Skip("set ETCD to where Debian's etcd-server and etcd-client are unpacked, or run make test-held-set")
	}
	dir := t.TempDir()
	program, commands := filepath.Join(dir, "heldset"), filepath.Join(dir, "dlmlockctl")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/heldset").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, service.Go(t.Context(), "build", "-o", commands, "./cmd/dlmlockctl"))
	var report strings.Builder
	for _, fencing := range []bool{true, false} {
		name := map[bool]string{true: "dlmlockd, the cluster fences", false: "dlmlockd, the cluster does not fence"}[fencing]
		t.Run(name, func(t *testing.T) {
			s := newServiceRig(t, lab.Config{Nodes: 3, Fencing: fencing})
			d := &dlmLocks{s, t, commands}
			for _, n := range s.cluster.Nodes() {
				require.NoError(t, d.start(lab.Context(t, "start", 2*commandTime), n))
			}
			r := newSetRig(t, s.cluster, d, program)
			r.run(t, name, func(f setFault) bool { return fencing || f.node }, &report)
		})
	}
	t.Run("etcd", func(t *testing.T) {
		c := lab.Start(t, lab.Config{Nodes: 3})
		log, err := os.Create(filepath.Join(c.Artefacts(), "etcd"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = log.Close() })
		e := &etcdLocks{cluster: c, members: map[int]*agent.Process{}, log: log}
		ctx := lab.Context(t, "etcd", 2*commandTime)
		for _, n := range c.Nodes() {
			for _, name := range []string{"etcd", "etcdctl"} {
				require.NoError(t, n.Push(ctx, filepath.Join(etcd, "usr/bin", name), "/usr/local/bin/"+name))
			}
			require.NoError(t, e.startMember(ctx, n))
		}
		newSetRig(t, c, e, program).run(t, "etcd", func(setFault) bool { return true }, &report)
	})
	t.Log("\n" + report.String())
	if path := os.Getenv("HELDSET_REPORT"); path != "" && !t.Failed() {
		require.NoError(t, os.WriteFile(path, []byte(report.String()), 0o600))
	}
}

func newSetRig(t *testing.T, c *lab.Cluster, l locks, program string) *setRig {
	log, err := os.Create(filepath.Join(c.Artefacts(), "heldset"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = log.Close() })
	r := &setRig{t: t, cluster: c, locks: l, storage: startStorage(t), log: log, program: program,
		clients: map[int][]*setClient{}}
	t.Cleanup(func() { r.over.Store(true) })
	for _, n := range c.Nodes() {
		require.NoError(t, r.startClients(lab.Context(t, "clients", commandTime), n))
	}
	return r
}

// run lets all faults of a choice happen on each node in turn, and writes a table.
func (r *setRig) run(t *testing.T, name string, chosen func(setFault) bool, report *strings.Builder) {
	var table [][]string
	turn := 0
	for _, f := range setFaults {
		if !chosen(f) {
			continue
		}
		tallies := map[string]*setTally{}
		for _, set := range setNames {
			tallies[set] = &setTally{}
		}
		for range times(t, f) {
			r.episode(t, f, r.cluster.Node(turn%3+1), tallies)
			turn++
		}
		row := []string{f.name, strconv.Itoa(tallies["alone"].faults)}
		for _, set := range setNames {
			row = append(row, fmt.Sprintf("%d", tallies[set].lost))
		}
		table = append(table, append(row, strconv.Itoa(tallies["token"].refused), waited(tallies)))
		t.Log(row, tallies["token"].refused, waited(tallies))
	}
	fmt.Fprintf(report, "| %s | times | lock alone: lost | tokens: lost | killed on loss: lost | tokens: refused | "+
		"others wait |\n| --- | --- | --- | --- | --- | --- | --- |\n", name)
	for _, row := range table {
		fmt.Fprintf(report, "| %s |\n", strings.Join(row, " | "))
	}
	var sums []string
	for _, set := range setNames {
		written, lost, _, err := r.storage.count(set)
		require.NoError(t, err)
		require.Greater(t, written, 0)
		sums = append(sums, fmt.Sprintf("%s %d of %d", set, lost, written))
	}
	fmt.Fprintf(report, "\nLost in all: %s.\n\n", strings.Join(sums, ", "))
	_, lost, _, err := r.storage.count("token")
	require.NoError(t, err)
	require.Zero(t, lost, "updates of the set whose storage checks tokens")
}

// waited says how long others waited in the sets: the shortest and the longest time.
func waited(tallies map[string]*setTally) string {
	var least, most time.Duration
	never := false
	for _, tally := range tallies {
		for _, w := range tally.waits {
			if w == 0 {
				never = true
				continue
			}
			if least == 0 || w < least {
				least = w
			}
			most = max(most, w)
		}
	}
	text := fmt.Sprintf("%.1f to %.1f s", least.Seconds(), most.Seconds())
	switch {
	case least == 0:
		return "until it is over"
	case never:
		return text + ", or until it is over"
	}
	return text
}

func times(t *testing.T, f setFault) int {
	name, n := "HELDSET_TIMES", 3
	if f.node {
		name, n = "HELDSET_NODE_TIMES", 2
	}
	if text := os.Getenv(name); text != "" {
		var err error
		n, err = strconv.Atoi(text)
		require.NoError(t, err, name)
	}
	return n
}
