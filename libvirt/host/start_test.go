package host_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/libvirt/host"
)

// A guest that starts has its disks locked, each in its mode. A second one that
// wants one of them is refused by the lock driver, with the reason, and nothing
// of it is left.
func TestStart(t *testing.T) {
	r := start(t)
	h := r.host("alpha", "")
	a, b, iso, common := r.image("a.img"), r.image("b.img"), r.image("cd.iso"), r.image("common.img")
	h.define("web", host.Disk{Path: a}, host.Disk{Path: b}, host.Disk{Path: iso, ReadOnly: true, CDROM: true},
		host.Disk{Path: common, Shareable: true})
	h.virsh("start", "web")
	web := []string{"web: a.img EX", "web: b.img EX", "web: cd.iso PR", "web: common.img PR"}
	r.now(web...)
	pid, err := h.PID("web")
	require.NoError(t, err)
	held, err := r.client.Locks(t.Context(), client.Filter{})
	require.NoError(t, err)
	for _, l := range held {
		require.Equal(t, uint32(pid), l.PID)
		require.Equal(t, "process", l.Lifetime)
		require.Equal(t, fmt.Sprintf("%s/%d/%s", domain("web").UUID, pid, startTime(t, pid)), l.Owner)
	}

	h.define("db", host.Disk{Path: r.image("c.img")}, host.Disk{Path: b}, host.Disk{Path: common, Shareable: true})
	said := h.refused("start", "db")
	require.Contains(t, said, "domain 'db' can't have '"+b+"'")
	require.Contains(t, said, "held by this node")
	require.Contains(t, said, "web: "+b)
	require.Contains(t, said, "stop the guest that has it first")
	require.Equal(t, "shut off", h.state("db"))
	require.Equal(t, "running", h.state("web"))
	r.now(web...)

	h.define("db", host.Disk{Path: r.image("c.img")}, host.Disk{Path: common, Shareable: true},
		host.Disk{Path: iso, ReadOnly: true, CDROM: true})
	h.virsh("start", "db")
	r.now(append(web, "db: c.img EX", "db: common.img PR", "db: cd.iso PR")...)
	h.virsh("destroy", "web")
	r.held("db: c.img EX", "db: common.img PR", "db: cd.iso PR")
	h.virsh("destroy", "db")
	r.held()
}

// Only the lock driver refuses a second guest here: without locks both would run. If this fails,
// the other tests test QEMU's own locks.
func TestNothingElseRefuses(t *testing.T) {
	r := start(t)
	h := r.host("alpha", "auto_disk_leases = 0\nrequire_lease_for_disks = 0\n")
	disk := host.Disk{Path: r.image("a.img")}
	for _, name := range []string{"web", "db"} {
		h.define(name, disk)
		h.virsh("start", name)
		require.Equal(t, "running", h.state(name))
	}
	r.now()
}

// However a guest ends, its locks end with it, and only its.
func TestGuestEnds(t *testing.T) { bothDrivers(t, testGuestEnds) }

func testGuestEnds(t *testing.T, r *rig) {
	h := r.host("alpha", "")
	h.define("web", host.Disk{Path: r.image("a.img")}, host.Disk{Path: r.image("b.img")})
	h.define("rest", host.Disk{Path: r.image("c.img")})
	h.virsh("start", "rest")
	for how, end := range map[string]func(pid int){
		"destroyed":        func(int) { h.virsh("destroy", "web") },
		"killed":           func(pid int) { require.NoError(t, unix.Kill(pid, syscall.SIGKILL)) },
		"terminated":       func(pid int) { require.NoError(t, unix.Kill(pid, syscall.SIGTERM)) },
		"shut down itself": func(int) { h.pressKey("web") },
		"killed without libvirtd": func(pid int) {
			h.StopLibvirtd(syscall.SIGKILL)
			require.NoError(t, unix.Kill(pid, syscall.SIGKILL))
		},
	} {
		t.Run(how, func(t *testing.T) {
			h.virsh("start", "web")
			r.now("rest: c.img EX", "web: a.img EX", "web: b.img EX")
			pid, err := h.PID("web")
			require.NoError(t, err)
			stayed := h.ending("web")
			end(pid)
			t.Logf("the locks were gone %v after QEMU", stayed().Round(100*time.Microsecond))
			r.now("rest: c.img EX")
			if how == "killed without libvirtd" {
				h.StartLibvirtd()
			}
			r.until("the domain is off", func() bool { return h.state("web") == "shut off" })
		})
	}
}

// pressKey presses the key for which a guest with an image of ours waits before it shuts down.
// Nothing reports whether its BIOS reads keys yet.
func (m *machine) pressKey(name string) {
	m.rig.t.Helper()
	m.rig.until("the guest has shut down", func() bool {
		if m.state(name) != "running" {
			return true
		}
		_, _ = m.Virsh(m.rig.t.Context(), "send-key", name, "KEY_ENTER")
		return false
	})
}

// If disks are not locked automatically, a guest that writes to one must have a lease, which is
// locked by its name.
func TestLeases(t *testing.T) {
	r := start(t)
	h := r.host("alpha", "auto_disk_leases = 0\n")
	disk := host.Disk{Path: r.image("a.img")}
	h.define("none", disk)
	require.Contains(t, h.refused("start", "none"), "add a <lease>")
	for _, name := range []string{"web", "db"} {
		d := domain(name, disk)
		d.Leases = []host.Lease{{Lockspace: "other", Key: "the-disk"}}
		h.virsh("define", r.file(name, d.XML()))
	}
	h.virsh("start", "web")
	r.now("web: other/the-disk EX")
	require.Contains(t, h.refused("start", "db"), "domain 'db' can't have 'other/the-disk'")
	h.virsh("suspend", "web")
	r.held()
	h.virsh("start", "db")
	r.now("db: other/the-disk EX")
}

// startTime is when a process was started, in the kernel's ticks.
func startTime(t *testing.T, pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')'):]))[20]
}
