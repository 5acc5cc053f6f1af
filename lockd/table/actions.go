package table

import (
	"log/slog"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

// Action is one thing that the table wants done. The driver carries actions out
// in the order in which the table gives them, and starts each before the next;
// none of them may block it.
//
// The table alone keeps the order of events (docs/design.md, section 4): it gives
// an action that depends on the outcome of another one only after it has received
// that outcome. The driver must not reorder, merge or drop actions, with one
// exception: several AppendActions may become one write, in their order.
type Action interface {
	// Step names the action for crash tests, which end the process before each
	// step of the order of events. It is "" for what is no step: if the process
	// dies before it, nothing is different from dying before the next action.
	Step() string
}

// LockspaceID is the table's number for a lockspace while it knows it. It is not
// used again, so that nothing which belongs to an earlier lockspace of the same
// name is taken for the present one's.
type LockspaceID uint32

// CallID is the driver's number for a call that it wants an answer to; 0 is for
// what the table does of its own accord.
type CallID uint64

// AppendID numbers the AppendActions, and LookID the LookActions.
type (
	AppendID uint64
	LookID   uint64
)

// LockAction, ConvertAction, UnlockAction, CancelAction and AdoptAction are calls
// of the method of that name of the dlm.Lockspace that is open for the lockspace.
// Their events come back through Table.Event. AdoptAction always asks for
// PERSISTENT and the value block.
type (
	LockAction struct {
		Lockspace LockspaceID
		Cookie    dlm.Cookie
		Resource  string
		Mode      dlm.Mode
		Flags     dlm.Flags
	}
	ConvertAction struct {
		Lockspace LockspaceID
		Cookie    dlm.Cookie
		Mode      dlm.Mode
		Flags     dlm.Flags
		Value     *dlm.Value
	}
	UnlockAction struct {
		Lockspace LockspaceID
		Cookie    dlm.Cookie
		Value     *dlm.Value
	}
	CancelAction struct {
		Lockspace LockspaceID
		Cookie    dlm.Cookie
	}
	AdoptAction struct {
		Lockspace LockspaceID
		Cookie    dlm.Cookie
		Resource  string
		Mode      dlm.Mode
	}
)

// ClockAction asks for the lock that passes the token clock of a lockspace around
// (see spaceclock.go), in mode NL, or converts it. Nobody's lock depends on it,
// so it is no step.
type ClockAction struct {
	Lockspace LockspaceID
	Mode      dlm.Mode
	// What goes into the value block; nil where the lock does not leave PW.
	Value *dlm.Value
	First bool // there is no lock yet
}

// OpenAction, CreateAction, RemoveAction and CloseAction concern a whole
// lockspace. OpenAction and CreateAction end with Table.Opened, RemoveAction ends
// with Table.Removed. RemoveAction first looks for other processes that use the
// lockspace (RemoveUnused). After CloseAction nothing comes from the handle.
// ForgetAction ends the table's use of the number.
type (
	OpenAction struct {
		Lockspace LockspaceID
		Name      string
	}
	CreateAction struct {
		Lockspace LockspaceID
		Name      string
	}
	RemoveAction struct {
		Lockspace LockspaceID
		Name      string
	}
	CloseAction  struct{ Lockspace LockspaceID }
	ForgetAction struct{ Lockspace LockspaceID }
)

// AppendAction writes changes to the state file, all or nothing, and ends with
// Table.Appended. With Must a failure does not undo what the records tell (a lock
// is gone whether or not that can be written), so the journal keeps the changes
// and tries again until they are written.
type AppendAction struct {
	// For Table.Appended. Appends that nobody waits for have a number as well.
	ID AppendID
	// In the order in which they apply. They are the journal's from now on, and the table
	// does not touch them again.
	Changes []state.Change
	// What the changes say is true whether or not it can be written.
	Must bool
}

// LookAction asks the engine's tables (see LookAt) and ends with Table.Looked.
type LookAction struct {
	ID   LookID
	Name string // of the lockspace
	Question
}

// Question says what a look is to find out.
type Question struct {
	Resource  string   // whose queues; "": the orphans of the lockspace instead
	Resources []string // instead of both: the queues of these, without the health of the lockspace
	Brief     bool     // the queues alone, and soon
	Users     bool     // with the orphans: who else uses the lockspace
}

// ReplyAction answers a call. It is given exactly once for each call.
type ReplyAction struct {
	Call  CallID
	Reply Reply
	Err   error // an *api.Error, or nil
}

// StartedAction says that a Request waits, or did before it was answered.
type StartedAction struct {
	Call CallID
	Ref  api.Ref
}

// NotifyAction gives a notice to front ends.
type NotifyAction struct{ Notice api.Notice }

// LogAction is one log line.
type LogAction struct {
	Level   slog.Level
	Message string
	Attrs   []slog.Attr
}

// WatchAction and UnwatchAction concern the end of a process. What is known of it
// comes back through Table.ProcessState.
type (
	WatchAction struct {
		Process process.ID
		UID     uint32 // of the lock that it is for
	}
	UnwatchAction struct{ Process process.ID }
)

// RunHelperAction starts the helper of a lost lock and ends with
// Table.HelperEnded.
type RunHelperAction struct{ Run api.LostRun }

// EpochAction has the epoch of the token clock noted in the state directory, soon.
// A process that ends before that loses only a step of the clock, or a token from
// elsewhere, of which nothing else is left either.
type EpochAction struct{ Epoch int64 }

// Step implements Action, here and below.
func (LockAction) Step() string      { return "lock" }
func (ConvertAction) Step() string   { return "convert" }
func (UnlockAction) Step() string    { return "unlock" }
func (CancelAction) Step() string    { return "cancel" }
func (AdoptAction) Step() string     { return "adopt" }
func (OpenAction) Step() string      { return "open" }
func (CreateAction) Step() string    { return "create" }
func (RemoveAction) Step() string    { return "remove" }
func (CloseAction) Step() string     { return "close" }
func (RunHelperAction) Step() string { return "run-lost" }
func (ClockAction) Step() string     { return "" }
func (ForgetAction) Step() string    { return "" }
func (LookAction) Step() string      { return "" }
func (StartedAction) Step() string   { return "" }
func (NotifyAction) Step() string    { return "" }
func (LogAction) Step() string       { return "" }
func (WatchAction) Step() string     { return "" }
func (UnwatchAction) Step() string   { return "" }
func (EpochAction) Step() string     { return "" }

// Step leaves out the answer to a List, which nothing depends on.
func (a ReplyAction) Step() string {
	if _, listed := a.Reply.(PageReply); listed {
		return ""
	}
	return "reply"
}

// Step tells the appends apart by their first change.
func (a AppendAction) Step() string {
	if len(a.Changes) == 0 {
		return "append"
	}
	switch c := a.Changes[0].(type) {
	case state.Lock:
		if c.Phase == state.Lost {
			return "append-lost"
		}
		return "append-granted"
	case state.Mark:
		switch c.Phase {
		case state.Held:
			return "append-held"
		case state.Releasing:
			return "append-releasing"
		case state.Gone:
			return "append-gone"
		}
		return "append-mark"
	case state.Lockspace:
		return "append-lockspace"
	}
	return "append"
}
