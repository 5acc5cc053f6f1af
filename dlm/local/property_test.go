package local_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
)

const modelSpace = "space"

// world drives a cluster and the model side by side.
type world struct {
	t         *rapid.T
	cluster   *local.Cluster
	nodes     map[uint32]*local.Node
	model     *model
	processes []*pair
}

// pair is one process in both.
type pair struct {
	engine *local.Engine
	space  dlm.Lockspace
	got    []dlm.Event
	want   *modelProcess
}

func newWorld(t *rapid.T, nodes, perNode int) *world {
	w := &world{
		t: t, cluster: local.NewCluster("model"), nodes: make(map[uint32]*local.Node),
		model: new(model),
	}
	for id := uint32(1); id <= uint32(nodes); id++ {
		w.nodes[id] = w.cluster.AddNode(id)
		for range perNode {
			p := new(pair)
			w.start(p, id)
			w.processes = append(w.processes, p)
		}
	}
	return w
}

// start starts a process again, on a node that joins if necessary.
func (w *world) start(p *pair, node uint32) {
	*p = pair{engine: w.nodes[node].Engine(), want: &modelProcess{node: node}}
	sink := func(ev dlm.Event) { p.got = append(p.got, ev) }
	var err error
	p.space, err = p.engine.Open(context.Background(), modelSpace, sink)
	if err != nil {
		require.ErrorIs(w.t, err, dlm.ErrNoLockspace)
		p.space, err = p.engine.Create(context.Background(), modelSpace, sink)
	}
	require.NoError(w.t, err)
}

// restart starts the processes of a node whose last ones got Closed.
func (w *world) restart(node uint32) {
	for _, p := range w.processes {
		if p.want.node == node {
			w.compare(p)
			w.start(p, node)
		}
	}
}

func (w *world) process() *pair { return rapid.SampledFrom(w.processes).Draw(w.t, "process") }

// cookie draws a cookie that is in use, or a free one; now and then the wrong one, so that misuse
// happens as well.
func (w *world) cookie(p *pair, used bool) dlm.Cookie {
	if rapid.IntRange(0, 15).Draw(w.t, "misuse") == 0 {
		used = !used
	}
	var fit []dlm.Cookie
	for c := dlm.Cookie(1); c <= 6; c++ {
		if _, l := w.model.lockOf(p.want, c); (l != nil) == used {
			fit = append(fit, c)
		}
	}
	if len(fit) == 0 {
		return 1
	}
	return rapid.SampledFrom(fit).Draw(w.t, "cookie")
}

func (w *world) name() string {
	return rapid.SampledFrom([]string{"a", "a", "a", "b"}).Draw(w.t, "name")
}
func (w *world) mode() dlm.Mode { return rapid.SampledFrom(dlm.Modes[:]).Draw(w.t, "mode") }

func (w *world) flags() (f dlm.Flags) {
	for _, one := range []dlm.Flags{dlm.ValueBlock, dlm.Persistent} {
		if rapid.Bool().Draw(w.t, one.String()) {
			f |= one
		}
	}
	f |= rapid.SampledFrom([]dlm.Flags{0, 0, 0, dlm.NoQueue, dlm.NoQueue | dlm.NoQueueBlocking}).Draw(w.t, "queue")
	switch rapid.IntRange(0, 9).Draw(w.t, "rare flag") {
	case 0:
		f |= dlm.QueueConvert
	case 1:
		f |= dlm.Expedite
	}
	return f
}

func (w *world) value() *dlm.Value {
	n := rapid.IntRange(0, 5).Draw(w.t, "value")
	if n == 0 {
		return nil
	}
	return &dlm.Value{byte(n)}
}

func (w *world) lock(*rapid.T) {
	p := w.process()
	c, name, mode, f := w.cookie(p, false), w.name(), w.mode(), w.flags()
	p.space.Lock(c, name, mode, f)
	w.model.do(p.want, dlm.OpLock, c, func() { w.model.lock(p.want, c, name, mode, f) })
}

func (w *world) convert(*rapid.T) {
	p := w.process()
	c, mode, f, v := w.cookie(p, true), w.mode(), w.flags(), w.value()
	p.space.Convert(c, mode, f, v)
	w.model.do(p.want, dlm.OpConvert, c, func() { w.model.convert(p.want, c, mode, f, v) })
}

func (w *world) unlock(*rapid.T) {
	p := w.process()
	c, v := w.cookie(p, true), w.value()
	p.space.Unlock(c, v)
	w.model.do(p.want, dlm.OpUnlock, c, func() { w.model.unlock(p.want, c, v) })
}

func (w *world) cancel(*rapid.T) {
	p := w.process()
	c := w.cookie(p, true)
	p.space.Cancel(c)
	w.model.do(p.want, dlm.OpNone, c, func() { w.model.cancel(p.want, c) })
}

