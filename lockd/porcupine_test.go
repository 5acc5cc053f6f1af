package lockd

import (
	"cmp"
	"flag"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

var (
	historyOps  = flag.Int("history-ops", 100_000, "how many operations TestHistories makes")
	historySeed = flag.Uint64("history-seed", 0, "the seed of TestHistories; 0: another each time")
)

// The linearizability test: clients on two nodes take, convert and release the
// same resources in all modes, with and without waiting, while the service of
// either node is killed and started again, and now and then the node itself dies
// with all its locks. What they were told must have an
// order in which it is what the lock matrix allows, and in which tokens grow.

const (
	historyNodes   = 2
	historyClients = 6  // on each node
	historySpan    = 4  // resources that are in use at a time
	historyLength  = 60 // operations of a client before the resources are others
)

type verb uint8

const (
	verbAcquire verb = iota
	verbConvert
	verbRelease
	verbRead // what the service says that the client has
	verbGone // its node has crashed
)

// input and output are those of one operation of one client on one resource.
type input struct {
	verb     verb
	client   int
	resource string
	mode     dlm.Mode
}

type output struct {
	kind  api.Kind // "" for success
	lost  bool     // no answer: done or not
	mode  dlm.Mode
	token uint64
}

// holders is a resource in the model: who has it in which mode (plus one, so
// that zero is nothing), the largest token given with PW or EX, and the largest
// of all.
type holders struct {
	modes     [historyNodes * historyClients]int8
	exclusive uint64
	token     uint64
}

func (h holders) mode(client int) dlm.Mode { return dlm.Mode(h.modes[client] - 1) }

// fits reports whether the client may have the mode beside the others.
func (h holders) fits(client int, m dlm.Mode) bool {
	for other := range h.modes {
		if other != client && h.mode(other) != dlm.None && !dlm.Compatible(h.mode(other), m) {
			return false
		}
	}
	return true
}

// with is the state after the client has got the mode; ok is false if it can't,
// or if a token that has to grow does not. No token is known of what had no
// answer.
func (h holders) with(client int, m dlm.Mode, token uint64, answered bool) (_ holders, ok bool) {
	fresh := h.mode(client) == dlm.None || dlm.Stronger(m, h.mode(client))
	if !h.fits(client, m) {
		return h, false
	}
	switch {
	case !answered || !fresh || h.mode(client) == m:
	case m >= dlm.PW:
		if token <= h.token {
			return h, false
		}
		h.exclusive, h.token = token, token
	default: // the current one, or a later one
		if token < h.exclusive {
			return h, false
		}
		h.token = max(h.token, token)
	}
	h.modes[client] = int8(m) + 1
	return h, true
}

// step is the sequential specification.
func step(state, in, out any) []any {
	h, i, o := state.(holders), in.(input), out.(output)
	var after []any
	done := func(ok bool, to holders) {
		if ok {
			after = append(after, to)
		}
	}
	switch i.verb {
	case verbRead:
		done(h.mode(i.client) == o.mode, h)
		return after
	case verbGone:
		h.modes[i.client] = 0
		done(true, h)
		return after
	}
	if o.kind != "" || o.lost { // not done
		done(o.kind != api.AlreadyHeld && (o.kind != api.NotHeld || h.mode(i.client) == dlm.None), h)
	}
	if o.kind != "" {
		return after
	}
	switch i.verb {
	case verbAcquire:
		if has := h.mode(i.client); has == dlm.None || has == i.mode {
			to, ok := h.with(i.client, i.mode, o.token, !o.lost)
			done(ok, to)
		}
	case verbConvert:
		if h.mode(i.client) != dlm.None {
			to, ok := h.with(i.client, i.mode, o.token, !o.lost)
			done(ok, to)
		}
	case verbRelease:
		ok := h.mode(i.client) != dlm.None
		h.modes[i.client] = 0
		done(ok, h)
	}
	return after
}

var historyModel = (&porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		for _, o := range history {
			r := o.Input.(input).resource
			by[r] = append(by[r], o)
		}
		var parts [][]porcupine.Operation
		for _, p := range by {
			parts = append(parts, p)
		}
		return parts
	},
	Init:  func() []any { return []any{holders{}} },
	Step:  step,
	Equal: func(a, b any) bool { return a.(holders) == b.(holders) },
}).ToModel()

// life is one process of the service, as its clients and its disk see it.
type life struct {
	*daemon
	journal Journal
	dead    chan struct{} // closed before it is killed: answers from then on can't be trusted
	writing sync.Mutex
}

// Append writes nothing after the death.
func (l *life) Append(changes []state.Change) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.isDead() {
		return syscall.EIO
	}
	return l.journal.Append(changes)
}

func (l *life) Health() error { return l.journal.Health() }
func (l *life) Tend()         { l.journal.Tend() }

func (l *life) isDead() bool {
	select {
	case <-l.dead:
		return true
	default:
		return false
	}
}

// historyNode is a node whose service is killed now and then.
type historyNode struct {
	host  *host
	now   atomic.Pointer[life]
	ends  sync.WaitGroup
	began time.Time

	mu      sync.Mutex
	crashes []int64 // when the node itself died
}

