package lab_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lab"
)

// storyStorm has many locks of two nodes fight for few resources, with
// cancels at any time, and holds the engine to its promise that each operation
// ends exactly once. Then nothing may be left in the kernel's tables.
func storyStorm(t *testing.T, r *rig) {
	const workers, turns = 8, 60
	var all sync.WaitGroup
	var storms []*storm
	var explain sync.Once
	for node := range r.Nodes() {
		s := &storm{t: t, cluster: r.cluster, node: r.cluster.Nodes()[node], explain: &explain,
			waiting: make(map[dlm.Cookie]chan dlm.Event)}
		p := r.start(t, node)
		defer p.Kill()
		var err error
		s.space, err = p.Open(lab.Context(t, "open", time.Minute), shared, s.sink)
		require.NoError(t, err)
		s.process = p
		storms = append(storms, s)
		for w := range workers {
			rnd := rand.New(rand.NewPCG(uint64(node), uint64(w)))
			all.Go(func() {
				for range turns {
					if !s.turn(dlm.Cookie(w+1), rnd) {
						return
					}
				}
			})
		}
	}
	all.Wait()
	for _, s := range storms {
		for i := range stormResources {
			q, err := s.process.Queues(lab.Context(t, "look", time.Minute), shared, stormResource(i))
			require.NoError(t, err)
			require.Empty(t, q.Granted, "left on %s", stormResource(i))
			require.Empty(t, q.Converting)
			require.Empty(t, q.Waiting)
		}
	}
	t.Logf("%v", storms[0].count)
}

const stormResources = 3

func stormResource(i int) string { return fmt.Sprintf("storm-%d", i) }

// storm is one process in it.
type storm struct {
	t       *testing.T
	process *process
	space   dlm.Lockspace
	cluster *lab.Cluster
	node    *lab.Node
	explain *sync.Once // shared by all

	mu      sync.Mutex
	waiting map[dlm.Cookie]chan dlm.Event
	count   map[string]int
}

func (s *storm) sink(ev dlm.Event) {
	if ev.Kind != dlm.Completed {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == nil {
		s.count = make(map[string]int)
	}
	s.count[ev.Op.String()+" "+ev.Status.String()]++
	ch := s.waiting[ev.Cookie]
	delete(s.waiting, ev.Cookie)
	if assert.NotNil(s.t, ch, "cookie %d: %v ended that was not under way", ev.Cookie, ev.Op) {
		ch <- ev
	}
}

// tables logs what the kernels of all nodes have, and where the threads and
// goroutines of the process are, as evidence; it ends the process.
func (s *storm) tables() {
	for _, n := range s.cluster.Nodes() {
		out, err := n.Shell(lab.Context(s.t, "tables", time.Minute),
			"cd /sys/kernel/debug/dlm && grep -H . "+shared+"_all "+shared+"_waiters; cat "+shared)
		s.t.Logf("%s (%v):\n%s", n.Name, err, out)
	}
	stacks, err := s.node.Shell(lab.Context(s.t, "stacks", time.Minute),
		fmt.Sprintf("grep -H . /proc/%d/task/*/stack; cat /sys/kernel/dlm/%s/recover_status", s.process.proc.PID, shared))
	s.t.Logf("%s (%v):\n%s", s.node.Name, err, stacks)
	_ = s.process.proc.Signal(syscall.SIGQUIT) // its goroutines, on standard error
	s.mu.Lock()
	defer s.mu.Unlock()
	s.t.Logf("%v", s.count)
}

// do begins an operation, perhaps cancels it after a while, and waits for its
// end.
func (s *storm) do(c dlm.Cookie, op dlm.Op, rnd *rand.Rand, begin func()) (dlm.Event, bool) {
	ch := make(chan dlm.Event, 1)
	s.mu.Lock()
	s.waiting[c] = ch
	s.mu.Unlock()
	begin()
	if op != dlm.OpUnlock && rnd.IntN(3) > 0 {
		time.Sleep(time.Duration(rnd.IntN(60)) * time.Millisecond)
		s.space.Cancel(c)
	}
	select {
	case ev := <-ch:
		return ev, assert.Equal(s.t, op, ev.Op)
	case <-time.After(90 * time.Second):
		s.explain.Do(s.tables)
		return dlm.Event{}, assert.Fail(s.t, "no end", "cookie %d: %v has not ended", c, op)
	}
}

// turn takes one lock, perhaps converts it, and lets go of it.
func (s *storm) turn(c dlm.Cookie, rnd *rand.Rand) bool {
	flags := []dlm.Flags{0, 0, dlm.NoQueue, dlm.ValueBlock}[rnd.IntN(4)]
	ev, ok := s.do(c, dlm.OpLock, rnd, func() {
		s.space.Lock(c, stormResource(rnd.IntN(stormResources)), dlm.Modes[rnd.IntN(6)], flags)
	})
	if !ok || !s.allowed(ev) {
		return false
	}
	if ev.Mode == dlm.None {
		return true
	}
	for range rnd.IntN(3) {
		v := &dlm.Value{byte(c)}
		flags := []dlm.Flags{0, dlm.NoQueue, dlm.Persistent | dlm.ValueBlock}[rnd.IntN(3)]
		ev, ok := s.do(c, dlm.OpConvert, rnd, func() { s.space.Convert(c, dlm.Modes[rnd.IntN(6)], flags, v) })
		if !ok || !s.allowed(ev) || !assert.NotEqual(s.t, dlm.None, ev.Mode) {
			return false
		}
	}
	var v *dlm.Value
	if rnd.IntN(2) == 0 {
		v = &dlm.Value{byte(c)}
	}
	ev, ok = s.do(c, dlm.OpUnlock, rnd, func() { s.space.Unlock(c, v) })
	return ok && assert.Equal(s.t, dlm.StatusUnlocked, ev.Status)
}

func (s *storm) allowed(ev dlm.Event) bool {
	return assert.Contains(s.t, []dlm.Status{dlm.StatusOK, dlm.StatusAgain, dlm.StatusCanceled, dlm.StatusDeadlock},
		ev.Status, "%v", ev)
}
