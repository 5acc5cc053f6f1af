package main

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	dlmlock "github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lab/logbook"
)

// client works on a few resources, whatever happens to the service, the node and the
// network meanwhile. It records each answer before it goes on.
type client struct {
	*settings
	logbook  *logbook.Logbook
	page     *logbook.Page
	number   int
	door     string
	lifetime string
	batch    int // how many locks it acquires and releases in one call; 0: one or two
	open     func(*client) (door, error)

	way  door // nil: no connection
	cuts uint64
	rand *rand.Rand
	hold *logbook.Holding
	last uint64 // when the last call had ended
}

// idle is how often a client without a task looks for one, and again how long it
// waits after a call that the service did not carry out.
const (
	idle  = 20 * time.Millisecond
	again = 200 * time.Millisecond
	// clockTime is the time of a tick of the clock: a shorter sleep costs an emulated node more.
	clockTime = 500 * time.Microsecond
)

// work follows the orders of the page, for ever.
func (c *client) work() {
	for {
		order, obey := c.page.Order()
		if obey != nil || c.hold == nil {
			// The test may have written into the page, or have begun it anew.
			c.hold = c.page.Holding()
			c.rand = rand.New(rand.NewPCG(c.page.Seed(), uint64(c.number)<<32+uint64(c.page.Len())))
		}
		c.tick()
		switch {
		case order == logbook.Work && !c.page.Full():
			c.repeat(c.ready() && c.step())
		case order == logbook.Finish && !c.finished():
			obey = nil
			c.repeat(c.ready() && c.releaseAny())
		default:
			time.Sleep(idle)
		}
		if obey != nil {
			obey()
		}
	}
}

func (c *client) repeat(ok bool) {
	if !ok {
		time.Sleep(again)
	}
}

// tick waits until the clock has moved on, because the times have to show the order of
// this client's calls.
func (c *client) tick() {
	for c.logbook.Now() == c.last {
		time.Sleep(clockTime)
	}
}

// finished reports whether the client has nothing. Then it also ends the connection,
// because there are none at the quiet point.
func (c *client) finished() bool {
	if len(c.hold.Held) > 0 || len(c.hold.Lost) > 0 {
		return false
	}
	c.disconnect()
	return true
}

// ready makes a connection if there is none, and releases what is lost.
func (c *client) ready() bool {
	if cuts := c.page.Cuts(); cuts != c.cuts || c.way != nil && !c.way.alive() {
		c.cuts = cuts
		c.disconnect()
	}
	if c.way == nil {
		way, err := c.open(c)
		if err != nil {
			return false
		}
		c.way = way
	}
	c.endBroken()
	return c.releaseEach(slices.Sorted(maps.Keys(c.hold.Lost)))
}

// releaseEach releases locks, all in one call if the client works in batches.
func (c *client) releaseEach(names []int) bool {
	for calls := range slices.Chunk(names, max(1, c.batch)) {
		if !c.release(calls...) {
			return false
		}
	}
	return true
}

// disconnect ends the locks that live as long as the connection.
func (c *client) disconnect() {
	if c.way == nil {
		return
	}
	if c.lifetime == dlmlock.Connection {
		c.endBroken()
		at := c.way.cutAt()
		if at == 0 && c.way.alive() {
			at = c.logbook.Now() // this call ends it
		}
		// If at is still 0, it has ended by itself, at any time since the locks were asked for.
		c.endAll(at)
	}
	c.way.close()
	c.way = nil
}

func (c *client) endAll(at uint64) {
	for name := range c.hold.Held {
		c.end(name, max(at, c.hold.Since[name]))
	}
}

// end notes that a lock has ended at that time or later.
func (c *client) end(name int, at uint64) {
	c.add(c.page.Begin(logbook.Entry{Op: logbook.End, Outcome: logbook.Done, Resource: name, Mode: dlm.None, Kept: true,
		Call: at}))
}

// endBroken notes the locks whose connection a fault may have ended.
func (c *client) endBroken() {
	if c.lifetime != dlmlock.Connection {
		return
	}
	kind := logbook.Daemon
	if c.door == "dbus" {
		kind = logbook.Bus
	}
	for name := range c.hold.Held {
		if at := c.logbook.Broken(c.node, kind, c.hold.Since[name]); at != 0 {
			c.end(name, at)
		}
	}
}

// modes: those that are in the way of others come often.
var modes = []dlm.Mode{dlm.EX, dlm.EX, dlm.EX, dlm.PW, dlm.PR, dlm.PR, dlm.CW, dlm.CR, dlm.NL}

// step makes one call. It returns false if the client should pause before the next call.
func (c *client) step() bool {
	if c.batch > 0 {
		return c.stepBatch()
	}
	name, mode := c.pick(), c.way.modes()[c.rand.IntN(len(c.way.modes()))]
	_, held := c.hold.Held[name]
	switch n := len(c.hold.Held); {
	case n == 0 && c.way.converts() && c.rand.IntN(8) == 0:
		return c.acquire([]int{name, (name + 1) % c.resources}, mode)
	case n == 0, n == 1 && !held && c.rand.IntN(3) == 0: // never more than two, or they wait for each other
		return c.acquire([]int{name}, mode)
	}
	name = c.any()
	if len(c.hold.Open[name]) == 0 && c.way.converts() && c.rand.IntN(3) == 0 {
		return c.convert(name, mode)
	}
	return c.release(name)
}

