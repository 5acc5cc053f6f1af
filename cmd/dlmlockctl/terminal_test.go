package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// fake is a service that grants everything and has two orphans: the embedded
// engine has none.
type fake struct {
	mu      sync.Mutex
	block   chan struct{} // Acquire waits for it
	purged  []uint32
	adopted uint32
	options map[string]godbus.Variant
	flags   []godbus.Flags
}

// orphanRow is an orphan on the bus.
type orphanRow struct {
	LockID         uint32
	Resource, Mode string
	Details        map[string]godbus.Variant
}

func (f *fake) ListOrphans(string) ([]orphanRow, *godbus.Error) {
	published := map[string]godbus.Variant{"token": godbus.MakeVariant(uint64(17)), "who": godbus.MakeVariant("web")}
	return []orphanRow{{7, "disk1", "EX", published}, {9, "disk2", "PR", map[string]godbus.Variant{}}}, nil
}

func (f *fake) AdoptOrphan(_ string, id uint32, o map[string]godbus.Variant) (uint64, godbus.ObjectPath,
	*godbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.adopted, f.options = id, o
	return 17, "/org/example/DlmLock/lock/1", nil
}

func (f *fake) Purge(_ string, ids []uint32, _ map[string]godbus.Variant) (uint32, *godbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.purged = ids
	return uint32(len(ids)), nil
}

func (f *fake) Acquire(_, _, _ string, _ map[string]godbus.Variant) (uint32, uint64, godbus.ObjectPath, *godbus.Error) {
	f.mu.Lock()
	block := f.block
	f.mu.Unlock()
	if block != nil {
		<-block
	}
	return 1, 2, "/org/example/DlmLock/lock/1", nil
}

func (f *fake) ReleaseOwner(string, string) (uint32, *godbus.Error) { return 1, nil }

// see notes the flags of every call.
func (f *fake) see(m *godbus.Message) {
	if m.Type == godbus.TypeMethodCall && m.Headers[godbus.FieldInterface].Value() == client.Name {
		f.mu.Lock()
		f.flags = append(f.flags, m.Flags)
		f.mu.Unlock()
	}
}

// take returns what was purged, and forgets it.
func (f *fake) take() []uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := f.purged
	f.purged = nil
	return ids
}

// startFake puts the fake service on a bus of its own.
func startFake(t *testing.T) (*fake, *testbus.Bus) {
	f := new(fake)
	return f, startService(t, f)
}

// startService puts a service on a bus of its own. It is a fake or has one.
func startService(t *testing.T, f interface{ see(*godbus.Message) }) *testbus.Bus {
	bus := testbus.Start(t, testbus.Daemon)
	conn := bus.Dial(t, godbus.WithIncomingInterceptor(f.see))
	require.NoError(t, conn.Export(f, client.Path, client.Name))
	if p, ok := f.(withProperties); ok {
		require.NoError(t, conn.Export(p, client.Path, "org.freedesktop.DBus.Properties"))
	}
	_, err := conn.RequestName(client.Name, 0)
	require.NoError(t, err)
	return bus
}

// withProperties is a fake that has properties.
type withProperties interface {
	GetAll(string) (map[string]godbus.Variant, *godbus.Error)
}

// terminal is a pseudo-terminal (pts(4)) with a program on it.
type terminal struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	mu     sync.Mutex
	seen   bytes.Buffer
	done   chan struct{} // closed when the program has left the terminal
}

// onTerminal starts dlmlockctl with all three streams on a new terminal, as the
// leader of its session.
func onTerminal(t *testing.T, bus *testbus.Bus, args ...string) *terminal {
	t.Helper()
	return onTerminalOf(t, bus, 80, args...)
}

