// Package testbus starts private message buses for tests: the real dbus-daemon and the real
// dbus-broker, each configured as a system bus with the shipped policy. It connects to them as any
// user.
//
//	bus := testbus.Start(t, testbus.Daemon)
//	root := bus.Dial(t)
//	nobody := bus.DialAs(t, testbus.Nobody)
//
// It owns the bus processes and ends them with the test. It does not know what is tested. A missing
// program fails the test and names its package; nothing is skipped. The tests must run as root,
// because only root may own the service's name, and because the users are real: the kernel vouches
// for each connection's uid and groups.
//
// Concurrency: the functions may be called from any goroutine of the test.
package testbus

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/data"
)

// Kind is the program that runs the bus.
type Kind string

// The buses, and all of them for a test that runs on each.
const (
	Daemon Kind = "dbus-daemon" // the reference implementation
	Broker Kind = "dbus-broker"
)

// Kinds are all of them.
var Kinds = []Kind{Daemon, Broker}

// startTime is how long a bus may take to start.
const startTime = time.Minute

// Bus is one private bus.
type Bus struct {
	Kind    Kind
	Address string // as in DBUS_SYSTEM_BUS_ADDRESS
	Dir     string // all its files; everybody may enter
}

// Start starts a bus, which ends with the test. The policy in data/ is part of its configuration;
// further holds the paths of more policy files, for example that of polkit.
func Start(t testing.TB, kind Kind, further ...string) *Bus {
	t.Helper()
	policies := make(map[string]string, len(further))
	for _, f := range further {
		text, err := os.ReadFile(f)
		must(t, err)
		policies[filepath.Base(f)] = string(text)
	}
	return StartWith(t, kind, policies)
}

// StartWith is Start with more policy files, by name and text.
func StartWith(t testing.TB, kind Kind, policies map[string]string) *Bus {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the tests on a real bus run as root (only root may own the service's name): use sudo")
	}
	// Not t.TempDir: the path of a socket may have only 107 bytes.
	dir, err := os.MkdirTemp("", "bus")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	b := &Bus{Kind: kind, Dir: dir, Address: "unix:path=" + filepath.Join(dir, "socket")}
	b.configure(t, policies)
	switch kind {
	case Daemon:
		b.startDaemon(t)
	case Broker:
		b.startBroker(t)
	default:
		t.Fatalf("unknown bus %q", kind)
	}
	return b
}

// ForEach runs a test on each kind of bus.
func ForEach(t *testing.T, f func(t *testing.T, b *Bus)) {
	for _, k := range Kinds {
		t.Run(string(k), func(t *testing.T) { f(t, Start(t, k)) })
	}
}

// config is the configuration of the system bus (system.conf of D-Bus 1.14) without the parts that
// need a machine of their own.
const config = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <auth>EXTERNAL</auth>
  <listen>%s</listen>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Introspectable"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Properties"/>
  </policy>
  <policy user="root">
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Monitoring"/>
  </policy>
  <includedir>%s</includedir>
</busconfig>
`

func (b *Bus) configure(t testing.TB, further map[string]string) {
	policies := filepath.Join(b.Dir, "system.d")
	must(t, os.Mkdir(policies, 0o755))
	must(t, os.WriteFile(b.confFile(), fmt.Appendf(nil, config, b.Address, policies), 0o644))
	must(t, os.WriteFile(filepath.Join(policies, "org.example.DlmLock.conf"), []byte(data.BusPolicy), 0o644))
	for name, text := range further {
		must(t, os.WriteFile(filepath.Join(policies, name), []byte(text), 0o644))
	}
}

func (b *Bus) confFile() string { return filepath.Join(b.Dir, "system.conf") }

func (b *Bus) startDaemon(t testing.TB) {
	cmd := exec.Command(program(t, "dbus-daemon", "dbus-daemon"), "--config-file="+b.confFile(), "--nofork",
		"--nopidfile", "--print-address=3")
	r, w, err := os.Pipe()
	must(t, err)
	cmd.ExtraFiles = []*os.File{w}
	b.run(t, cmd)
	_ = w.Close()
	defer func() { _ = r.Close() }()
	must(t, r.SetReadDeadline(time.Now().Add(startTime)))
	if _, err := bufio.NewReader(r).ReadString('\n'); err != nil {
		t.Fatalf("dbus-daemon did not come up: %v", err)
	}
}

// brokerScript gives dbus-broker the two things of systemd that it needs, in a mount namespace of
// its own: an activated socket and a journal.
const brokerScript = `set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal
touch /run/systemd/journal/socket
mount --bind "$DIR/journal" /run/systemd/journal/socket
exec systemd-socket-activate -l "$DIR/socket" -E "PATH=$PATH" -E "DBUS_SYSTEM_BUS_ADDRESS=$ADDRESS" \
	dbus-broker-launch --scope system --config-file="$CONF"
