package lab_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
)

// soakClient works on a few resources from one node, whatever happens to the
// service, the node and the network meanwhile, and writes down what it was told.
type soakClient struct {
	soak     *soak
	node     int
	owner    string
	lifetime string
	rand     *rand.Rand

	bus  atomic.Pointer[client.Client] // nil: no connection
	held map[string]dlm.Mode           // what it may still have
	// open has the calls without an answer, by resource: places in the history.
	// A release that is answered after them ends them, too: the service carries
	// out the calls of an owner in their order, and a daemon that was killed
	// carries out nothing.
	open map[string][]int
	last error // of the last call without an answer
	// answered is when the connection was seen alive for the last time: it may
	// have ended right after that.
	answered int64
	lost     bool // the lockspace was left: what the service keeps of the owner is to be released
}

// callTime is how long a client waits for an answer.
const callTime = 20 * time.Second

// callContext bounds a call. It does not end with the slice: the answer counts.
func callContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), callTime)
}

var soakModes = []dlm.Mode{dlm.EX, dlm.EX, dlm.EX, dlm.PW, dlm.PR, dlm.PR, dlm.CW, dlm.CR}

// work goes on until the context ends; the call under way is awaited.
func (c *soakClient) work(ctx context.Context) {
	gate := c.soak.gates[c.node]
	for ctx.Err() == nil {
		gate.RLock()
		ok := c.connected() && c.tidy()
		if ok {
			ok = c.step()
		}
		gate.RUnlock()
		if !ok {
			pause(ctx, 200*time.Millisecond)
		}
	}
}

// connected returns whether there is a connection, and makes one if it can.
func (c *soakClient) connected() bool {
	if bus := c.bus.Load(); bus != nil {
		select {
		case <-bus.Done():
			c.disconnect()
		default:
			return true
		}
	}
	if !c.soak.rig.cluster.Node(c.node).Up() {
		return false
	}
	ctx, cancel := callContext()
	defer cancel()
	bus, err := c.soak.rig.services[c.node].Dial(ctx)
	if err != nil {
		return false
	}
	bus.AutoStart(false)
	c.bus.Store(bus)
	c.answered = c.soak.history.now()
	return true
}

// disconnect ends the locks that live as long as the connection.
func (c *soakClient) disconnect() {
	bus := c.bus.Swap(nil)
	if bus == nil {
		return
	}
	_ = bus.Close()
	if c.lifetime == client.Connection {
		c.died(c.answered)
	}
}

// tidy releases what the service keeps of locks that were lost.
func (c *soakClient) tidy() bool {
	if !c.lost {
		return true
	}
	ctx, cancel := callContext()
	defer cancel()
	_, err := c.bus.Load().ReleaseOwner(ctx, soakSpace, c.owner)
	c.lost = err != nil
	return err == nil
}

// step makes one call. It returns false if the next one should not follow at once.
func (c *soakClient) step() bool {
	name := c.soak.resources[c.rand.IntN(len(c.soak.resources))]
	mode := soakModes[c.rand.IntN(len(soakModes))]
	switch {
	case c.held[name] != 0 && c.rand.IntN(3) == 0 && len(c.open[name]) == 0:
		return c.convert(name, mode)
	case c.held[name] != 0:
		return c.release(name)
	case len(c.held) > 1:
		for held := range c.held { // no more than two at a time, or they wait for each other
			return c.release(held)
		}
	case c.rand.IntN(8) == 0 && len(c.held) == 0:
		return c.acquireMany(mode)
	}
	return c.acquire(name, mode)
}

func (c *soakClient) options() client.Options {
	waits := []time.Duration{0, 100 * time.Millisecond, time.Second}
	return client.Options{Owner: c.owner, Lifetime: c.lifetime, Wait: waits[c.rand.IntN(len(waits))]}
}

