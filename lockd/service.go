package lockd

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/internal/queue"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/lockd/journal"
	"github.com/dlmlock/dlmlockd/lockd/table"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

// Journal is the state file as the service needs it; *state.File is one.
type Journal = journal.File

// Processes watches processes; *process.Watcher is one, and says what each
// method does.
type Processes interface {
	Translate(caller, number uint32, seen uint64) (pid uint32, err error)
	Hold(pid, user uint32) (process.Info, error)
	Drop(id process.ID)
	Watch(id process.ID, user uint32, tell func(process.ID, process.State, error))
	Unwatch(id process.ID)
}

// Config is what a Service is made of.
type Config struct {
	Engine   dlm.Engine
	Journal  Journal
	Contents state.Contents // what the state file said when it was opened
	BootID   string         // of this boot; records of another are history
	Instance string         // the state file's instance id
	Node     dlm.NodeInfo   // this node
	Quorum   api.Quorum     // what was known of it when the node was asked for
	// Sessions are the name spaces of the sessions that the front ends serve.
	// Recorded sessions of other name spaces have ended.
	Sessions []api.Session
	// Kept are sessions of earlier processes that have not ended, whatever their
	// name space: their connections were kept while no process served them.
	Kept       map[api.Session]struct{}
	Lockspaces []string // joined at the start
	// RawValues names the lockspaces whose value blocks are the clients': there
	// are no fencing tokens and no names of holders in them.
	RawValues []string
	Limits    api.Limits // zero: DefaultLimits
	// OpTimeout is how long a call waits for the lock manager where the caller
	// named no time. Zero: 10 s. It must be below the 25 s of sd-bus clients.
	OpTimeout time.Duration
	// HealthInterval is how often each lockspace is looked at. Zero: 500 ms, so
	// that a change of one is reported within a second.
	HealthInterval time.Duration
	// Processes tells when the process ends that a lock hangs on. Nil: locks of
	// lifetime process are refused.
	Processes Processes
	OnLost
	// Notify gets what the service says unasked, from the owner; it
	// must not block. May be nil.
	Notify func(api.Notice)
	Log    *slog.Logger // nil: discard
	TokenClock
	Order
}

// Order is what of the order of events is decided outside of the service.
type Order struct {
	// EngineReady is closed when lockspaces may be opened: when an engine of this
	// process has the locks that it could not keep. Nil: from the beginning.
	EngineReady <-chan struct{}
	// OnStep, where set, is called before each step of the order of events
	// with its name. Tests end the process in it.
	OnStep func(step string)
}

// OnLost is what runs the helpers of lost locks.
type OnLost struct {
	// Helpers are those that a lock may name with OnLost, by name.
	Helpers map[string]api.HelperPolicy
	// RunLost starts one, from the owner: it must not block. ended is to be
	// called once, from any goroutine, when the helper has ended or is not to be
	// run; without that it is run again by the next start. Nil: no helper is run.
	RunLost func(r api.LostRun, ended func())
}

// TokenClock is what the fencing tokens are made from.
type TokenClock struct {
	// Clock reads the wall clock and after it the time since the boot, suspend
	// included. Nil: time.Now, and the time since New.
	Clock func() (wall time.Time, up time.Duration)
	// TokenEpoch is what NoteEpoch was last given in this boot, by whatever
	// process; 0: nothing.
	TokenEpoch int64
	// NoteEpoch keeps the epoch until the next start, so that a clock that is set
	// back takes no token back; it may block. Nil: it is not kept.
	NoteEpoch func(epoch int64) error
}

const defaultOpTimeout = 10 * time.Second

// Service is the lock service: the table and what drives it.
type Service struct {
	cfg     Config
	inbox   *queue.Queue[message]
	journal *journal.Writer
	logs    *logQueue
	epochs  *epochNotes
	role    sync.Mutex // of the owner (see drive.go), who alone touches owned
	owned
	ctx    context.Context // of Run; work in flight ends with it
	cancel context.CancelFunc
	work   sync.WaitGroup
	ready  chan struct{}
	done   chan struct{}

	status statusNow

	choreTime time.Duration // how long the loop does chores at a time
	handOver  bool          // no goroutine but that of Run takes turns; for tests that end it, or make it hang
	looker    dlm.Looker
}

// owned is what the owner's role is about.
type owned struct {
	t       *table.Table
	out     []table.Action // of the turn under way
	spare   []message      // the array of the batch before last
	answers answers
	spaces  lockspaces
	alarm   time.Time  // when the goroutine of Run looks by itself
	told    api.Status // last StatusChanged
}

var _ api.Service = (*Service)(nil)

