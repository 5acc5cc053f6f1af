package lockd

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// historyClient is one owner. It does one thing after the other.
type historyClient struct {
	id      int
	node    *historyNode
	rand    *rand.Rand
	began   time.Time
	has     map[string]dlm.Mode
	history []porcupine.Operation
	lost    int // operations without an answer
	crashes int // deaths of its node that are in its history
}

func (c *historyClient) owner() string { return fmt.Sprint("owner", c.id) }

func (c *historyClient) now() int64 { return int64(time.Since(c.began)) }

func (c *historyClient) caller() api.Caller { return user(1000, fmt.Sprint(":", c.id)) }

// run works until others say that it is enough.
func (c *historyClient) run(t *testing.T, ops *atomic.Int64) {
	for round := 0; ops.Load() < int64(*historyOps); round++ {
		for range historyLength {
			ops.Add(1)
			c.one(t, fmt.Sprintf("r%d-%d", round, c.rand.IntN(historySpan)))
		}
		for len(c.has) > 0 { // the service may die over it
			ops.Add(1)
			c.do(t, input{verbRelease, c.id, c.holding()[0], dlm.None})
		}
	}
}

func (c *historyClient) holding() []string {
	var in []string
	for r := range c.has {
		in = append(in, r)
	}
	slices.Sort(in)
	return in
}

// one does something with a resource.
func (c *historyClient) one(t *testing.T, resource string) {
	in := input{verbAcquire, c.id, resource, dlm.Modes[c.rand.IntN(len(dlm.Modes))]}
	if has, ok := c.has[resource]; ok {
		switch c.rand.IntN(8) {
		case 0: // once more
			in.mode = has
		case 1, 2, 3:
			in.verb = verbConvert
		default:
			in.verb = verbRelease
		}
	} else if c.rand.IntN(20) == 0 {
		in.verb = verbRelease // what is not there
	}
	c.do(t, in)
}

// gone writes down what has ended with the node, and whether it died.
func (c *historyClient) gone() bool {
	at := c.node.crashed(c.crashes)
	if len(at) == 0 {
		return false
	}
	c.crashes += len(at)
	for _, r := range c.holding() {
		c.forget(r, at[0])
	}
	return true
}

func (c *historyClient) forget(resource string, at int64) {
	c.history = append(c.history, porcupine.Operation{ClientId: c.id,
		Input: input{verbGone, c.id, resource, dlm.None}, Call: at, Output: output{}, Return: c.now()})
	delete(c.has, resource)
}

// do makes one call and writes down what came of it. If the node has died
// meanwhile, the call may have been made before or after that.
func (c *historyClient) do(t *testing.T, in input) {
	c.gone()
	known := c.crashes
	c.make(t, in)
	if at := c.node.crashed(known); len(at) > 0 {
		c.forget(in.resource, at[0])
		c.gone()
		c.read(t, in.resource)
	}
}

func (c *historyClient) make(t *testing.T, in input) {
	l := c.node.now.Load()
	op := porcupine.Operation{ClientId: c.id, Input: in, Call: c.now()}
	out := c.call(l, in)
	op.Return = c.now()
	if l.isDead() {
		out = output{lost: true}
	}
	if !out.lost {
		c.note(in, out)
		op.Output = out
		c.history = append(c.history, op)
		return
	}
	// The next start finishes it or undoes it, before it says what is there.
	c.lost++
	c.look(t, in.resource)
	op.Output, op.Return = out, c.now()
	c.history = append(c.history, op)
	c.read(t, in.resource)
}

// read writes down what the service says.
func (c *historyClient) read(t *testing.T, resource string) {
	for {
		if at := c.node.crashed(c.crashes); len(at) > 0 {
			c.forget(resource, at[0])
			c.gone()
		}
		read := porcupine.Operation{ClientId: c.id, Input: input{verbRead, c.id, resource, dlm.None}, Call: c.now() + 1}
		time.Sleep(time.Microsecond)
		mode := c.look(t, resource)
		read.Output, read.Return = output{mode: mode}, c.now()
		if len(c.node.crashed(c.crashes)) > 0 {
			continue // what was read may have ended
		}
		c.history = append(c.history, read)
		delete(c.has, resource)
		if mode != dlm.None {
			c.has[resource] = mode
		}
		return
	}
}

func (c *historyClient) note(in input, out output) {
	if out.kind != "" {
		return
	}
	switch in.verb {
	case verbRelease:
		delete(c.has, in.resource)
	default:
		c.has[in.resource] = in.mode
	}
}

// call makes the call of the service.
func (c *historyClient) call(d *life, in input) output {
	answer := make(chan output, 1)
	wait := time.Duration(0)
	how := c.rand.IntN(4)
	if how > 0 {
		wait = time.Duration(c.rand.IntN(500)) * time.Microsecond
	}
	granted := func(g api.Grant, err error) { answer <- output{kind: kindOf(err), token: g.Token} }
	w, o := wantOf("vms", in.resource, in.mode), api.AcquireOptions{Owner: c.owner(), HasOwner: true, Wait: wait}
	sel := api.Selector{Owner: c.owner(), HasOwner: true}
	switch {
	case in.verb == verbRelease:
		d.Release(c.caller(), "vms", in.resource, sel, func(err error) { answer <- output{kind: kindOf(err)} })
	case in.verb == verbConvert:
		d.Convert(c.caller(), w, sel, api.ConvertOptions{Wait: wait}, granted)
	case how == 1:
		c.request(d, w, o, wait, answer)
	default:
		d.Acquire(c.caller(), []api.Want{w}, o, func(g []api.Grant, err error) { granted(append(g, api.Grant{})[0], err) })
	}
	select {
	case out := <-answer:
		return out
	case <-d.dead:
		return output{lost: true}
	}
}

// request asks with a Request, which is canceled after a while.
func (c *historyClient) request(d *life, w api.Want, o api.AcquireOptions, patience time.Duration,
	answer chan<- output) {
	o.Wait = 0
	d.Request(c.caller(), w, o, func(ref api.Ref, err error) {
		if err != nil {
			answer <- output{kind: kindOf(err)}
			return
		}
		time.AfterFunc(patience, func() { d.CancelRequest(c.caller(), ref, func(error) {}) })
	}, func(g api.Grant, err error) { answer <- output{kind: kindOf(err), token: g.Token} })
}

func kindOf(err error) api.Kind {
	if err == nil {
		return ""
	}
	return err.(*api.Error).Kind
}

// look waits until the service is there and through with what the start has to
// finish, and returns the mode of what the client has.
func (c *historyClient) look(t *testing.T, resource string) dlm.Mode {
	for {
		l := c.node.now.Load()
		page, answered := c.list(l, api.Filter{Lockspace: "vms", Resource: resource, Owner: c.owner(), HasOwner: true})
		if !answered || l.isDead() {
			time.Sleep(100 * time.Microsecond)
			continue
		}
		require.LessOrEqual(t, len(page), 1)
		if len(page) == 0 {
			return dlm.None
		}
		if page[0].State == api.Held {
			return page[0].Mode
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func (c *historyClient) list(d *life, f api.Filter) (page []api.LockInfo, answered bool) {
	answer := make(chan []api.LockInfo, 1)
	d.List(f, func(p api.Page, err error) {
		if err == nil {
			answer <- p.Locks
		}
	})
	select {
	case page = <-answer:
		return page, true
	case <-d.dead:
		return nil, false
	}
}
