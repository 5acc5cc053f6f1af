package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/internal/buildinfo"
)

// How long the service may take to answer, beside what a wait asks for.
const (
	defaultTimeout = time.Minute
	// A person may have to find and type a password.
	interactiveTimeout = 3 * time.Minute
)

// app is one run of the program.
type app struct {
	in  io.Reader
	out *output
	err io.Writer

	bus     string
	json    bool
	quiet   bool
	timeout time.Duration

	started bool // the command line was understood
	// What has been done, and how to undo it, in case that it can't be told.
	done, undo string
}

// Main runs the program and returns its exit code. SIGINT, SIGTERM and SIGHUP
// end every command in order, run's by ending what it runs.
func Main(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	// A reader of the output that has gone must not end the program half-way: a
	// lock may have been taken that nobody would hear of, or one may be lost.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	a := &app{in: in, out: &output{to: out}, err: errs}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(a.out)
	root.SetErr(errs)
	ctx, done := signalContext(ctx)
	defer done()
	err := root.ExecuteContext(ctx)
	a.out.close()
	var s interrupted
	switch {
	case a.out.err != nil && (err == nil || errors.Is(err, a.out.err)):
		return a.unwritten()
	case err == nil:
		return exitOK
	case errors.As(context.Cause(ctx), &s) && errors.Is(err, context.Canceled):
		return a.fail(s.by(err))
	case !a.started:
		err = badCommandLine(err)
	}
	return a.fail(err)
}

// unwritten ends the program whose output could not be written. Where nothing
// was to be done a reader that has gone ends it without a word, as other tools.
func (a *app) unwritten() int {
	if a.done == "" && errors.Is(a.out.err, syscall.EPIPE) {
		signal.Reset(syscall.SIGPIPE)
		_ = syscall.Kill(os.Getpid(), syscall.SIGPIPE)
		return exitSignal + int(syscall.SIGPIPE)
	}
	return a.fail(&outputError{a.out.err, a.done, a.undo})
}

// heeded are those of the signals that the caller has not had ignored, as
// nohup(1) does with SIGHUP: to ask for one is to heed it again, here and in
// the command.
func heeded(signals ...os.Signal) []os.Signal {
	return slices.DeleteFunc(signals, signal.Ignored)
}

// signalContext ends with the first signal, which is its cause.
func signalContext(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, heeded(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)...)
	go func() {
		select {
		case s := <-ch:
			signal.Stop(ch) // the second one ends the program at once
			cancel(interrupted{sig: s.(syscall.Signal)})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		cancel(nil)
	}
}

// root makes the tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "dlmlockctl",
		Short: "Take and look at cluster-wide locks",
		Long: `dlmlockctl takes, shows and releases cluster-wide locks of dlmlockd(8).

A lock is on a RESOURCE, any name of up to 64 bytes, in a LOCKSPACE that this
node has joined. Its MODE is NL, CR, CW, PR (or "shared"), PW or EX (or
"exclusive"). Locks stay until they are released: they survive this program,
the service and its restart, but not the node.`,
		Version:       buildinfo.Read(version, commit, date).String(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return &usageError{"no command given"}
		},
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	f := root.PersistentFlags()
	f.StringVar(&a.bus, "bus", "", "D-Bus `ADDRESS` (default: the system bus)")
	f.BoolVar(&a.json, "json", false, "write JSON, errors too")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "say nothing but errors")
	f.Var(&timeoutFlag{&a.timeout}, "timeout", "how long the service may take to answer, beside --wait: 90s, 5m, seconds\n"+
		"(default: 1m, or 3m where a password may be asked for)")
	f.Lookup("timeout").DefValue = ""
	root.AddGroup(&cobra.Group{ID: "locks", Title: "Locks:"}, &cobra.Group{ID: "look", Title: "Looking:"},
		&cobra.Group{ID: "spaces", Title: "Lockspaces:"})
	for group, cmds := range map[string][]*cobra.Command{
		"locks":  {a.acquireCmd(), a.releaseCmd(), a.releaseOwnerCmd(), a.convertCmd(), a.runCmd()},
		"look":   {a.inspectCmd(), a.listCmd(), a.statusCmd(), a.monitorCmd()},
		"spaces": {a.lockspacesCmd(), a.joinCmd(), a.leaveCmd(), a.orphansCmd(), a.adoptCmd(), a.purgeCmd()},
	} {
		for _, c := range cmds {
			c.GroupID = group
			c.DisableFlagsInUseLine = true
			run := c.RunE
			c.RunE = func(cmd *cobra.Command, args []string) error {
				a.started = true
				return run(cmd, args)
			}
			root.AddCommand(c)
		}
	}
	refuseUnknownHelp(root)
	return root
}

// refuseUnknownHelp has "help" refuse a command that is not there: by itself
// it tells about the program as a whole.
func refuseUnknownHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		if c.Name() != "help" {
			continue
		}
		c.Args = func(_ *cobra.Command, args []string) error {
			if found, _, err := root.Find(args); len(args) > 0 && (err != nil || found == root) {
				return fmt.Errorf("unknown command %q", args[0])
			}
			return nil
		}
	}
}

// connect connects to the bus. The caller closes the client.
func (a *app) connect(ctx context.Context) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, a.patience())
	defer cancel()
	c, err := client.Dial(ctx, a.bus)
	if err != nil {
		return nil, err
	}
	c.AllowInteraction(a.interactive())
	return c, nil
}

// interactive reports whether somebody is there who could be asked for a
// password.
func (a *app) interactive() bool { return isTerminal(a.in) }

func (a *app) patience() time.Duration {
	switch {
	case a.timeout > 0:
		return a.timeout
	case a.interactive():
		return interactiveTimeout
	}
	return defaultTimeout
}

// bound bounds a call that may queue for wait; negative means for ever.
func (a *app) bound(ctx context.Context, wait time.Duration) (context.Context, context.CancelFunc) {
	if wait < 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, wait+a.patience())
}

// with connects, does one thing and leaves the bus.
func (a *app) with(ctx context.Context, wait time.Duration, do func(context.Context, *client.Client) error) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := a.bound(ctx, wait)
	defer cancel()
	return do(ctx, c)
}
