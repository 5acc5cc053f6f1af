package main

import (
	"context"
	"errors"
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

// How long the service may take to answer, in addition to a wait that was asked
// for.
const (
	defaultTimeout = time.Minute
	// Somebody may have to find and type a password.
	interactiveTimeout = 3 * time.Minute
)

// app is one run of the program.
type app struct {
	in io.Reader // standard input; a terminal means that somebody can be asked
	printer

	bus     string        // an address; "": the system bus, or what the environment says
	varlink string        // the path of a socket; "": D-Bus, or what the environment says
	timeout time.Duration // --timeout; 0: patience decides
	started bool          // the command line was parsed, so an error is not about its form
	args    []string      // the command line, as it was typed
}

// printer writes what a command has to say, to people or to programs, as the flags ask for it.
type printer struct {
	out *output
	err io.Writer // for people, also with --json, except for the error that ends the program

	json  bool
	wide  bool // --output=wide
	quiet bool

	// What has been done, and how to undo it, for an error message if the output
	// can't be written.
	done, undo string
}

// Main runs the program and returns its exit code. SIGINT, SIGTERM and SIGHUP
// end every command in an orderly way; run passes them on to its command.
func Main(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	// SIGPIPE must not end the program between taking a lock and reporting it.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	a := &app{in: in, printer: printer{out: &output{to: out}, err: errs}}
	root := a.root()
	a.args = args
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(a.out)
	root.SetErr(errs)
	replaceCompletion(root) // which keeps the output that is set by now
	ctx, done := signalContext(ctx)
	defer done()
	cmd, err := root.ExecuteContextC(ctx)
	a.out.close()
	var s interrupted
	switch {
	case a.out.err != nil && (err == nil || errors.Is(err, a.out.err)):
		return a.unwritten()
	case err == nil:
		return exitOK
	case errors.As(context.Cause(ctx), &s) && errors.Is(err, context.Canceled):
		err = s.by(err)
	case !a.started:
		err = badCommandLine(cmd, err)
	}
	return a.fail(cmd, err)
}

// unwritten ends the program when its output could not be written. A command
// that only shows something ends silently by SIGPIPE when its reader has gone,
// as other programs do.
func (a *app) unwritten() int {
	if a.done == "" && errors.Is(a.out.err, syscall.EPIPE) {
		signal.Reset(syscall.SIGPIPE)
		_ = syscall.Kill(os.Getpid(), syscall.SIGPIPE)
		return exitSignal + int(syscall.SIGPIPE)
	}
	return a.fail(nil, &outputError{a.out.err, a.done, a.undo})
}

// heeded returns the signals that this program was not started to ignore, as
// nohup(1) does with SIGHUP. Notify would end the ignoring, here and in the
// command that run starts.
func heeded(signals ...os.Signal) []os.Signal {
	return slices.DeleteFunc(signals, signal.Ignored)
}

// signalContext returns a context that the first signal cancels. The signal is
// its cause.
func signalContext(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	// The context withdraws what waits and lets deferred functions release what was taken.
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, heeded(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)...)
	go func() {
		select {
		case s := <-ch:
			signal.Stop(ch) // a second signal ends the program at once
			cancel(interrupted{sig: s.(syscall.Signal)})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		cancel(nil)
	}
}

// root builds the tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "dlmlockctl COMMAND ...",
		Short: "Take and look at cluster-wide locks",
		Long: `dlmlockctl takes, shows and releases cluster-wide locks of dlmlockd(8).

A lock is on a RESOURCE, any name of up to 64 bytes, in a LOCKSPACE that this
node has joined. Its MODE is NL, CR, CW, PR (or "shared"), PW or EX (or
"exclusive"). A lock of acquire stays until it is released: it survives this program
and a restart of the service, but not the end of the node. A lock of run or hold ends
with that program.

The environment variable DLMLOCK_ADDRESS says how to reach the service if neither
--bus nor --varlink does: the path of a Varlink socket, which begins with "/", or a
D-Bus address.`,
		Version:       buildinfo.Read(version, commit, date).String(),
		SilenceErrors: true,
		SilenceUsage:  true,

		DisableFlagsInUseLine: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error { return wrongUsage("no command given") },
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	addFlags(a, root)
	a.addCommands(root)
	replaceHelp(root)
	showFlags(root)
	return root
}

// addFlags adds the options that every command has.
func addFlags(a *app, root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&a.bus, "bus", "", "D-Bus `ADDRESS` (default: the system bus)")
	f.StringVar(&a.varlink, "varlink", "", "use Varlink, over the socket at `PATH` (default: "+client.VarlinkSocket+")")
	f.Lookup("varlink").NoOptDefVal = client.VarlinkSocket
	f.BoolVar(&a.json, "json", false, "the same as --output=json: write JSON, and errors as JSON")
	f.VarP(formatFlag{a}, "output", "o", "table (the default), wide or json")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "write nothing but errors")
	f.Var(&timeoutFlag{&a.timeout}, "timeout", "how long the service may take to answer, in addition to --wait:\n"+
		"90s, 5m, seconds (default: 1m, or 3m on a terminal, where polkit may ask for a password)")
	f.Lookup("timeout").DefValue = ""
	a.completeFlag(root, "output", fixed(formatTable, formatWide, formatJSON))
}

