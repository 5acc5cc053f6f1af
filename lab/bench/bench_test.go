package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dlmlock/dlmlockd/internal/benchreport"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/service"
)

const (
	served = "vms"   // the lockspace of the service
	free   = "floor" // that of everything else
	locks  = 10_000
	rounds = 7

	config = "[limits]\nlocks-per-uid = 1000000\nlocks-per-call = 10000\n"
)

// BenchmarkKernel boots one node for all measurements. Each is done once,
// whatever b.N says.
func BenchmarkKernel(b *testing.B) {
	c := lab.Start(b, lab.Config{Nodes: 1})
	s := prepare(b, c)
	n := s.node

	pairs := n.interleave(rounds, "bare pairs floor 5000", "dlmbench engine pairs floor 5000")
	add(b, "Lock+Unlock through the engine", pairs, 5000)
	grants := n.interleave(rounds, "bare grants floor 2000", "dlmbench engine grants floor 2000")
	add(b, "lock, make persistent with value, unlock with value: the engine", grants, 2000)
	calls := n.interleave(rounds, "dlmbench service pings vms 200", "dlmbench service pairs vms 200")
	calls[0] += grants[0] * 200 / 2000
	addTo(b, "Acquire+Release through the service, one client", calls, 200, "two empty calls, and bare libdlm")

	n.nanoseconds("bare leave floor " + strconv.Itoa(locks))
	adopt := fmt.Sprintf(" adopt floor %d", locks)
	add(b, "adoption of 10,000 locks by the engine, for each lock", n.interleave(rounds, "bare"+adopt,
		"dlmbench engine"+adopt), locks)
	n.nanoseconds("bare unlock floor " + strconv.Itoa(locks))

	activation(b, s)
	report(b, c)
}

// site is a node with the service, and the programs that measure.
type site struct {
	node    *node
	service *service.Service
}

func prepare(b *testing.B, c *lab.Cluster) *site {
	ctx := lab.Context(b, "preparing", 5*time.Minute)
	must(b, c.JoinDLM(ctx))
	dir := b.TempDir()
	build(b, "gcc", "-O2", "-Wall", "-o", filepath.Join(dir, "bare"), "bare/bare.c", "-ldlm_lt")
	build(b, "go", "build", "-tags", "libdlm", "-o", filepath.Join(dir, "dlmbench"), "../cmd/dlmbench")
	n := c.Node(1)
	for _, program := range []string{"bare", "dlmbench"} {
		must(b, n.Push(ctx, filepath.Join(dir, program), "/usr/local/bin/"+program))
	}
	_, err := n.Run(ctx, "dlm_tool", "join", free)
	must(b, err)
	program, err := service.Build(ctx, dir)
	must(b, err)
	s, err := service.Install(ctx, n, program, config)
	must(b, err)
	must(b, s.Start(ctx, "--log-level=warn"))
	client, err := s.Dial(ctx)
	must(b, err)
	defer client.Close()
	must(b, client.Join(ctx, served))
	return &site{node: &node{b: b, node: n}, service: s}
}

// activation measures a start with many locks to take over against one with
// few.
func activation(b *testing.B, s *site) {
	restart := func() time.Duration {
		ctx := lab.Context(b, "restart", 5*time.Minute)
		must(b, s.service.Kill(ctx))
		began := time.Now()
		must(b, s.service.Start(ctx, "--log-level=warn"))
		return time.Since(began)
	}
	median := func() time.Duration {
		var all []time.Duration
		for range 3 {
			all = append(all, restart())
		}
		slices.Sort(all)
		return all[1]
	}
	few := median()
	s.node.nanoseconds(fmt.Sprintf("dlmbench service fill %s %d", served, locks))
	many := median()
	lines = append(lines, line{"start of the service with 10,000 locks to adopt", fmt.Sprintf("%.2f s", many.Seconds()),
		fmt.Sprintf("%.2f s (none)", few.Seconds()), ""})
	b.ReportMetric((many - few).Seconds(), "s-activation")
}

// node runs programs that print nanoseconds.
type node struct {
	b    *testing.B
	node *lab.Node
}

func (n *node) nanoseconds(command string) time.Duration {
	n.b.Helper()
	out, err := n.node.Run(lab.Context(n.b, command, 5*time.Minute), strings.Fields(command)...)
	must(n.b, err)
	ns, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	must(n.b, err)
	return time.Duration(ns)
}

// interleave runs the commands in turns, so that a busy moment of the machine
// hits each of them, and returns the median of each.
func (n *node) interleave(rounds int, commands ...string) []time.Duration {
	n.b.Helper()
	times := make([][]time.Duration, len(commands))
	for range rounds {
		for i, c := range commands {
			times[i] = append(times[i], n.nanoseconds(c))
		}
	}
	medians := make([]time.Duration, len(commands))
	for i := range times {
		slices.Sort(times[i])
		medians[i] = times[i][rounds/2]
	}
	return medians
}

type line struct{ what, measured, floor, ratio string }

var lines []line

// add puts a measurement into the table: the floor comes first.
func add(b *testing.B, what string, m []time.Duration, n int) { addTo(b, what, m, n, "bare libdlm") }

func addTo(b *testing.B, what string, m []time.Duration, n int, floor string) {
	ratio := float64(m[1]) / float64(m[0])
	micros := func(d time.Duration) string { return fmt.Sprintf("%.1f us", float64(d.Nanoseconds())/1000/float64(n)) }
	lines = append(lines, line{what, micros(m[1]), micros(m[0]) + " (" + floor + ")", fmt.Sprintf("%.2f", ratio)})
	b.Logf("%s: %s, floor %s", what, micros(m[1]), micros(m[0]))
}

// report writes the table to its place in BENCH_REPORT.
func report(b *testing.B, c *lab.Cluster) {
	var t bytes.Buffer
	fmt.Fprintf(&t, "One emulated or virtual node with Linux %s on this machine, %s, %s.\n\n", c.Release(),
		runtime.Version(), time.Now().UTC().Format("2006-01-02"))
	t.WriteString("| what | measured | floor | ratio |\n| --- | --- | --- | --- |\n")
	for _, l := range lines {
		fmt.Fprintf(&t, "| %s | %s | %s | %s |\n", l.what, l.measured, l.floor, l.ratio)
	}
	fmt.Print(t.String())
	path := os.Getenv("BENCH_REPORT")
	if path == "" {
		return
	}
	must(b, benchreport.Write(path, "bench-lab", t.String()))
}

func build(b *testing.B, argv ...string) {
	b.Helper()
	out, err := exec.CommandContext(context.Background(), argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		b.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
