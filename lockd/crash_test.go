package lockd

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/internal/teststate"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// gate is a state file whose writes end when the test says so.
type gate struct {
	to      *teststate.Journal
	mu      sync.Mutex
	turn    *sync.Cond
	allowed int  // writes that may end
	waiting int  // writes that have begun and not ended
	open    bool // every write may end
	dead    bool // none will
}

func newGate(to *teststate.Journal) *gate {
	g := &gate{to: to}
	g.turn = sync.NewCond(&g.mu)
	return g
}

func (g *gate) Append(changes []state.Change) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting++
	for !g.open && !g.dead && g.allowed == 0 {
		g.turn.Wait()
	}
	g.waiting--
	if g.dead {
		return syscall.EIO
	}
	if !g.open {
		g.allowed--
	}
	return g.to.Append(changes)
}

func (g *gate) Health() error { return g.to.Health() }
func (g *gate) Tend()         {}

// next lets one write end; false if none waits.
func (g *gate) next() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting == 0 {
		return false
	}
	g.allowed++
	g.turn.Broadcast()
	return true
}

func (g *gate) set(open, dead bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.dead = open, dead
	g.turn.Broadcast()
}

// fate says when a process dies.
type fate struct {
	step int // before the step-th step after arm; 0: it lives
	// late: what was begun before that step comes to its end: writes, joining
	// and leaving. Otherwise nothing of it does.
	late bool
}

// victim is one process of the service that may die between two steps of the
// order of events.
type victim struct {
	*daemon
	gate   *gate
	fate   fate
	begun  chan struct{} // closed when daemon is set
	mu     sync.Mutex    // over steps, which may grow while the test reads them
	steps  []string      // since it was armed
	died   atomic.Bool
	lost   []api.Lost
	lostAt int // how many were lost before it was armed
}

// rise starts a process. With a fate it may die while it starts.
func rise(t *testing.T, h *host, f fate) *victim {
	v := &victim{gate: newGate(h.journal), fate: f, begun: make(chan struct{})}
	cfg := h.config
	cfg.OnStep, h.handOver = v.step, true
	cfg.Notify = func(n api.Notice) {
		if l, ok := n.(api.LockLost); ok {
			v.lost = append(v.lost, l.Lost)
		}
	}
	cfg.Helpers = map[string]api.HelperPolicy{"guard": {UIDs: []uint32{alice.UID}}}
	cfg.RunLost = func(run api.LostRun, ended func()) {
		go func() {
			time.Sleep(time.Second)
			h.ranMu.Lock()
			defer h.ranMu.Unlock()
			if !v.died.Load() {
				h.ran = append(h.ran, run)
				ended()
			}
		}()
	}
	v.daemon = h.spawnWith(t, cfg, v.gate)
	close(v.begun)
	v.settle()
	return v
}

// arm counts the steps from here.
func (v *victim) arm(f fate) {
	v.steps, v.fate, v.lostAt = nil, f, len(v.lost)
}

// step is called by the owner before each step. To die there is to
// end that goroutine: nothing after it is asked for or answered.
func (v *victim) step(name string) {
	v.mu.Lock()
	v.steps = append(v.steps, name)
	n := len(v.steps)
	v.mu.Unlock()
	if n != v.fate.step {
		return
	}
	<-v.begun
	v.died.Store(true)
	if v.fate.late {
		v.gate.set(true, false)
	} else {
		v.gate.set(false, true)
		v.engine.Kill()
	}
	runtime.Goexit()
}

// taken returns the steps since it was armed.
func (v *victim) taken() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.steps)
}

// settle lets everything happen that can without time passing, each write to
// the state file as late as possible.
func (v *victim) settle() {
	for {
		synctest.Wait()
		if v.died.Load() || !v.gate.next() {
			return
		}
	}
}

