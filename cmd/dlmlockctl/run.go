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
	"github.com/spf13/pflag"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
)

// runOptions are the settings of one run.
type runOptions struct {
	want     []client.Want
	label    string // "": the command line, shortened
	wait     waitFlag
	conflict int      // exit code if somebody else holds the lock
	onLost   string   // what to do if the lock is lost or somebody else releases it
	grace    waitFlag // between SIGTERM and SIGKILL; negative: no SIGKILL
	once     waitFlag // the command does not run if it began within that time on any node; 0: it does
	argv     []string // the command; for -c the shell with it
}

// What run can do if the lock is gone while the command runs.
const (
	lostTerm = "term" // SIGTERM to everything that the command has started, then SIGKILL
	lostKill = "kill" // SIGKILL at once
	lostWarn = "warn" // only write a message
)

// defaultGrace is how long after SIGTERM the processes that are still alive get
// SIGKILL. Somebody else may hold the lock by then.
const defaultGrace = 10 * time.Second

func (a *app) runCmd() *cobra.Command {
	o := runOptions{grace: waitFlag{defaultGrace}}
	var r runFlags
	cmd := &cobra.Command{
		Use:        "run [OPTION]... LOCKSPACE/RESOURCE [OPTION]... [--] {COMMAND [ARGUMENT]... | -c LINE}",
		Short:      "Run a command under a lock: flock(1) for the cluster",
		SuggestFor: []string{"flock", "exec", "with"},
		Long: `Runs a command under a lock. The lock is taken before the command starts, and
released when it has ended, however it ends, even if this program is killed. The
exit code is the command's, or 128+n if signal n ended it. SIGHUP, SIGINT,
SIGTERM, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to the command, which
inherits all open files.

Without --wait it fails at once, with exit code 75, if somebody else holds the
lock. In place of LOCKSPACE/RESOURCE, --lockspace=LOCKSPACE and --resource=RESOURCE
say which lock is meant; --resource can be repeated to take several.

If the lock is lost, or somebody else releases it, everything that the command
has started is terminated, and the exit code is 76.

The command finds DLMLOCK_LOCKSPACE, DLMLOCK_RESOURCE, DLMLOCK_MODE and
DLMLOCK_TOKEN, the fencing token, of the first lock in its environment, and all
locks as JSON in DLMLOCK_LOCKS.`,
		Example: `  dlmlockctl run --wait=60s vms/backup -- rsync -a /srv /mnt/backup
  dlmlockctl run -s vms/disk1 -c 'cp /dev/vg/disk1 /backup/disk1'
  dlmlockctl run -E 0 cron/cleanup -- /usr/local/bin/cleanup   # on one node at a time`,
		ValidArgsFunction: r.complete(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := r.parse(cmd, args, &o); err != nil {
				return err
			}
			return a.run(cmd.Context(), o)
		},
	}
	r.add(cmd.Flags(), &o)
	o.add(cmd.Flags())
	a.completeFlag(cmd, "lockspace", lockspaces)
	a.completeFlag(cmd, "resource", func(a *app, _ []string) []string { return resources(a, []string{r.space}) })
	a.completeFlag(cmd, "mode", modes)
	a.completeFlag(cmd, "on-lost", fixed(lostTerm, lostKill, lostWarn))
	return cmd
}

// add adds the flags that say what becomes of the command. What is locked, and how, is
// added by runFlags.
func (o *runOptions) add(f *pflag.FlagSet) {
	f.StringVar(&o.label, "label", "", "a text for people: what the lock is for (default: the command)")
	f.IntVarP(&o.conflict, "conflict-exit-code", "E", exitRefused, "the exit code if somebody else holds the lock")
	f.Var(&o.once, "once-per", "do not run the command if it began less than this time ago, on any node;\n"+
		"for a nightly job 12h")
	f.Lookup("once-per").DefValue = ""
	f.StringVar(&o.onLost, "on-lost", lostTerm, "what to do if the lock is lost or somebody else releases it:\n"+
		"term or kill everything that the command has started, or only warn")
	f.VarP(&o.grace, "kill-after", "k",
		"with --on-lost=term: when to send SIGKILL after SIGTERM, or \"forever\" for never")
}

// check refuses options that contradict each other, before anything is started. --once-per is about a
// job that runs alone, hence EX, and keeps what it knows of the last run beside that one lock (once.go).
func (o *runOptions) check() error {
	switch {
	case o.onLost != lostTerm && o.onLost != lostKill && o.onLost != lostWarn:
		return wrongUsage("--on-lost=%s: use term, kill or warn", o.onLost)
	case o.once.d < 0:
		return wrongUsage("--once-per=forever: use a time")
	case o.once.d > 0 && len(o.want) > 1:
		return wrongUsage("--once-per takes one resource")
	case o.once.d > 0 && dlm.Canonical(o.want[0].Mode) != "EX":
		return wrongUsage("--once-per needs mode EX")
	case o.conflict < 0 || o.conflict > 255:
		return wrongUsage("--conflict-exit-code=%d: use 0 to 255", o.conflict)
	}
	return nil
}