// batchResources is how many times as many resources the clients that work in batches have
// as the others. With so many, they meet others often, but not in each call.
const batchResources = 128

// stepBatch makes one call of a client that works in batches.
func (c *client) stepBatch() bool {
	mode := modes[c.rand.IntN(len(modes))]
	if len(c.hold.Held) > 0 {
		if name := c.any(); len(c.hold.Open[name]) == 0 && c.rand.IntN(4) == 0 {
			return c.convert(name, mode)
		}
		return c.releaseEach(slices.Sorted(maps.Keys(c.hold.Held)))
	}
	names := make([]int, c.batch)
	first := c.rand.IntN(batchResources*c.resources - c.batch)
	for i := range names {
		names[i] = first + i
	}
	return c.acquire(names, mode)
}

// pick takes one of a few hot resources half of the time.
func (c *client) pick() int {
	if c.rand.IntN(2) == 0 {
		return c.rand.IntN(max(1, c.resources/8))
	}
	return c.rand.IntN(c.resources)
}

// any picks something that the client holds; with the same random numbers, the same one.
func (c *client) any() int {
	names := slices.Sorted(maps.Keys(c.hold.Held))
	return names[c.rand.IntN(len(names))]
}

// releaseAny releases something that the client holds, if there is anything.
func (c *client) releaseAny() bool {
	if c.batch > 0 {
		return c.releaseEach(slices.Sorted(maps.Keys(c.hold.Held)))
	}
	return len(c.hold.Held) == 0 || c.release(c.any())
}

// wait picks how long a call may wait: most calls do not wait at all.
func (c *client) wait() time.Duration {
	switch n := c.rand.IntN(16); {
	case n == 0:
		return time.Second
	case n < 4:
		return 100 * time.Millisecond
	}
	return 0
}

func resourceName(i int) string { return fmt.Sprintf("r%d", i) }

func (c *client) acquire(resources []int, mode dlm.Mode) bool {
	var names []string
	var places []int
	for i, r := range resources {
		names = append(names, resourceName(r))
		places = append(places, c.page.Begin(logbook.Entry{Op: logbook.Acquire, Resource: r, Mode: mode, More: i > 0}))
	}
	tokens, err := c.way.acquire(names, mode, c.wait())
	for i, place := range places {
		token := uint64(0)
		if err == nil {
			token = tokens[i]
		}
		c.finish(place, token, err)
	}
	return answered(err)
}

func (c *client) convert(r int, mode dlm.Mode) bool {
	place := c.page.Begin(logbook.Entry{Op: logbook.Convert, Resource: r, Mode: mode})
	token, err := c.way.convert(resourceName(r), mode, c.wait()/2)
	c.finish(place, token, err)
	return answered(err)
}

// answered reports whether the service said what happened; then the next call may follow.
func answered(err error) bool {
	return outcome(err) != logbook.Unanswered && !errors.Is(err, dlmlock.NotRunning)
}

// release releases locks in one call.
func (c *client) release(resources ...int) bool {
	var names []string
	var places []int
	for i, r := range resources {
		names = append(names, resourceName(r))
		places = append(places, c.page.Begin(logbook.Entry{Op: logbook.Release, Resource: r, Mode: dlm.None, More: i > 0}))
	}
	c.endBroken() // a fault may have come between the last look and the time of the call
	err := c.way.release(names)
	if errors.Is(err, dlmlock.NotHeld) {
		err = nil // the owner has nothing there now
	}
	end := logbook.Unanswered
	if err == nil {
		end = logbook.Done
	}
	for _, place := range places {
		c.page.Finish(place, end, 0, why(err))
		c.add(place)
	}
	return err == nil
}

// finish records how a call that asked for a mode has ended.
func (c *client) finish(place int, token uint64, err error) {
	c.page.Finish(place, outcome(err), token, why(err))
	c.add(place)
}

// why returns the kind of an error.
func why(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*dlmlock.Error](err); ok {
		return string(e.Kind)
	}
	return "no answer"
}

// add adds an entry to what the client holds, and closes the entries that end with it.
func (c *client) add(place int) {
	for _, i := range c.hold.Add(place, c.page.Entry(place)) {
		c.page.Close(i)
	}
	c.last = c.logbook.Now()
}

// outcome says what is known after an error. With these kinds the service promises that
// nothing was granted; NotRunning means that no daemon got the call, so it did nothing.
func outcome(err error) logbook.Outcome {
	if err == nil {
		return logbook.Done
	}
	for _, kind := range []dlmlock.Kind{dlmlock.WouldBlock, dlmlock.Timeout, dlmlock.Deadlock, dlmlock.AlreadyHeld,
		dlmlock.NotRunning} {
		if errors.Is(err, kind) {
			return logbook.Refused
		}
	}
	return logbook.Unanswered
}