func (n *historyNode) start(t *testing.T) {
	l := &life{journal: n.host.journal, dead: make(chan struct{})}
	l.daemon = n.host.spawnWith(t, n.host.config, l)
	<-l.Ready()
	n.now.Store(l)
}

// restart kills the service as SIGKILL does, and starts another one. What is
// left of the old one in this process can reach neither the lock manager nor
// the disk.
func (n *historyNode) restart(t *testing.T) {
	l := n.now.Load()
	l.writing.Lock()
	close(l.dead)
	l.writing.Unlock()
	l.engine.Kill()
	n.ends.Go(l.daemon.stop)
	n.start(t)
}

// crash ends the node, with every lock of it, and boots it again.
func (n *historyNode) crash(t *testing.T, cluster *local.Cluster) {
	l := n.now.Load()
	at := int64(time.Since(n.began))
	l.writing.Lock()
	close(l.dead)
	l.writing.Unlock()
	n.mu.Lock()
	n.crashes = append(n.crashes, at) // from now on no answer counts
	n.mu.Unlock()
	l.engine.Kill()
	n.host.node.Crash()
	n.ends.Go(l.daemon.stop)
	n.host.node, n.host.boot = cluster.AddNode(n.host.node.ID()), "boot-0"
	n.start(t)
}

// crashed returns when the node died, but for those deaths that are known.
func (n *historyNode) crashed(known int) []int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.crashes[known:])
}

// TestHistories: -history-ops makes it longer, -history-seed repeats the
// choices of a run (not its timing).
func TestHistories(t *testing.T) {
	seed := *historySeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-history-seed=%d", seed)
	cluster := local.NewCluster("test")
	var nodes []*historyNode
	var clients []*historyClient
	began := time.Now()
	for i := range historyNodes {
		n := &historyNode{host: newHost(cluster.AddNode(uint32(i + 1))), began: began}
		n.start(t)
		nodes = append(nodes, n)
		for range historyClients {
			id := len(clients)
			clients = append(clients, &historyClient{id: id, node: n, began: began, has: map[string]dlm.Mode{},
				rand: rand.New(rand.NewPCG(seed, uint64(id)))})
		}
	}
	var ops atomic.Int64
	var work, chaos sync.WaitGroup
	for _, c := range clients {
		work.Go(func() { c.run(t, &ops) })
	}
	stop, kills, crashes := make(chan struct{}), 0, 0
	chaos.Go(func() {
		random := rand.New(rand.NewPCG(seed, 1<<32))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(random.IntN(80)) * time.Millisecond):
				n := nodes[random.IntN(len(nodes))]
				if random.IntN(4) == 0 {
					n.crash(t, cluster)
					crashes++
				} else {
					n.restart(t)
					kills++
				}
			}
		}
	})
	work.Wait()
	close(stop)
	chaos.Wait()
	var left []api.LockInfo
	for _, n := range nodes {
		left = append(left, n.now.Load().daemon.list(api.Filter{})...)
		n.now.Load().stop()
		n.ends.Wait()
	}
	checkHistories(t, clients, kills, crashes, time.Since(began))
	require.Empty(t, left)
}

// checkHistories looks for the order, and tells what there was.
func checkHistories(t *testing.T, clients []*historyClient, kills, crashes int, took time.Duration) {
	var all []porcupine.Operation
	outcomes, lost := map[api.Kind]int{}, 0
	for _, c := range clients {
		all = append(all, c.history...)
		lost += c.lost
	}
	for _, o := range all {
		outcomes[o.Output.(output).kind]++
	}
	began := time.Now()
	var bad []porcupine.Operation
	for _, part := range historyModel.Partition(all) {
		if bad == nil && porcupine.CheckOperationsTimeout(historyModel, part, time.Minute) != porcupine.Ok {
			bad = part
		}
	}
	t.Logf("%d operations in %v, checked in %v; %d kills, %d crashes of a node, %d operations without an answer; "+
		"outcomes %v",
		len(all), took.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), kills, crashes, lost, outcomes)
	if bad != nil {
		showHistory(t, bad)
	}
	require.GreaterOrEqual(t, len(all), *historyOps)
	require.Positive(t, lost)
	require.Positive(t, crashes)
	require.Greater(t, outcomes[""], len(all)/4, "too little success to mean anything")
	require.Greater(t, outcomes[api.Timeout]+outcomes[api.WouldBlock]+outcomes[api.Canceled], len(all)/200,
		"too little contention to mean anything")
	for kind := range outcomes {
		require.Contains(t, []api.Kind{"", api.Timeout, api.WouldBlock, api.Canceled, api.NotHeld, api.Deadlock,
			api.ShuttingDown}, kind)
	}
}