func (w *world) adopt(*rapid.T) {
	p := w.process()
	c, name, mode, f := w.cookie(p, false), w.name(), w.mode(), w.flags()
	p.space.Adopt(c, name, mode, f)
	w.model.adopt(p.want, c, name, mode, f)
}

func (w *world) purge(*rapid.T) {
	p := w.process()
	p.space.Purge()
	w.model.do(p.want, dlm.OpPurge, 0, func() { w.model.purge(p.want) })
}

func (w *world) kill(t *rapid.T) {
	if rapid.IntRange(0, 2).Draw(t, "rarely") != 0 {
		return
	}
	p := w.process()
	p.engine.Kill()
	w.model.kill(p.want)
	w.compare(p)
	w.start(p, p.want.node)
}

func (w *world) crash(t *rapid.T) {
	if rapid.IntRange(0, 5).Draw(t, "rarely") != 0 {
		return
	}
	node := w.process().want.node
	w.nodes[node].Crash()
	w.model.leave(node, w.wanted())
	w.nodes[node] = w.cluster.AddNode(node)
	w.restart(node)
}

func (w *world) remove(t *rapid.T) {
	if rapid.IntRange(0, 5).Draw(t, "rarely") != 0 {
		return
	}
	p := w.process()
	require.NoError(w.t, p.engine.Remove(context.Background(), modelSpace))
	w.model.leave(p.want.node, w.wanted())
	w.restart(p.want.node)
}

func (w *world) stopOrResume(*rapid.T) {
	if !w.model.stopped {
		w.cluster.Stop(modelSpace, "a test")
		w.model.stopped = true
		return
	}
	w.cluster.Resume(modelSpace)
	w.model.resume()
}

func (w *world) wanted() (all []*modelProcess) {
	for _, p := range w.processes {
		all = append(all, p.want)
	}
	return all
}

// compare compares the events of a process with those of the model.
func (w *world) compare(p *pair) {
	require.Equal(w.t, p.want.events, p.got)
}

// check compares everything that can be seen from outside.
func (w *world) check(*rapid.T) {
	ctx := context.Background()
	for _, p := range w.processes {
		w.compare(p)
		orphans, err := p.engine.Orphans(ctx, modelSpace)
		require.NoError(w.t, err)
		want := []dlm.Orphan{}
		for _, l := range w.model.orphans(p.want.node) {
			want = append(want, dlm.Orphan{LockID: l.id, Resource: w.model.resourceOf(l).name, Mode: l.mode})
		}
		require.Equal(w.t, want, orphans)
		for _, name := range []string{"a", "b"} {
			q, err := p.engine.Queues(ctx, modelSpace, name)
			require.NoError(w.t, err)
			q.Missing = ""
			require.Equal(w.t, w.model.queues(name, p.want.node), q)
		}
	}
}

// queues is what a node sees of a resource.
func (m *model) queues(name string, node uint32) dlm.Queues {
	r := m.find(name)
	if r == nil {
		return dlm.Queues{Complete: true}
	}
	q := dlm.Queues{Master: r.master, Complete: r.master == node}
	if q.Complete && r.value != nil {
		q.Value, q.HasValue = *r.value, true
	}
	show := func(locks []*modelLock) (held []dlm.Held) {
		for _, l := range locks {
			switch {
			case l.node == node:
				held = append(held, dlm.Held{LockID: l.id, Node: l.node, Mode: l.mode, Wanted: l.wanted})
			case q.Complete:
				held = append(held, dlm.Held{Node: l.node, Mode: l.mode, Wanted: l.wanted})
			}
		}
		return held
	}
	q.Granted, q.Converting, q.Waiting = show(r.granted), show(r.converting), show(r.waiting)
	return q
}

// TestAgainstModel does the same random things to a cluster and to the model: every event of every
// process, every queue and every orphan must be the same.
func TestAgainstModel(t *testing.T) {
	for _, size := range []struct{ nodes, perNode int }{{1, 1}, {1, 3}, {3, 2}} {
		t.Run(fmt.Sprintf("%d nodes with %d processes", size.nodes, size.perNode), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				w := newWorld(t, size.nodes, size.perNode)
				t.Repeat(map[string]func(*rapid.T){
					"":           w.check,
					"lock":       w.lock,
					"lock2":      w.lock,
					"lock3":      w.lock,
					"convert":    w.convert,
					"convert2":   w.convert,
					"convert3":   w.convert,
					"unlock":     w.unlock,
					"cancel":     w.cancel,
					"adopt":      w.adopt,
					"purge":      w.purge,
					"kill":       w.kill,
					"crash":      w.crash,
					"remove":     w.remove,
					"stopResume": w.stopOrResume,
				})
			})
		})
	}
}
