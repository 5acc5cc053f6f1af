package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/dlmlock/dlmlockd/config"
)

// The exit codes. 2, 5 and 6 are those of the LSB for services (and of systemd.exec(5)). Starting
// again does not help against them, and the unit says so.
const (
	exitOK       = 0
	exitFailed   = 1 // something went wrong at run time; the log says what
	exitUsage    = 2 // bad command line
	exitNoEngine = 5 // this build does not have the engine
	exitConfig   = 6 // bad configuration file
)

// defaultStateDir is the state directory without --state-dir and $RUNTIME_DIRECTORY.
const defaultStateDir = "/run/dlmlockd"

const usage = `Usage: dlmlockd [OPTION]...

Gives programs cluster-wide locks over D-Bus and Varlink, through the kernel's
Distributed Lock Manager. Runs in the foreground; usually systemd starts it.

  --engine=dlm|local  the lock manager to use (default: dlm).
                      dlm is the kernel's and needs a cluster. local is an
                      embedded one for this machine alone: it locks nothing on
                      any other node. dlmlockd never chooses it by itself.
  --config=FILE       configuration file (default: /etc/dlmlockd.toml, which
                      may be absent)
  --state-dir=DIR     where the locks are recorded (default:
                      $RUNTIME_DIRECTORY or /run/dlmlockd). Use a
                      tmpfs: like the locks, it must not survive a reboot.
  --bus=ADDRESS       D-Bus address (default: the system bus, that is
                      $DBUS_SYSTEM_BUS_ADDRESS or its well-known place).
                      none: use no bus. The service is called over Varlink
                      alone then, and polkit can't be asked.
  --varlink=PATH      serve Varlink at this socket (default: a socket that
                      systemd passes on)
  --virtlockd=PATH    answer at this socket as virtlockd does, for libvirt's own
                      lock driver (default: the key virtlockd.socket, or a
                      socket that systemd passes on)
  --log-level=LEVEL   debug, info, warn or error (default: info)
  --check             read the configuration, say all that is wrong with it, and
                      exit
  --leave             make this node leave the lockspaces of the service, which
                      must not be running, and exit. Refused while locks are
                      held, unless the host is going down: they end then.
  --relay-cpg         copy messages between the service and corosync, by which
                      the services of the nodes answer each other. It reads no
                      configuration; dlmlockd-cpg.service runs it.
  --version           print version, commit and build date, and exit
  --help              print this and exit

Options override the configuration file.

SIGTERM and SIGINT end the service and keep every persistent lock. SIGHUP has
it read the configuration again.

Exit codes:
  0  ended normally        5  the engine asked for is not in this build
  1  failed; see the log   6  bad configuration file
  2  bad command line
`

// options are the settings of the process from the command line, the environment and the
// configuration file.
type options struct {
	config.Config
	StateDir string // absolute
	Bus      string // "" is the system bus
	socket   string // --virtlockd, which wins over the file's
	varlink  string // --varlink; not in the file, since systemd makes the socket otherwise

	leave bool // leave the lockspaces instead of serving
	relay bool // be the relay to corosync instead of serving

	showVersion, showHelp, check bool
}

// usageError is a mistake in the command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// flags returns the flags whose values go into the options unchanged. The help text is usage, so
// the flags themselves have none.
func (o *options) flags() *flag.FlagSet {
	fs := flag.NewFlagSet("dlmlockd", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.StateDir, "state-dir", "", "")
	fs.StringVar(&o.Bus, "bus", "", "")
	fs.StringVar(&o.varlink, "varlink", "", "")
	fs.StringVar(&o.socket, "virtlockd", "", "")
	fs.BoolVar(&o.check, "check", false, "")
	fs.BoolVar(&o.leave, "leave", false, "")
	fs.BoolVar(&o.relay, "relay-cpg", false, "")
	fs.BoolVar(&o.showVersion, "version", false, "")
	return fs
}

// readOptions reads the command line and the file that it names. The error is
// a *usageError or comes from package config. It is called again at each reload, with the
// same command line, so what a flag says stays in force whatever the file says.
func readOptions(args []string, getenv func(string) string) (options, error) {
	var o options
	var engine, file, level string
	fs := o.flags()
	fs.StringVar(&engine, "engine", "", "")
	fs.StringVar(&file, "config", "", "")
	fs.StringVar(&level, "log-level", "", "")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		o.showHelp = true
		return o, nil
	} else if err != nil {
		return o, &usageError{err.Error()}
	}
	if fs.NArg() > 0 {
		return o, &usageError{fmt.Sprintf("unexpected argument %q", fs.Arg(0))}
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if given["config"] && file == "" {
		return o, &usageError{"--config: the file is missing"}
	}
	if err := checkFlags(given, engine, level, o); err != nil || o.showVersion || o.relay {
		return o, err
	}
	if err := o.readFile(given["config"], file); err != nil {
		return o, err
	}
	if given["engine"] {
		o.Engine = engine
	}
	if given["log-level"] {
		o.LogLevel, _ = config.ParseLevel(level)
	}
	if given["virtlockd"] {
		o.Virtlockd.Socket = o.socket
	}
	o.StateDir = stateDir(o.StateDir, getenv)
	return o, nil
}

// readFile reads the configuration from the file that is named, or else from where it usually is.
func (o *options) readFile(named bool, file string) (err error) {
	if named {
		o.Config, err = config.Load(file)
	} else {
		o.Config, err = config.LoadDefault()
	}
	return err
}

// checkFlags refuses flags with an impossible value, before any file is read.
func checkFlags(given map[string]bool, engine, level string, o options) error {
	if o.check && o.leave || o.check && o.relay || o.leave && o.relay {
		return &usageError{"only one of --check, --leave and --relay-cpg can be given"}
	}
	if given["engine"] && !config.ValidEngine(engine) {
		return &usageError{fmt.Sprintf("--engine=%s: use dlm or local", engine)}
	}
	if _, ok := config.ParseLevel(level); given["log-level"] && !ok {
		return &usageError{fmt.Sprintf("--log-level=%s: use debug, info, warn or error", level)}
	}
	if given["state-dir"] && o.StateDir == "" {
		return &usageError{"--state-dir: the directory is missing"}
	}
	if given["virtlockd"] && !filepath.IsAbs(o.socket) {
		return &usageError{fmt.Sprintf("--virtlockd=%s: not the absolute path of a socket", o.socket)}
	}
	if given["varlink"] && !filepath.IsAbs(o.varlink) {
		return &usageError{fmt.Sprintf("--varlink=%s: not the absolute path of a socket", o.varlink)}
	}
	if given["bus"] && o.Bus != noBus && !strings.Contains(o.Bus, ":") {
		return &usageError{fmt.Sprintf("--bus=%s: not a D-Bus address such as unix:path=/run/dbus/system_bus_socket",
			o.Bus)}
	}
	return nil
}

// stateDir returns the absolute path of the state directory: the flag, or the directory that
// systemd created for the unit (the first of a list, systemd.exec(5)), or the default.
func stateDir(flagged string, getenv func(string) string) string {
	dir := flagged
	if dir == "" {
		dir, _, _ = strings.Cut(getenv("RUNTIME_DIRECTORY"), ":")
	}
	if dir == "" {
		dir = defaultStateDir
	}
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}

// logValue sums up the options in one log line.
func (o options) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("engine", o.Engine), slog.String("state-dir", o.StateDir), slog.Any("lockspaces", o.Lockspaces),
		slog.String("group", o.Group), slog.String("log-level", o.LogLevel.String()),
	)
}