// bury ends the process as SIGKILL does, wherever it is.
func (v *victim) bury() {
	s := v.Service
	if !v.died.Load() {
		v.died.Store(true)
		s.post(runtime.Goexit)
	}
	<-v.ended
	synctest.Wait() // with late, what is under way ends
	v.gate.set(false, true)
	v.engine.Kill()
	s.inbox.Close()
	s.cancel()
	s.journal.Close()
	s.logs.close()
	s.work.Wait()
}

// told is what the client of one call knows.
type told struct {
	answered bool
	err      error
	grants   []api.Grant
	released uint32
}

func (a *told) ok() bool { return a.answered && a.err == nil }

// told returns a callback for each kind of answer.
func (a *told) done() func(error) { return func(err error) { a.answered, a.err = true, err } }
func (a *told) doneGrants() func([]api.Grant, error) {
	return func(g []api.Grant, err error) { a.answered, a.grants, a.err = true, g, err }
}
func (a *told) doneGrant() func(api.Grant, error) {
	return func(g api.Grant, err error) { a.answered, a.grants, a.err = true, []api.Grant{g}, err }
}
func (a *told) doneCount() func(uint32, error) {
	return func(n uint32, err error) { a.answered, a.released, a.err = true, n, err }
}

func (v *victim) acquireAll(c api.Caller, owner string, wait time.Duration, want ...api.Want) *told {
	a := &told{}
	v.Acquire(c, want, api.AcquireOptions{Owner: owner, HasOwner: true, Wait: wait}, a.doneGrants())
	return a
}

func (v *victim) convertTo(c api.Caller, owner string, w api.Want, wait time.Duration) *told {
	a := &told{}
	v.Convert(c, w, api.Selector{Owner: owner, HasOwner: true}, api.ConvertOptions{Wait: wait}, a.doneGrant())
	return a
}

func (v *victim) releaseOf(c api.Caller, owner, space, resource string) *told {
	a := &told{}
	v.Release(c, space, resource, api.Selector{Owner: owner, HasOwner: true}, a.done())
	return a
}

// crashRig is the world of one run of a story.
type crashRig struct {
	t       *testing.T
	cluster *local.Cluster
	host    *host
	other   map[string]dlm.Lockspace // node 2
	v       *victim
}

var (
	crashSpaces    = []string{"pool", "vms"}
	crashResources = []string{"a", "b", "c"}
	alice          = user(1000, ":1.10")
)

func newCrashRig(t *testing.T) *crashRig {
	r := &crashRig{t: t, cluster: local.NewCluster("c"), other: map[string]dlm.Lockspace{}}
	r.host = newHost(r.cluster.AddNode(1))
	r.host.config.Lockspaces = crashSpaces
	r.host.config.HealthInterval = time.Hour
	e := r.cluster.AddNode(2).Engine()
	for _, name := range crashSpaces {
		h, err := e.Create(t.Context(), name, func(dlm.Event) {})
		require.NoError(t, err)
		r.other[name] = h
	}
	r.v = rise(t, r.host, fate{})
	return r
}

// hold takes locks before the story begins.
func (r *crashRig) hold(owner string, want ...api.Want) []api.Grant {
	a := r.v.acquireAll(alice, owner, 0, want...)
	r.v.settle()
	require.NoError(r.t, a.err)
	return a.grants
}

// after is what there is when the service has started again.
type after struct {
	*crashRig
	died   bool
	before []api.Lost // told by the process that died
	locks  []api.LockInfo
}

// find returns the lock of an owner.
func (a *after) find(owner, space, resource string) (api.LockInfo, bool) {
	i := slices.IndexFunc(a.locks, func(l api.LockInfo) bool {
		return l.Owner == owner && l.Lockspace == space && l.Resource == resource
	})
	if i < 0 {
		return api.LockInfo{}, false
	}
	return a.locks[i], true
}

