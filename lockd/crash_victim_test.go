package lockd

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

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
