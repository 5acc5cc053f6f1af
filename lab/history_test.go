package lab_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lab"
)

// A history is what clients on all nodes did with some resources and what they
// were told, with the times on one clock: that of this machine. Check searches
// it for two incompatible locks at one time.
type history struct {
	begin time.Time

	mu  sync.Mutex
	ops []porcupine.Operation
}

// deed is one call.
type deed struct {
	resource string
	owner    string
	mode     dlm.Mode // dlm.None: a release
}

// told is how a call ended.
type told uint8

const (
	granted told = iota // or released
	refused             // certainly nothing was done
	unknown             // there was no answer, or one that leaves it open
)

func (h *history) now() int64 { return int64(time.Since(h.begin)) }

// add notes a call and returns its place. One without an answer may take effect at
// any later time.
func (h *history) add(d deed, call int64, end told) int {
	op := porcupine.Operation{Input: d, Call: call, Output: end, Return: h.now()}
	if end == unknown {
		op.Return = math.MaxInt64
	}
	return h.append(op)
}

func (h *history) append(op porcupine.Operation) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, op)
	return len(h.ops) - 1
}

// ended notes that what an owner had ended at a time or later.
func (h *history) ended(resource, owner string, at int64) {
	h.append(porcupine.Operation{Input: deed{resource, owner, dlm.None}, Call: at, Output: granted,
		Return: math.MaxInt64})
}

// holding is one resource: who has it, sorted by owner. It is never changed.
type holding []holder

type holder struct {
	owner string
	mode  dlm.Mode
}

// lockModel says what the calls may do to a resource.
var lockModel = porcupine.NondeterministicModel{
	Init: func() []any { return []any{holding(nil)} },
	Step: func(state, input, output any) []any {
		held, d := state.(holding), input.(deed)
		after, possible := held.with(d)
		switch {
		case output == refused:
			return []any{held}
		case output == granted && !possible:
			return nil
		case output == granted:
			return []any{after}
		case possible:
			return []any{held, after}
		}
		return []any{held}
	},
	Equal: func(a, b any) bool { return slices.Equal(a.(holding), b.(holding)) },
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		parts := map[string][]porcupine.Operation{}
		for _, op := range all {
			name := op.Input.(deed).resource
			parts[name] = append(parts[name], op)
		}
		var out [][]porcupine.Operation
		for _, p := range parts {
			out = append(out, p)
		}
		return out
	},
	DescribeOperation: func(input, output any) string {
		d := input.(deed)
		return fmt.Sprintf("%s %s %s: %s", d.owner, d.mode, d.resource, []string{"done", "refused", "unknown"}[output.(told)])
	},
}

// with is the resource after d, if the rules allow it.
func (h holding) with(d deed) (after holding, possible bool) {
	at, own := slices.BinarySearchFunc(h, d.owner, func(o holder, owner string) int { return cmp.Compare(o.owner, owner) })
	if d.mode == dlm.None && !own {
		return h, true
	}
	for i, o := range h {
		if d.mode != dlm.None && (i != at || !own) && !dlm.Compatible(o.mode, d.mode) {
			return nil, false
		}
	}
	rest := h[at:]
	if own {
		rest = h[at+1:]
	}
	if d.mode == dlm.None {
		return slices.Concat(h[:at], rest), true
	}
	return slices.Concat(h[:at], holding{{d.owner, d.mode}}, rest), true
}

// checkTime bounds the search for two holders.
const checkTime = time.Minute

func (h *history) check(t *testing.T, picture string) {
	t.Helper()
	model := lockModel.ToModel()
	result, info := porcupine.CheckOperationsVerbose(model, h.ops, checkTime)
	if result == porcupine.Ok {
		return
	}
	if err := porcupine.VisualizePath(model, info, picture); err == nil {
		t.Logf("see %s", picture)
	}
	require.Equal(t, porcupine.Ok, result, "two holders at one time")
}

// historyClient works on resources of a lockspace from one node until its
// context ends, and writes down what it does.
type historyClient struct {
	history   *history
	rig       *serviceRig
	node      int
	owner     string
	resources []string
	rand      *rand.Rand
	held      map[string]dlm.Mode // what it may still have
}

var historyModes = []dlm.Mode{dlm.EX, dlm.EX, dlm.PW, dlm.PR, dlm.CR}

// work takes a lock, keeps it for a moment, perhaps converts it, releases it, and
// so on.
func (c *historyClient) work(ctx context.Context) {
	bus, err := c.rig.services[c.node].Dial(ctx)
	if err != nil {
		return
	}
	defer bus.Close()
	for ctx.Err() == nil {
		name := c.resources[c.rand.IntN(len(c.resources))]
		mode := historyModes[c.rand.IntN(len(historyModes))]
		if c.held[name] != 0 {
			c.release(ctx, bus, name)
			continue
		}
		call := c.history.now()
		_, err := bus.Acquire(ctx, client.Want{Lockspace: "vms", Resource: name, Mode: mode.String()},
			client.Options{Owner: c.owner, Wait: 300 * time.Millisecond})
		end := ending(err)
		c.history.add(deed{name, c.owner, mode}, call, end)
		if end != refused {
			c.held[name] = mode
		}
		if end == granted {
			pause(ctx, time.Duration(c.rand.IntN(100))*time.Millisecond)
			if c.rand.IntN(3) == 0 {
				c.convert(ctx, bus, name)
			}
			c.release(ctx, bus, name)
		}
		if end == unknown {
			pause(ctx, 200*time.Millisecond)
		}
	}
}

