package lab_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
	"github.com/dlmlock/dlmlockd/lab/image"
	"github.com/dlmlock/dlmlockd/lab/lan"
)

// A kernelBug is a fault of the DLM with a program in kernel-bugs that shows
// it, and a report in docs/kernel-bugs. This project works around each, so a
// kernel without the fault must be noticed: the test fails when a kernel does
// not behave as the table says.
type kernelBug struct {
	program string
	kernels []string // the series that have it
	// show runs the program and returns whether the fault was there.
	show func(*bugRig) bool
}

var everyKernel = append(image.Series(), image.Testing)

// kernelBugs come in the order in which nodes survive them.
var kernelBugs = []kernelBug{
	{"controld-sigpipe.sh", everyKernel, (*bugRig).answerToNobody}, // of dlm_controld
	{"unlock-value", everyKernel, func(r *bugRig) bool { return r.verdict(1, "unlock-value", bugSpace) }},
	{"quecvt-warning", everyKernel, (*bugRig).warning},
	{"lost-completion", []string{"6.1"}, (*bugRig).lostCompletion},
	{"late-cancel", everyKernel, (*bugRig).lateCancel},
	{"slow-grant", []string{"6.12", image.Testing}, (*bugRig).slowGrant},
	{"stuck-lookup", everyKernel, (*bugRig).stuckLookup},
	{"purge-ghost", everyKernel, (*bugRig).purgeGhost},
	{"unsent-lookup", everyKernel, (*bugRig).unsentLookup},
	{"canceled-lookup", everyKernel, (*bugRig).canceledLookup},
	{"toss-reader", []string{"6.1"}, (*bugRig).tossReader},
}

const (
	bugSpace = "bugs"
	bugDir   = "/run/kernel-bugs/"
	bugTime  = 3 * time.Minute
)

// TestKernelBugs runs the programs of kernel-bugs on each kernel.
func TestKernelBugs(t *testing.T) {
	lab.Require(t)
	t.Parallel()
	built := t.TempDir()
	for _, kernel := range seriesToTest() {
		t.Run(kernel, func(t *testing.T) {
			r := &bugRig{t: t, built: built, cluster: lab.Start(t, lab.Config{Kernel: kernel, Nodes: 2})}
			ctx := lab.Context(t, "join", 2*joinTime)
			require.NoError(t, r.cluster.JoinDLM(ctx))
			for _, bug := range kernelBugs {
				t.Run(bug.program, func(t *testing.T) {
					r := &bugRig{t: t, built: built, cluster: r.cluster}
					r.install(bug.program)
					had, has := slices.Contains(bug.kernels, kernel), bug.show(r)
					t.Logf("%s on %s: present: %v", bug.program, r.cluster.Release(), has)
					require.Equal(t, had, has, "a kernel has changed: correct kernelBugs and docs/kernel-bugs")
				})
			}
		})
	}
}

type bugRig struct {
	t       *testing.T
	built   string // where the compiled programs are
	cluster *lab.Cluster
}

// install brings the program to the nodes.
func (r *bugRig) install(program string) {
	file := filepath.Join("kernel-bugs", program)
	if filepath.Ext(program) != ".sh" {
		file = filepath.Join(r.built, program)
		out, err := exec.CommandContext(r.t.Context(), "gcc", "-O2", "-Wall", "-o", file,
			filepath.Join("kernel-bugs", program+".c"), "-ldlm_lt").CombinedOutput()
		require.NoError(r.t, err, "%s", out)
	}
	for _, n := range r.cluster.Nodes() {
		if n.Up() { // the last programs need one node
			require.NoError(r.t, n.Push(lab.Context(r.t, "push", stepTime), file, bugDir+program))
		}
	}
}

// verdict runs a program that says whether the fault is there, by its last
// line and its exit status.
func (r *bugRig) verdict(node int, program string, args ...string) bool {
	out, errs, err := r.cluster.Node(node).RunCommand(lab.Context(r.t, program, bugTime),
		agent.Command{Argv: append([]string{bugDir + program}, args...)}, nil)
	r.t.Logf("%s%s", out, errs)
	return r.present(string(out), err)
}

func (r *bugRig) present(out string, err error) bool {
	switch {
	case strings.HasPrefix(out, "present: ") && err != nil:
		return true
	case strings.HasPrefix(out, "absent: ") && err == nil:
		return false
	}
	require.FailNow(r.t, "the program could not look", "%s (%v)", out, err)
	return false
}

