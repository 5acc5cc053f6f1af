package table

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/internal/teststate"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/lockd/journal"
	"github.com/dlmlock/dlmlockd/state"
)

// sim drives a table over the local engine without goroutines and without a
// clock. What the table has asked for stands in three queues until the test
// lets it happen, so every order of events that the real driver could see can
// be played, and played again.
type sim struct {
	t       reporter
	node    *local.Node
	journal *teststate.Journal
	limits  api.Limits
	spaces  []string // joined at the start
	inst    string   // the instance id

	now     time.Time
	stepped time.Duration // by how much the wall clock was set, on top of now
	epoch   int64         // what the state directory has noted
	clocks  bool          // the clocks of the lockspaces are passed around, by health
	engine  *local.Engine
	tab     *Table
	opened  map[LockspaceID]dlm.Lockspace
	writer  *journal.Writer // the real one, without its goroutine
	inbox   []simMessage    // what the driver has not taken yet
	appends []journal.Entry // what the writer has not written yet
	work    []func()        // what workers have not done yet
	calls   []*simCall
	onGrant func(*simCall, api.Grant)
	onLost  func(api.Lost)
	blocked func(api.BlockingNotice)
	said    map[string]int                    // lines of the log, by message
	wrap    func(dlm.Lockspace) dlm.Lockspace // may be nil
	steps   int
	chore   bool // one is in work
	lastID  CallID
	blind   error // why the engine shows no lock tables
}

// simMessage is a function or an event.
type simMessage struct {
	fn        func()
	lockspace LockspaceID
	ev        dlm.Event
}

// testOpTimeout is the OpTimeout of tables under test.
const testOpTimeout = 10 * time.Second

// testTable returns a new table.
func testTable() *Table { return testTableWith(api.DefaultLimits(), "test") }

func testTableWith(limits api.Limits, inst string) *Table {
	return New(Config{Settings: Settings{Limits: limits, OpTimeout: testOpTimeout}, Instance: inst,
		Engine: "local", Sessions: []api.Session{busSession("")}, Seed: maphash.MakeSeed()})
}

// simCall is one call with what came back.
type simCall struct {
	*call
	what       Operation
	inspection api.Inspection
	orphans    []api.Orphan
	waits      api.WaitsPage
	answers    int
	err        error
	grants     []api.Grant
	count      uint32
}

// simBoot is when the nodes of a sim were booted.
var simBoot = time.Date(2025, 12, 31, 0, 0, 0, 0, time.UTC)

