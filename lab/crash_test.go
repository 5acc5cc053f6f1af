package lab_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
	"github.com/dlmlock/dlmlockd/lab/service"
)

// Where the crash test and its programs are in the nodes.
const (
	crashTestPath    = "/usr/local/lib/dlmlockd-crash.test"
	crashProgramPath = "/usr/local/lib/dlmlockd"
	crashHookedPath  = "/usr/local/lib/dlmlockd-crashtest"
)

// crashTime bounds one run of the crash test on a node.
const crashTime = 10 * time.Minute

// crashPrograms builds the crash test of cmd/dlmlockd and its second daemon,
// which dies at a step: path here to path there.
func crashPrograms(ctx context.Context, dir, daemon string) (map[string]string, error) {
	test := filepath.Join(dir, "crash.test")
	if err := service.Go(ctx, "test", "-c", "-tags", "godbus_no_tcp", "-o", test, "./cmd/dlmlockd"); err != nil {
		return nil, fmt.Errorf("the crash test: %w", err)
	}
	hooked, err := service.Build(ctx, dir, "crashtest")
	return map[string]string{test: crashTestPath, daemon: crashProgramPath, hooked: crashHookedPath}, err
}

// crashTests kills the daemons of both nodes of a cluster in the middle of
// their work, some hundred times, on the kernel's DLM: cmd/dlmlockd/crash_test.go
// runs on each node. Under load the resources of both are the same, so that
// most calls concern locks whose queue the other node keeps, and some are
// refused because of it. The steps of the story are divided between the nodes;
// each tells it in a lockspace of its own, whose queues the other node keeps.
func crashTests(t *testing.T, r *serviceRig, k kills) {
	r.fresh(t)
	for from, to := range r.programs.crash {
		for _, n := range r.cluster.Nodes() {
			require.NoError(t, n.Push(lab.Context(t, "push", commandTime), from, to))
		}
	}
	t.Run("at random points", func(t *testing.T) {
		r.crashOn(t, "TestCrashAtRandomPoints", func(int) crashVars { return crashVars{rounds: k.points, lockspace: "vms"} })
	})
	t.Run("at random steps", func(t *testing.T) {
		r.crashOn(t, "TestCrashAtRandomStepsUnderLoad", func(int) crashVars {
			return crashVars{rounds: k.steps, lockspace: "vms"}
		})
	})
	skipped := rand.IntN(k.nth)
	share := func(node int) crashVars {
		return crashVars{lockspace: fmt.Sprintf("vms-%d", node), share: fmt.Sprintf("%d/%d", node*k.nth-skipped, 2*k.nth)}
	}
	for _, n := range r.cluster.Nodes() {
		other := share(3 - n.ID).lockspace
		require.NoError(t, n.JoinLockspace(lab.Context(t, "join", commandTime), other))
		p := r.masterOn(t, n, other, "disk", "other", "a", "b", "c")
		defer p.close()
	}
	t.Run("at every step", func(t *testing.T) { r.crashOn(t, "TestCrashAtEveryStep", share) })
	t.Run("taking many", func(t *testing.T) { r.crashOn(t, "TestCrashInAcquireMany", share) })
	// With no space in the state directory: what was released stays released, and
	// no helper is run for it.
	t.Run("in a full directory", func(t *testing.T) {
		for _, test := range []string{"TestReleaseInAFullDirectory", "TestFullOfLocks",
			"TestCrashAtEveryStepOfReleasesInAFullDirectory"} {
			t.Run(test, func(t *testing.T) { r.crashOn(t, test, share) })
		}
	})
}

// kills says how often a daemon is killed on each node.
type kills struct {
	points int // at random points
	steps  int // at random steps
	nth    int // of the steps of the story each nth is done, beginning with another one in each run
}

// crashVars is what the crash test reads from its environment.
type crashVars struct {
	lockspace string
	rounds    int    // 0: as many as it likes
	share     string // "1/2": the first half of the steps
}

func (v crashVars) environment() []string {
	env := []string{"DLMLOCKD_TEST_ENGINE=dlm", "DLMLOCKD_TEST_PROGRAM=" + crashProgramPath,
		"DLMLOCKD_TEST_HOOKED=" + crashHookedPath,
		"DLMLOCKD_TEST_LOCKSPACE=" + v.lockspace, "DLMLOCKD_TEST_SHARE=" + v.share}
	if v.rounds > 0 {
		env = append(env, fmt.Sprint("DLMLOCKD_TEST_ROUNDS=", v.rounds))
	}
	return env
}

