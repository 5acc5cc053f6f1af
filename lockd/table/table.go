package table

import (
	"hash/maphash"
	"log/slog"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

// Table is the pure heart of the service. Its methods take an event each; EndTurn
// tells what has to be done. Not safe for concurrent use.
type Table struct {
	conf  Config
	names api.NodeNames // of the nodes of the cluster
	now   time.Time
	clock tokenClock
	turn

	locks  locks
	probes probes
	spaces
	calls     calls
	lifetimes lifetimes
	retries   retries
	losses    losses

	counters api.Counters
	degraded string // why new locks are refused; "" if they are not
	ready    bool
	stopping bool
}

// turn is what is asked for in the turn under way, and what was asked for before
// and has no outcome yet.
type turn struct {
	out     []Action
	chores  []func() (more bool) // long work under way
	watched bool                 // somebody wants notices about each lock
	dirty   []*lock              // whose LockChanged is due at the end of the turn
	debug   bool                 // lines for ordinary decisions are wanted
	history history              // what may still be written of it

	lastAppend AppendID
	lastLook   LookID
	appends    map[AppendID]writer
	looks      map[LookID]looker
}

// writer gets the outcome of an append, and looker that of a look.
type (
	writer interface{ written(err error) }
	looker interface{ looked(k Looked) }
)

// Config is what a Table is made of.
type Config struct {
	Settings
	Instance  string // of the state file: part of the anchors' names
	Engine    string // the engine's name
	Node      dlm.NodeInfo
	Quorum    api.Quorum    // what is known of it
	Sessions  []api.Session // the name spaces of the front ends that are served
	RawValues []string      // lockspaces whose value blocks are the clients'
	Epoch     int64         // of the token clock, as it was noted last
	Seed      maphash.Seed
}

// New returns a table that knows nothing yet; Activate comes next.
func New(c Config) *Table {
	t := &Table{
		conf: c, clock: tokenClock{epoch: c.Epoch, noted: c.Epoch},
		turn:  turn{appends: map[AppendID]writer{}, looks: map[LookID]looker{}},
		locks: newLocks(c.Seed), spaces: newSpaces(),
		calls:     calls{sessions: map[api.Session]*session{}, requests: map[api.Ref]*acquireOp{}},
		lifetimes: lifetimes{bindings: map[bindKey]*binding{}, unknown: map[*binding]struct{}{}},
		retries:   newRetries(), losses: losses{running: map[api.Ref]struct{}{}},
	}
	t.probes = probes{t, map[*lock]valueReader{}}
	return t
}

// EndTurn ends what the driver begins with SetTime: it starts the calls that need
// not wait any more, and appends to out the actions of the turn.
func (t *Table) EndTurn(out []Action) []Action {
	t.startAwake()
	t.tellDirty()
	out = append(out, t.out...)
	clear(t.out)
	t.out = t.out[:0]
	return out
}

// SetDebug says whether lines for ordinary decisions are wanted in the log.
func (t *Table) SetDebug(on bool) { t.debug = on }

// SetNode takes what is known of this node.
func (t *Table) SetNode(n dlm.NodeInfo) { t.conf.Node = n }

// SetNames takes what the nodes are called, or why that could not be looked up: then the names that
// were read last stay, because nodes do not lose their names with a file that can't be read.
func (t *Table) SetNames(names map[uint32]string, err error) {
	if err == nil {
		t.names = api.NamesOf(names)
		return
	}
	if t.names.Missing == "" {
		t.log(slog.LevelInfo, "the names of the nodes can't be read", slog.String("err", err.Error()))
	}
	t.names.Missing = err.Error()
}

// SetQuorum takes what is known of the cluster's quorum.
func (t *Table) SetQuorum(q api.Quorum) { t.conf.Quorum = q }

// Log writes a line that is the driver's, in its place among the table's.
func (t *Table) Log(level slog.Level, msg string, attrs ...slog.Attr) { t.log(level, msg, attrs...) }

func (t *turn) do(a Action) { t.out = append(t.out, a) }

// append asks for changes to be written; then, if not nil, gets the outcome.
func (t *turn) append(must bool, changes []state.Change, then writer) {
	t.lastAppend++
	if then != nil {
		t.appends[t.lastAppend] = then
	}
	t.do(AppendAction{t.lastAppend, changes, must})
}

// Appended takes the outcome of an AppendAction.
func (t *Table) Appended(id AppendID, err error) {
	if then := t.appends[id]; then != nil {
		delete(t.appends, id)
		then.written(err)
	}
}

// look asks the engine's tables; then gets what was found.
func (t *turn) look(sp *lockspace, q Question, then looker) {
	t.lastLook++
	t.looks[t.lastLook] = then
	t.do(LookAction{t.lastLook, sp.name, q})
}

// Looked takes what a LookAction has found.
func (t *Table) Looked(id LookID, k Looked) {
	if then := t.looks[id]; then != nil {
		delete(t.looks, id)
		then.looked(k)
	}
}

func (t *turn) log(level slog.Level, msg string, attrs ...slog.Attr) {
	if level < slog.LevelInfo && !t.debug {
		return
	}
	t.do(LogAction{level, msg, attrs})
}

// logLock writes the line of one decision about one lock.
func (t *turn) logLock(level slog.Level, msg string, l *lock, more ...slog.Attr) {
	if level < slog.LevelInfo && !t.debug {
		return
	}
	attrs := make([]slog.Attr, 0, 6+len(more))
	attrs = append(attrs, slog.String("lockspace", l.sp.name), slog.String("resource", api.Printable(l.resource)),
		slog.String("mode", l.mode.String()), slog.Uint64("lkid", uint64(l.lockid)),
		slog.String("owner", l.owner), slog.Uint64("uid", uint64(l.uid)))
	t.log(level, msg, append(attrs, more...)...)
}

// Tick passes the time: deadlines, and what is tried again.
func (t *Table) Tick() {
	t.passDeadlines()
	t.retry()
	t.retrySpaces()
	t.examineAgain()
}

// Next tells when Tick has to be called; ok is false for never.
func (t *Table) Next() (at time.Time, ok bool) {
	earlier := func(when time.Time) {
		if !ok || when.Before(at) {
			at, ok = when, true
		}
	}
	for _, sp := range t.spaces.byName {
		if !sp.retryAt.IsZero() {
			earlier(sp.retryAt)
		}
	}
	if len(t.calls.deadlines) > 0 {
		earlier(t.calls.deadlines[0].deadline)
	}
	if t.retries.pending() > 0 {
		earlier(t.retries.next)
	}
	if len(t.lifetimes.unknown) > 0 {
		earlier(t.lifetimes.examineAt)
	}
	return at, ok
}

// Lock describes one lock by its number.
func (t *Table) Lock(ref api.Ref) (info api.LockInfo, ok bool) {
	if l := t.locks.byRef[ref]; l != nil && l.kind == clientLock {
		return l.info(), true
	}
	return api.LockInfo{}, false
}

// rebind notes that another session asks for what the owner has already: it is the
// one that is told of the lock, and a connection lock hangs on it from now on.
// hangs is whether there is one of those: then the call may be answered only when
// the changes are written.
func (t *Table) rebind(o *acquireOp) (changes []state.Change, hangs bool) {
	session := o.caller.Session
	for _, l := range o.locks {
		if l == nil || session == "" || l.session == session {
			continue
		}
		if l.lifetime == state.Connection {
			l.unbind()
			l.session = session
			l.bind(process.ID{})
			hangs = true
		}
		l.session = session
		m := state.Mark{ID: uint64(l.ref)}
		m.Sender, m.BusID = l.session.Recorded()
		changes = append(changes, m)
	}
	return changes, hangs
}
