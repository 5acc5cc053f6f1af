package lockd

import (
	"fmt"
	"os"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

// answerBook counts the answers of each call.
type answerBook struct {
	mu    sync.Mutex
	calls map[string]int
}

// expect notes a call, and returns what its done has to call.
func (b *answerBook) expect(name string) func() {
	b.mu.Lock()
	defer b.mu.Unlock()
	name = fmt.Sprintf("%d %s", len(b.calls), name)
	b.calls[name] = 0
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.calls[name]++
	}
}

// callEverything makes a call of each member, some of which wait.
func callEverything(d *Service, b *answerBook, turn int) {
	who := user(1000+uint32(turn), fmt.Sprintf(":1.%d", turn))
	held, own := fmt.Sprintf("held%d", turn), api.AcquireOptions{Owner: "o", HasOwner: true}
	nobody := api.AcquireOptions{Lifetime: state.Process, PID: 4711}
	somebody := api.AcquireOptions{Lifetime: state.Process, PID: 42}
	grants := func(name string) func([]api.Grant, error) {
		done := b.expect(name)
		return func([]api.Grant, error) { done() }
	}
	grant := func(name string) func(api.Grant, error) {
		done := b.expect(name)
		return func(api.Grant, error) { done() }
	}
	plain := func(name string) func(error) { done := b.expect(name); return func(error) { done() } }
	number := func(name string) func(uint32, error) { done := b.expect(name); return func(uint32, error) { done() } }
	request := func(name, resource string, o api.AcquireOptions) {
		started, ended := b.expect(name+" started"), b.expect(name+" ended")
		d.Request(who, wantOf("vms", resource, dlm.EX), o, func(_ api.Ref, err error) {
			started()
			if err != nil {
				ended() // there is no end of what has not begun
			}
		}, func(api.Grant, error) { ended() })
	}
	d.Acquire(who, []api.Want{wantOf("vms", held, dlm.EX)}, own, grants("acquire"))
	d.Acquire(who, []api.Want{wantOf("vms", held+"a", dlm.EX), wantOf("vms", held+"b", dlm.PR)},
		api.AcquireOptions{}, grants("acquire-many"))
	d.Acquire(root, []api.Want{wantOf("vms", held, dlm.EX)}, api.AcquireOptions{Wait: api.MaxWait},
		grants("acquire that waits"))
	d.Acquire(who, []api.Want{wantOf("vms", "x", dlm.EX)}, nobody, grants("acquire for nobody"))
	d.Acquire(root, []api.Want{wantOf("vms", held+"p", dlm.EX)}, somebody, grants("acquire for a process"))
	d.Acquire(root, []api.Want{wantOf("vms", held, dlm.EX)}, somebody, grants("acquire for a process that is refused"))
	request("request", held, api.AcquireOptions{})
	request("request for a process", held, api.AcquireOptions{Lifetime: state.Process})
	request("request for nobody", "x", nobody)
	d.CancelRequest(who, 4711, plain("cancel"))
	d.Convert(who, wantOf("vms", held, dlm.PR), api.Selector{}, api.ConvertOptions{Wait: time.Second}, grant("convert"))
	d.Inspect("vms", held, func() func(api.Inspection, error) {
		done := b.expect("inspect")
		return func(api.Inspection, error) { done() }
	}())
	d.List(api.Filter{Owner: "o", HasOwner: true}, func() func(api.Page, error) {
		done := b.expect("list")
		return func(api.Page, error) { done() }
	}())
	d.Lost(api.Filter{}, func() func([]api.Lost, error) {
		done := b.expect("lost")
		return func([]api.Lost, error) { done() }
	}())
	d.Lockspaces(func() func([]api.LockspaceInfo, error) {
		done := b.expect("lockspaces")
		return func([]api.LockspaceInfo, error) { done() }
	}())
	d.Snapshot(10, func() func([]api.LockspaceInfo, []api.LockInfo, func(api.Ref) int) {
		done := b.expect("snapshot")
		return func(_ []api.LockspaceInfo, _ []api.LockInfo, place func(api.Ref) int) { place(1); done() }
	}())
	d.Waits(api.Filter{}, func() func(api.WaitsPage, error) {
		done := b.expect("waits")
		return func(api.WaitsPage, error) { done() }
	}())
	d.Position(1, func() func(int) { done := b.expect("position"); return func(int) { done() } }())
	d.Lock(1, func() func(api.LockInfo, error) {
		done := b.expect("lock")
		return func(api.LockInfo, error) { done() }
	}())
	d.Sessions(func() func([]api.Session) { done := b.expect("sessions"); return func([]api.Session) { done() } }())
	d.Idle(func() func(string) { done := b.expect("idle"); return func(string) { done() } }())
	d.Orphans("vms", func() func([]api.Orphan, error) {
		done := b.expect("orphans")
		return func([]api.Orphan, error) { done() }
	}())
	d.Purge(root, "vms", nil, false, number("purge"))
	d.AdoptOrphan(root, "vms", 99, api.AdoptOptions{}, func() func(api.Grant, error) {
		done := b.expect("adopt")
		return func(api.Grant, error) { done() }
	}())
	d.Join(root, fmt.Sprintf("more%d", turn), plain("join"))
	d.Leave(root, fmt.Sprintf("more%d", turn), true, plain("leave"))
	d.ReleaseMany(who, []api.Want{{Lockspace: "vms", Resource: held + "a"}}, "o", nil, number("release-many"))
	d.Release(who, "vms", held+"a", api.Selector{}, plain("release"))
	d.ReleaseOwner(who, "", "o", number("release-owner"))
}

