package lockd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/internal/queue"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

// Journal is the state file as the service needs it; *state.File is one. All of
// it is called by one goroutine.
type Journal interface {
	// Append writes all of the changes or none. What brings a lock to its end
	// has its room from the time that the lock was written down.
	Append([]state.Change) error
	// Health says why nothing new can be written down; nil if it can.
	Health() error
	// Tend looks after the file: its place, its room.
	Tend()
}

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
	Sessions   []api.Session
	Lockspaces []string // joined at the start
	// RawValues names the lockspaces whose value blocks are the clients': there
	// are no fencing tokens and no names of holders in them.
	RawValues []string
	Limits    api.Limits // zero: DefaultLimits
	// OpTimeout is how long a call waits for the lock manager where the caller
	// named no time. Zero: 10 s. It must be below the 25 s of sd-bus clients.
	OpTimeout time.Duration
	// HealthInterval is how often each lockspace is looked at. Zero: 500 ms, so
	// that what happens to one is told within a second.
	HealthInterval time.Duration
	// Processes tells when the process ends that a lock hangs on. Nil: locks of
	// lifetime process are refused.
	Processes Processes
	// Helpers are those that a lock may name with OnLost, by name. RunLost
	// starts one, on the owner goroutine: it must not block. ended is to be
	// called once, from any goroutine, when the helper has ended or is not to be
	// run; without that it is run again by the next start.
	Helpers map[string]api.HelperPolicy
	RunLost func(r api.LostRun, ended func())
	// Notify gets what the service says unasked, on the owner goroutine; it
	// must not block. May be nil.
	Notify func(api.Notice)
	Log    *slog.Logger // nil: discard
	// Clock reads the wall clock and after it the time since the boot, suspend
	// included. Nil: time.Now, and the time since New.
	Clock func() (wall time.Time, up time.Duration)
	// TokenEpoch is what NoteEpoch was last given in this boot, by whatever
	// process; 0: nothing. NoteEpoch keeps it until the next start, so that a
	// clock that is set back takes no token back; it may block. Nil: it is not kept.
	TokenEpoch int64
	NoteEpoch  func(epoch int64) error
	// OnStep, where set, is called before each step of the order of events
	// with its name. Tests end the process in it.
	OnStep func(step string)
}

const defaultOpTimeout = 10 * time.Second

// Service is the lock service: the table and what drives it.
type Service struct {
	cfg     Config
	inbox   *queue.Queue[message]
	journal *journal
	logs    *logQueue
	epochs  *epochNotes
	t       *table
	ctx     context.Context // of Run; work in flight ends with it
	cancel  context.CancelFunc
	work    sync.WaitGroup
	ready   chan struct{}
	done    chan struct{}

	statusMu sync.Mutex
	status   api.Status

	// Long work under way, and how long the loop goes on with it at a time; only
	// the owner goroutine touches them.
	chores    []func() (more bool)
	choreTime time.Duration

	told   api.Status // last StatusChanged
	looker dlm.Looker
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
	s.t = newTable(cfg.Limits, cfg.OpTimeout, cfg.Instance)
	s.t.node, s.t.engine, s.t.served = cfg.Node, cfg.Engine.Name(), cfg.Sessions
	s.t.quorum = cfg.Quorum
	s.t.raw = cfg.RawValues
	s.t.helpers = cfg.Helpers
	s.t.epoch, s.t.noted = cfg.TokenEpoch, cfg.TokenEpoch
	s.journal = newJournal(cfg.Journal, s.post, s.t.noteJournal)
	s.status = s.t.status()
	return s
}

// Run activates what the state file knows and then serves until ctx ends. It
// then takes nothing new, lets what is under way end for a moment, and closes
// the lockspaces: every persistent lock stays. It returns when every goroutine
// of the service has ended.
func (s *Service) Run(ctx context.Context) error {
	s.work.Go(s.journal.run)
	s.work.Go(s.logs.run)
	s.work.Go(func() { s.epochs.run(s.ctx.Done()) })
	if s.looker != nil {
		s.work.Go(s.watchHealth)
	}
	s.turn(func() {
		s.t.activate(s.cfg.Contents, s.cfg.Contents.Header.BootID == s.cfg.BootID, s.cfg.Lockspaces)
		s.cfg.Contents = state.Contents{} // the table has them now
	})
	s.loop(ctx)
	s.shutdown()
	return nil
}

// Ready is closed when activation has ended: every recorded lockspace is ready
// or has failed.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Healthy makes a round trip through the owner goroutine, and from there one
// through the journal goroutine. An error means that one of them did not come
// back before ctx ended.
func (s *Service) Healthy(ctx context.Context) error {
	var owner atomic.Bool
	back := make(chan struct{})
	s.post(func() {
		owner.Store(true)
		// Nothing is written, so that it succeeds or fails means nothing.
		s.journal.append(appendAction{then: func(error) { close(back) }})
	})
	select {
	case <-back:
		return nil
	case <-s.done:
		return nil // stopping is not sickness
	case <-ctx.Done():
	}
	if owner.Load() {
		return fmt.Errorf("the state file's goroutine is stuck: %w", ctx.Err())
	}
	return fmt.Errorf("the owner goroutine is stuck: %w", ctx.Err())
}

