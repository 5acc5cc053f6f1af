package polkit

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// The real polkitd of the package polkitd.
const (
	polkitdProgram = "/usr/lib/polkit-1/polkitd"
	polkitdPolicy  = "/usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf"
)

// polkitdScript starts polkitd in a mount namespace of its own, where its
// actions and rules are the test's.
const polkitdScript = `set -e
mount --bind "$DIR/actions" /usr/share/polkit-1/actions
mount --bind "$DIR/rules.d" /etc/polkit-1/rules.d
mount --bind "$DIR/empty" /usr/share/polkit-1/rules.d
exec "$PROGRAM" --no-debug
`

// polkitd is a private polkitd.
type polkitd struct {
	bus *testbus.Bus
	dir string
	cmd *exec.Cmd
	log bytes.Buffer
}

// startBus starts a bus that polkitd may live on.
func startBus(t *testing.T) *testbus.Bus {
	t.Helper()
	for file, pkg := range map[string]string{polkitdProgram: "polkitd", polkitdPolicy: "polkitd"} {
		if _, err := os.Stat(file); err != nil {
			t.Fatalf("%s is missing: apt-get install %s", file, pkg)
		}
	}
	return testbus.Start(t, testbus.Daemon, polkitdPolicy)
}

// newPolkitd lays out a polkitd with the shipped actions and these rules. It
// does not run yet.
func newPolkitd(t *testing.T, bus *testbus.Bus, rules string) *polkitd {
	t.Helper()
	p := &polkitd{bus: bus, dir: filepath.Join(bus.Dir, "polkit")}
	for _, d := range []string{"actions", "rules.d", "empty"} {
		require.NoError(t, os.MkdirAll(filepath.Join(p.dir, d), 0o755))
	}
	policy, err := os.ReadFile("../data/org.example.DlmLock.policy")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "actions", "org.example.DlmLock.policy"), policy, 0o644))
	p.rules(t, rules)
	t.Cleanup(func() { p.stop() })
	return p
}

// rules replaces the administrator's rules.
func (p *polkitd) rules(t *testing.T, text string) {
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "rules.d", "50-test.rules"), []byte(text), 0o644))
}

// start runs polkitd and waits until it has its name.
func (p *polkitd) start(t *testing.T) {
	t.Helper()
	p.cmd = exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", polkitdScript)
	p.cmd.Env = append(os.Environ(), "DIR="+p.dir, "PROGRAM="+polkitdProgram, "DBUS_SYSTEM_BUS_ADDRESS="+p.bus.Address)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	require.NoError(t, p.cmd.Start())
	conn := p.bus.Dial(t)
	for end := time.Now().Add(20 * time.Second); !p.running(conn); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			p.stop()
			t.Fatalf("polkitd did not come up: %s", p.log.String())
		}
	}
}

func (p *polkitd) running(conn *godbus.Conn) bool {
	var has bool
	_ = conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, authorityName).Store(&has)
	return has
}

// stop kills polkitd and waits until the bus knows.
func (p *polkitd) stop() {
	if p.cmd == nil {
		return
	}
	p.signal(syscall.SIGCONT)
	p.signal(syscall.SIGKILL)
	_ = p.cmd.Wait()
	p.cmd = nil
}

func (p *polkitd) signal(s syscall.Signal) { _ = syscall.Kill(-p.cmd.Process.Pid, s) }

// agent is an authentication agent (polkit's D-Bus API, "The Authentication
// Agent") for this process. Being root it can say that somebody authenticated,
// as polkit's set-uid helper does.
type agent struct {
	conn  *godbus.Conn
	reply func(*agent, question) *godbus.Error

	mu       sync.Mutex
	canceled map[string]chan struct{}
	asked    chan question
}

// question is what a dialog would show.
type question struct {
	Action, Message, Icon string
	Details               map[string]string
	Cookie                string
	Identities            []subject
}

// newAgent registers an agent for everything that this process connects.
func newAgent(t *testing.T, bus *testbus.Bus, reply func(*agent, question) *godbus.Error) *agent {
	t.Helper()
	a := &agent{conn: bus.Dial(t), reply: reply, canceled: map[string]chan struct{}{}, asked: make(chan question, 16)}
	const path = "/test/Agent"
	require.NoError(t, a.conn.ExportMethodTable(map[string]any{
		"BeginAuthentication": a.begin, "CancelAuthentication": a.cancel,
	}, path, "org.freedesktop.PolicyKit1.AuthenticationAgent"))
	who := subject{"unix-process", map[string]godbus.Variant{
		"pid": godbus.MakeVariant(uint32(os.Getpid())), "start-time": godbus.MakeVariant(uint64(0))}}
	require.NoError(t, a.conn.Object(authorityName, authorityPath).
		Call(authorityIface+".RegisterAuthenticationAgent", 0, who, "C", path).Err)
	return a
}

func (a *agent) begin(action, message, icon string, details map[string]string, cookie string, ids []subject) *godbus.Error {
	q := question{action, message, icon, details, cookie, ids}
	a.waiter(cookie)
	a.asked <- q
	return a.reply(a, q)
}

func (a *agent) cancel(cookie string) *godbus.Error {
	close(a.waiter(cookie))
	return nil
}

// waiter is closed when the dialog of the cookie is canceled.
func (a *agent) waiter(cookie string) chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.canceled[cookie] == nil {
		a.canceled[cookie] = make(chan struct{})
	}
	return a.canceled[cookie]
}

// authenticate types the right password.
func authenticate(a *agent, q question) *godbus.Error {
	err := a.conn.Object(authorityName, authorityPath).
		Call(authorityIface+".AuthenticationAgentResponse2", 0, uint32(0), q.Cookie, q.Identities[0]).Err
	if err != nil {
		return godbus.MakeFailedError(err)
	}
	return nil
}

// dismiss closes the dialog.
func dismiss(*agent, question) *godbus.Error {
	return godbus.NewError("org.freedesktop.PolicyKit1.Error.Cancelled", []any{"dismissed"})
}

// ponder leaves the dialog open until it is canceled.
func ponder(a *agent, q question) *godbus.Error {
	<-a.waiter(q.Cookie)
	return dismiss(a, q)
}
