package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
)

// hints say what to do next in terms of this program. The service can't: it does
// not know how its caller is used. %L stands for the lockspace, %R for the
// resource. What to do about NotRunning depends on the socket (startHint).
var hints = map[client.Kind]string{
	client.NoBus: "is the system bus running? --bus and DBUS_SYSTEM_BUS_ADDRESS name another; " +
		"--varlink uses none",
	client.NoAnswer:            `it is not known whether this was done; "dlmlockctl list" shows what is held`,
	client.AccessDenied:        "run it as root, or allow it with a polkit rule, or with group in /etc/dlmlockd.toml",
	client.InteractionRequired: "run it on a terminal, where polkit can ask for a password, or as root",
	client.NoSuchLockspace:     `"dlmlockctl join %L" joins it; "dlmlockctl lockspaces" lists those that are joined`,
	client.WouldBlock:          `"dlmlockctl inspect %L %R" shows who holds it; --wait=60s queues for it`,
	client.Timeout:             `"dlmlockctl inspect %L %R" shows who holds it; a longer --wait waits longer`,
	client.NotHeld:             `"dlmlockctl list" shows what is held`,
	client.Ambiguous:           "--owner, --lockid, --token or --lock says which one is meant",
	client.AlreadyHeld:         `"dlmlockctl convert %L %R MODE" changes the mode`,
	client.LockspaceStopped:    `"dlmlockctl lockspaces" shows its state, and "dlmlockctl doctor" what to do`,
	client.LockspaceInUse:      `"dlmlockctl list %L" shows the locks; --force leaves anyway and loses them`,
	client.NotQuorate:          `"dlmlockctl doctor" shows what the cluster lacks`,
	client.ClusterUnavailable:  `"dlmlockctl doctor" shows what the cluster lacks`,
	client.Unknown:             "the service is older than this program; restart it after the upgrade (no lock is lost)",
}

const listSpaces = `"dlmlockctl lockspaces" lists those that are joined`

// hintsOf take the place of hints for calls where the same kind of error means
// something else.
var hintsOf = map[string]map[client.Kind]string{
	// These are about what is there already, which joining a lockspace does not bring.
	"LeaveLockspace": {client.NoSuchLockspace: listSpaces},
	"Release":        {client.NoSuchLockspace: listSpaces},
	"ReleaseOwner":   {client.NoSuchLockspace: listSpaces},
	"Convert":        {client.NoSuchLockspace: listSpaces},
	"AdoptOrphan": {
		client.NotHeld:     `"dlmlockctl orphans %L" shows the orphans that are left`,
		client.InvalidArgs: `"dlmlockctl orphans %L" shows the orphans as they are now`,
	},
	"Purge": {
		client.NotHeld:     `"dlmlockctl orphans %L" shows the orphans that are left`,
		client.InvalidArgs: `"dlmlockctl orphans %L" shows the orphans as they are now`,
	},
}

// sentences replace the service's text where that would name members and options
// of D-Bus, and nothing that it knows is lost.
var sentences = map[client.Kind]string{
	client.NoSuchLockspace: "this node has not joined the lockspace",
	client.WouldBlock:      "another lock is in the way",
	client.NotHeld:         "no lock of the service on this node matches",
	client.AlreadyHeld:     "the owner already holds it in another mode",
}

// sentencesOf take the place of sentences for some calls.
var sentencesOf = map[string]map[client.Kind]string{
	"AdoptOrphan": {client.NotHeld: "the orphan is gone"},
	"Purge": {client.NotHeld: "an orphan is gone",
		client.InvalidArgs: "the orphans have changed; nothing was removed"},
}

// verbs name the calls in messages.
var verbs = map[string]string{
	"Acquire": "acquire", "AcquireMany": "acquire", "Request": "acquire", "Convert": "convert", "Release": "release",
	"ReleaseOwner": "release-owner", "Inspect": "inspect", "ListLocks": "list", "JoinLockspace": "join",
	"LeaveLockspace": "leave",
	"ListOrphans":    "orphans", "AdoptOrphan": "adopt", "Purge": "purge",
}

// sentence says what went wrong. f tells which lock it is about; without it, and
// for all other kinds of errors, the service's own text stands.
func sentence(cmd *cobra.Command, e *client.Error, f *failure) string {
	text, ok := sentencesOf[e.Op][e.Kind]
	if !ok {
		text, ok = sentences[e.Kind]
	}
	if e.Kind == client.Timeout && f != nil && f.waited {
		text, ok = "not granted in the time given with --wait", true
	}
	if !ok || f == nil || f.lockspace == "" {
		return e.Message
	}
	subject := f.lockspace
	if f.resource != "" {
		subject += "/" + f.resource
	}
	if f.mode != "" && f.resource != "" {
		subject += " " + f.mode
	}
	verb := verbs[e.Op]
	if cmd != nil && slices.Contains(reads, e.Op) { // several commands make these calls
		verb = cmd.Name()
	}
	if verb != "" {
		subject = verb + " " + subject
	}
	if f.holder != "" {
		text += "; held by " + f.holder
	}
	return subject + ": " + text
}

