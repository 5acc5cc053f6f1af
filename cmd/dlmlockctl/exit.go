package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/dlmlock/dlmlockd/client"
)

// The exit codes. 64 and up are those of sysexits.h; 126, 127 and 128+n are
// those of the shell, for run.
const (
	exitOK          = 0
	exitFailed      = 1   // anything else
	exitUsage       = 64  // bad command line, mode or name
	exitContradicts = 65  // what is held contradicts it: AlreadyHeld, Ambiguous, LockspaceInUse, LimitExceeded
	exitNotThere    = 66  // no such lock or lockspace
	exitUnavailable = 69  // service, bus or cluster not available
	exitInternal    = 70  // the service or the kernel failed
	exitOutput      = 74  // the output could not be written
	exitLost        = 76  // run: the lock was lost, or released by somebody else, while the command ran
	exitRefused     = 75  // somebody else holds it: WouldBlock, Timeout, Deadlock, Canceled
	exitDenied      = 77  // not allowed
	exitNoExec      = 126 // run: the command can't be executed
	exitNoCommand   = 127 // run: the command is not there
	exitSignal      = 128 // run: plus the number of the signal that ended the command
)

// exits are the exit codes of the kinds of errors.
var exits = map[client.Kind]int{
	client.InvalidArgs: exitUsage, client.InvalidMode: exitUsage, client.InvalidName: exitUsage,

	client.AlreadyHeld: exitContradicts, client.Ambiguous: exitContradicts,
	client.LockspaceInUse: exitContradicts, client.LimitExceeded: exitContradicts,

	client.NotHeld: exitNotThere, client.NoSuchLockspace: exitNotThere,

	client.NotRunning: exitUnavailable, client.NoAnswer: exitUnavailable, client.NoBus: exitUnavailable,
	client.ShuttingDown: exitUnavailable, client.ClusterUnavailable: exitUnavailable, client.NotQuorate: exitUnavailable,
	client.LockspaceStopped: exitUnavailable, client.NotSupported: exitUnavailable, client.Unknown: exitUnavailable,

	client.StateWriteFailed: exitInternal, client.KernelError: exitInternal, client.Failed: exitInternal,

	client.WouldBlock: exitRefused, client.Timeout: exitRefused, client.Deadlock: exitRefused, client.Canceled: exitRefused,

	client.AccessDenied: exitDenied, client.InteractionRequired: exitDenied, client.LockspaceForeign: exitDenied,
}

// hints say what to do next, where the service can't know how this program is
// used. %L stands for the lockspace, %R for the resource.
var hints = map[client.Kind]string{
	client.NotRunning:          "start it with \"systemctl start dlmlockd\"; \"journalctl -u dlmlockd\" says why it ended",
	client.NoBus:               "is the system bus running? --bus and DBUS_SYSTEM_BUS_ADDRESS name another",
	client.NoAnswer:            "whether it was done is not known; \"dlmlockctl list\" shows what is held",
	client.AccessDenied:        "run it as root, or have an administrator allow it: a polkit rule, or group in /etc/dlmlockd.toml",
	client.InteractionRequired: "run it on a terminal, where polkit can ask for a password, or as root",
	client.NoSuchLockspace:     "\"dlmlockctl join %L\" joins it; \"dlmlockctl lockspaces\" lists those that are",
	client.WouldBlock:          "\"dlmlockctl inspect %L %R\" shows who holds it; --wait=60s queues for it",
	client.Timeout:             "\"dlmlockctl inspect %L %R\" shows who holds it",
	client.NotHeld:             "\"dlmlockctl list\" shows what is held",
	client.Ambiguous:           "--owner, --lockid, --token or --lock says which one is meant",
	client.AlreadyHeld:         "\"dlmlockctl convert %L %R MODE\" changes the mode",
	client.LockspaceInUse:      "\"dlmlockctl list %L\" shows the locks; --force leaves anyway and loses them",
	client.Unknown:             "the service is older than this program; restart it after the upgrade (no lock is lost)",
}