// acquired checks an acquire: granted means held, refused means not held, and
// without an answer it is all or nothing.
func (a *after) acquired(call *told, owner string, want ...api.Want) {
	n := 0
	for i, w := range want {
		l, ok := a.find(owner, w.Lockspace, w.Resource)
		if !ok {
			continue
		}
		n++
		require.Equal(a.t, w.Mode, l.Mode)
		if call.ok() {
			require.Equal(a.t, call.grants[i].LockID, l.LockID, "the lockid has changed")
			require.Equal(a.t, call.grants[i].Ref, l.Ref)
			require.Equal(a.t, call.grants[i].Token, l.Token)
		}
	}
	switch {
	case call.ok():
		require.Equal(a.t, len(want), n, "granted, and not there")
	case call.answered:
		require.Zero(a.t, n, "refused with %v, and there", call.err)
	default:
		require.Contains(a.t, []int{0, len(want)}, n, "a part of it is there")
	}
}

// released checks a release of one lock.
func (a *after) released(call *told, owner string, g api.Grant) {
	l, ok := a.find(owner, g.Lockspace, g.Resource)
	switch {
	case call.ok():
		require.False(a.t, ok, "released, and there")
	case call.answered:
		require.True(a.t, ok, "not released because of %v, and gone", call.err)
	case ok:
		require.Equal(a.t, g.LockID, l.LockID)
	}
}

// unchanged checks that a lock is what it was.
func (a *after) unchanged(owner string, g api.Grant, m dlm.Mode) {
	l, ok := a.find(owner, g.Lockspace, g.Resource)
	require.True(a.t, ok, "%s/%s of %s is gone", g.Lockspace, g.Resource, owner)
	require.Equal(a.t, g.LockID, l.LockID, "the lockid has changed")
	require.Equal(a.t, g.Ref, l.Ref)
	require.Equal(a.t, m, l.Mode)
}

// story is one sequence of calls. prepare makes what is there before; act makes
// the calls and returns what to check when the service has started again.
type story struct {
	name  string
	play  func(r *crashRig, armed func()) (check func(a *after))
	lose  bool // locks may be lost in it
	stray bool // it is about an orphan that nobody knows of
}

// TestCrash plays each story once to count its steps, then once for every step,
// dying there, and for every step of the start after that, dying once more.
// Then a new process on the same node and state file must know exactly what the
// lock manager has, and every client's answer must be true.
func TestCrash(t *testing.T) {
	for _, st := range crashStories {
		t.Run(st.name, func(t *testing.T) {
			steps := playCrash(t, st, fate{}, fate{})
			require.NotEmpty(t, steps)
			deaths := 0
			for i := range steps {
				for _, late := range []bool{false, true} {
					first := fate{step: i + 1, late: late}
					t.Logf("dies before %s (%d)", steps[i], i+1)
					again := playCrash(t, st, first, fate{})
					for j := range again {
						for _, late := range []bool{false, true} {
							playCrash(t, st, first, fate{step: j + 1, late: late})
							deaths++
						}
					}
				}
			}
			t.Logf("%d steps %v, %d pairs of deaths", len(steps), steps, deaths)
		})
	}
}

// playCrash plays a story that ends with a death, and a start that may end with
// one, and then a start that lives. It returns the steps of what lived first.
func playCrash(t *testing.T, st story, first, second fate) (steps []string) {
	synctest.Test(t, func(t *testing.T) {
		r := newCrashRig(t)
		defer func() { r.v.bury() }()
		check := st.play(r, func() { r.v.settle(); r.v.arm(first) })
		r.v.settle()
		a := &after{crashRig: r, died: r.v.died.Load(), before: r.v.lost[r.v.lostAt:]}
		if first.step == 0 {
			require.False(t, r.v.died.Load())
			steps = r.v.taken()
		} else {
			require.True(t, r.v.died.Load(), "step %d was not reached in %v", first.step, r.v.taken())
		}
		r.v.bury()
		r.cluster.Fail(nil)
		r.host.journal.SetFail(0)
		for _, s := range crashSpaces {
			r.cluster.Resume(s)
		}

		r.v = rise(t, r.host, second)
		if second.step != 0 {
			if !r.v.died.Load() { // the first death was another one: it may have left less to do
				require.Less(t, len(r.v.taken()), second.step)
			}
			a.before = append(a.before, r.v.lost...)
			r.v.bury()
			r.v = rise(t, r.host, fate{})
		} else if first.step != 0 {
			steps = r.v.taken()
		}
		r.checkAfter(a, st)
		check(a)
	})
	return steps
}

