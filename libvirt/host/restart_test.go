package host_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testprocess"
	"github.com/dlmlock/dlmlockd/libvirt/host"
)

// libvirtd may be stopped, killed and started again at any time: guests and locks
// stay.
func TestLibvirtdRestarts(t *testing.T) { bothDrivers(t, testLibvirtdRestarts) }

func testLibvirtdRestarts(t *testing.T, r *rig) {
	h := r.host("alpha", "")
	a := r.image("a.img")
	h.define("web", host.Disk{Path: a})
	h.define("db", host.Disk{Path: a})
	h.virsh("start", "web")
	for _, s := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		h.StopLibvirtd(s)
		r.now("web: a.img EX")
		h.StartLibvirtd()
		r.now("web: a.img EX")
		require.Contains(t, h.refused("start", "db"), r.inUse("web", a))
	}
	h.virsh("suspend", "web")
	r.held()
	h.StopLibvirtd(syscall.SIGKILL)
	h.StartLibvirtd()
	r.now()
	require.Equal(t, "paused", h.state("web"))
	h.virsh("resume", "web")
	r.now("web: a.img EX")
	h.virsh("destroy", "web")
	r.held()
}

// libvirtd is killed at any moment of a guest's start. Afterwards the guest runs and has its locks,
// or neither is the case.
func TestLibvirtdKilledWhileAGuestStarts(t *testing.T) {
	bothDrivers(t, testLibvirtdKilledWhileAGuestStarts)
}

func testLibvirtdKilledWhileAGuestStarts(t *testing.T, r *rig) {
	h := r.host("alpha", "")
	h.define("web", host.Disk{Path: r.image("a.img")})
	for _, after := range []time.Duration{0, 150, 300, 450, 700, 1500} {
		done := h.try("start", "web")
		time.Sleep(after * time.Millisecond) // any time will do
		h.StopLibvirtd(syscall.SIGKILL)
		<-done
		h.StartLibvirtd()
		// A guest that has got far enough runs; libvirtd kills the others when it comes back, which
		// may take a moment.
		var state string
		var locks []string
		r.until("all or nothing", func() bool {
			state, locks = h.state("web"), r.locks()
			return state == "running" && slices.Equal(locks, []string{"web: a.img EX"}) || state == "shut off" &&
				len(locks) == 0
		})
		t.Logf("killed after %v: the guest is %s, the locks %v", after*time.Millisecond, state, locks)
		_, _ = h.Virsh(t.Context(), "destroy", "web")
		r.held()
	}
}

// result is the result of a virsh in the background.
type result struct {
	out string
	err error
}

// try runs virsh in the background.
func (m *machine) try(args ...string) <-chan result {
	done := make(chan result, 1)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	go func() {
		defer cancel()
		out, err := m.Virsh(ctx, args...)
		done <- result{out, err}
	}()
	return done
}

// The service is killed and started again while guests run: neither they nor
// libvirtd notice, and no second guest gets the disk.
func TestServiceRestarts(t *testing.T) { bothDrivers(t, testServiceRestarts) }

func testServiceRestarts(t *testing.T, r *rig) {
	h := r.host("alpha", "timeout = 30\n")
	a := r.image("a.img")
	h.define("web", host.Disk{Path: a})
	h.define("db", host.Disk{Path: a})
	h.virsh("start", "web")
	r.killDaemon()
	refusal := h.try("start", "db") // which waits for the service
	r.startDaemon()
	r.now("web: a.img EX")
	got := <-refusal
	require.Error(t, got.err)
	if r.driver == stock && strings.Contains(got.out, "Failed to connect socket") {
		got.out = h.refused("start", "db") // libvirt's own driver does not wait for the service
	}
	require.Contains(t, got.out, r.inUse("web", a))
	h.virsh("suspend", "web")
	r.held()
	h.virsh("resume", "web")
	require.NoError(t, r.daemon.Process.Signal(syscall.SIGTERM)) // as an upgrade does
	require.NoError(t, r.daemon.Wait())
	r.startDaemon()
	r.now("web: a.img EX")

	// A guest that ends while the service is away.
	r.killDaemon()
	h.virsh("destroy", "web")
	r.startDaemon()
	r.held()
	h.virsh("start", "db")
	r.now("db: a.img EX")
}