// answerToNobody leaves a dlm_controld and the lockspace to the others.
func (r *bugRig) answerToNobody() bool {
	ctx := lab.Context(r.t, "dlm_controld", bugTime)
	present := r.verdict(1, "controld-sigpipe.sh")
	if present {
		require.NoError(r.t, r.cluster.Node(1).StartControld(ctx))
	}
	for _, n := range r.cluster.Nodes() {
		require.NoError(r.t, n.JoinLockspace(ctx, bugSpace))
	}
	for _, n := range r.cluster.Nodes() {
		awaitMembers(r.t, n, bugSpace, 1, 2)
	}
	return present
}

func (r *bugRig) warning() bool {
	seen := r.cluster.Node(1).Console.Expect(regexp.MustCompile(`WARNING: .* (validate_lock_args|convert_lock|dlm_)`))
	_, err := r.cluster.Node(1).Run(lab.Context(r.t, "convert", bugTime), bugDir+"quecvt-warning", bugSpace)
	require.NoError(r.t, err)
	time.Sleep(time.Second) // for the console
	return seen() > 0
}

// start runs a program until it says "ready".
func (r *bugRig) start(node int, out io.Writer, argv ...string) *agent.Process {
	argv[0] = bugDir + argv[0]
	ready := &readyWriter{to: out, ready: make(chan struct{})}
	ctx := lab.Context(r.t, "start", stepTime)
	p, err := r.cluster.Node(node).Start(ctx, agent.Command{Argv: argv, Stdout: ready})
	require.NoError(r.t, err)
	select {
	case <-ready.ready:
	case <-ctx.Done():
		require.FailNow(r.t, "not ready", "%v", argv)
	}
	return p
}

// readyWriter passes on all but the first line, which says that a program is ready.
type readyWriter struct {
	to    io.Writer
	ready chan struct{}
	seen  bool
}

func (w *readyWriter) Write(p []byte) (int, error) {
	if _, rest, ok := bytes.Cut(p, []byte("ready\n")); ok && !w.seen {
		w.seen = true
		close(w.ready)
		_, err := w.to.Write(rest)
		return len(p), err
	}
	return w.to.Write(p)
}

func (r *bugRig) slowReplies() { r.cluster.Net.SetLink(2, 1, lan.Link{Delay: answerDelay}) }

func (r *bugRig) enter(p *agent.Process) {
	_, err := io.WriteString(p, "\n")
	require.NoError(r.t, err)
}

func (r *bugRig) lostCompletion() bool {
	ctx := lab.Context(r.t, "lost completion", bugTime)
	defer r.cluster.Heal()
	keeper := r.start(2, io.Discard, "lost-completion", "keep", bugSpace)
	converter := r.start(1, io.Discard, "lost-completion", "convert", bugSpace)
	r.slowReplies()
	r.enter(converter)
	require.NoError(r.t, converter.Wait(ctx))
	r.cluster.Heal()
	time.Sleep(2 * answerDelay) // the reply has arrived
	present := r.verdict(1, "lost-completion", "adopt", bugSpace)
	require.NoError(r.t, keeper.Kill(ctx))
	return present
}

func (r *bugRig) lateCancel() bool {
	ctx := lab.Context(r.t, "late cancel", bugTime)
	defer r.cluster.Heal()
	end := r.cluster.Node(1).Console.Expect(regexp.MustCompile(`dlm: .* (add|rem)wait error `))
	defer end()
	keeper := r.start(2, io.Discard, "late-cancel", "keep", bugSpace)
	var out bytes.Buffer
	canceler := r.start(1, &out, "late-cancel", "cancel", bugSpace)
	r.slowReplies()
	r.enter(canceler)
	err := canceler.Wait(ctx)
	require.NoError(r.t, keeper.Kill(ctx))
	return r.present(out.String(), err)
}

// slowGrant uses a lockspace of its own, which node 2 joins and leaves several times.
func (r *bugRig) slowGrant() bool {
	const space = "grants"
	ctx := lab.Context(r.t, "slow grant", bugTime)
	var out bytes.Buffer
	keeper := r.start(1, &out, "slow-grant", space, "keep")
	_, err := r.cluster.Node(2).Run(ctx, bugDir+"slow-grant", space, "share")
	require.NoError(r.t, err)
	err = keeper.Wait(ctx)
	r.t.Logf("%s (%v)", &out, err)
	require.NoError(r.t, r.cluster.Node(1).LeaveLockspace(ctx, space))
	return r.present(out.String(), err)
}

// stuckLookup loses node 2.
func (r *bugRig) stuckLookup() bool {
	ctx := lab.Context(r.t, "stuck lookup", bugTime)
	var out bytes.Buffer
	asking := r.start(1, &out, "stuck-lookup", bugSpace)
	r.cluster.Node(2).Isolate()
	r.enter(asking)
	err := asking.Wait(ctx)
	require.NoError(r.t, r.cluster.Node(2).Crash())
	return r.present(out.String(), err)
}

