package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/client"
)

// runOptions is what run was told.
type runOptions struct {
	want     []client.Want
	label    string
	wait     waitFlag
	conflict int    // exit code when somebody else holds the lock
	onLost   string // what to do when the lock is lost
	argv     []string
}

// What run can do when the lock is lost while the command runs.
const (
	lostTerm = "term" // SIGTERM to the command
	lostKill = "kill" // SIGKILL
	lostWarn = "warn" // say so
)

func (a *app) runCmd() *cobra.Command {
	var o runOptions
	var space, mode string
	var names []string
	cmd := &cobra.Command{
		Use:   "run -l LOCKSPACE -r RESOURCE [-r RESOURCE]... [-m MODE] [--wait=TIME] [--] COMMAND [ARGUMENT]...",
		Short: "Run a command under a lock: flock(1) for the cluster",
		Long: `Runs a command under a lock, which lives exactly as long as the command: it is
taken before the command starts and released when it has ended, however it ends,
and also when this program is killed. The exit code is the command's, or 128+n
if signal n ended it. SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGUSR1 and SIGUSR2 are
passed on to the command.

The command finds DLMLOCK_LOCKSPACE, DLMLOCK_RESOURCE, DLMLOCK_MODE and
DLMLOCK_TOKEN, the fencing token, in its environment (of the first lock if there
are several).`,
		Example: `  dlmlockctl run -l vms -r backup --wait=60s -- rsync -a /srv /mnt/backup
  dlmlockctl run -l cron -r nightly -E 0 -- /usr/local/bin/nightly   # one node does it`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeCommand,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, r := range names {
				o.want = append(o.want, client.Want{Lockspace: space, Resource: r, Mode: mode})
			}
			o.argv = args
			return a.run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what comes after the command is the command's
	f.StringVarP(&space, "lockspace", "l", "", "the lockspace (required)")
	f.StringArrayVarP(&names, "resource", "r", nil, "the resource; more than one are taken together or not at all (required)")
	f.StringVarP(&mode, "mode", "m", "EX", "the mode")
	f.StringVar(&o.label, "label", "", "what a person should read about it (default: the command)")
	f.VarP(&o.wait, "wait", "w", "how long to queue: 90s, 5m, seconds, or \"forever\" (default: not at all)")
	f.IntVarP(&o.conflict, "conflict-exit-code", "E", exitRefused, "the exit code when somebody else holds the lock")
	f.StringVar(&o.onLost, "on-lost", lostTerm, "when the lock is lost: term or kill the command, or only warn")
	for _, name := range []string{"lockspace", "resource"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // there is no such flag
		}
	}
	a.completeFlag(cmd, "lockspace", lockspaces)
	a.completeFlag(cmd, "resource", func(a *app, _ []string) []string { return resources(a, []string{space}) })
	a.completeFlag(cmd, "mode", modes)
	a.completeFlag(cmd, "on-lost", fixed(lostTerm, lostKill, lostWarn))
	return cmd
}

// completeCommand leaves the command and its arguments to the shell.
func completeCommand(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

func (o *runOptions) check() error {
	switch {
	case o.onLost != lostTerm && o.onLost != lostKill && o.onLost != lostWarn:
		return &usageError{fmt.Sprintf("--on-lost=%s: use term, kill or warn", o.onLost)}
	case o.conflict < 0 || o.conflict > 255:
		return &usageError{fmt.Sprintf("--conflict-exit-code=%d: use 0 to 255", o.conflict)}
	}
	return nil
}

// run holds the lock while the command runs. The order is what makes the lock
// live as long as the command:
//
//  1. The child is started, but waits (shim.go). It has its pid already.
//  2. The lock is taken with that process's lifetime. From here on it ends when
//     the child ends, even if nobody is left to release it.
//  3. The child becomes the command.
//  4. It ends; the lock is released, and only then does this program end, so
//     that whoever comes next finds it free.
func (a *app) run(ctx context.Context, o runOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	path, err := findCommand(o.argv[0])
	if err != nil {
		return err
	}
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	ch, err := startChild(path, o.argv)
	if err != nil {
		return exitWith(exitNoExec, err)
	}
	h, err := a.holdFor(ctx, c, ch, o)
	if err != nil {
		ch.giveUp()
		if s, ok := ch.killed(); ok {
			// Ctrl-C ended the child first, and the service saw that.
			return interrupted{s}
		}
		return o.refused(err)
	}
	defer h.letGo()
	return h.supervise(ctx)
}

// findCommand finds the program as execvp(3) does, before any lock is taken.
func findCommand(name string) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil, errors.Is(err, exec.ErrDot):
		return path, nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return "", exitWith(exitNoCommand, fmt.Errorf("%s: command not found", name))
	}
	return "", exitWith(exitNoExec, fmt.Errorf("%s: %w", name, errors.Unwrap(err)))
}

// refused gives the exit code that the caller chose to a lock that somebody
// else holds.
func (o *runOptions) refused(err error) error {
	err = about(err, o.want[0].Lockspace, o.want[0].Resource)
	var e *client.Error
	if errors.As(err, &e) && (e.Kind == client.WouldBlock || e.Kind == client.Timeout || e.Kind == client.Deadlock) {
		err.(*failure).code = o.conflict
		if o.conflict == 0 {
			return quietExit(0) // "somebody else does it" was meant as success
		}
	}
	return err
}