// loop is the owner goroutine: the only one that touches the table. However
// much there is to do, deadlines and the end are looked at after every batch.
func (s *Service) loop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	stop := ctx.Done()
	always := make(chan struct{})
	close(always)
	var batch []message
	var drain <-chan time.Time
	for {
		batch = s.inbox.Take(batch).Items
		s.serve(batch)
		s.doChores()
		at, ok := s.t.next()
		if ok && !at.After(time.Now()) {
			s.turn(s.t.tick)
			at, ok = s.t.next()
		}
		s.publish()
		if s.t.stopping && s.t.quiet() {
			return
		}
		var more chan struct{}
		switch {
		case len(batch) > 0 || len(s.chores) > 0:
			more = always
		case ok:
			timer.Reset(time.Until(at))
		default:
			timer.Reset(time.Hour)
		}
		select {
		case <-more:
		case <-s.inbox.Wake():
		case <-timer.C:
		case <-stop:
			stop = nil
			drain = time.After(drainTime)
			s.turn(s.t.stop)
		case <-drain:
			return
		}
	}
}

// serve gives the table what has come in.
func (s *Service) serve(batch []message) {
	for i := range batch {
		m := &batch[i]
		if m.fn != nil {
			s.turn(m.fn)
		} else {
			s.turn(func() { s.t.event(m.sp, m.ev) })
		}
		*m = message{}
	}
}

// drainTime is how long a shutdown waits for what is under way. What has not
// ended then is finished by the next start.
const drainTime = 3 * time.Second

// turn gives the table one event and carries out what it asks for.
func (s *Service) turn(fn func()) {
	s.t.pass(s.cfg.Clock())
	s.t.debug = s.logs.debug()
	fn()
	s.t.endTurn()
	for i := 0; i < len(s.t.out); i++ {
		a := s.t.out[i]
		s.t.out[i] = nil
		s.carryOut(a)
	}
	s.t.out = s.t.out[:0]
}

// carryOut starts one action.
func (s *Service) carryOut(a action) {
	if s.cfg.OnStep != nil {
		s.step(a)
	}
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
		s.journal.append(a)
	case replyAction:
		s.answer(a)
	case notifyAction:
		if s.cfg.Notify != nil {
			s.cfg.Notify(a.n)
		}
	case logAction:
		s.logs.add(a)
	case openAction:
		s.openSpace(a.sp, s.cfg.Engine.Open)
	case createAction:
		s.openSpace(a.sp, s.cfg.Engine.Create)
	case removeAction:
		s.removeSpace(a.sp)
	case closeAction:
		s.closeSpace(a.sp)
	case lookAction:
		s.look(a)
	case runLostAction:
		s.startHelper(a.run)
	case watchAction:
		s.watch(a)
	case unwatchAction:
		if s.cfg.Processes != nil {
			s.cfg.Processes.Unwatch(a.proc)
		}
	case clockAction:
		a.carryOut()
	case epochAction:
		s.epochs.note(a.epoch)
	case laterAction:
		s.chores = append(s.chores, a.part)
	case startedAction:
		if r, ok := a.c.done.(*request); ok {
			r.start(a.c.request, nil)
		}
	}
}

// watch needs no system call here: the call whose lock it is for holds the
// process, and one of a record is looked at elsewhere.
func (s *Service) watch(a watchAction) {
	tell := func(p process.ID, st process.State, err error) { s.post(func() { s.t.processState(p, st, err) }) }
	if s.cfg.Processes == nil {
		tell(a.proc, process.Unknown, errors.New("processes are not watched here"))
		return
	}
	s.cfg.Processes.Watch(a.proc, a.uid, tell)
}

// spaceTimeout bounds joining and leaving: libdlm alone waits up to ten
// seconds for a device to appear.
const spaceTimeout = 60 * time.Second

type opener func(context.Context, string, dlm.Sink) (dlm.Lockspace, error)

func (s *Service) openSpace(sp *space, open opener) {
	before := sp.closing
	s.work.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, spaceTimeout)
		defer cancel()
		if before != nil {
			<-before // what it held must be there to be adopted
		}
		// Events may come before the call returns; none does before the first
		// operation, which needs the handle.
		h, err := open(ctx, sp.name, func(ev dlm.Event) { s.inbox.Add(message{ev: ev, sp: sp}) })
		ok := s.post(func() {
			if err == nil {
				sp.handle = h
			}
			s.t.opened(sp, err)
		})
		if !ok && err == nil {
			_ = h.Close() // stopped meanwhile; nothing was asked for through it
		}
	})
}

