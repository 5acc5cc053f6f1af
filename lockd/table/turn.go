package table

import (
	"log/slog"
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// turn is what is asked for in the turn under way, and what was asked for before
// and has no outcome yet. Every part of the table speaks through it.
type turn struct {
	now time.Time // by the wall clock; the same for the whole turn
	// The actions of the turn, in the order in which they are to be carried out.
	out []Action
	chores
	watched bool    // somebody wants notices about each lock
	dirty   []*lock // whose LockChanged is due at the end of the turn
	debug   bool    // lines for ordinary decisions are wanted
	history history // what may still be written of it

	lastAppend AppendID
	lastLook   LookID
	// Who gets the outcome of an append that is under way; and of looks, likewise.
	appends map[AppendID]writer
	looks   map[LookID]looker
}

func newTurn() turn { return turn{appends: map[AppendID]writer{}, looks: map[LookID]looker{}} }

// writer gets the outcome of an append, and looker that of a look.
type (
	writer interface{ written(err error) }
	looker interface{ looked(k Looked) }
)

// SetDebug says whether lines for ordinary decisions are wanted in the log.
func (t *turn) SetDebug(on bool) { t.debug = on }

// Log writes a line that is the driver's, in its place among the table's.
func (t *turn) Log(level slog.Level, msg string, attrs ...slog.Attr) { t.log(level, msg, attrs...) }

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
func (t *turn) Appended(id AppendID, err error) {
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
func (t *turn) Looked(id LookID, k Looked) {
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