// addCommands adds the commands in their groups. Each notes when it starts.
func (a *app) addCommands(root *cobra.Command) {
	root.AddGroup(&cobra.Group{ID: "locks", Title: "Locks:"}, &cobra.Group{ID: "look", Title: "Looking:"},
		&cobra.Group{ID: "spaces", Title: "Lockspaces:"})
	for group, cmds := range map[string][]*cobra.Command{
		"locks": {inOneWord(a.acquireCmd(), 3), inOneWord(a.releaseCmd(), 0), a.releaseOwnerCmd(),
			inOneWord(a.convertCmd(), 0), a.runCmd(), a.holdCmd()},
		"look": {inOneWord(a.inspectCmd(), 0), inOneWord(a.listCmd(), 0), inOneWord(a.waitsCmd(), 0),
			inOneWord(a.treeCmd(), 0), inOneWord(a.monitorCmd(), 0), inOneWord(a.historyCmd(), 0), a.statusCmd(),
			a.doctorCmd()},
		"spaces": {a.lockspacesCmd(), a.joinCmd(), a.leaveCmd(), a.orphansCmd(), a.adoptCmd(), a.purgeCmd()},
	} {
		for _, c := range cmds {
			c.GroupID = group
			c.DisableFlagsInUseLine = true
			run, check := c.RunE, c.Args
			c.Args = func(cmd *cobra.Command, args []string) error {
				if err := pathApart(cmd, a.args, args); err != nil {
					return err
				}
				if err := selected(cmd); err != nil || check == nil {
					return err
				}
				return check(cmd, args)
			}
			c.RunE = func(cmd *cobra.Command, args []string) error {
				a.started = true
				return run(cmd, args)
			}
			root.AddCommand(c)
		}
	}
}

// replaceHelp makes "help" refuse an unknown command. Cobra's own shows the help
// of the program instead.
func replaceHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		if c.Name() != "help" {
			continue
		}
		c.Args = func(_ *cobra.Command, args []string) error {
			if found, _, err := root.Find(args); len(args) > 0 && (err != nil || found == root) {
				return unknownCommand(root, args[0])
			}
			return nil
		}
	}
}

// replaceCompletion makes "completion" refuse anything but the name of a shell. Cobra's own shows its help
// instead, which whoever writes the output to a file does not see.
func replaceCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		c.Use, c.DisableFlagsInUseLine = "completion {bash | zsh | fish | powershell}", true
		c.Args = func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return wrongUsage("SHELL missing")
			}
			return wrongUsage("%q is not one of bash, zsh, fish, powershell", args[0])
		}
		c.RunE = func(*cobra.Command, []string) error { return nil } // else Args are not looked at
	}
}

// dial connects to the service as the command line and the environment say.
func (a *app) dial(ctx context.Context) (*client.Client, error) {
	if a.bus != "" && a.varlink != "" {
		return nil, wrongUsage("--bus and --varlink contradict each other")
	}
	c, err := client.Open(ctx, client.Config{Bus: a.bus, Varlink: a.varlink})
	if named := os.Getenv(client.AddressVariable); err != nil && named != "" && a.bus == "" && a.varlink == "" {
		return nil, inEnvironment(named, err)
	}
	return c, err
}

// inEnvironment says that an address that can't be used comes from the environment.
func inEnvironment(address string, err error) error {
	var e *client.Error
	if !errors.As(err, &e) || e.Kind != client.NoBus {
		return err
	}
	named := *e
	named.Message = client.AddressVariable + "=" + address + ": " + e.Message
	return &failure{err: &named, hint: client.AddressVariable +
		` is the path of a Varlink socket, which begins with "/", or a D-Bus address`}
}

// connect connects to the service. The caller closes the client.
func (a *app) connect(ctx context.Context) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, a.patience())
	defer cancel()
	c, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	c.AllowInteraction(a.interactive())
	return c, nil
}

// interactive reports whether there is somebody who can be asked for a password.
func (a *app) interactive() bool { return isTerminal(a.in) }

// patience is how long the service may take to answer one call.
func (a *app) patience() time.Duration {
	switch {
	case a.timeout > 0:
		return a.timeout
	case a.interactive():
		return interactiveTimeout
	}
	return defaultTimeout
}

// bound limits a call that may wait in a queue; a negative wait has no limit. The service bounds the
// wait itself, so this only ends a call to a service that does not answer at all.
func (a *app) bound(ctx context.Context, wait time.Duration) (context.Context, context.CancelFunc) {
	if wait < 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, wait+a.patience())
}

// with connects to the service, calls do, and disconnects.
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
