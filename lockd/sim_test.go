package lockd

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// sim drives a table over the local engine without goroutines and without a
// clock. What the table has asked for stands in three queues until the test
// lets it happen, so every order of events that the real driver could see can
// be played, and played again.
type sim struct {
	t       reporter
	node    *local.Node
	journal *memJournal
	limits  api.Limits
	spaces  []string // joined at the start
	inst    string   // the instance id

	now     time.Time
	stepped time.Duration // by how much the wall clock was set, on top of now
	epoch   int64         // what the state directory has noted
	clocks  bool          // the clocks of the lockspaces are passed around, by health
	engine  *local.Engine
	tab     *table
	writer  *journal       // the real one, without its goroutine
	inbox   []message      // what the owner goroutine has not taken yet
	appends []appendAction // what the journal goroutine has not written yet
	work    []func()       // what workers have not done yet
	calls   []*simCall
	onGrant func(*simCall, api.Grant)
	onLost  func(api.Lost)
	said    map[string]int                    // lines of the log, by message
	wrap    func(dlm.Lockspace) dlm.Lockspace // may be nil
	steps   int
}

// simCall is one call with what came back.
type simCall struct {
	*call
	answers int
	err     error
	grants  []api.Grant
	count   uint32
}

// simBoot is when the nodes of a sim were booted.
var simBoot = time.Date(2025, 12, 31, 0, 0, 0, 0, time.UTC)

