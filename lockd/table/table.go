package table

import (
	"hash/maphash"
	"log/slog"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Table is the pure heart of the service. Its methods take an event each; EndTurn
// tells what has to be done. Each of its parts is a type with a file of its own, whose
// methods take the events that concern that part. Not safe for concurrent use.
type Table struct {
	// What it was made of. Settings, Node and Quorum change while it runs.
	conf Config
	turn
	names api.NodeNames // of the nodes of the cluster
	// The clock of the fencing tokens, which is not that of the deadlines.
	clock tokenClock
	// What is counted for the metrics.
	counters api.Counters

	// The locks, by everything that they are looked for by.
	locks locks
	// The table's own locks that are under way.
	probes probes
	spaces
	calls
	lifetimes
	retries
	losses

	// degraded is why new locks are refused: the state file can't be written. It is "" if
	// they are not.
	degraded string
	// ready: the activation of each lockspace has ended, well or badly. Front ends answer
	// nobody before that.
	ready bool
	// stopping: nothing new is taken on, and what waits is withdrawn.
	stopping bool
}

// Config is what a Table is made of.
type Config struct {
	Settings
	Instance  string // of the state file: part of the anchors' names
	Engine    string // the engine's name
	Node      dlm.NodeInfo
	Quorum    api.Quorum               // what is known of it
	Sessions  []api.Session            // the name spaces of the front ends that are served
	Kept      map[api.Session]struct{} // sessions of earlier processes that have not ended
	RawValues []string                 // lockspaces whose value blocks are the clients'
	Epoch     int64                    // of the token clock, as it was noted last
	Seed      maphash.Seed
}

// New returns a table that knows nothing yet; Activate comes next.
func New(c Config) *Table {
	t := &Table{conf: c, turn: newTurn(), locks: newLocks(c.Seed), spaces: newSpaces()}
	t.clock = tokenClock{turn: &t.turn, epoch: c.Epoch, noted: c.Epoch}
	t.probes = probes{t: t, readers: map[*lock]valueReader{}}
	t.calls = calls{t: t, sessions: map[api.Session]*session{}, requests: map[api.Ref]*acquireOp{}}
	t.lifetimes = lifetimes{t: t, bindings: map[bindKey]*binding{}, undetermined: map[*binding]struct{}{}}
	t.retries = newRetries(t)
	t.losses = losses{t: t, running: map[api.Ref]struct{}{}}
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

// Tick passes the time: deadlines, and what is tried again.
func (t *Table) Tick() {
	t.passDeadlines()
	t.probes.cancelLate()
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
	if len(t.probes.sent) > 0 {
		earlier(t.probes.sent[0].deadline)
	}
	if t.retries.pending() > 0 {
		earlier(t.retries.next)
	}
	if len(t.lifetimes.undetermined) > 0 {
		earlier(t.lifetimes.examineAt)
	}
	return at, ok
}

// Lock describes one lock by its number.
func (t *Table) Lock(ref api.Ref) (info api.LockInfo, ok bool) {
	if l := t.locks.byRef(ref); l != nil && l.kind == clientLock {
		return l.info(), true
	}
	return api.LockInfo{}, false
}