// purgeGhost is over when the kernel complains, or the program comes back.
func (r *bugRig) purgeGhost() bool {
	n := r.cluster.Node(1)
	seen := n.Console.Expect(regexp.MustCompile(`list_(add|del) corruption|kernel BUG|BUG: |Oops|Call Trace:|` +
		`Kernel panic|blocked for more than|WARNING: |general protection|refcount_t`))
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	argv := []string{bugDir + "purge-ghost", bugSpace, "1"}
	out, _, err := n.RunCommand(ctx, agent.Command{Argv: argv}, nil)
	r.t.Logf("%s (%v)", out, err)
	time.Sleep(time.Second) // for the console
	require.NoError(r.t, n.Crash())
	return seen() > 0
}

// bootAgain boots both nodes again, installs a program, and joins the lockspace.
func (r *bugRig) bootAgain(ctx context.Context, program string) (one, two *lab.Node) {
	r.cluster.Heal() // node 2 may be cut off
	for _, n := range r.cluster.Nodes() {
		require.NoError(r.t, n.Restart(ctx))
	}
	require.NoError(r.t, r.cluster.JoinDLM(ctx))
	r.install(program)
	for _, n := range r.cluster.Nodes() {
		require.NoError(r.t, n.JoinLockspace(ctx, bugSpace))
	}
	one = r.cluster.Node(1)
	awaitMembers(r.t, one, bugSpace, 1, 2)
	return one, r.cluster.Node(2)
}

// unsentLookup boots both nodes again and loses them. The kernel panics when the program ends.
func (r *bugRig) unsentLookup() bool {
	ctx := lab.Context(r.t, "unsent lookup", 2*bugTime)
	one, two := r.bootAgain(ctx, "unsent-lookup")
	defer one.Console.Expect(regexp.MustCompile(`dlm_midcomms_get_mhandle|Kernel panic - not syncing: DLM:|Call Trace:`))()

	var out bytes.Buffer
	asking := r.start(1, &out, "unsent-lookup", bugSpace, "2")
	require.NoError(r.t, two.Crash())
	awaitMembers(r.t, one, bugSpace, 1)
	r.enter(asking)
	err := asking.Wait(ctx)
	r.t.Logf("%s (%v)", &out, err)
	if strings.HasPrefix(out.String(), "present: ") {
		select {
		case <-one.Gone():
		case <-ctx.Done():
			require.FailNow(r.t, "node 1 has not panicked")
		}
	}
	require.NoError(r.t, one.Crash())
	return r.present(out.String(), err)
}

// canceledLookup boots both nodes again and loses them. The kernel panics when the program makes its
// second requests.
func (r *bugRig) canceledLookup() bool {
	ctx := lab.Context(r.t, "canceled lookup", 2*bugTime)
	one, two := r.bootAgain(ctx, "canceled-lookup")
	panics := one.Console.Expect(regexp.MustCompile(`Kernel panic - not syncing: DLM:|Call Trace:`))
	var out bytes.Buffer
	asking := r.start(1, &out, "canceled-lookup", bugSpace)
	two.Isolate()
	r.enter(asking)
	err := asking.Wait(ctx)
	r.t.Logf("%s (%v)", &out, err)
	seen := panics() > 0
	require.NoError(r.t, errors.Join(one.Crash(), two.Crash()))
	if !seen {
		return r.present(strings.TrimPrefix(out.String(), "canceled\n"), err)
	}
	require.Equal(r.t, "canceled\n", out.String(), "the kernel has panicked too early")
	return true
}

// tossReader boots both nodes again, and lets the program run for a while or until the kernel crashes.
func (r *bugRig) tossReader() bool {
	ctx := lab.Context(r.t, "toss reader", 2*bugTime)
	one, two := r.bootAgain(ctx, "toss-reader")
	for _, name := range []string{"toss_secs", "scan_secs"} {
		_, err := one.Shell(ctx, "echo 1 >/sys/kernel/config/dlm/cluster/"+name)
		require.NoError(r.t, err)
	}
	crashes := one.Console.Expect(regexp.MustCompile(`BUG: |Oops|Kernel panic|Call Trace:|refcount_t`))
	_, errs, err := one.RunCommand(ctx, agent.Command{Argv: []string{bugDir + "toss-reader", bugSpace, "15"}}, nil)
	r.t.Logf("the program has ended: %s%v", errs, err)
	log, logErr := one.Shell(ctx, "dmesg")
	seen := crashes() > 0 || strings.Contains(log, "tossed rsb in use") || strings.Contains(log, "remove_name in use")
	if !seen {
		require.NoError(r.t, errors.Join(err, logErr))
	}
	require.NoError(r.t, errors.Join(one.Crash(), two.Crash()))
	return seen
}