// onTerminalOf does so on a terminal that is so many characters wide.
func onTerminalOf(t *testing.T, bus *testbus.Bus, width int, args ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(width)}))
	tty := &terminal{t: t, master: master, done: make(chan struct{}), cmd: exec.Command(filepath.Join(programs,
		"dlmlockctl"), args...)}
	tty.cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+bus.Address, "TERM=xterm")
	tty.cmd.Dir = t.TempDir()
	tty.cmd.Stdin, tty.cmd.Stdout, tty.cmd.Stderr = slave, slave, slave
	tty.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, tty.cmd.Start())
	require.NoError(t, slave.Close())
	go tty.read()
	t.Cleanup(func() {
		_ = syscall.Kill(-tty.cmd.Process.Pid, syscall.SIGKILL)
		_ = master.Close()
		<-tty.done
	})
	return tty
}

func (tty *terminal) read() {
	defer close(tty.done)
	buf := make([]byte, 4096)
	for {
		n, err := tty.master.Read(buf)
		tty.mu.Lock()
		tty.seen.Write(buf[:n])
		tty.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (tty *terminal) text() string {
	tty.mu.Lock()
	defer tty.mu.Unlock()
	return tty.seen.String()
}

// see waits until the terminal shows a text.
func (tty *terminal) see(text string) {
	tty.t.Helper()
	for end := time.Now().Add(time.Minute); !strings.Contains(tty.text(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			tty.t.Fatalf("the terminal never showed %q, but:\n%s", text, tty.text())
		}
	}
}

func (tty *terminal) typeIn(text string) {
	_, err := io.WriteString(tty.master, text)
	require.NoError(tty.t, err)
}

// exit waits for the end and returns the exit code.
func (tty *terminal) exit() int {
	_ = tty.cmd.Wait()
	<-tty.done
	return tty.cmd.ProcessState.ExitCode()
}

// A purge shows what goes, asks, and takes only yes for yes.
func TestPurgeAsks(t *testing.T) {
	f, bus := startFake(t)
	for answer, want := range map[string][]uint32{"\n": nil, "n\n": nil, "maybe\n": nil, "\x04": nil, "y\n": {7, 9},
		"YES\n": {7, 9}} {
		tty := onTerminal(t, bus, "purge", "vms")
		tty.see("Remove 2 orphans of vms? [y/N] ")
		require.Contains(t, tty.text(), "9       disk2     PR")
		tty.typeIn(answer)
		code := tty.exit()
		require.Equal(t, want, f.take(), "%q", answer)
		if want == nil {
			require.Equal(t, exitFailed, code)
			require.Contains(t, tty.text(), "nothing removed")
		} else {
			require.Zero(t, code)
			require.Contains(t, tty.text(), "removed 2 orphans of vms")
		}
	}
	for _, args := range [][]string{{"purge", "vms"}, {"purge", "vms", "--json"}} {
		code, _, errs := program(t, bus, args...)
		require.Equal(t, exitUsage, code)
		require.Contains(t, errs, "there is nobody to ask; --yes removes")
		require.Nil(t, f.take())
	}
	code, out, _ := program(t, bus, "purge", "vms", "-y", "--json")
	require.Zero(t, code)
	require.JSONEq(t, `{"lockspace":"vms","purged":2}`, out)
	require.Equal(t, []uint32{7, 9}, f.take())
}

// program runs dlmlockctl without a terminal.
func program(t *testing.T, bus *testbus.Bus, args ...string) (code int, out, errs string) {
	cmd := bus.Command(t, testbus.Root, filepath.Join(programs, "dlmlockctl"), args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	_ = cmd.Run()
	return cmd.ProcessState.ExitCode(), o.String(), e.String()
}

// Calls allow that a person is asked for a password if there is one.
func TestInteractionFlag(t *testing.T) {
	f, bus := startFake(t)
	require.Zero(t, onTerminal(t, bus, "acquire", "vms", "a", "EX").exit())
	code, _, _ := program(t, bus, "acquire", "vms", "a", "EX")
	require.Zero(t, code)
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Equal(t, []godbus.Flags{godbus.FlagAllowInteractiveAuthorization, 0}, f.flags)
}

// Ctrl-C reaches the command once: from the terminal, and not from run again.
func TestCtrlC(t *testing.T) {
	_, bus := startFake(t)
	tty := onTerminal(t, bus, "run", "-l", "vms", "-r", "a", "--", "sh", "-c",
		`trap 'echo GOT-INT' INT; trap 'echo GOT-TERM; exit 9' TERM; echo ready; while :; do sleep 0.05; done`)
	tty.see("ready")
	tty.typeIn("\x03")
	tty.see("GOT-INT")
	require.NoError(t, tty.cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(t, 9, tty.exit())
	require.Equal(t, 1, strings.Count(tty.text(), "GOT-INT"))
	require.Equal(t, 1, strings.Count(tty.text(), "GOT-TERM"))
}

// Ctrl-C while run waits for the lock ends it, and the command never runs.
func TestCtrlCWhileWaiting(t *testing.T) {
	f, bus := startFake(t)
	block := make(chan struct{})
	defer close(block)
	f.mu.Lock()
	f.block = block
	f.mu.Unlock()
	tty := onTerminal(t, bus, "run", "-l", "vms", "-r", "a", "--wait=15s", "--", "echo", "NEVER")
	tty.see("waiting for vms/a: ")
	tty.typeIn("\x03")
	require.Equal(t, 128+int(syscall.SIGINT), tty.exit())
	require.NotContains(t, tty.text(), "NEVER")
}

// A command may take the terminal and be stopped and continued, as if it had
// been started alone.
func TestJobControl(t *testing.T) {
	_, bus := startFake(t)
	tty := onTerminal(t, bus, "run", "-l", "vms", "-r", "a", "--", "sh", "-c",
		`echo ready; read line; echo "read $line"; test -t 0 && test -t 1; echo "tty $?"`)
	tty.see("ready")
	tty.typeIn("hello\n")
	require.Zero(t, tty.exit())
	require.Contains(t, tty.text(), "read hello")
	require.Contains(t, tty.text(), "tty 0")
}

// adopt and purge with lockids mean the orphans that were shown, and no others.
func TestOrphansOneByOne(t *testing.T) {
	f, bus := startFake(t)
	code, out, _ := program(t, bus, "orphans", "vms")
	require.Zero(t, code)
	require.Contains(t, out, "LOCKID  RESOURCE  MODE  WHO  TOKEN\n7       disk1     EX    web  17\n")
	code, out, errs := program(t, bus, "adopt", "vms", "7", "--owner=vm1", "--uid=0", "--label=disk")
	require.Zero(t, code, errs)
	require.Equal(t, "adopted vms/disk1 EX, lockid 7, token 17\n", out)
	code, out, _ = program(t, bus, "adopt", "vms", "7", "--owner=vm1", "--uid=0", "--label=disk", "--json")
	require.Zero(t, code)
	requireConform(t, "adopt", out)
	require.EqualValues(t, 7, f.adopted)
	require.Equal(t, map[string]godbus.Variant{"owner": godbus.MakeVariant("vm1"), "label": godbus.MakeVariant("disk"),
		"uid":      godbus.MakeVariant(uint32(0)),
		"resource": godbus.MakeVariant("disk1"), "mode": godbus.MakeVariant("EX")}, f.options)
	code, _, errs = program(t, bus, "adopt", "vms", "8")
	require.Equal(t, exitNotThere, code)
	require.Contains(t, errs, "vms has no orphan with the lockid 8")
	code, _, _ = program(t, bus, "adopt", "vms", "disk1")
	require.Equal(t, exitUsage, code)

	// Completion goes on behind a lockid, and does not offer the same one again.
	code, out, _ = program(t, bus, "__complete", "purge", "vms", "")
	require.Zero(t, code)
	require.Contains(t, out, "7\tEX disk1 web\n9\tPR disk2\n")
	code, out, _ = program(t, bus, "__complete", "purge", "vms", "7", "")
	require.Zero(t, code)
	require.Contains(t, out, "9\tPR disk2\n")
	require.NotContains(t, out, "disk1")

	code, _, _ = program(t, bus, "purge", "vms", "9", "--yes")
	require.Zero(t, code)
	require.Equal(t, []uint32{9}, f.take())
	code, _, _ = program(t, bus, "purge", "vms", "9", "8", "--yes")
	require.Equal(t, exitNotThere, code)
	require.Nil(t, f.take())
}