// run holds the lock while the command runs. The order makes the lock last exactly
// as long as the command:
//
//  1. The child is started, and waits (shim.go). It has its final pid.
//  2. The lock is taken with the lifetime of that process. From now on it ends
//     with the child, even if this program is killed.
//  3. The child becomes the command.
//  4. The command ends. The lock is released before this program ends, so that the
//     next caller finds it free.
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
	held, err := a.holdFor(ctx, c, ch, o)
	if err != nil {
		ch.giveUp()
		if s, ok := ch.killed(); ok {
			// Ctrl-C ended the child first, and the service noticed that.
			return interrupted{sig: s}
		}
		return o.refused(a, aboutWants(ctx, c, err, o.want, nil, o.wait.d))
	}
	defer a.release(held)
	if o.once.d != 0 {
		if err := a.beginPeriod(ctx, c, held, o.once.d); err != nil {
			ch.giveUp()
			return o.tooEarly(a, err)
		}
	}
	return (&hold{a: a, child: ch, opts: o, held: held, lifetime: held.Lifetime()}).supervise(ctx)
}

// tooEarly is how run ends whose command has run within the period: like a job that
// another node has done.
func (o *runOptions) tooEarly(a *app, err error) error {
	if !errors.Is(err, errTooEarly) {
		return err
	}
	o.notRun(a, err)
	return quietExit(exitOK)
}

// notRun says why the command of --once-per does not run although that is no error.
func (o *runOptions) notRun(a *app, err error) {
	if !a.quiet {
		fmt.Fprintf(a.err, "dlmlockctl: not run: %v\n", err)
	}
}

// findCommand finds the program as execvp(3) does. It is called before a lock is
// taken.
func findCommand(name string) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil, errors.Is(err, exec.ErrDot):
		return path, nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return "", exitWith(exitNoCommand, fmt.Errorf("%s: command not found", shellWord(name)))
	}
	return "", exitWith(exitNoExec, fmt.Errorf("%s: %w", name, errors.Unwrap(err)))
}

// refused gives a lock that somebody else holds the exit code that the caller
// chose. With 0 it is no error. A job of --once-per prints why it did not run, as it does when
// another node has run it already.
func (o *runOptions) refused(a *app, err error) error {
	kind := kindOf(err)
	if kind != client.WouldBlock && kind != client.Timeout && kind != client.Deadlock {
		return err
	}
	if o.conflict == 0 {
		if o.once.d != 0 {
			o.notRun(a, err)
		}
		return quietExit(0)
	}
	var f *failure
	if errors.As(err, &f) {
		f.code = o.conflict
	}
	return err
}

// hold is the locks of run, and the command that they are held for.
type hold struct {
	a        *app
	child    *child
	opts     runOptions
	held     *client.Held
	lifetime string // what ends the locks if this program does not release them
}

// holdFor takes the locks for a child that waits to become the command.
func (a *app) holdFor(ctx context.Context, c *client.Client, ch *child, o runOptions) (*client.Held, error) {
	if o.label == "" {
		o.label = shorten(strings.Join(o.argv, " "))
	}
	// Nobody else has this owner. So the call can be made again if its answer is lost, and the
	// release can't release somebody else's lock.
	return a.takeAndWatch(ctx, c, o.want, client.Options{Owner: "dlmlockctl-run-" + rand.Text(), Label: o.label,
		PID: ch.pid(), Wait: o.wait.d})
}

// takeAndWatch takes locks whose owner nobody else has, shows meanwhile what is waited
// for, and says what becomes of the connection. A service that does not answer in time
// is an error, as of every command.
func (a *app) takeAndWatch(ctx context.Context, c *client.Client, want []client.Want,
	o client.Options) (*client.Held, error) {
	o.OwnerUnique = true
	if !a.quiet {
		c.Notify(func(text string) { fmt.Fprintf(a.err, "dlmlockctl: %s\n", text) })
	}
	// The locks outlive what limits the call.
	calling, end := context.WithCancelCause(ctx)
	defer end(nil)
	if o.Wait >= 0 {
		defer time.AfterFunc(o.Wait+a.patience(), func() { end(context.DeadlineExceeded) }).Stop()
	}
	defer a.progress(ctx, want, nil, o.Wait)()
	held, err := c.Hold(calling, want, o)
	if err != nil && errors.Is(context.Cause(calling), context.DeadlineExceeded) {
		err = &client.Error{Op: "Acquire", Kind: client.NoAnswer, Message: "the service did not answer in time", Err: err}
	}
	return held, err
}

// shorten makes a label of a command line.
func shorten(s string) string {
	const most = 200 // bytes; the service takes more, but a person does not read it in a list
	if len(s) > most {
		s = s[:most-3] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