// The service is killed while it is asked for a guest's locks, and at other moments of a guest's
// start. The guest starts and has its locks.
func TestServiceKilledWhileAGuestStarts(t *testing.T) {
	bothWays(t, testServiceKilledWhileAGuestStarts)
}

func testServiceKilledWhileAGuestStarts(t *testing.T, r *rig) {
	h := r.host("alpha", "timeout = 30\n")
	h.define("web", host.Disk{Path: r.image("a.img")}, host.Disk{Path: r.image("b.img")})
	asked := make(<-chan *godbus.Message)
	if r.way == dbus {
		asked = r.calls("AcquireMany")
	}
	for _, after := range []time.Duration{-1, 0, 100, 200, 300, 400, 500, 700} {
		if after < 0 { // with the call in its hands
			require.NoError(t, testprocess.Stop(r.daemon.Process))
		}
		for len(asked) > 0 {
			<-asked
		}
		done := h.try("start", "web")
		if after < 0 && r.way == dbus {
			<-asked
		} else if after < 0 {
			r.untilSent()
		} else {
			time.Sleep(after * time.Millisecond) // any time will do
		}
		r.killDaemon()
		r.startDaemon()
		got := <-done
		require.NoError(t, got.err, "%v: %s", after, got.out)
		r.now("web: a.img EX", "web: b.img EX")
		h.virsh("destroy", "web")
		r.held()
	}
}

// untilSent waits until the service, which is stopped, has a call over Varlink to read, or a
// connection to accept, whose call follows at once.
func (r *rig) untilSent() {
	r.t.Helper()
	r.until("a call is sent", func() bool {
		out, err := exec.Command("ss", "-Haxn", "src", r.socket).Output()
		require.NoError(r.t, err, "ss of the package iproute2")
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) > 2 && f[2] != "0" {
				return true
			}
		}
		return false
	})
}

// calls reports each call of a member of the service, when the bus has it.
func (r *rig) calls(member string) <-chan *godbus.Message {
	conn := r.bus.Dial(r.t)
	rule := fmt.Sprintf("type='method_call',interface='org.example.DlmLock',member='%s'", member)
	seen := make(chan *godbus.Message, 1000)
	require.NoError(r.t, conn.BusObject().Call("org.freedesktop.DBus.Monitoring.BecomeMonitor", 0, []string{rule},
		uint32(0)).Err)
	conn.Eavesdrop(seen)
	return seen
}

// startWaits starts the guest "db", which can't be locked, and sees that libvirtd answers
// about "web" meanwhile. It returns how the start failed.
func startWaits(t *testing.T, h *machine) result {
	t.Helper()
	done := h.try("start", "db")
	answers, longest := 0, time.Duration(0)
	var got result
	for got == (result{}) {
		began := time.Now()
		require.Contains(t, h.virsh("list"), "web")
		require.Equal(t, "running", h.state("web"))
		answers, longest = answers+1, max(longest, time.Since(began))
		select {
		case got = <-done:
		default:
		}
	}
	t.Logf("while the start waited, virsh list and domstate were answered %d times, after at most %v", answers,
		longest.Round(time.Millisecond))
	require.Greater(t, answers, 1)
	require.Error(t, got.err)
	return got
}

// A service that hangs refuses guests after the given time, and blocks nobody else.
func TestServiceHangs(t *testing.T) { bothWays(t, testServiceHangs) }