// checkAfter checks what is true after every story.
func (r *crashRig) checkAfter(a *after, st story) {
	t, v := r.t, r.v
	require.True(t, v.Status().Ready)
	time.Sleep(time.Minute) // what is tried again later, too
	v.settle()
	require.NoError(t, v.t.Check())
	v.List(api.Filter{}, func(page api.Page, _ error) { a.locks = page.Locks })
	why := "not asked"
	v.Idle(func(needed string) { why = needed })
	v.settle()
	require.NotContains(t, why, "under way")
	require.NotContains(t, why, "released")
	r.checkEngine(a, st)
	r.checkRecords(a)
	if !st.lose {
		require.Empty(t, a.before, "called lost by the process that died")
		require.Empty(t, v.lost, "called lost after the restart")
	}
	for _, l := range a.locks {
		require.Equal(t, api.Held, l.State, fmt.Sprint(l))
	}
}

// stateOf returns how far a lockspace has got; 0 if it is not known.
func (v *victim) stateOf(name string) (is api.SpaceState) {
	v.Lockspaces(func(in []api.LockspaceInfo, _ error) {
		for _, sp := range in {
			if sp.Name == name {
				is = sp.State
			}
		}
	})
	v.settle()
	return is
}

// checkEngine holds what the service lists against the lock manager: no lock that
// it does not know, none that it only believes in.
func (r *crashRig) checkEngine(a *after, st story) {
	t, e := r.t, r.v.engine
	me, err := e.Node(t.Context())
	require.NoError(t, err)
	for _, name := range crashSpaces {
		is := r.v.stateOf(name)
		if is == 0 {
			continue
		}
		require.Equal(t, api.SpaceReady, is, "lockspace %s", name)
		require.Equal(t, state.Joined, r.host.journal.Spaces[name].Phase)
		got := map[dlm.LockID]string{}
		for _, res := range append([]string{api.AnchorName("test")}, crashResources...) {
			q, err := e.Queues(t.Context(), name, res)
			require.NoError(t, err)
			for _, h := range slices.Concat(q.Granted, q.Converting) {
				if h.Node == me.ID {
					got[h.LockID] = fmt.Sprint(res, " ", h.Mode)
				}
			}
		}
		var unknown []api.Orphan // those that the engine shows, and those that were adopted by accident
		r.v.Orphans(name, func(o []api.Orphan, err error) { unknown = o })
		r.v.settle()
		require.True(t, st.stray || len(unknown) == 0, "locks that nobody knows of: %v", unknown)
		for _, o := range unknown {
			delete(got, o.LockID)
		}
		want := map[dlm.LockID]string{r.host.journal.Spaces[name].AnchorID: fmt.Sprint(api.AnchorName("test"), " ", dlm.NL)}
		for _, l := range a.locks {
			if l.Lockspace == name {
				want[l.LockID] = fmt.Sprint(l.Resource, " ", l.Mode)
			}
		}
		require.Equal(t, want, got, "locks of %s in the table and in the lock manager", name)
	}
}

// checkRecords holds what the service lists against the state file.
func (r *crashRig) checkRecords(a *after) {
	want, got := map[uint64]string{}, map[uint64]string{}
	for _, rec := range r.host.journal.Contents("").Locks {
		require.Equal(r.t, state.Held, rec.Phase)
		got[rec.ID] = fmt.Sprint(rec.Lockspace, rec.Resource, rec.LockID, rec.Mode, rec.Token)
	}
	for _, l := range a.locks {
		want[uint64(l.Ref)] = fmt.Sprint(l.Lockspace, l.Resource, l.LockID, l.Mode, l.Token)
	}
	require.Equal(r.t, want, got, "locks in the table and in the state file")
}