// crashOn runs a test of the crash test on all nodes at once, and sees to it
// that nothing is left.
func (r *serviceRig) crashOn(t *testing.T, test string, vars func(node int) crashVars) {
	var all sync.WaitGroup
	for _, n := range r.cluster.Nodes() {
		all.Go(func() {
			if err := r.crashOne(t, n, test, vars(n.ID)); err != nil {
				t.Errorf("%s: %v", n.Name, err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	for _, n := range r.cluster.Nodes() {
		lockspace := vars(n.ID).lockspace
		r.purgeAll(t, n, lockspace)
		p, err := startPeer(t.Context(), n)
		require.NoError(t, err)
		require.NoError(t, p.Remove(lab.Context(t, "leave", commandTime), lockspace))
		p.close()
	}
}

func (r *serviceRig) crashOne(t *testing.T, n *lab.Node, test string, vars crashVars) error {
	log, err := os.Create(filepath.Join(r.cluster.Artefacts(), n.Name+"."+test))
	if err != nil {
		return err
	}
	defer log.Close()
	var out bytes.Buffer
	both := io.MultiWriter(&out, log)
	_, _, err = n.RunCommand(lab.Context(t, "crash test", crashTime), agent.Command{
		Argv: []string{crashTestPath, "-test.v", "-test.run=^" + test + "$", "-test.timeout=" + crashTime.String()},
		Env:  vars.environment(), Stdout: both, Stderr: both,
	}, nil)
	if err != nil {
		return fmt.Errorf("%w; all of it is in %s\n%.3000s", err, log.Name(), out.String())
	}
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, "kills") || strings.Contains(line, "steps") || strings.HasPrefix(line, "--- ") {
			t.Logf("%s: %s", n.Name, strings.TrimSpace(line))
		}
	}
	return nil
}

// masterOn makes a node keep the queues of resources: a process there is the
// first to have a lock on each, and keeps it.
func (r *serviceRig) masterOn(t *testing.T, n *lab.Node, lockspace string, resources ...string) *peerProcess {
	t.Helper()
	ctx := lab.Context(t, "master", commandTime)
	p, err := startPeer(ctx, n)
	require.NoError(t, err)
	events := make(chan dlm.Event, len(resources))
	space, err := p.Open(ctx, lockspace, func(ev dlm.Event) { events <- ev })
	require.NoError(t, err)
	for i, name := range resources {
		space.Lock(dlm.Cookie(i+1), name, dlm.NL, 0)
		require.Equal(t, dlm.StatusOK, next(ctx, events).Status)
		q, err := p.Queues(ctx, lockspace, name)
		require.NoError(t, err)
		require.Equal(t, uint32(n.ID), q.Master, "the node that keeps the queue of %s", name)
	}
	return p
}

// next waits for one event; none is one that has not ended well.
func next(ctx context.Context, events <-chan dlm.Event) dlm.Event {
	select {
	case ev := <-events:
		return ev
	case <-ctx.Done():
		return dlm.Event{Status: dlm.StatusProgress}
	}
}

// purgeAll makes the kernel purge all orphans of a node, the anchor among
// them, and checks that nothing is left. A ghost, which no table shows, would
// be found by that: the kernel complains on the console.
func (r *serviceRig) purgeAll(t *testing.T, n *lab.Node, lockspace string) {
	t.Helper()
	ctx := lab.Context(t, "purge", commandTime)
	p, err := startPeer(ctx, n)
	require.NoError(t, err)
	defer p.close()
	events := make(chan dlm.Event, 1)
	space, err := p.Open(ctx, lockspace, func(ev dlm.Event) { events <- ev })
	require.NoError(t, err)
	space.Purge()
	require.Equal(t, dlm.StatusOK, next(ctx, events).Status)
	// Where another node keeps the queue its answer is still to come.
	require.Eventually(t, func() bool {
		left, err := p.Orphans(ctx, lockspace)
		require.NoError(t, err)
		return len(left) == 0
	}, commandTime, 50*time.Millisecond, "orphans of %s after a purge", n.Name)
}
