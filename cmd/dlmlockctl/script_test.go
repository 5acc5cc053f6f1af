package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/internal/testpolkit"
	"github.com/dlmlock/dlmlockd/internal/testprocess"
)

// programs is where TestMain has built the real dlmlockd and dlmlockctl.
var programs string

func TestMain(m *testing.M) {
	// The scripts send SIGHUP, also where these tests run under nohup(1): what
	// is asked for here is not ignored in the programs that are started.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	dir, err := os.MkdirTemp("", "dlmlockctl")
	if err == nil {
		err = os.Chmod(dir, 0o755) // for the scripts' commands as nobody
	}
	if err == nil {
		build := exec.Command("go", "build", "-tags", "godbus_no_tcp", "-ldflags",
			"-X main.version=1.2.3-test -X main.commit=0123abc -X main.date=2026-01-02T03:04:05Z", "-o", dir+"/", ".",
			"../dlmlockd")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stderr = os.Stderr
		err = build.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the programs under test:", err)
		os.Exit(1)
	}
	programs = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// TestScripts runs testdata/script/*.txt: the real dlmlockctl against the real
// dlmlockd with the embedded engine, on a bus of their own. They are examples
// too. Beside the commands of testscript there are
//
//	daemon start|stop|kill|restart   the service; start waits until it is ready
//	daemon freeze|thaw               SIGSTOP and SIGCONT
//	polkit RULES                     starts polkitd with the rules in a file
//	exits CODE COMMAND...            runs it and wants that exit code
//	nobody CODE COMMAND...           the same as user nobody
//	until COMMAND...                 runs it until it succeeds, 10 s at most
//	signal SIG PIDFILE               sends a signal to the process in a file
//	json NAME FILE                   holds JSON against data/dlmlockctl.schema.json
//
// Each is played twice: dlmlockctl uses D-Bus and then, by DLMLOCK_ADDRESS, Varlink. The
// condition [varlink] is for what is different.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/script/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, scripts)
	for _, script := range scripts {
		name := strings.TrimSuffix(filepath.Base(script), ".txt")
		t.Run(name, func(t *testing.T) { playScript(t, script, false) })
		t.Run(name+" over varlink", func(t *testing.T) { playScript(t, script, true) })
	}
}

func playScript(t *testing.T, script string, varlink bool) {
	s := &stage{t: t, bus: testbus.Start(t, testbus.Daemon, testpolkit.BusPolicy(t)), varlink: varlink}
	s.watch = s.bus.Dial(t)
	testscript.Run(t, testscript.Params{
		Files:              []string{script},
		UpdateScripts:      os.Getenv("UPDATE_SCRIPTS") != "" && !varlink,
		RequireUniqueNames: true,
		Setup:              s.setup,
		Condition: func(cond string) (bool, error) {
			if cond != "varlink" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			return varlink, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon": s.daemonCmd, "exits": s.exits, "polkit": s.polkit, "nobody": s.nobody, "until": s.until,
			"signal": s.signal,
			"json":   s.conforms,
		},
	})
}

// stage is what one script plays on.
type stage struct {
	t       *testing.T
	bus     *testbus.Bus
	varlink bool // dlmlockctl uses Varlink
	socket  string
	watch   *godbus.Conn
	daemon  *exec.Cmd
}

func (s *stage) setup(e *testscript.Env) error {
	e.Setenv("PATH", programs+":"+os.Getenv("PATH"))
	e.Setenv("DBUS_SYSTEM_BUS_ADDRESS", s.bus.Address)
	if s.varlink {
		// Users other than root reach the socket there.
		dir, err := os.MkdirTemp("", "dlmlock-varlink")
		if err == nil {
			err = os.Chmod(dir, 0o755)
		}
		if err != nil {
			return err
		}
		e.Defer(func() { _ = os.RemoveAll(dir) })
		s.socket = filepath.Join(dir, "socket")
		e.Setenv(client.AddressVariable, s.socket)
	}
	e.Setenv("TZ", "UTC")
	e.Setenv("TERM", "xterm")
	e.Defer(func() {
		if s.daemon != nil {
			s.end(syscall.SIGKILL)
		}
	})
	return nil
}

func (s *stage) daemonCmd(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: daemon start|stop|kill|restart|freeze|thaw [OPTION]...")
	}
	switch args[0] {
	case "start":
		s.start(ts, args[1:])
	case "stop":
		s.end(syscall.SIGTERM)
	case "kill":
		s.end(syscall.SIGKILL)
	case "freeze":
		ts.Check(testprocess.Stop(s.daemon.Process))
	case "thaw":
		ts.Check(s.daemon.Process.Signal(syscall.SIGCONT))
	case "restart":
		s.end(syscall.SIGKILL)
		s.start(ts, args[1:])
	default:
		ts.Fatalf("daemon %s?", args[0])
	}
}

func (s *stage) start(ts *testscript.TestScript, options []string) {
	args := append([]string{"--engine=local", "--state-dir=" + ts.MkAbs("state")}, options...)
	if s.varlink {
		args = append(args, "--varlink="+s.socket)
	}
	s.daemon = exec.Command(filepath.Join(programs, "dlmlockd"), args...)
	log, err := os.OpenFile(ts.MkAbs("daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	s.daemon.Stderr = log
	s.daemon.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+s.bus.Address)
	s.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ts.Check(s.daemon.Start())
	ts.Check(log.Close())
	s.await(ts, true)
}

func (s *stage) end(sig syscall.Signal) {
	_ = s.daemon.Process.Signal(sig)
	_ = s.daemon.Wait()
	s.daemon = nil
	s.await(nil, false)
}

// await waits until the service has its name, or has not.
func (s *stage) await(ts *testscript.TestScript, there bool) {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		var has bool
		if s.watch.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, client.Name).Store(&has) == nil && has == there {
			return
		}
	}
	text, _ := os.ReadFile(ts.MkAbs("daemon.log"))
	ts.Fatalf("dlmlockd did not come up:\n%s", text)
}

func (s *stage) polkit(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: polkit RULES")
	}
	testpolkit.New(s.t, s.bus, ts.ReadFile(args[0])).Start()
}

func (s *stage) exits(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARGUMENT]...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var e *exec.ExitError
	switch {
	case errors.As(err, &e):
		got = e.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func (s *stage) nobody(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: nobody CODE COMMAND [ARGUMENT]...")
	}
	as := []string{args[0], "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}
	s.exits(ts, neg, append(as, args[1:]...))
}

func (s *stage) until(ts *testscript.TestScript, _ bool, args []string) {
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = ts.Exec(args[0], args[1:]...); err == nil {
			return
		}
	}
	ts.Fatalf("until: %v", err)
}

var signals = map[string]syscall.Signal{
	"KILL": syscall.SIGKILL, "TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP,
	"QUIT": syscall.SIGQUIT,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT,
}

func (s *stage) signal(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 || signals[args[0]] == 0 {
		ts.Fatalf("usage: signal KILL|TERM|INT|HUP|QUIT|USR1|USR2|STOP|CONT PIDFILE")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[1])))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, signals[args[0]]))
}