func newSim(t reporter, node *local.Node, spaces ...string) *sim {
	return &sim{t: t, node: node, journal: teststate.New(), limits: api.DefaultLimits(), spaces: spaces,
		inst: "test", said: map[string]int{},
		now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

// start starts the service anew; nothing has happened when it returns.
func (s *sim) start() {
	s.engine = s.node.Engine()
	info, err := s.engine.Node(context.Background())
	require.NoError(s.t, err)
	s.tab = testTableWith(s.limits, s.inst)
	s.tab.conf.Node = info
	s.tab.clock.epoch, s.tab.clock.noted = s.epoch, s.epoch
	s.inbox, s.appends, s.work, s.calls, s.opened = nil, nil, nil, nil, map[LockspaceID]dlm.Lockspace{}
	tab := s.tab
	post := func(fn func()) {
		if s.tab == tab {
			s.inbox = append(s.inbox, simMessage{fn: fn})
		}
	}
	s.writer = journal.New(s.journal, func(ids []uint64, err error) {
		post(func() {
			for _, id := range ids {
				tab.Appended(AppendID(id), err)
			}
		})
	}, func(err error) { post(func() { tab.JournalHealth(err) }) })
	c := s.journal.Contents("boot-1")
	s.turn(func() { s.tab.Activate(c, true, s.spaces) })
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
	s.tab.SetTime(s.now.Add(s.stepped), s.now.Sub(simBoot))
	s.tab.now = s.now // deadlines are of a clock that nobody sets
	fn()
	for _, a := range s.tab.EndTurn(nil) {
		s.carryOut(a)
	}
	if s.tab.Busy() && !s.chore {
		s.chore = true
		s.later(func() func() { return func() { s.chore = false; s.tab.Chore() } })
	}
}

// handle is the handle of a lockspace, or one that does nothing.
func (s *sim) handle(id LockspaceID) dlm.Lockspace {
	if h := s.opened[id]; h != nil {
		return h
	}
	return goneHandle{}
}

// goneHandle stands in for a handle that is closed.
type goneHandle struct{ dlm.Lockspace }

func (goneHandle) Lock(dlm.Cookie, string, dlm.Mode, dlm.Flags)        {}
func (goneHandle) Convert(dlm.Cookie, dlm.Mode, dlm.Flags, *dlm.Value) {}
func (goneHandle) Unlock(dlm.Cookie, *dlm.Value)                       {}
func (goneHandle) Cancel(dlm.Cookie)                                   {}
func (goneHandle) Adopt(dlm.Cookie, string, dlm.Mode, dlm.Flags)       {}

func (s *sim) carryOut(a Action) {
	switch a := a.(type) {
	case LockAction:
		s.handle(a.Lockspace).Lock(a.Cookie, a.Resource, a.Mode, a.Flags)
	case ConvertAction:
		s.handle(a.Lockspace).Convert(a.Cookie, a.Mode, a.Flags, a.Value)
	case UnlockAction:
		s.handle(a.Lockspace).Unlock(a.Cookie, a.Value)
	case CancelAction:
		s.handle(a.Lockspace).Cancel(a.Cookie)
	case AdoptAction:
		s.handle(a.Lockspace).Adopt(a.Cookie, a.Resource, a.Mode, dlm.Persistent|dlm.ValueBlock)
	case AppendAction:
		s.appends = append(s.appends, journal.Entry{ID: uint64(a.ID), Changes: a.Changes, Must: a.Must})
	case ReplyAction:
		s.answered(a)
	case NotifyAction:
		if n, ok := a.Notice.(api.BlockingNotice); ok && s.blocked != nil {
			s.blocked(n)
		}
		if n, ok := a.Notice.(api.LockLost); ok && s.onLost != nil {
			s.onLost(n.Lost)
		}
	case OpenAction:
		s.open(a.Lockspace, a.Name, s.engine.Open)
	case CreateAction:
		s.open(a.Lockspace, a.Name, s.engine.Create)
	case RemoveAction:
		s.later(func() func() {
			err := RemoveUnused(simLooker{s.engine, s.blind}, a.Name,
				func(name string) error { return s.engine.Remove(context.Background(), name) })
			return func() { s.tab.Removed(a.Lockspace, err) }
		})
	case CloseAction:
		if h := s.opened[a.Lockspace]; h != nil {
			delete(s.opened, a.Lockspace)
			_ = h.Close()
		}
	case LookAction:
		s.later(func() func() {
			k := LookAt(simLooker{s.engine, s.blind}, a)
			return func() { s.tab.Looked(a.ID, k) }
		})
	case ClockAction:
		if s.clocks {
			CarryOutClock(s.handle(a.Lockspace), a)
		}
	case EpochAction:
		s.epoch = a.Epoch
	case LogAction:
		s.said[a.Message]++
	}
}

// simLooker is the engine's Looker without contexts.
type simLooker struct {
	e     *local.Engine
	blind error // why there are no lock tables
}

func (l simLooker) Queues(lockspace, resource string) (dlm.Queues, error) {
	return l.e.Queues(context.Background(), lockspace, resource)
}

func (l simLooker) QueuesOf(lockspace string, resources []string) ([]dlm.Queues, error) {
	if l.blind != nil {
		return nil, l.blind
	}
	return l.e.QueuesOf(context.Background(), lockspace, resources)
}

func (l simLooker) Orphans(lockspace string) ([]dlm.Orphan, error) {
	if l.blind != nil {
		return nil, l.blind
	}
	return l.e.Orphans(context.Background(), lockspace)
}

func (l simLooker) Users(lockspace string) ([]dlm.User, error) {
	return l.e.Users(context.Background(), lockspace)
}

func (l simLooker) Health(lockspace string) (dlm.Health, error) {
	return l.e.Health(context.Background(), lockspace)
}

// later has do run on a worker and what it returns to the owner.
func (s *sim) later(do func() func()) {
	tab := s.tab
	s.work = append(s.work, func() {
		fn := do()
		s.inbox = append(s.inbox, simMessage{fn: func() {
			if s.tab == tab {
				fn()
			}
		}})
	})
}

func (s *sim) open(id LockspaceID, name string, open func(context.Context, string, dlm.Sink) (dlm.Lockspace, error)) {
	tab := s.tab
	s.later(func() func() {
		h, err := open(context.Background(), name, func(ev dlm.Event) {
			if s.tab == tab {
				s.inbox = append(s.inbox, simMessage{lockspace: id, ev: ev})
			}
		})
		return func() {
			if err == nil && s.wrap != nil {
				h = s.wrap(h)
			}
			if err == nil {
				s.opened[id] = h
			}
			d, ok := errors.AsType[*dlm.Error](err)
			s.tab.Opened(id, err, ok && d.Unsettled)
		}
	})
}

// health has the table hear how its lockspaces do.
func (s *sim) health() {
	for _, name := range s.tab.LockspaceNames() {
		h, err := s.engine.Health(context.Background(), name)
		s.turn(func() { s.tab.SetHealth(name, h, err == nil) })
	}
}

func (s *sim) answered(a ReplyAction) {
	i := slices.IndexFunc(s.calls, func(c *simCall) bool { return c.call.id == a.Call })
	require.GreaterOrEqual(s.t, i, 0, "an answer to a call that nobody made")
	c := s.calls[i]
	c.answers++
	require.Equal(s.t, 1, c.answers, "%s was answered twice", c.name)
	c.err = a.Err
	switch r := a.Reply.(type) {
	case GrantedReply:
		c.grants = r.Grants
	case ReleasedReply:
		c.count = r.Count
	case InspectionReply:
		c.inspection = r.Inspection
	case OrphansReply:
		c.orphans = r.Orphans
	case WaitsReply:
		c.waits = r.Page
	}
	if a.Err == nil && s.onGrant != nil {
		for _, g := range c.grants {
			s.onGrant(c, g)
		}
	}
}

// call makes a call.
func (s *sim) call(o Operation) *simCall {
	s.lastID++
	sc := &simCall{call: &call{id: s.lastID, name: o.Name()}, what: o}
	s.calls = append(s.calls, sc)
	s.turn(func() { sc.call = s.tab.enter(s.lastID, o) })
	return sc
}

func (s *sim) acquire(c api.Caller, o api.AcquireOptions, want ...api.Want) *simCall {
	return s.call(Acquire{Caller: c, Want: want, Options: o})
}

func (s *sim) request(c api.Caller, o api.AcquireOptions, w api.Want) *simCall {
	return s.call(Request{Caller: c, Want: w, Options: o})
}

func (s *sim) convert(c api.Caller, w api.Want, sel api.Selector, wait time.Duration) *simCall {
	return s.call(Convert{Caller: c, Want: w, Selector: sel, Options: api.ConvertOptions{Wait: wait}})
}

func (s *sim) release(c api.Caller, space, resource string, sel api.Selector) *simCall {
	return s.call(Release{Caller: c, Lockspace: space, Resource: resource, Selector: sel})
}

func (s *sim) releaseOwner(c api.Caller, space, owner string) *simCall {
	return s.call(ReleaseOwner{Caller: c, Lockspace: space, Owner: owner})
}

func (s *sim) releaseMany(c api.Caller, owner string, resources ...api.Want) *simCall {
	return s.call(ReleaseMany{Caller: c, Owner: owner, Resources: resources})
}

func (s *sim) join(c api.Caller, space string) *simCall {
	return s.call(Join{Caller: c, Lockspace: space})
}

func (s *sim) leave(c api.Caller, space string, force bool) *simCall {
	return s.call(Leave{Caller: c, Lockspace: space, Force: force})
}

func (s *sim) inspect(space, resource string) *simCall {
	return s.call(Inspect{Lockspace: space, Resource: resource})
}

// deliver has the owner take one message; false if there is none.
func (s *sim) deliver() bool {
	if len(s.inbox) == 0 {
		return false
	}
	m := s.inbox[0]
	s.inbox = slices.Delete(s.inbox, 0, 1)
	if m.fn != nil {
		s.turn(m.fn)
	} else {
		s.turn(func() { s.tab.Event(m.lockspace, m.ev) })
	}
	s.steps++
	require.Less(s.t, s.steps, 1_000_000, "the table does not come to rest")
	return true
}

// write has the writer write what was asked for.
func (s *sim) write() bool {
	if len(s.appends) == 0 {
		return false
	}
	batch := s.appends
	s.appends = nil
	s.writer.Write(batch)
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
		at, ok := s.tab.Next()
		if !ok || at.After(end) {
			break
		}
		s.now = later(s.now, at)
		s.turn(s.tab.Tick)
	}
	s.now = end
	s.turn(s.tab.Tick)
	s.rest()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// retryJournal tries the backlog again, as the journal does each second.
func (s *sim) retryJournal() { s.writer.Tend() }

// recordOf returns what the state file says of a lock.
func (s *sim) recordOf(r api.Ref) (state.Lock, bool) {
	s.journal.Mu.Lock()
	defer s.journal.Mu.Unlock()
	l, ok := s.journal.Locks[uint64(r)]
	return l, ok
}

// wantOf names a lock to take.
func wantOf(lockspace, resource string, m dlm.Mode) api.Want {
	return api.Want{Lockspace: lockspace, Resource: resource, Mode: m}
}

// session is the session of a connection to the bus of the tests.
func busSession(name string) api.Session { return api.MakeSession("dbus", "bus", name) }

var (
	root  = api.Caller{UID: 0, PID: 1, Session: busSession(":1.1"), Privileged: true}
	alice = user(1000, ":1.10")
)

func user(uid uint32, name string) api.Caller {
	return api.Caller{UID: uid, PID: 100 + uid, Session: busSession(name)}
}