`

func (b *Bus) startBroker(t testing.TB) {
	for name, pkg := range map[string]string{"dbus-broker-launch": "dbus-broker", "systemd-socket-activate": "systemd",
		"mount": "mount"} {
		program(t, name, pkg)
	}
	journal, err := net.ListenUnixgram("unixgram",
		&net.UnixAddr{Name: filepath.Join(b.Dir, "journal"), Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { _ = journal.Close() })
	go discard(journal)
	cmd := exec.Command(program(t, "unshare", "util-linux"), "--mount", "--propagation", "private", "sh", "-c",
		brokerScript)
	cmd.Env = append(os.Environ(), "DIR="+b.Dir, "CONF="+b.confFile(), "ADDRESS="+b.Address)
	b.run(t, cmd)
	// The launcher starts with the first connection. Before that, the socket has to be bound and
	// listening.
	for end := time.Now().Add(startTime); ; time.Sleep(5 * time.Millisecond) {
		err := os.Chmod(filepath.Join(b.Dir, "socket"), 0o777)
		var c net.Conn
		if err == nil {
			c, err = net.Dial("unix", filepath.Join(b.Dir, "socket"))
		}
		if err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("dbus-broker did not come up: %v", err)
		}
	}
	_ = b.Dial(t).Close()
}

// discard reads what the broker logs, so that it never blocks.
func discard(c *net.UnixConn) {
	buf := make([]byte, 64<<10)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}

// run starts a process that ends with the test. Its output is shown if the
// test fails.
func (b *Bus) run(t testing.TB, cmd *exec.Cmd) {
	log, err := os.Create(filepath.Join(b.Dir, "log"))
	must(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		_ = log.Close()
		if text, _ := os.ReadFile(log.Name()); t.Failed() && len(text) > 0 {
			t.Logf("%s said:\n%s", b.Kind, text)
		}
	})
}

// program finds a program or fails the test.
func program(t testing.TB, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: apt-get install %s", name, pkg)
	}
	return path
}

// Dial connects as root. The connection ends with the test.
func (b *Bus) Dial(t testing.TB, opts ...godbus.ConnOption) *godbus.Conn {
	t.Helper()
	return b.DialAs(t, Root, opts...)
}

// DialAs connects as the given user. The connection ends with the test.
func (b *Bus) DialAs(t testing.TB, u User, opts ...godbus.ConnOption) *godbus.Conn {
	t.Helper()
	raw, err := u.Connect(strings.TrimPrefix(b.Address, "unix:path="))
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	opts = append([]godbus.ConnOption{godbus.WithAuth(godbus.AuthExternal(fmt.Sprint(u.UID))),
		godbus.WithSignalHandler(godbus.NewSequentialSignalHandler())}, opts...)
	conn, err := godbus.ConnectUnix(raw, opts...)
	stop()
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Command makes a command that runs as the given user, with this bus as the system bus.
func (b *Bus) Command(t testing.TB, u User, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+b.Address)
	cmd.Dir = b.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}}
	return cmd
}

// Typed makes a command of a line that a document has people type, with this bus as the system bus.
// It looks for programs in these directories first. A line that is one command runs as one process,
// so that a signal reaches it.
func (b *Bus) Typed(t testing.TB, line string, programs ...string) *exec.Cmd {
	t.Helper()
	first, _, _ := strings.Cut(line, " ")
	if !strings.ContainsAny(line, "|&;\n") && !strings.Contains(first, "=") {
		line = "exec " + line
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+b.Address,
		"PATH="+strings.Join(append(programs, os.Getenv("PATH")), ":"))
	return cmd
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