func testServiceHangs(t *testing.T, r *rig) {
	h := r.host("alpha", "timeout = 3\n")
	h.define("web", host.Disk{Path: r.image("a.img")})
	h.define("db", host.Disk{Path: r.image("b.img")})
	h.virsh("start", "web")
	require.NoError(t, testprocess.Stop(r.daemon.Process))

	got := startWaits(t, h)
	require.Contains(t, got.out, "dlmlockd has not answered for 3 s; it hangs, or the cluster is recovering")
	require.Equal(t, "shut off", h.state("db"))
	h.virsh("suspend", "web") // which libvirt does in any case
	require.Equal(t, "paused", h.state("web"))
	require.Contains(t, h.refused("resume", "web"), "has not answered")

	require.NoError(t, r.daemon.Process.Signal(syscall.SIGCONT))
	// Calls that were given up have changed nothing, or are withdrawn.
	r.held("web: a.img EX")
	h.virsh("resume", "web")
	h.virsh("start", "db")
	r.now("db: b.img EX", "web: a.img EX")
	require.NoError(t, testprocess.Stop(r.daemon.Process))
	h.virsh("destroy", "web")
	require.NoError(t, r.daemon.Process.Signal(syscall.SIGCONT))
	r.held("db: b.img EX")
}

// Without bus or service libvirtd starts, lists guests, and starts guests paused: a start registers
// in a forked child, which needs neither. Whether guests run is the administrator's choice.
func TestServiceMissing(t *testing.T) {
	r := startOver(t, dbus)
	a := r.image("a.img")
	r.killDaemon()
	t.Run("refuse", func(t *testing.T) {
		h := r.host("alpha", "timeout = 3\n")
		h.define("web", host.Disk{Path: a})
		require.Contains(t, h.refused("start", "web"), "dlmlockd can't be reached on the system bus")
		h.virsh("start", "--paused", "web")
		require.Contains(t, h.refused("resume", "web"), "systemctl status dlmlockd")
		require.Equal(t, "paused", h.state("web"))
		r.startDaemon()
		h.virsh("resume", "web")
		r.now("web: a.img EX")
		h.virsh("destroy", "web")
	})
	r.held()
	r.killDaemon()
	t.Run("no bus", func(t *testing.T) {
		h := r.hostOn("unix:path="+r.dir+"/nothing", "beta", "timeout = 3\n")
		h.define("web", host.Disk{Path: a})
		h.virsh("start", "--paused", "web")
		require.Contains(t, h.refused("resume", "web"), "the system bus can't be reached: No such file or directory")
		h.virsh("destroy", "web")
	})
	t.Run("allow", func(t *testing.T) {
		h := r.host("gamma", "timeout = 3\non_service_missing = \"allow\"\n")
		h.define("web", host.Disk{Path: a})
		h.virsh("start", "web")
		require.Equal(t, "running", h.state("web"))
		h.virsh("suspend", "web")
		h.virsh("resume", "web")
		r.startDaemon()
		r.now()
		h.virsh("suspend", "web")
		h.virsh("resume", "web")
		r.now("web: a.img EX")
	})
}

// A mistake in the configuration is reported with its line, and a libvirtd that does not know what
// to lock starts no guest.
func TestConfigurationMistake(t *testing.T) {
	r := start(t)
	h := r.host("alpha", "")
	conf := h.Dir + "/etc/libvirt/qemu-dlmlock.conf"
	require.NoError(t, os.WriteFile(conf, []byte("# ours\nlockspce = \"libvirt\"\n"), 0o644))
	h.StopLibvirtd(syscall.SIGTERM)
	ended := h.Ended(h.Launch())
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("libvirtd runs")
	}
	log, err := os.ReadFile(h.Log())
	require.NoError(t, err)
	require.Contains(t, string(log), "/etc/libvirt/qemu-dlmlock.conf:2: unknown key lockspce")
	require.NoError(t, os.WriteFile(conf, nil, 0o644))
	h.StartLibvirtd()
}