func newSim(t reporter, node *local.Node, spaces ...string) *sim {
	return &sim{t: t, node: node, journal: newMemJournal(), limits: api.DefaultLimits(), spaces: spaces, inst: "test", said: map[string]int{},
		now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

// start starts the service anew; nothing has happened when it returns.
func (s *sim) start() {
	s.engine = s.node.Engine()
	info, err := s.engine.Node(context.Background())
	require.NoError(s.t, err)
	s.tab = newTable(s.limits, defaultOpTimeout, s.inst)
	s.tab.node, s.tab.engine, s.tab.served = info, "local", []api.Session{session("")}
	s.tab.epoch, s.tab.noted = s.epoch, s.epoch
	s.inbox, s.appends, s.work, s.calls = nil, nil, nil, nil
	tab := s.tab
	post := func(fn func()) bool {
		if s.tab == tab {
			s.inbox = append(s.inbox, message{fn: fn})
		}
		return true
	}
	s.writer = newJournal(s.journal, post, s.tab.noteJournal)
	c := s.journal.contents("boot-1")
	s.turn(func() { s.tab.activate(c, true, s.spaces) })
}

// kill ends the process as SIGKILL does.
func (s *sim) kill() {
	s.tab = nil
	s.engine.Kill()
}

// restart kills the process and starts it again.
func (s *sim) restart() {
	s.kill()
	s.start()
	s.rest()
}

func (s *sim) turn(fn func()) {
	s.tab.pass(s.now.Add(s.stepped), s.now.Sub(simBoot))
	s.tab.now = s.now // deadlines are of a clock that nobody sets
	fn()
	s.tab.endTurn()
	for i := 0; i < len(s.tab.out); i++ {
		a := s.tab.out[i]
		s.tab.out[i] = nil
		s.carryOut(a)
	}
	s.tab.out = s.tab.out[:0]
}

func (s *sim) carryOut(a action) {
	switch a := a.(type) {
	case lockAction:
		a.sp.handle.Lock(a.cookie, a.resource, a.mode, a.flags)
	case convertAction:
		a.sp.handle.Convert(a.cookie, a.mode, a.flags, a.value)
	case unlockAction:
		a.sp.handle.Unlock(a.cookie, a.value)
	case cancelAction:
		a.sp.handle.Cancel(a.cookie)
	case adoptAction:
		a.sp.handle.Adopt(a.cookie, a.resource, a.mode, dlm.Persistent|dlm.ValueBlock)
	case appendAction:
		s.appends = append(s.appends, a)
	case replyAction:
		s.answered(a)
	case notifyAction:
		if n, ok := a.n.(api.LockLost); ok && s.onLost != nil {
			s.onLost(n.Lost)
		}
	case openAction:
		s.open(a.sp, s.engine.Open)
	case createAction:
		s.open(a.sp, s.engine.Create)
	case removeAction:
		s.later(func() func() {
			err := removeUnused(context.Background(), s.engine, a.sp.name)
			return func() { s.tab.removed(a.sp, err) }
		})
	case closeAction:
		if h := a.sp.handle; h != nil {
			a.sp.handle = goneHandle{}
			_ = h.Close()
		}
	case laterAction:
		s.chore(a.part)
	case lookAction:
		s.look(a)
	case clockAction:
		if s.clocks {
			a.carryOut()
		}
	case epochAction:
		s.epoch = a.epoch
	case logAction:
		s.said[a.msg]++
	}
}

// chore has the rest of long work done behind what has come in.
func (s *sim) chore(part func() bool) {
	tab := s.tab
	s.inbox = append(s.inbox, message{fn: func() {
		if s.tab == tab && part() {
			s.chore(part)
		}
	}})
}

// later has do run on a worker and what it returns on the owner goroutine.
func (s *sim) later(do func() func()) {
	tab := s.tab
	s.work = append(s.work, func() {
		fn := do()
		s.inbox = append(s.inbox, message{fn: func() {
			if s.tab == tab {
				fn()
			}
		}})
	})
}

func (s *sim) open(sp *space, open opener) {
	tab := s.tab
	s.later(func() func() {
		h, err := open(context.Background(), sp.name, func(ev dlm.Event) {
			if s.tab == tab {
				s.inbox = append(s.inbox, message{sp: sp, ev: ev})
			}
		})
		return func() {
			if err == nil && s.wrap != nil {
				h = s.wrap(h)
			}
			if err == nil {
				sp.handle = h
			}
			s.tab.opened(sp, err)
		}
	})
}

func (s *sim) look(a lookAction) {
	s.later(func() func() {
		k := lookAt(context.Background(), s.engine, a)
		return func() { a.then(k) }
	})
}

// health has the table hear how its lockspaces do.
func (s *sim) health() {
	for _, name := range s.tab.spaceNames() {
		h, err := s.engine.Health(context.Background(), name)
		s.turn(func() {
			if sp := s.tab.spaces[name]; sp.state == api.SpaceReady {
				s.tab.setHealth(sp, h, err == nil)
			}
		})
	}
}

func (s *sim) answered(a replyAction) {
	c := s.callOf(a.c)
	c.answers++
	require.Equal(s.t, 1, c.answers, "%s was answered twice", c.op)
	c.err, c.grants, c.count = a.err, a.c.grants, a.c.released
	if a.err == nil && s.onGrant != nil && (c.kind == callAcquire || c.kind == callConvert) {
		for _, g := range c.grants {
			s.onGrant(c, g)
		}
	}
}

func (s *sim) callOf(c *call) *simCall {
	i := slices.IndexFunc(s.calls, func(sc *simCall) bool { return sc.call == c })
	require.GreaterOrEqual(s.t, i, 0, "an answer to a call that nobody made")
	return s.calls[i]
}

// call makes a call; start is nil for the three kinds that the table submits.
func (s *sim) call(c *call, start func(*call)) *simCall {
	sc := &simCall{call: c}
	s.calls = append(s.calls, sc)
	s.turn(func() { s.tab.begin(c, start) })
	return sc
}

func (s *sim) acquire(c api.Caller, o api.AcquireOptions, want ...api.Want) *simCall {
	return s.call(&call{kind: callAcquire, op: "acquire", caller: c, want: want, opts: o, wait: o.Wait}, nil)
}

func (s *sim) request(c api.Caller, o api.AcquireOptions, w api.Want) *simCall {
	cl := &call{kind: callAcquire, op: "request", caller: c, want: []api.Want{w}, opts: o, wait: math.MaxInt64}
	return s.call(cl, func(*call) {
		s.tab.disarm(cl)
		cl.request = s.tab.ref()
		s.tab.submit(cl)
	})
}

func (s *sim) convert(c api.Caller, w api.Want, sel api.Selector, wait time.Duration) *simCall {
	return s.call(&call{kind: callConvert, op: "convert", caller: c, want: []api.Want{w}, sel: sel, wait: wait}, nil)
}

func (s *sim) release(c api.Caller, space, resource string, sel api.Selector) *simCall {
	return s.call(&call{kind: callRelease, op: "release", caller: c, space: space, resource: resource, sel: sel}, nil)
}

func (s *sim) releaseOwner(c api.Caller, space, owner string) *simCall {
	return s.call(&call{kind: callRelease, op: "release-owner", caller: c, space: space, owner: owner, all: true}, nil)
}

func (s *sim) releaseMany(c api.Caller, owner string, resources ...api.Want) *simCall {
	return s.call(&call{kind: callRelease, op: "release", caller: c, want: resources, owner: owner, all: true}, nil)
}

func (s *sim) join(c api.Caller, space string) *simCall {
	return s.call(&call{kind: callSpace, op: "join", caller: c, space: space}, s.tab.join)
}

func (s *sim) leave(c api.Caller, space string, force bool) *simCall {
	return s.call(&call{kind: callSpace, op: "leave", caller: c, space: space}, func(c *call) { s.tab.leave(c, force) })
}

func (s *sim) inspect(space, resource string) *simCall {
	return s.call(&call{kind: callInspect, op: "inspect", space: space, resource: resource}, s.tab.inspect)
}

// deliver has the owner goroutine take one message; false if there is none.
func (s *sim) deliver() bool {
	if len(s.inbox) == 0 {
		return false
	}
	m := s.inbox[0]
	s.inbox = slices.Delete(s.inbox, 0, 1)
	if m.fn != nil {
		s.turn(m.fn)
	} else {
		s.turn(func() { s.tab.event(m.sp, m.ev) })
	}
	s.steps++
	require.Less(s.t, s.steps, 1_000_000, "the table does not come to rest")
	return true
}

// write has the journal goroutine write what was asked for.
func (s *sim) write() bool {
	if len(s.appends) == 0 {
		return false
	}
	batch := s.appends
	s.appends = nil
	s.writer.write(batch)
	return true
}

// toil has a worker do one thing, the i-th that waits.
func (s *sim) toil(i int) bool {
	if len(s.work) == 0 {
		return false
	}
	i %= len(s.work)
	do := s.work[i]
	s.work = slices.Delete(s.work, i, i+1)
	do()
	return true
}

// rest lets everything happen that can without time passing.
func (s *sim) rest() {
	for s.deliver() || s.write() || s.toil(0) {
	}
}

// pass lets time pass, with every timer that it meets.
func (s *sim) pass(d time.Duration) {
	end := s.now.Add(d)
	for {
		s.rest()
		at, ok := s.tab.next()
		if !ok || at.After(end) {
			break
		}
		s.now = later(s.now, at)
		s.turn(s.tab.tick)
	}
	s.now = end
	s.turn(s.tab.tick)
	s.rest()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// retryJournal tries the backlog again, as the journal goroutine does each second.
func (s *sim) retryJournal() { s.writer.tend() }

// recordOf returns what the state file says of a lock.
func (s *sim) recordOf(r api.Ref) (state.Lock, bool) {
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	l, ok := s.journal.locks[uint64(r)]
	return l, ok
}

// wantOf names a lock to take.
func wantOf(lockspace, resource string, m dlm.Mode) api.Want {
	return api.Want{Lockspace: lockspace, Resource: resource, Mode: m}
}
