package lockd

import (
	"log/slog"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// action is one thing that the table wants done. The driver carries actions
// out in the order in which the table gives them, and starts each before the
// next; none of them blocks the owner goroutine.
//
// The order of events (docs/design.md, section 4) is kept by the table alone:
// it gives an action that needs another one's outcome only after it was told
// that outcome. The driver must not reorder, merge or drop actions, with one
// exception: several appendChanges may become one write, in their order.
type action interface{ action() }

// lockAction, convertAction, unlockAction, cancelAction and adoptAction are
// calls of dlm.Lockspace. Their events come back through table.event.
type (
	lockAction struct {
		sp       *space
		cookie   dlm.Cookie
		resource string
		mode     dlm.Mode
		flags    dlm.Flags
	}
	convertAction struct {
		sp     *space
		cookie dlm.Cookie
		mode   dlm.Mode
		flags  dlm.Flags
		value  *dlm.Value
	}
	unlockAction struct {
		sp     *space
		cookie dlm.Cookie
		value  *dlm.Value
	}
	cancelAction struct {
		sp     *space
		cookie dlm.Cookie
	}
	adoptAction struct {
		sp       *space
		cookie   dlm.Cookie
		resource string
		mode     dlm.Mode
	}
)

// openAction, createAction, removeAction and closeAction concern a whole
// lockspace. The first three are carried out by a worker and end with
// table.opened or table.removed. What carries out removeAction looks first for
// other processes that use the lockspace (removeUnused).
type (
	openAction   struct{ sp *space }
	createAction struct{ sp *space }
	removeAction struct{ sp *space }
	closeAction  struct{ sp *space }
)

// appendAction writes changes to the state file, all or nothing, and ends with
// then. With must, a failure does not undo what the records tell
// (a lock is gone whether or not that can be written), so the journal keeps
// the changes and tries again until they are written.
type appendAction struct {
	changes []state.Change
	must    bool
	then    func(error)
}

// lookAction asks the engine's Looker about a resource ("" for the orphans
// only) and ends with then, on the owner goroutine.
type lookAction struct {
	sp       *space
	resource string
	brief    bool // the queues alone, and soon
	users    bool // with the orphans: who else uses the lockspace
	then     func(looked)
}

// looked is what a lookAction found.
type looked struct {
	queues     dlm.Queues
	hasQueues  bool
	orphans    []dlm.Orphan
	hasOrphans bool
	orphansErr error      // why not; wraps errNoTables where there is nothing to look at
	users      []dlm.User // other processes
	usersErr   error      // why they are not known
	health     dlm.Health
	hasHealth  bool
	missing    []string
}

// replyAction answers a call; it is given exactly once for each call.
type replyAction struct {
	c   *call
	err error
}

// notifyAction tells front ends something unasked.
type notifyAction struct{ n api.Notice }

// logAction is one log line.
type logAction struct {
	level slog.Level
	msg   string
	attrs []slog.Attr
}

func (lockAction) action()    {}
func (convertAction) action() {}
func (unlockAction) action()  {}
func (cancelAction) action()  {}
func (adoptAction) action()   {}
func (openAction) action()    {}
func (createAction) action()  {}
func (removeAction) action()  {}
func (closeAction) action()   {}
func (appendAction) action()  {}
func (lookAction) action()    {}
func (replyAction) action()   {}
func (notifyAction) action()  {}
func (logAction) action()     {}
