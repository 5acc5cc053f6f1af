// Package testpolkit runs the real polkitd on a private bus, with the shipped actions and the
// test's rules, in a mount namespace of its own: nothing of the machine's polkit is used or
// changed.
//
//	bus := testbus.Start(t, testbus.Daemon, testpolkit.BusPolicy(t))
//	p := testpolkit.New(t, bus, rules)
//	p.Start()
//
// It owns the process and ends it with the test. It does not know what is tested. A missing program
// fails the test and names its package. There is no logind on such a bus, so no caller is ever
// "active".
//
// Concurrency: one goroutine of the test at a time.
package testpolkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/internal/testprocess"
)

// The files of the package polkitd, and its name on the bus.
const (
	program   = "/usr/lib/polkit-1/polkitd"
	busPolicy = "/usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf"
	busName   = "org.freedesktop.PolicyKit1"
)

// startTime is how long polkitd may take to start.
const startTime = time.Minute

// script starts polkitd with the test's actions and rules.
const script = `set -e
mount --bind "$DIR/actions" /usr/share/polkit-1/actions
mount --bind "$DIR/rules.d" /etc/polkit-1/rules.d
mount --bind "$DIR/empty" /usr/share/polkit-1/rules.d
exec "$PROGRAM" --no-debug
`

// BusPolicy returns the path of the policy file that polkitd needs on a bus: an argument of
// testbus.Start.
func BusPolicy(t testing.TB) string {
	t.Helper()
	for _, file := range []string{program, busPolicy} {
		if _, err := os.Stat(file); err != nil {
			t.Fatalf("%s is missing: apt-get install polkitd", file)
		}
	}
	return busPolicy
}

// Polkitd is a private polkitd.
type Polkitd struct {
	t    testing.TB
	bus  *testbus.Bus
	conn *godbus.Conn
	dir  string
	cmd  *exec.Cmd // nil: not running
}

// New prepares a polkitd with the shipped actions and these rules. It does not start it.
func New(t testing.TB, bus *testbus.Bus, rules string) *Polkitd {
	t.Helper()
	p := &Polkitd{t: t, bus: bus, conn: bus.Dial(t), dir: filepath.Join(bus.Dir, "polkit")}
	for _, d := range []string{"actions", "rules.d", "empty"} {
		p.must(os.MkdirAll(filepath.Join(p.dir, d), 0o755))
		p.must(os.Chmod(filepath.Join(p.dir, d), 0o755)) // whatever the umask is: polkitd is not root
	}
	p.must(os.Chmod(p.dir, 0o755))
	_, here, _, _ := runtime.Caller(0)
	policy, err := os.ReadFile(filepath.Join(filepath.Dir(here), "../../data/org.example.DlmLock.policy"))
	p.must(err)
	p.write(p.Actions(), policy)
	p.Rules(rules)
	t.Cleanup(p.Stop)
	return p
}

// Actions returns the path of the installed action file.
func (p *Polkitd) Actions() string {
	return filepath.Join(p.dir, "actions", "org.example.DlmLock.policy")
}

// Rules replaces the administrator's rules. A running polkitd may take a moment to notice; one that
// is started afterwards has them.
func (p *Polkitd) Rules(text string) {
	p.write(filepath.Join(p.dir, "rules.d", "50-test.rules"), []byte(text))
}

// write writes a file that everybody may read.
func (p *Polkitd) write(path string, text []byte) {
	p.t.Helper()
	p.must(os.WriteFile(path, text, 0o644))
	p.must(os.Chmod(path, 0o644))
}

// Start runs polkitd and waits until it has its name.
func (p *Polkitd) Start() {
	p.t.Helper()
	log, err := os.Create(filepath.Join(p.dir, "log"))
	p.must(err)
	p.cmd = exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", script)
	p.cmd.Env = append(os.Environ(), "DIR="+p.dir, "PROGRAM="+program, "DBUS_SYSTEM_BUS_ADDRESS="+p.bus.Address)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.must(p.cmd.Start())
	p.must(log.Close())
	for end := time.Now().Add(startTime); !p.running(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			p.Stop()
			text, _ := os.ReadFile(log.Name())
			p.t.Fatalf("polkitd did not come up: %s", text)
		}
	}
}

func (p *Polkitd) running() bool {
	var has bool
	_ = p.conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, busName).Store(&has)
	return has
}

// Stop kills polkitd and waits for its end.
func (p *Polkitd) Stop() {
	if p.cmd == nil {
		return
	}
	p.Signal(syscall.SIGKILL)
	_ = p.cmd.Wait()
	p.cmd = nil
}

// Signal sends a signal. SIGSTOP makes polkitd hang: it has stopped when Signal returns.
func (p *Polkitd) Signal(s syscall.Signal) {
	p.t.Helper()
	_ = syscall.Kill(-p.cmd.Process.Pid, s)
	if s == syscall.SIGSTOP {
		p.must(testprocess.Stop(p.cmd.Process))
	}
}

func (p *Polkitd) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}