// callEverything leaves no member out.
func TestEverythingIsCalled(t *testing.T) {
	text, err := os.ReadFile("stopping_test.go")
	require.NoError(t, err)
	api := reflect.TypeFor[api.Service]()
	for i := range api.NumMethod() {
		m := api.Method(i)
		if n := m.Type.NumIn(); n > 0 && m.Type.In(n-1).Kind() == reflect.Func {
			require.Contains(t, string(text), "	d."+m.Name+"(", "%s is to be answered while the service stops", m.Name)
		}
	}
}

// The service stops at each step in turn, with calls of every kind under way,
// coming in, and coming too late: each of them is answered, once.
func TestEveryCallIsAnsweredWhileStopping(t *testing.T) {
	for step := 1; ; step++ {
		reached := false
		synctest.Test(t, func(t *testing.T) { reached = stopAt(t, step) })
		if !reached {
			require.Greater(t, step, 40, "the calls take fewer steps than they used to")
			return
		}
	}
}

// stopAt stops a service at a step, and reports whether it got so far.
func stopAt(t *testing.T, step int) (reached bool) {
	h := newHost(local.NewCluster("test").AddNode(1))
	book := &answerBook{calls: map[string]int{}}
	procs := &fakeProcesses{alive: map[process.ID]uint32{{PID: 42, Start: 1}: 0},
		watched: map[process.ID]func(process.ID, process.State, error){}, held: map[process.ID]int{}}
	for turn := range uint32(4) {
		procs.alive[process.ID{PID: 1100 + turn, Start: 1}] = 1000 + turn
	}
	h.config.Processes = procs
	stop, steps := make(chan struct{}), 0
	h.config.OnStep = func(string) {
		if steps++; steps == step {
			close(stop)
		}
	}
	d := h.spawn(t)
	go func() {
		<-stop
		d.cancel()
	}()
	for turn := range 2 {
		callEverything(d.Service, book, turn)
		if turn == 0 {
			synctest.Wait()
		}
	}
	synctest.Wait()
	d.cancel()
	callEverything(d.Service, book, 2)
	<-d.ended
	callEverything(d.Service, book, 3)
	select {
	case <-stop:
		reached = true
	default:
		close(stop)
	}
	synctest.Wait()
	require.Empty(t, procs.held, "processes held for calls that are answered, stopped at step %d", step)
	for name, n := range book.calls {
		require.Equal(t, 1, n, "answers to call %q, stopped at step %d", name, step)
	}
	return reached
}
