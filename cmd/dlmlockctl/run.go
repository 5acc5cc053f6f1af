package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
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
	onLost   string // what to do when the lock is lost or released by somebody else
	grace    waitFlag
	argv     []string
}

// What run can do when the lock is gone while the command runs.
const (
	lostTerm = "term" // SIGTERM to all that the command has started, then SIGKILL
	lostKill = "kill" // SIGKILL at once
	lostWarn = "warn" // say so
)

// defaultGrace is how long after SIGTERM those that still live get SIGKILL.
// Somebody else may hold the lock by then.
const defaultGrace = 10 * time.Second

func (a *app) runCmd() *cobra.Command {
	o := runOptions{grace: waitFlag{defaultGrace}}
	var space, mode string
	var names []string
	cmd := &cobra.Command{
		Use:   "run -l LOCKSPACE -r RESOURCE [-r RESOURCE]... [-m MODE] [--wait=TIME] [--] COMMAND [ARGUMENT]...",
		Short: "Run a command under a lock: flock(1) for the cluster",
		Long: `Runs a command under a lock, which lives exactly as long as the command: it is
taken before the command starts and released when it has ended, however it ends,
and also when this program is killed. The exit code is the command's, or 128+n
if signal n ended it. SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGUSR1 and SIGUSR2 are
passed on to the command. It has every open file of this program.

When the lock is lost, or somebody else releases it, all that the command has
started is ended, and the exit code is 76.

The command finds DLMLOCK_LOCKSPACE, DLMLOCK_RESOURCE, DLMLOCK_MODE and
DLMLOCK_TOKEN, the fencing token, in its environment (of the first lock if there
are several), and all of its locks as JSON in DLMLOCK_LOCKS.`,
		Example: `  dlmlockctl run -l vms -r backup --wait=60s -- rsync -a /srv /mnt/backup
  dlmlockctl run -l cron -r nightly -E 0 -- /usr/local/bin/nightly   # one node does it`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("needs the command to run")
			}
			return nil
		},
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
	f.StringVar(&o.label, "label", "", "text that tells people what the lock is for (default: the command)")
	addWait(f, &o.wait)
	f.IntVarP(&o.conflict, "conflict-exit-code", "E", exitRefused, "the exit code when somebody else holds the lock")
	f.StringVar(&o.onLost, "on-lost", lostTerm, "what to do when the lock is lost or somebody else releases it: term or kill everything that the command has started, or only warn")
	f.VarP(&o.grace, "kill-after", "k", "with --on-lost=term: how long after SIGTERM to send SIGKILL to what still runs, or \"forever\" for never")
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
		if h != nil && maybeGranted(err) {
			h.withdraw(ctx)
		}
		if s, ok := ch.killed(); ok {
			// Ctrl-C ended the child first, and the service saw that.
			return interrupted{sig: s}
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
	return h, err
}

// maybeGranted reports whether the lock may be there in spite of the error.
func maybeGranted(err error) bool {
	return errors.Is(err, client.NoAnswer) || errors.Is(err, client.Canceled)
}

// shorten makes a command line a label.
func shorten(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most-3] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