func (s *Service) removeSpace(sp *space) {
	s.work.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, spaceTimeout)
		defer cancel()
		err := removeUnused(ctx, s.cfg.Engine, sp.name)
		s.post(func() { s.t.removed(sp, err) })
	})
}

func (s *Service) closeSpace(sp *space) {
	h := sp.handle
	sp.handle = goneHandle{}
	if h == nil {
		return
	}
	sp.closing = make(chan struct{})
	closed := sp.closing
	s.work.Go(func() {
		defer close(closed)
		if err := h.Close(); err != nil {
			s.post(func() {
				s.t.log(slog.LevelWarn, "closing the lockspace failed", slog.String("lockspace", sp.name), slog.String("err", err.Error()))
			})
		}
	})
}

// goneHandle stands in for the handle of a lockspace that is closed. What is
// asked of it is of no consequence, because the table has ended every lock.
type goneHandle struct{}

func (goneHandle) Name() string                                        { return "" }
func (goneHandle) Lock(dlm.Cookie, string, dlm.Mode, dlm.Flags)        {}
func (goneHandle) Convert(dlm.Cookie, dlm.Mode, dlm.Flags, *dlm.Value) {}
func (goneHandle) Unlock(dlm.Cookie, *dlm.Value)                       {}
func (goneHandle) Cancel(dlm.Cookie)                                   {}
func (goneHandle) Adopt(dlm.Cookie, string, dlm.Mode, dlm.Flags)       {}
func (goneHandle) Purge()                                              {}
func (goneHandle) Close() error                                        { return nil }

// watchHealth looks at this node and at every lockspace again and again. The
// daemon may have started before the cluster did.
//
// Each look is on its own: one that hangs, because dlm_controld does, must not
// keep what happens to another lockspace.
func (s *Service) watchHealth() {
	var looking sync.Map // the names of the lockspaces that are being looked at; "": the node
	begin := func(what string, look func()) {
		if _, already := looking.LoadOrStore(what, nil); already {
			return
		}
		s.work.Go(func() {
			defer looking.Delete(what)
			look()
		})
	}
	tick := time.NewTicker(s.cfg.HealthInterval)
	defer tick.Stop()
	begin("", s.lookNode)
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		begin("", s.lookNode)
		names := make(chan []string, 1)
		s.post(func() { names <- s.t.spaceNames() })
		select {
		case <-s.ctx.Done():
			return
		case in := <-names:
			for _, name := range in {
				begin(name, func() { s.lookHealth(name) })
			}
		}
	}
}

func (s *Service) lookNode() {
	ctx, cancel := context.WithTimeout(s.ctx, lookTimeout)
	defer cancel()
	if n, err := s.cfg.Engine.Node(ctx); err == nil {
		s.post(func() { s.t.node = n })
	}
	q := AskQuorum(ctx, s.cfg.Engine)
	s.post(func() { s.t.quorum = q })
}

// AskQuorum asks an engine for the cluster's quorum.
func AskQuorum(ctx context.Context, e dlm.Engine) api.Quorum {
	l, ok := e.(dlm.QuorumLooker)
	if !ok {
		return api.QuorumUnknown
	}
	switch quorate, err := l.Quorum(ctx); {
	case err != nil:
		return api.QuorumUnknown
	case quorate:
		return api.Quorate
	}
	return api.Inquorate
}

func (s *Service) lookHealth(name string) {
	ctx, cancel := context.WithTimeout(s.ctx, lookTimeout)
	defer cancel()
	h, err := s.looker.Health(ctx, name)
	s.post(func() {
		if sp := s.t.spaces[name]; sp != nil && sp.state == api.SpaceReady {
			s.t.setHealth(sp, h, err == nil)
		}
	})
}

// publish makes the new status known after a batch of turns.
func (s *Service) publish() {
	st := s.t.status()
	s.statusMu.Lock()
	s.status = st
	s.statusMu.Unlock()
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
	close(s.done)
	s.inbox.Close()
	s.serve(s.inbox.Take(nil).Items) // who came in time gets an answer
	for len(s.chores) > 0 {
		s.doChores()
	}
	s.cancel()
	for _, sp := range s.t.spaces {
		if h := sp.handle; h != nil {
			if err := h.Close(); err != nil {
				s.cfg.Log.Warn("closing the lockspace failed", "lockspace", sp.name, "err", err)
			}
		}
	}
	s.journal.close()
	s.logs.close()
	s.work.Wait()
	for _, c := range s.t.unanswered() {
		c.answered = true
		c.fail(&api.Error{Op: c.op, Kind: api.ShuttingDown, Text: "the service has stopped; ask again when it is back"})
		s.answer(replyAction{c: c, err: c.answer()})
	}
}

// Status does not wait for the owner goroutine.
func (s *Service) Status() api.Status {
	s.statusMu.Lock()
	defer s.statusMu.Unlock()
	return s.status
}