// hold is a lock and the command that it lives for.
type hold struct {
	a        *app
	c        *client.Client
	child    *child
	opts     runOptions
	owner    string // of these locks alone
	lifetime string // what ends them if we don't
	grants   []client.Grant
	events   <-chan client.Event
}

// ownerPrefix begins the owners of run.
const ownerPrefix = "dlmlockctl-run-"

// holdFor takes the locks for a child that waits.
func (a *app) holdFor(ctx context.Context, c *client.Client, ch *child, o runOptions) (*hold, error) {
	h := &hold{a: a, c: c, child: ch, opts: o, owner: ownerPrefix + rand.Text()}
	var err error
	// It is stopped by Close: the context of a signal must not end it.
	if h.events, err = c.Watch(context.WithoutCancel(ctx)); err != nil {
		return nil, err
	}
	if o.label == "" {
		o.label = shorten(strings.Join(o.argv, " "))
	}
	ctx, cancel := a.bound(ctx, o.wait.d)
	defer cancel()
	defer a.progress(ctx, o.want, o.wait.d)()
	// The best that the service has: one that is older knows fewer lifetimes.
	for _, h.lifetime = range []string{client.Process, client.Connection, client.Persistent} {
		opts := client.Options{Owner: h.owner, Label: o.label, Lifetime: h.lifetime, Wait: o.wait.d}
		if h.lifetime == client.Process {
			opts.PID = ch.pid()
		}
		h.grants, err = take(ctx, c, o.want, opts)
		if !errors.Is(err, client.NotSupported) && !errors.Is(err, client.InvalidArgs) {
			break
		}
	}
	var e *client.Error
	if errors.As(err, &e) && (e.Kind == client.NoAnswer || e.Kind == client.Canceled) {
		h.letGo() // it may have been granted after all
	}
	return h, err
}

// shorten makes a command line a label.
func shorten(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most-3] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

// environment is what the command learns of its lock.
func (h *hold) environment() []string {
	g := h.grants[0]
	return []string{
		"DLMLOCK_LOCKSPACE=" + g.Lockspace,
		"DLMLOCK_RESOURCE=" + g.Resource,
		"DLMLOCK_MODE=" + g.Mode,
		"DLMLOCK_TOKEN=" + strconv.FormatUint(g.Token, 10),
	}
}

// supervise lets the child become the command, and waits for its end.
func (h *hold) supervise(ctx context.Context) error {
	signals, stop := h.child.catchSignals()
	defer stop()
	if err := context.Cause(ctx); err != nil { // a signal came in between
		h.child.giveUp()
		return err
	}
	if err := h.child.becomeCommand(h.environment()); err != nil {
		h.child.giveUp()
		return exitWith(exitNoExec, err)
	}
	lost := ""
	for {
		select {
		case <-h.child.done:
			if lost != "" && h.opts.onLost != lostWarn {
				return exitWith(exitLost, errors.New("the command was ended because the lock was lost: "+lost))
			}
			return h.child.outcome()
		case s := <-signals:
			h.child.pass(s)
		case e, ok := <-h.events:
			why := ""
			if ok {
				why = h.lostBy(e)
			} else {
				h.events = nil
				why = h.lostWithBus()
			}
			if why != "" && lost == "" {
				lost = why
				h.onLost(why)
			}
		}
	}
}

// lostBy reports why an event means that the lock is lost; "" if it does not.
func (h *hold) lostBy(e client.Event) string {
	switch e.Kind {
	case client.LockLost:
		for _, g := range h.grants {
			if g.Lock == e.Lock {
				return e.Reason
			}
		}
	case client.ServiceStarted:
		// Who may not see LockLost finds out here at the latest.
		return h.missing()
	}
	return ""
}

// missing asks a service that has come back whether it still has the locks.
func (h *hold) missing() string {
	ctx, cancel := h.a.bound(context.Background(), 0)
	defer cancel()
	locks, err := h.c.Locks(ctx, client.Filter{Owner: h.owner})
	if err != nil || len(locks) >= len(h.grants) {
		return ""
	}
	return "the service came back without it"
}

// lostWithBus: without the bus nobody would tell. A lock that hangs on the
// process or on nothing stays.
func (h *hold) lostWithBus() string {
	if h.lifetime == client.Connection {
		return "the connection to the message bus is gone, and the lock hung on it"
	}
	if !h.a.quiet {
		fmt.Fprintln(h.a.err, "dlmlockctl: the connection to the message bus is gone; the lock is held, but its loss would go unseen")
	}
	return ""
}

func (h *hold) onLost(why string) {
	fmt.Fprintf(h.a.err, "dlmlockctl: the lock is lost: %s\n", visible(why))
	switch h.opts.onLost {
	case lostTerm:
		h.child.terminate()
	case lostKill:
		h.child.kill()
	}
}

// releaseTime bounds the release at the end.
const releaseTime = 30 * time.Second

// letGo releases the locks, trying again while the service restarts. With the
// lifetime process the service does it by itself in the end.
func (h *hold) letGo() {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	h.c.AllowInteraction(false) // one's own lock needs nobody's leave
	err := client.Patiently(ctx, func() error {
		_, err := h.c.ReleaseOwner(ctx, "", h.owner)
		return err
	})
	if err != nil && h.lifetime == client.Persistent {
		fmt.Fprintf(h.a.err, "dlmlockctl: the lock could not be released: %s\ndlmlockctl: hint: dlmlockctl release-owner %s\n",
			visible(err.Error()), h.owner)
	}
}