// showHistory prints the history of a resource, up to where no order fits.
func showHistory(t *testing.T, part []porcupine.Operation) {
	slices.SortFunc(part, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	n, _ := slices.BinarySearchFunc(part, 0, func(o porcupine.Operation, _ int) int {
		upTo := slices.DeleteFunc(slices.Clone(part), func(p porcupine.Operation) bool { return p.Call > o.Return })
		for i := range upTo {
			if upTo[i].Return > o.Return { // under way: anything may come of it
				out := upTo[i].Output.(output)
				out.lost = out.kind == ""
				upTo[i].Output = out
			}
		}
		if porcupine.CheckOperationsTimeout(historyModel, upTo, time.Minute) == porcupine.Ok {
			return -1
		}
		return 0
	})
	for _, o := range part[max(0, n-40):min(len(part), n+5)] {
		in, out := o.Input.(input), o.Output.(output)
		t.Logf("%9.3f %9.3f ms  client %2d %s %s -> %q lost=%v mode=%s token=%d", float64(o.Call)/1e6, float64(o.Return)/1e6,
			in.client, [...]string{"acquire", "convert", "release", "read",
				"gone"}[in.verb], in.mode, out.kind, out.lost, out.mode, out.token)
	}
	require.Fail(t, "the history has no order",
		"the resource is %s, the last operation shown but five ends the hope", part[0].Input.(input).resource)
}

// The specification refuses what must not be.
func TestHistoryModel(t *testing.T) {
	type op = porcupine.Operation
	at := func(from, to int64, v verb, client int, m dlm.Mode, out output) op {
		return op{ClientId: client, Input: input{v, client, "r", m}, Call: from, Return: to, Output: out}
	}
	ok := func(token uint64) output { return output{token: token} }
	for name, c := range map[string]struct {
		history []op
		fits    bool
	}{
		"one after the other": {[]op{at(1, 2, verbAcquire, 0, dlm.EX, ok(5)), at(3, 4, verbRelease, 0, dlm.None, ok(0)),
			at(5, 6, verbAcquire, 1, dlm.EX, ok(6))}, true},
		"two at once":  {[]op{at(1, 2, verbAcquire, 0, dlm.EX, ok(5)), at(3, 4, verbAcquire, 1, dlm.PR, ok(5))}, false},
		"two that fit": {[]op{at(1, 2, verbAcquire, 0, dlm.PW, ok(5)), at(3, 4, verbAcquire, 1, dlm.CR, ok(5))}, true},
		"a token goes back": {[]op{at(1, 2, verbAcquire, 0, dlm.PW, ok(5)), at(3, 4, verbRelease, 0, dlm.None, ok(0)),
			at(5, 6, verbAcquire, 1, dlm.EX, ok(5))}, false},
		"a shared token is old": {[]op{at(1, 2, verbAcquire, 0, dlm.NL, ok(3)),
			at(3, 4, verbAcquire, 1, dlm.EX, ok(5)), at(5, 6, verbRelease, 1, dlm.None, ok(0)),
			at(7, 8, verbConvert, 0, dlm.PR, ok(3))}, false},
		"a shared token is current": {[]op{at(1, 2, verbAcquire, 0, dlm.NL, ok(3)),
			at(3, 4, verbAcquire, 1, dlm.EX, ok(5)), at(5, 6, verbRelease, 1, dlm.None, ok(0)),
			at(7, 8, verbConvert, 0, dlm.PR, ok(5))}, true},
		"a token below a shared one": {[]op{at(1, 2, verbAcquire, 0, dlm.PR, ok(7)),
			at(3, 4, verbConvert, 0, dlm.EX, ok(7))}, false},
		"a refused conversion that was done": {[]op{at(1, 2, verbAcquire, 0, dlm.EX, ok(5)),
			at(3, 4, verbConvert, 0, dlm.NL, output{kind: api.Timeout}),
			at(5, 6, verbAcquire, 1, dlm.EX, ok(6))}, false},
		"not held, and it was": {[]op{at(1, 2, verbAcquire, 0, dlm.EX, ok(5)),
			at(3, 4, verbRelease, 0, dlm.None, output{kind: api.NotHeld})}, false},
		"lost, and done": {[]op{at(1, 4, verbAcquire, 0, dlm.EX, output{lost: true}),
			at(5, 6, verbRead, 0, dlm.None, output{mode: dlm.EX})}, true},
		"lost, and not done": {[]op{at(1, 4, verbAcquire, 0, dlm.EX, output{lost: true}),
			at(5, 6, verbRead, 0, dlm.None, output{mode: dlm.None})}, true},
		"gone with the node": {[]op{at(1, 2, verbAcquire, 0, dlm.EX, ok(5)),
			at(3, 7, verbGone, 0, dlm.None, output{}), at(5, 6, verbAcquire, 1, dlm.EX, ok(6))}, true},
		"another before the node died": {[]op{at(1, 2, verbAcquire, 0, dlm.EX, ok(5)),
			at(3, 4, verbAcquire, 1, dlm.EX, ok(6)), at(5, 7, verbGone, 0, dlm.None, output{})}, false},
		"forgotten": {[]op{at(1, 2, verbAcquire, 0, dlm.EX, ok(5)),
			at(5, 6, verbRead, 0, dlm.None, output{mode: dlm.None})}, false},
	} {
		require.Equal(t, c.fits, porcupine.CheckOperations(historyModel, c.history), name)
	}
}
