package api

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Argument names an argument of a call in errors and tables. Front ends spell
// arguments in their own ways.
type Argument string

// The arguments of all calls.
const (
	ArgLockspace  Argument = "lockspace"
	ArgResource   Argument = "resource"
	ArgMode       Argument = "mode"
	ArgOwner      Argument = "owner"
	ArgLabel      Argument = "label"
	ArgLabels     Argument = "labels"
	ArgLifetime   Argument = "lifetime"
	ArgPID        Argument = "pid"
	ArgStartTime  Argument = "start-time"
	ArgOnLost     Argument = "on-lost"
	ArgOnLostData Argument = "on-lost-data"
	ArgValue      Argument = "value"
	ArgWait       Argument = "wait"
	ArgLockID     Argument = "lockid"
	ArgToken      Argument = "token"
	ArgLock       Argument = "lock"
	ArgUID        Argument = "uid"
	ArgState      Argument = "state"
	ArgAfter      Argument = "after"
	ArgLimit      Argument = "limit"
	ArgForce      Argument = "force"
	ArgSome       Argument = "some"
	ArgReason     Argument = "reason"
	ArgNode       Argument = "node"
	ArgLockIDs    Argument = "lockids"
)

// Hint says what a caller can do about an error. It is a code, because the words
// for it are those of the front end through which the caller came: the name of
// a method, of an option, or of a command.
type Hint string

// The hints.
const (
	HintNone           Hint = ""
	HintWait           Hint = "wait"            // try again later, or wait for the lock
	HintWaitLonger     Hint = "wait-longer"     // wait for the lock for a longer time
	HintInspect        Hint = "inspect"         // see what is held of the resource
	HintListLocks      Hint = "list-locks"      // see what is held
	HintOwnerOrLockID  Hint = "owner-or-lockid" // say which lock is meant
	HintConvert        Hint = "convert"         // change the mode of the lock that is held
	HintReleaseOne     Hint = "release-one"     // release locks without owner one by one
	HintJoin           Hint = "join"            // join the lockspace
	HintListLockspaces Hint = "list-lockspaces" // see which lockspaces there are
	HintLockspaceState Hint = "lockspace-state" // see what the lockspace does
	HintForce          Hint = "force"           // release the locks, or leave with force
	HintListOrphans    Hint = "list-orphans"    // see which orphans there are now
	HintClearOrphans   Hint = "clear-orphans"   // adopt or remove each orphan, then leave
	HintOneOwner       Hint = "one-owner"       // watch the locks of one owner alone
)

// Hints are all hints, for front ends that want to have words for each.
var Hints = []Hint{HintWait, HintWaitLonger, HintInspect, HintListLocks, HintOwnerOrLockID, HintConvert, HintReleaseOne,
	HintJoin, HintListLockspaces, HintLockspaceState, HintForce, HintListOrphans, HintClearOrphans, HintOneOwner}

// neutral are the words for a reader of whom nothing is known, such as the
// reader of the log.
var neutral = map[Hint]string{
	HintWait:           "try again later or wait",
	HintWaitLonger:     "wait for a longer time",
	HintInspect:        "inspect the resource",
	HintListLocks:      "list the locks",
	HintOwnerOrLockID:  "say which one by its owner or lockid",
	HintConvert:        "convert it to change the mode",
	HintReleaseOne:     "locks without owner are released one by one",
	HintJoin:           "join it, or name it under lockspaces in /etc/dlmlockd.toml",
	HintListLockspaces: "list the lockspaces",
	HintLockspaceState: "the list of lockspaces has its state",
	HintForce:          "release them, or leave with force and lose them",
	HintListOrphans:    "list the orphans again",
	HintClearOrphans:   "list them, adopt or remove each, then leave again",
	HintOneOwner:       "watch the locks of one owner alone, which does not count",
}

// Wording is how a front end words errors. The zero value is neutral.
type Wording struct {
	// Argument is what the text of an error about an argument begins with, such
	// as "option owner"; "" where the text needs no such beginning. It is asked
	// about errors of kind InvalidArgs alone.
	Argument func(*Error) string
	// Operations are the names of operations, where they have another one at the
	// front end.
	Operations map[string]string
	// Hints are the words for hints, as a clause without a full stop. What is not
	// in it is worded neutrally.
	Hints map[Hint]string
}

// modal are the operations that are about a mode.
var modal = []string{"acquire", "request", "convert", "cancel"}

// Message says what was tried, what is wrong, who is in the way and what to do.
// Errors other than an *Error speak for themselves.
func (w Wording) Message(err error) string {
	var e *Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	var b strings.Builder
	e.tried(&b, w.Operations)
	if e.Kind == InvalidArgs && e.Argument != "" {
		if about := w.argument(e); about != "" {
			b.WriteString(about + ": ")
		}
	}
	b.WriteString(e.Text)
	if hint := w.hint(e.Hint); hint != "" {
		b.WriteString("; " + hint)
	}
	if e.Holder != nil {
		b.WriteString("; held by " + e.Holder.String())
	}
	if e.Errno != 0 {
		fmt.Fprintf(&b, " (%s)", e.Errno.Error())
	}
	return b.String()
}

// tried writes the operation, by a name of names if it is there, and what it was about.
func (e *Error) tried(b *strings.Builder, names map[string]string) {
	if e.Op == "" {
		return
	}
	b.WriteString(cmp.Or(names[e.Op], e.Op))
	if e.Lockspace != "" {
		b.WriteString(" " + Printable(e.Lockspace))
	}
	if e.Resource != "" {
		b.WriteString("/" + Printable(e.Resource))
	}
	// A mode belongs to a resource: an Error without one says nothing of a mode,
	// whatever is in the field, whose zero is NL.
	if e.Resource != "" && e.Mode.Valid() && slices.Contains(modal, e.Op) {
		b.WriteString(" " + e.Mode.String())
	}
	b.WriteString(": ")
}

func (w Wording) argument(e *Error) string {
	if w.Argument == nil {
		return string(e.Argument)
	}
	return w.Argument(e)
}

func (w Wording) hint(h Hint) string {
	if text, ok := w.Hints[h]; ok {
		return text
	}
	return neutral[h]
}

// Error is the neutral wording of the error.
func (e *Error) Error() string { return Wording{}.Message(e) }