// convert changes the mode of what it has, up or down.
func (c *historyClient) convert(ctx context.Context, bus *client.Client, name string) {
	mode := historyModes[c.rand.IntN(len(historyModes))]
	call := c.history.now()
	_, err := bus.Convert(ctx, client.Want{Lockspace: "vms", Resource: name, Mode: mode.String()},
		client.Selector{Owner: c.owner}, 200*time.Millisecond)
	c.history.add(deed{name, c.owner, mode}, call, ending(err))
	pause(ctx, time.Duration(c.rand.IntN(50))*time.Millisecond)
}

func (c *historyClient) release(ctx context.Context, bus *client.Client, name string) {
	call := c.history.now()
	err := bus.Release(ctx, "vms", name, client.Selector{Owner: c.owner})
	end := ending(err)
	if errors.Is(err, client.NotHeld) {
		end = granted // there is nothing of the owner now
	}
	c.history.add(deed{name, c.owner, dlm.None}, call, end)
	if end == granted {
		delete(c.held, name)
		return
	}
	pause(ctx, 200*time.Millisecond)
}

// died notes that the node went off at a time: what the client had, and what
// it had asked for, ended then at the earliest.
func (c *historyClient) died(at int64) {
	for name := range c.held {
		c.history.ended(name, c.owner, at)
	}
}

// ending tells what an error leaves open. The service promises of these kinds
// that nothing is held.
func ending(err error) told {
	var e *client.Error
	switch {
	case err == nil:
		return granted
	case errors.As(err, &e) && slices.Contains([]client.Kind{client.WouldBlock, client.Timeout, client.Deadlock,
		client.AlreadyHeld}, e.Kind):
		return refused
	}
	return unknown
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// The model finds what it is there to find.
func TestHistoryModel(t *testing.T) {
	ops := func(second int64, end told) []porcupine.Operation {
		return []porcupine.Operation{
			{Input: deed{"r", "a", dlm.EX}, Call: 1, Return: 2, Output: granted},
			{Input: deed{"r", "b", dlm.EX}, Call: second, Return: second + 1, Output: end},
			{Input: deed{"r", "a", dlm.None}, Call: 10, Return: math.MaxInt64, Output: granted},
		}
	}
	model := lockModel.ToModel()
	require.False(t, porcupine.CheckOperations(model, ops(5, granted)), "two holders")
	require.True(t, porcupine.CheckOperations(model, ops(5, refused)))
	require.True(t, porcupine.CheckOperations(model, ops(5, unknown)))
	require.True(t, porcupine.CheckOperations(model, ops(11, granted)), "the first is gone")
}

// calmTime is how long the clients work before the cut and after the recovery.
const calmTime = 6 * time.Second

// neverTwoHolders has clients on three nodes at work when one node is cut off.
// What they were told is searched for two holders of one lock, where those of
// the node that was cut off hold theirs until it is powered off.
func neverTwoHolders(t *testing.T, r *serviceRig) {
	r.fresh(t)
	for _, n := range r.cluster.Nodes() {
		require.NoError(t, r.services[n.ID].Start(lab.Context(t, "start", commandTime)))
	}
	h := &history{begin: time.Now()}
	seed := uint64(h.begin.UnixNano())
	t.Logf("seed %d", seed)
	var clients []*historyClient
	var working sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for _, n := range r.cluster.Nodes() {
		for i := range 3 {
			c := &historyClient{history: h, rig: r, node: n.ID, owner: fmt.Sprintf("n%d.%d", n.ID, i),
				resources: []string{"r1", "r2", "r3", "r4"},
				rand:      rand.New(rand.NewPCG(seed, uint64(len(clients)))), held: map[string]dlm.Mode{}}
			clients = append(clients, c)
			working.Go(func() { c.work(ctx) })
		}
	}
	pause(ctx, calmTime)
	victim := r.cluster.Node(3)
	cut := h.now()
	victim.Isolate()
	select {
	case <-victim.Gone():
	case <-time.After(untilTime):
		t.Error("nobody fenced the node that was cut off")
	}
	off := h.now()
	for h.grantsAfter(off, "n1.") < 20 && time.Duration(h.now()-off) < untilTime {
		pause(ctx, 100*time.Millisecond)
	}
	pause(ctx, calmTime)
	stop()
	working.Wait()
	for _, c := range clients {
		if c.node == victim.ID {
			c.died(off)
		}
	}
	h.tally(t, cut, off)
	h.check(t, filepath.Join(r.cluster.Artefacts(), "history.html"))
}

// grantsAfter counts the locks granted to owners of that prefix after a time.
func (h *history) grantsAfter(at int64, prefix string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, op := range h.ops {
		d := op.Input.(deed)
		if op.Call > at && d.mode != dlm.None && op.Output == granted && strings.HasPrefix(d.owner, prefix) {
			n++
		}
	}
	return n
}

// tally tells what the history is made of, and that it is enough.
func (h *history) tally(t *testing.T, cut, off int64) {
	t.Helper()
	count := map[told]int{}
	for _, op := range h.ops {
		count[op.Output.(told)]++
	}
	t.Logf("%d calls done, %d refused, %d without an answer; powered off %v after the cut", count[granted],
		count[refused], count[unknown],
		time.Duration(off-cut).Round(100*time.Millisecond))
	require.Greater(t, h.grantsAfter(0, ""), 100, "too little work to mean anything")
	require.GreaterOrEqual(t, h.grantsAfter(off, "n1."), 20, "the others go on")
}