// New makes a service that does nothing before Run.
func New(cfg Config) *Service {
	if cfg.Limits == (api.Limits{}) {
		cfg.Limits = api.DefaultLimits()
	}
	if cfg.OpTimeout == 0 {
		cfg.OpTimeout = defaultOpTimeout
	}
	if cfg.HealthInterval == 0 {
		cfg.HealthInterval = 500 * time.Millisecond
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		began := time.Now()
		cfg.Clock = func() (time.Time, time.Duration) { return time.Now(), time.Since(began) }
	}
	s := &Service{cfg: cfg, choreTime: choreTime, ready: make(chan struct{}), done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.inbox = queue.New[message](0)
	s.logs = newLogQueue(cfg.Log)
	s.epochs = newEpochNotes(cfg.NoteEpoch, cfg.Log)
	s.looker, _ = cfg.Engine.(dlm.Looker)
	s.answers.init()
	s.spaces = lockspaces{s, map[table.LockspaceID]*lockspace{}}
	s.t = table.New(table.Config{
		Settings: table.Settings{Limits: cfg.Limits, OpTimeout: cfg.OpTimeout, Helpers: cfg.Helpers},
		Instance: cfg.Instance, Engine: cfg.Engine.Name(), Node: cfg.Node, Quorum: cfg.Quorum, Sessions: cfg.Sessions,
		Kept: cfg.Kept, RawValues: cfg.RawValues, Epoch: cfg.TokenEpoch, Seed: maphash.MakeSeed(),
	})
	s.journal = journal.New(cfg.Journal, s.appended, func(err error) { s.post(func() { s.t.JournalHealth(err) }) })
	s.status.set(s.t.Status())
	s.role.Lock() // until Run has activated the table: what comes before that has to wait
	return s
}

// Run activates what the state file knows and then serves until ctx ends. It
// then takes nothing new, lets what is under way end for a moment, and closes
// the lockspaces: every persistent lock stays. It returns when every goroutine
// of the service has ended.
func (s *Service) Run(ctx context.Context) error {
	after := s.drive
	if s.handOver {
		after = s.inbox.Nudge
	}
	s.work.Go(func() { s.journal.Run(after) })
	s.work.Go(s.logs.run)
	s.work.Go(func() { s.epochs.run(s.ctx.Done()) })
	if s.looker != nil {
		s.work.Go(s.watchHealth)
	}
	s.turn(func() {
		s.t.Activate(s.cfg.Contents, s.cfg.Contents.Header.BootID == s.cfg.BootID, s.cfg.Lockspaces)
		s.cfg.Contents = state.Contents{} // the table has them now
	})
	s.role.Unlock()
	s.loop(ctx)
	s.shutdown()
	return nil
}

// Ready is closed when activation has ended: every recorded lockspace is ready
// or has failed.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Healthy makes a round trip through the table, and from there one through the
// writing of the state file. An error means that one of them did not come back before
// ctx ended.
func (s *Service) Healthy(ctx context.Context) error {
	var owner atomic.Bool
	back := make(chan struct{})
	s.post(func() {
		owner.Store(true)
		s.journal.Ping(func() { close(back) })
	})
	select {
	case <-back:
		return nil
	case <-s.done:
		return nil // stopping is not sickness
	case <-ctx.Done():
	}
	if owner.Load() {
		return fmt.Errorf("the writing of the state file is stuck: %w", ctx.Err())
	}
	return fmt.Errorf("the table is stuck: %w", ctx.Err())
}

// loop does what nobody else does: deadlines, chores, the end, and the messages of those
// who may not do it themselves. However much there is to do, deadlines and the end are
// looked at again and again.
func (s *Service) loop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	stop := ctx.Done()
	always := make(chan struct{})
	close(always)
	var drain <-chan time.Time
	for stopNow := false; ; {
		idle, ended := s.tend(stopNow)
		if stopNow = false; ended {
			return
		}
		s.drive()
		var more chan struct{}
		if idle > 0 {
			timer.Reset(idle)
		} else {
			more = always
		}
		select {
		case <-more:
		case <-s.inbox.Wake():
		case <-timer.C:
		case <-stop:
			stop = nil
			drain = time.After(drainTime)
			stopNow = true
		case <-drain:
			return
		}
	}
}

// drainTime is how long a shutdown waits for what is under way. What has not
// ended then is finished by the next start.
const drainTime = 3 * time.Second

// turn gives the table one event and carries out what it asks for.
func (s *Service) turn(fn func()) {
	s.t.SetTime(s.cfg.Clock())
	s.t.SetDebug(s.logs.debug())
	fn()
	s.out = s.t.EndTurn(s.out[:0])
	if slices.ContainsFunc(s.out, tells) {
		s.status.set(s.t.Status()) // first, so that whoever is told of a change finds it in the status
	}
	for i, a := range s.out {
		s.out[i] = nil
		s.carryOut(a)
	}
}

// tells reports whether a client is told something with an action.
func tells(a table.Action) bool {
	switch a.(type) {
	case table.ReplyAction, table.StartedAction, table.NotifyAction:
		return true
	}
	return false
}