// failure is an error with what is known of what was tried.
type failure struct {
	err                 error
	lockspace, resource string
	code                int // 0: by the kind of err
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// about adds the lock that was tried to an error; nil stays nil.
func about(err error, lockspace, resource string) error {
	if err == nil {
		return nil
	}
	return &failure{err: err, lockspace: lockspace, resource: resource}
}

// aboutWants is about for several locks: which of them is in the way, the
// message says.
func aboutWants(err error, want []client.Want) error {
	if len(want) == 1 {
		return about(err, want[0].Lockspace, want[0].Resource)
	}
	space := want[0].Lockspace
	for _, w := range want {
		if w.Lockspace != space {
			space = ""
		}
	}
	return about(err, space, "")
}

// exitWith is an error with an exit code of its own; nil stays nil.
func exitWith(code int, err error) error {
	if err == nil {
		return nil
	}
	return &failure{err: err, code: code}
}

// usageError is a bad command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// badCommandLine says what is wrong with a command line. Of a number that is
// none the parser would tell in Go's words.
func badCommandLine(err error) *usageError {
	var value *pflag.InvalidValueError
	var number *strconv.NumError
	if errors.As(err, &value) && errors.As(err, &number) {
		return &usageError{fmt.Sprintf("--%s=%s: not a number, or one that is out of range", value.GetFlag().Name, value.GetValue())}
	}
	return &usageError{err.Error()}
}

// quietExit ends the program with a code and without a word: the command that
// run started has said all.
type quietExit int

func (e quietExit) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// outputError is an output that could not be written.
type outputError struct {
	err  error
	done string // what was done all the same; "": nothing was to be done
	hint string
}

func (e *outputError) Error() string {
	text := "the output could not be written: " + e.err.Error()
	if e.done != "" {
		text += "; but this was done: " + e.done
	}
	return text
}

// interrupted is the end by a signal.
type interrupted struct {
	sig    syscall.Signal
	unsure bool // a call that changes something was not answered yet
}

// reads are the calls after which nothing is different.
var reads = []string{"Inspect", "ListLocks", "ListLockspaces", "ListOrphans", "Status", "Watch"}

// by is the end by the same signal of a program that got err from it.
func (e interrupted) by(err error) interrupted {
	var c *client.Error
	e.unsure = errors.As(err, &c) && c.Kind == client.Canceled && !slices.Contains(reads, c.Op)
	return e
}

func (e interrupted) Error() string { return "interrupted (" + e.sig.String() + ")" }

// verdict is what is said of an error.
type verdict struct {
	Error   string `json:"error"` // the kind
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	Exit    int    `json:"exit"`
}

// judge finds the exit code and the words for an error.
func judge(err error) verdict {
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
		v.Hint = "see \"dlmlockctl --help\" and dlmlockctl(1)"
	case errors.As(err, &s):
		v.Error, v.Exit = "Interrupted", exitSignal+int(s.sig)
		if s.unsure {
			v.Hint = hints[client.NoAnswer]
		}
	case errors.As(err, &e):
		v.Error = string(e.Kind)
		v.Exit = exits[e.Kind]
		if v.Exit == 0 {
			v.Exit = exitInternal // a kind of a newer service
		}
		v.Hint = hint(e.Kind, f)
	}
	if f != nil && f.code != 0 {
		v.Exit = f.code
	}
	return v
}

func hint(k client.Kind, f *failure) string {
	h := hints[k]
	if f == nil && strings.Contains(h, "%") {
		return ""
	}
	if f != nil {
		if f.resource == "" && strings.Contains(h, "%R") || f.lockspace == "" && strings.Contains(h, "%L") {
			return ""
		}
		h = strings.NewReplacer("%L", shellWord(f.lockspace), "%R", shellWord(f.resource)).Replace(h)
	}
	return h
}

// shellWord quotes a name so that it can be pasted into a shell.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("_./:=+-,@%", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// fail says what went wrong and returns the exit code.
func (a *app) fail(err error) int {
	var q quietExit
	if errors.As(err, &q) {
		return int(q)
	}
	v := judge(err)
	if a.json {
		text, _ := json.Marshal(v) // strings and a number can't fail
		fmt.Fprintf(a.err, "%s\n", escapeJSON(text))
		return v.Exit
	}
	fmt.Fprintf(a.err, "dlmlockctl: %s\n", visible(v.Message))
	if v.Hint != "" {
		fmt.Fprintf(a.err, "dlmlockctl: hint: %s\n", visible(v.Hint))
	}
	return v.Exit
}