func (c *soakClient) acquire(name string, mode dlm.Mode) bool {
	ctx, cancel := callContext()
	defer cancel()
	begin := c.soak.history.now()
	want := client.Want{Lockspace: soakSpace, Resource: name, Mode: mode.String()}
	g, err := c.bus.Load().Acquire(ctx, want, c.options())
	end := c.note(name, mode, begin, err)
	if end == granted {
		c.soak.sawToken(name, mode, begin, g.Token)
	}
	return end != unknown
}

// acquireMany takes two, or none of them.
func (c *soakClient) acquireMany(mode dlm.Mode) bool {
	i := c.rand.IntN(len(c.soak.resources) - 1)
	names := c.soak.resources[i : i+2]
	var want []client.Want
	for _, name := range names {
		want = append(want, client.Want{Lockspace: soakSpace, Resource: name, Mode: mode.String()})
	}
	ctx, cancel := callContext()
	defer cancel()
	begin := c.soak.history.now()
	_, err := c.bus.Load().AcquireMany(ctx, want, c.options())
	var end told
	for _, name := range names {
		end = c.note(name, mode, begin, err)
	}
	return end != unknown
}

func (c *soakClient) convert(name string, mode dlm.Mode) bool {
	ctx, cancel := callContext()
	defer cancel()
	begin := c.soak.history.now()
	_, err := c.bus.Load().Convert(ctx, client.Want{Lockspace: soakSpace, Resource: name, Mode: mode.String()},
		client.Selector{Owner: c.owner}, time.Duration(c.rand.IntN(3))*100*time.Millisecond)
	return c.note(name, mode, begin, err) != unknown
}

// note writes a call down that gives the owner a mode.
func (c *soakClient) note(name string, mode dlm.Mode, begin int64, err error) told {
	end := soakEnding(err)
	at := c.soak.history.add(deed{name, c.owner, mode}, begin, end)
	if end != unknown && !errors.Is(err, client.NotRunning) {
		c.answered = c.soak.history.now()
	}
	switch end {
	case granted:
		c.held[name] = mode
	case unknown:
		c.held[name] = mode
		c.open[name] = append(c.open[name], at)
		c.last = err
		c.soak.explain(err)
	}
	return end
}

func (c *soakClient) release(name string) bool {
	ctx, cancel := callContext()
	defer cancel()
	begin := c.soak.history.now()
	err := c.bus.Load().Release(ctx, soakSpace, name, client.Selector{Owner: c.owner})
	end := soakEnding(err)
	if errors.Is(err, client.NotHeld) {
		end = granted // the owner has nothing there now
	}
	if end != granted {
		// Nothing, or a release at any later time: the next one is written down.
		c.open[name] = append(c.open[name], c.soak.history.add(deed{name, c.owner, dlm.None}, begin, unknown))
		c.last = err
		c.soak.explain(err)
		return false
	}
	c.soak.history.add(deed{name, c.owner, dlm.None}, begin, granted)
	c.answered = c.soak.history.now()
	c.soak.history.close(c.open[name])
	delete(c.open, name)
	delete(c.held, name)
	return true
}

// finish releases everything, and returns what it could not release by the end of
// the context.
func (c *soakClient) finish(ctx context.Context) (left []string) {
	for len(c.held) > 0 || c.lost {
		if ctx.Err() != nil {
			break
		}
		ok := c.connected() && c.tidy()
		for name := range c.held {
			ok = ok && c.release(name)
		}
		if !ok {
			pause(ctx, 200*time.Millisecond)
		}
	}
	for name := range c.held {
		left = append(left, name)
	}
	return left
}

// died notes that what the client had ended at a time or later.
func (c *soakClient) died(at int64) {
	for name := range c.held {
		c.soak.history.ended(name, c.owner, at)
	}
	clear(c.held)
	clear(c.open)
}

// soakEnding is ending, and knows that a call that no daemon got did nothing.
func soakEnding(err error) told {
	if errors.Is(err, client.NotRunning) {
		return refused
	}
	return ending(err)
}

// close ends calls without an answer now.
func (h *history) close(places []int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, i := range places {
		h.ops[i].Return = h.now()
	}
}

// gates keeps the calls of a node's clients and what ends all its locks apart.
type gates map[int]*sync.RWMutex