// carryOut starts one action.
func (s *Service) carryOut(a table.Action) {
	if s.cfg.OnStep != nil {
		if step := a.Step(); step != "" {
			s.cfg.OnStep(step)
		}
	}
	if s.carryOutLock(a) || s.spaces.carryOut(a) {
		return
	}
	switch a := a.(type) {
	case table.AppendAction:
		s.journal.Add(journal.Entry{ID: uint64(a.ID), Changes: a.Changes, Must: a.Must})
	case table.ReplyAction:
		s.answer(a)
	case table.StartedAction:
		s.started(a)
	case table.NotifyAction:
		if s.cfg.Notify != nil {
			s.cfg.Notify(a.Notice)
		}
	case table.LogAction:
		s.logs.add(a)
	case table.RunHelperAction:
		s.startHelper(a.Run)
	case table.WatchAction:
		s.watch(a)
	case table.UnwatchAction:
		if s.cfg.Processes != nil {
			s.cfg.Processes.Unwatch(a.Process)
		}
	case table.EpochAction:
		s.epochs.note(a.Epoch)
	}
}

// carryOutLock starts an action that is about one lock of the engine; false if it
// is none of them.
func (s *Service) carryOutLock(a table.Action) bool {
	switch a := a.(type) {
	case table.LockAction:
		s.spaces.handle(a.Lockspace).Lock(a.Cookie, a.Resource, a.Mode, a.Flags)
	case table.ConvertAction:
		s.spaces.handle(a.Lockspace).Convert(a.Cookie, a.Mode, a.Flags, a.Value)
	case table.UnlockAction:
		s.spaces.handle(a.Lockspace).Unlock(a.Cookie, a.Value)
	case table.CancelAction:
		s.spaces.handle(a.Lockspace).Cancel(a.Cookie)
	case table.AdoptAction:
		s.spaces.handle(a.Lockspace).Adopt(a.Cookie, a.Resource, a.Mode, dlm.Persistent|dlm.ValueBlock)
	case table.ClockAction:
		table.CarryOutClock(s.spaces.handle(a.Lockspace), a)
	default:
		return false
	}
	return true
}

// appended gives the table the outcome of appends.
func (s *Service) appended(ids []uint64, err error) {
	s.inbox.Put(message{fn: func() {
		for _, id := range ids {
			s.t.Appended(table.AppendID(id), err)
		}
	}}) // whoever writes drives
}

// startHelper has the helper of a lost lock run.
func (s *Service) startHelper(r api.LostRun) {
	ended := func() { s.post(func() { s.t.HelperEnded(r.Ref) }) }
	if s.cfg.RunLost == nil {
		ended()
		return
	}
	s.cfg.RunLost(r, ended)
}

// watch needs no system call here: the call whose lock it is for holds the
// process, and one of a record is looked at elsewhere.
func (s *Service) watch(a table.WatchAction) {
	tell := func(p process.ID, st process.State, err error) { s.post(func() { s.t.ProcessState(p, st, err) }) }
	if s.cfg.Processes == nil {
		tell(a.Process, process.Undetermined, errors.New("processes are not watched here"))
		return
	}
	s.cfg.Processes.Watch(a.Process, a.UID, tell)
}

// publish makes the new status known after a batch of turns.
func (s *Service) publish() {
	st := s.t.Status()
	s.status.set(st)
	quiet := st
	quiet.Locks, quiet.Waiting, quiet.Helpers, quiet.Counters = 0, 0, 0, api.Counters{}
	if quiet != s.told {
		s.told = quiet
		if s.cfg.Notify != nil {
			s.cfg.Notify(api.StatusChanged{Status: st})
		}
	}
	if st.Ready {
		select {
		case <-s.ready:
		default:
			close(s.ready)
		}
	}
}

// shutdown closes everything. Persistent locks become orphans, which the next
// start adopts.
func (s *Service) shutdown() {
	s.role.Lock()
	close(s.done)
	s.inbox.Close()
	for s.serve(math.MaxInt); s.t.Busy() || !s.inbox.Empty(); {
		s.serve(math.MaxInt) // who came in time gets an answer
	}
	s.role.Unlock()
	s.cancel()
	for _, sp := range s.spaces.byID {
		if err := sp.handle.Close(); err != nil {
			s.cfg.Log.Warn("closing the lockspace failed", "lockspace", sp.name, "err", err)
		}
	}
	s.journal.Close()
	s.logs.close()
	s.work.Wait()
	s.refuseAll()
}

// Status does not wait for a turn.
func (s *Service) Status() api.Status { return s.status.get() }

// statusNow is the table's status as the last turn that has told somebody something, or the last
// batch of turns, has left it.
type statusNow struct {
	mu sync.Mutex
	st api.Status
}

func (n *statusNow) set(st api.Status) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.st = st
}

func (n *statusNow) get() api.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.st
}
