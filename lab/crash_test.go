package lab_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
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

// crashPrograms are the crash test of cmd/dlmlockd and its two daemons, built
// for the nodes: path here to path there.
func crashPrograms(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	test := filepath.Join(dir, "crash.test")
	out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "godbus_no_tcp", "-o", test, "../cmd/dlmlockd").CombinedOutput()
	require.NoError(t, err, string(out))
	plain, err := service.Build(t.Context(), dir)
	require.NoError(t, err)
	hooked, err := service.Build(t.Context(), dir, "crashtest")
	require.NoError(t, err)
	return map[string]string{test: crashTestPath, plain: crashProgramPath, hooked: crashHookedPath}
}

// crashTests kills the daemons of both nodes of a cluster in the middle of
// their work, on the kernel's DLM: cmd/dlmlockd/crash_test.go runs on each
// node. On both at once the resources are the same, so that most calls concern
// locks whose queue the other node keeps, and some are refused because of it.
func crashTests(t *testing.T, r *serviceRig, programs map[string]string) {
	r.fresh(t)
	for from, to := range programs {
		for _, n := range r.cluster.Nodes() {
			require.NoError(t, n.Push(lab.Context(t, "push", commandTime), from, to))
		}
	}
	t.Run("at random points", func(t *testing.T) {
		r.crashOn(t, r.cluster.Nodes(), "TestCrashAtRandomPoints", 60)
	})
	t.Run("at random steps", func(t *testing.T) {
		r.crashOn(t, r.cluster.Nodes(), "TestCrashAtRandomStepsUnderLoad", 20)
	})
	// The queues of what the story of node 1 is about are on node 2.
	require.NoError(t, r.cluster.Node(2).JoinLockspace(lab.Context(t, "join", commandTime), "vms"))
	p := r.masterOn(t, r.cluster.Node(2), "vms", "disk", "other", "a", "b", "c")
	defer p.close()
	t.Run("at every step", func(t *testing.T) {
		r.crashOn(t, r.cluster.Nodes()[:1], "TestCrashAtEveryStep", 0)
	})
	t.Run("taking many", func(t *testing.T) {
		r.crashOn(t, r.cluster.Nodes()[:1], "TestCrashInAcquireMany", 0)
	})
}

// crashOn runs a test of the crash test on some nodes at once, and sees to it
// that nothing is left.
func (r *serviceRig) crashOn(t *testing.T, nodes []*lab.Node, test string, rounds int) {
	var all sync.WaitGroup
	for _, n := range nodes {
		all.Go(func() {
			var out bytes.Buffer
			log, err := os.Create(filepath.Join(r.cluster.Artefacts(), n.Name+"."+test))
			if err != nil {
				t.Error(err)
				return
			}
			defer log.Close()
			both := io.MultiWriter(&out, log)
			env := []string{"DLMLOCKD_TEST_ENGINE=dlm", "DLMLOCKD_TEST_PROGRAM=" + crashProgramPath, "DLMLOCKD_TEST_HOOKED=" + crashHookedPath}
			if rounds > 0 {
				env = append(env, fmt.Sprint("DLMLOCKD_TEST_ROUNDS=", rounds))
			}
			_, _, err = n.RunCommand(lab.Context(t, "crash test", crashTime), agent.Command{
				Argv: []string{crashTestPath, "-test.v", "-test.run=^" + test + "$", "-test.timeout=" + crashTime.String()},
				Env:  env, Stdout: both, Stderr: both,
			}, nil)
			if err != nil {
				t.Errorf("%s: %v; all of it is in %s\n%.3000s", n.Name, err, log.Name(), out.String())
				return
			}
			for line := range strings.Lines(out.String()) {
				if strings.Contains(line, "kills") || strings.Contains(line, "steps") || strings.HasPrefix(line, "--- ") {
					t.Logf("%s: %s", n.Name, strings.TrimSpace(line))
				}
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	for _, n := range nodes {
		r.purgeAll(t, n, "vms")
		require.NoError(t, r.clean(n))
	}
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
