package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/client"
)

// The exit codes. 64 and up are those of sysexits.h; 126, 127 and 128+n are
// those of the shell, for run.
const (
	exitOK          = 0
	exitFailed      = 1   // any other failure
	exitUsage       = 64  // bad command line, mode or name
	exitContradicts = 65  // contradicts what is held: AlreadyHeld, Ambiguous, LockspaceInUse, LimitExceeded
	exitNotThere    = 66  // no such lock or lockspace
	exitUnavailable = 69  // service, bus or cluster not available
	exitInternal    = 70  // the service or the kernel failed
	exitOutput      = 74  // the output could not be written
	exitRefused     = 75  // somebody else holds the lock: WouldBlock, Timeout, Deadlock, Canceled
	exitLost        = 76  // run, hold: the lock was lost, or somebody else released it
	exitDenied      = 77  // not allowed
	exitNoExec      = 126 // run: the command can't be executed
	exitNoCommand   = 127 // run: the command was not found
	exitSignal      = 128 // plus the number of the signal that ended the program or its command
)

// exits maps the kinds of errors to exit codes.
var exits = map[client.Kind]int{
	client.InvalidArgs: exitUsage, client.InvalidMode: exitUsage, client.InvalidName: exitUsage,

	client.AlreadyHeld: exitContradicts, client.Ambiguous: exitContradicts,
	client.LockspaceInUse: exitContradicts, client.LimitExceeded: exitContradicts,

	client.NotHeld: exitNotThere, client.NoSuchLockspace: exitNotThere,

	client.NotRunning: exitUnavailable, client.NoAnswer: exitUnavailable, client.NoBus: exitUnavailable,
	client.ShuttingDown: exitUnavailable, client.ClusterUnavailable: exitUnavailable, client.NotQuorate: exitUnavailable,
	client.LockspaceStopped: exitUnavailable, client.NotSupported: exitUnavailable, client.Unknown: exitUnavailable,

	client.StateWriteFailed: exitInternal, client.KernelError: exitInternal, client.Failed: exitInternal,

	client.WouldBlock: exitRefused, client.Timeout: exitRefused, client.Deadlock: exitRefused,
	client.Canceled: exitRefused,

	client.AccessDenied: exitDenied, client.InteractionRequired: exitDenied, client.LockspaceForeign: exitDenied,
}

// failure is an error together with what the command was doing.
type failure struct {
	err                       error
	lockspace, resource, mode string
	holder                    string // who has the lock; "" if that is not known
	waited                    bool   // the call was to wait for the lock
	hint                      string // takes the place of the hint for the kind of err
	code                      int    // exit code; 0: that of the kind of err
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// about adds to an error which lock it is about; nil stays nil.
func about(err error, lockspace, resource string) error {
	if err == nil {
		return nil
	}
	return &failure{err: err, lockspace: lockspace, resource: resource}
}

// exitWith gives an error an exit code of its own; nil stays nil.
func exitWith(code int, err error) error {
	if err == nil {
		return nil
	}
	return &failure{err: err, code: code}
}

// quietExit ends the program with this code and without a message: the command
// that run started has written its own.
type quietExit int

func (e quietExit) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// outputError says that the output could not be written.
type outputError struct {
	err  error
	done string // what was done nevertheless; "" if the command changes nothing
	hint string
}

func (e *outputError) Error() string {
	text := "the output could not be written: " + e.err.Error()
	if e.done != "" {
		text += "; but this was done: " + e.done
	}
	return text
}

// interrupted says that a signal ended the program.
type interrupted struct {
	sig    syscall.Signal
	unsure bool // a call that changes something had not been answered
}

// reads are the calls that change nothing.
var reads = []string{"Inspect", "ListLocks", "ListWaits", "ListLockspaces", "ListOrphans", "Status", "Watch"}

// by adds whether err, with which the program ended after the signal, leaves
// open what was done.
func (e interrupted) by(err error) interrupted {
	var c *client.Error
	e.unsure = errors.As(err, &c) && c.Kind == client.Canceled && !slices.Contains(reads, c.Op)
	return e
}

func (e interrupted) Error() string { return "interrupted (" + e.sig.String() + ")" }

// verdict is what the program says about an error.
type verdict struct {
	Error   string `json:"error"` // the kind
	Message string `json:"message"`
	Usage   string `json:"usage,omitempty"` // how the command is called
	Hint    string `json:"hint,omitempty"`
	Exit    int    `json:"exit"`
}

// judge finds the exit code and the words for an error of a run. cmd is the command that
// failed, or nil.
func judge(a *app, cmd *cobra.Command, err error) verdict {
	v := verdict{Error: string(client.Failed), Message: err.Error(), Exit: exitFailed}
	var f *failure
	errors.As(err, &f)
	var u *usageError
	var s interrupted
	var e *client.Error
	var o *outputError
	switch {
	case errors.As(err, &o):
		v.Error, v.Exit, v.Hint = "Output", exitOutput, o.hint
	case errors.As(err, &u):
		v.Error, v.Exit = "Usage", exitUsage
		v.Usage, v.Hint = usageHelp(cmd, u)
	case errors.As(err, &s):
		v.Error, v.Exit = "Interrupted", exitSignal+int(s.sig)
		if s.unsure {
			v.Hint = hints[client.NoAnswer]
		}
	case errors.As(err, &e):
		v.Error, v.Message = string(e.Kind), sentence(cmd, e, f)
		if e.Kind == client.InvalidArgs {
			v.Message = inOptions(cmd, v.Message, f)
		}
		v.Exit = exits[e.Kind]
		if v.Exit == 0 {
			v.Exit = exitInternal // a kind that only a newer service knows
		}
		v.Hint = hint(a, e, f)
	}
	if f != nil && f.code != 0 {
		v.Exit = f.code
	}
	return v
}

// usageHelp returns the usage line of the command and what to do next.
func usageHelp(cmd *cobra.Command, u *usageError) (usage, hint string) {
	topic := "dlmlockctl help"
	if cmd != nil {
		usage = cmd.UseLine()
		if cmd.HasParent() && cmd.Parent() == cmd.Root() {
			topic += " " + cmd.Name()
		}
	}
	if u.guess != "" {
		return usage, fmt.Sprintf("did you mean %q?", u.guess)
	}
	return usage, fmt.Sprintf("see %q and dlmlockctl(1)", topic)
}

// shellWord quotes a name for use in a shell.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("_./:=+-,@%", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// fail writes what went wrong and returns the exit code.
func (a *app) fail(cmd *cobra.Command, err error) int {
	var q quietExit
	if errors.As(err, &q) {
		return int(q)
	}
	v := judge(a, cmd, err)
	if a.json {
		text, _ := json.Marshal(v) // strings and a number can't fail
		fmt.Fprintf(a.err, "%s\n", escapeJSON(text))
		return v.Exit
	}
	fmt.Fprintf(a.err, "dlmlockctl: %s\n", visible(v.Message))
	if v.Usage != "" {
		fmt.Fprintf(a.err, "usage: %s\n", v.Usage)
	}
	if v.Hint != "" {
		fmt.Fprintf(a.err, "dlmlockctl: hint: %s\n", visible(v.Hint))
	}
	return v.Exit
}