// optionNames are the options whose fields have other names over Varlink or D-Bus.
var optionNames = map[string]string{
	"processId": "pid", "onLost": "on-lost", "onLostData": "on-lost-data", "lockId": "lockid", "userId": "uid",
	"waitUSec": "wait", "wait-usec": "wait",
}

// inOptions replaces the name that the service gives an argument by the option of
// the command. The text is "OPERATION [LOCKSPACE/RESOURCE MODE]: ARGUMENT: ...".
// Anything else stays as it is.
func inOptions(cmd *cobra.Command, text string, f *failure) string {
	begin := 0
	if f != nil && f.resource != "" { // a resource may have anything in its name
		if name := f.lockspace + "/" + f.resource; strings.Contains(text, name) {
			begin = strings.Index(text, name) + len(name)
		}
	}
	colon := strings.Index(text[begin:], ": ")
	if cmd == nil || colon < 0 {
		return text
	}
	begin += colon + len(": ")
	word, rest, _ := strings.Cut(text[begin:], ": ")
	word = strings.TrimPrefix(strings.TrimPrefix(word, "option "), "select.")
	name := cmp.Or(optionNames[word], word)
	if rest == "" || cmd.Flags().Lookup(name) == nil {
		return text
	}
	return text[:begin] + "--" + name + ": " + rest
}

// unreachable says what to do about a socket that the kernel does not let the user connect to.
const unreachable = `this user may not connect to the socket: "namei -l" with its path shows the modes on the way to it`

// hint says what to do about an error; "" if nothing is known, or if the hint
// needs a name that f does not have.
func hint(a *app, e *client.Error, f *failure) string {
	if f == nil {
		f = new(failure)
	}
	h, ok := hintsOf[e.Op][e.Kind]
	switch {
	case f.hint != "":
		h = f.hint
	case !ok && e.Kind == client.NotRunning:
		return startHint(a)
	case e.Kind == client.AccessDenied && errors.Is(e, fs.ErrPermission): // it was not the service that refused
		return unreachable
	case e.Kind == client.InvalidName && f.resource == "" && strings.Index(f.lockspace, "/") > 0:
		space, _, _ := strings.Cut(f.lockspace, "/")
		h = "this is about a whole lockspace; did you mean " + shellWord(space) + "?"
	case !ok:
		h = hints[e.Kind]
	}
	if f.resource == "" && strings.Contains(h, "%R") || f.lockspace == "" && strings.Contains(h, "%L") {
		return ""
	}
	return strings.NewReplacer("%L", shellWord(f.lockspace), "%R", shellWord(f.resource)).Replace(h)
}

// socket returns the path of the Varlink socket that the command line names, or else the environment
// variable; "": neither does.
func socket(a *app) (path string, environment bool) {
	named := os.Getenv(client.AddressVariable)
	if a.bus == "" && a.varlink == "" && strings.HasPrefix(named, "/") {
		return named, true
	}
	return a.varlink, false
}

// startHint says what to do where no service answers. systemd starts none at a socket that somebody has
// chosen.
func startHint(a *app) string {
	switch path, environment := socket(a); {
	case path == "" || path == client.VarlinkSocket:
		return `start it with "systemctl start dlmlockd"; "journalctl -u dlmlockd" says why it ended`
	case environment:
		return client.AddressVariable + ` names this socket: start a service there with "dlmlockd --varlink=` +
			shellWord(path) + `", or unset the variable to use the node's own`
	default:
		return `start a service there with "dlmlockd --varlink=` + shellWord(path) +
			`", or leave out the path to use the node's own`
	}
}

// lookTime limits how long a refused command looks for the holder of the lock.
const lookTime = 5 * time.Second

// aboutWants adds to the error of an acquire or a conversion which lock it is about, and who holds
// that one. converting is as for inTheWay.
func aboutWants(ctx context.Context, c *client.Client, err error, want []client.Want, converting *client.Selector,
	wait time.Duration) error {
	if err == nil {
		return nil
	}
	f := &failure{err: err, waited: wait != 0}
	if len(want) == 1 {
		f.lockspace, f.resource, f.mode = want[0].Lockspace, want[0].Resource, dlm.Canonical(want[0].Mode)
	} else if all := want[0].Lockspace; sameLockspace(want) {
		f.lockspace = all
	}
	if kind := kindOf(err); kind == client.WouldBlock || kind == client.Timeout {
		// The call may have used up the time that the context has.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTime)
		defer cancel()
		if w, who := inTheWay(ctx, c, want, converting); who != "" {
			f.lockspace, f.resource, f.mode, f.holder = w.Lockspace, w.Resource, dlm.Canonical(w.Mode), who
		}
	}
	return f
}

func sameLockspace(want []client.Want) bool {
	for _, w := range want {
		if w.Lockspace != want[0].Lockspace {
			return false
		}
	}
	return true
}
