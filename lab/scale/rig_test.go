package scale_test

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dlmlock/dlmlockd/internal/benchreport"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
)

const (
	program  = "/usr/local/bin/dlmload"
	stepTime = 2 * time.Minute
)

// rig is a cluster whose nodes can take many locks.
type rig struct {
	*testing.B
	cluster *lab.Cluster
	spaces  int // how many lockspaces were made
}

// boot starts nodes with dlm_controld. Slab caches are not merged, so those of the DLM can be seen.
func boot(b *testing.B, nodes int) *rig {
	r := &rig{b, lab.Start(b, lab.Config{Nodes: nodes, Token: 10 * time.Second, KernelArgs: "slab_nomerge"}), 0}
	ctx := lab.Context(b, "join", 5*time.Minute)
	r.must(r.cluster.JoinDLM(ctx))
	file := filepath.Join(b.TempDir(), "dlmload")
	out, err := exec.CommandContext(ctx, "go", "build", "-tags", "libdlm", "-o", file, "../cmd/dlmload").CombinedOutput()
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	for _, n := range r.cluster.Nodes() {
		r.must(n.Push(ctx, file, program))
	}
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) step(what string) context.Context { return lab.Context(r, what, stepTime) }

// shell runs a line on a node and returns what it prints.
func (r *rig) shell(node int, line string) string {
	r.Helper()
	out, err := r.cluster.Node(node).Shell(r.step(line), line)
	r.must(err)
	return out
}

// on does something for each of the nodes at once.
func (r *rig) on(nodes []int, do func(node int) error) {
	r.Helper()
	var all sync.WaitGroup
	errs := make([]error, len(nodes))
	for i, n := range nodes {
		all.Go(func() { errs[i] = do(n) })
	}
	all.Wait()
	for _, err := range errs {
		r.must(err)
	}
}

// join makes a lockspace of these nodes, with a name that was not used before, and returns the name
// when all of them are members.
func (r *rig) join(nodes ...int) string {
	r.Helper()
	r.spaces++
	space := fmt.Sprintf("space%d", r.spaces)
	ctx := r.step("join " + space)
	for _, n := range nodes { // the first is the first member
		r.must(r.cluster.Node(n).JoinLockspace(ctx, space))
	}
	r.on(nodes, func(n int) error {
		return r.cluster.Node(n).WaitLockspaceMembers(ctx, space, nodes...)
	})
	return space
}

// leave lets nodes leave a lockspace.
func (r *rig) leave(space string, nodes ...int) {
	r.Helper()
	r.on(nodes, func(n int) error { return r.cluster.Node(n).LeaveLockspace(r.step("leave"), space) })
}

// load is a dlmload that runs on a node.
type load struct {
	rig     *rig
	node    int
	process *agent.Process
	lines   *bufio.Scanner
}

// start starts dlmload and gives it names.
func (r *rig) start(node int, names []string, args ...string) *load {
	r.Helper()
	out, in := io.Pipe()
	p, err := r.cluster.Node(node).Start(r.Context(), agent.Command{Argv: append([]string{program}, args...),
		Stdout: in, Stderr: os.Stderr})
	r.must(err)
	go func() {
		<-p.Done()
		in.Close()
	}()
	var text strings.Builder
	for _, name := range names {
		text.WriteString(hex.EncodeToString([]byte(name)) + "\n")
	}
	_, err = p.Write([]byte(text.String() + "\n"))
	r.must(err)
	return &load{r, node, p, bufio.NewScanner(out)}
}

// hold has a node take locks, and returns when it has them.
func (r *rig) hold(node int, space, mode string, names []string) *load {
	r.Helper()
	l := r.start(node, names, "hold", space, mode)
	l.line()
	return l
}

// line returns the next line that is printed.
func (l *load) line() string {
	l.rig.Helper()
	if !l.lines.Scan() {
		l.rig.Fatalf("dlmload has ended: %v", l.process.Wait(l.rig.Context()))
	}
	return l.lines.Text()
}

// end lets a process that holds locks end.
func (l *load) end() {
	l.rig.Helper()
	_ = l.process.CloseInput() // it may have ended with the lockspace
	l.rig.must(l.process.Wait(l.rig.step("the end of dlmload")))
}

// table is a file with measurements.
type table struct {
	name string
	rows [][]string
}

func newTable(name string, columns ...string) *table { return &table{name, [][]string{columns}} }

func (t *table) add(cells ...any) {
	var row []string
	for _, c := range cells {
		if f, ok := c.(float64); ok {
			c = fmt.Sprintf("%.3f", f)
		}
		row = append(row, fmt.Sprint(c))
	}
	t.rows = append(t.rows, row)
	if len(t.rows) < 50 {
		fmt.Println(t.name, row)
	}
}

// save writes the table into SCALE_DATA, if that is set.
func (t *table) save(r *rig) {
	r.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "# emulated nodes, Linux %s, on %s", r.cluster.Release(), benchreport.Machine())
	w := csv.NewWriter(&text)
	r.must(w.WriteAll(t.rows))
	if dir := os.Getenv("SCALE_DATA"); dir != "" {
		r.must(os.WriteFile(filepath.Join(dir, t.name+".csv"), []byte(text.String()), 0o644))
	}
}
