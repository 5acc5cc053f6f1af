package host_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/libvirt/host"
)

// A guest that is started paused has no locks, so another guest may have its disks; it does not run
// before it has them itself.
func TestStartPaused(t *testing.T) { bothDrivers(t, testStartPaused) }

func testStartPaused(t *testing.T, r *rig) {
	h := r.host("alpha", "")
	a := r.image("a.img")
	h.define("web", host.Disk{Path: a})
	h.define("db", host.Disk{Path: a})
	h.virsh("start", "--paused", "web")
	r.now()
	h.virsh("start", "db")
	r.now("db: a.img EX")
	require.Contains(t, h.refused("resume", "web"), r.inUse("db", a))
	require.Equal(t, "paused", h.state("web"))
	r.now("db: a.img EX")
	h.virsh("destroy", "db")
	r.held()
	h.virsh("resume", "web")
	r.now("web: a.img EX")
	require.Contains(t, h.refused("start", "db"), r.inUse("web", a))
	h.virsh("destroy", "web")
	r.held()
}

// A suspended guest releases its locks, and acquires all of them again before it runs.
func TestSuspend(t *testing.T) { bothDrivers(t, testSuspend) }

func testSuspend(t *testing.T, r *rig) {
	h := r.host("alpha", "")
	a, b := r.image("a.img"), r.image("b.img")
	h.define("web", host.Disk{Path: a}, host.Disk{Path: b})
	h.define("db", host.Disk{Path: b})
	h.virsh("start", "web")
	r.now("web: a.img EX", "web: b.img EX")
	for range 3 {
		h.virsh("suspend", "web")
		r.held()
		h.virsh("resume", "web")
		r.now("web: a.img EX", "web: b.img EX")
	}
	h.virsh("suspend", "web")
	h.virsh("start", "db")
	require.Contains(t, h.refused("resume", "web"), r.inUse("db", b))
	r.now("db: b.img EX")
	require.Equal(t, "paused", h.state("web"))
	h.virsh("suspend", "db")
	h.virsh("resume", "web")
	r.now("web: a.img EX", "web: b.img EX")
	require.Contains(t, h.refused("resume", "db"), r.inUse("web", b))
}

// Disks that are attached and detached while the guest runs, and while it is paused: after the
// latter virtlockd could not resume it.
func TestAttachAndDetach(t *testing.T) { bothDrivers(t, testAttachAndDetach) }

func testAttachAndDetach(t *testing.T, r *rig) {
	h := r.host("alpha", "")
	a, b := r.image("a.img"), r.image("b.img")
	h.define("web", host.Disk{Path: a})
	h.define("db", host.Disk{Path: b})
	disk := r.file("disk", host.Disk{Path: b, SCSI: true}.XML(1))
	shared := r.file("shared", host.Disk{Path: r.image("c.img"), SCSI: true, Shareable: true}.XML(2))

	h.virsh("start", "--paused", "web")
	h.virsh("attach-device", "web", disk)
	r.now("web: b.img EX")
	require.Contains(t, h.refused("start", "db"), r.inUse("web", b))
	h.virsh("resume", "web")
	r.now("web: a.img EX", "web: b.img EX")
	h.virsh("detach-device", "web", disk)
	r.held("web: a.img EX")

	h.virsh("start", "db")
	require.Contains(t, h.refused("attach-device", "web", disk), r.inUse("db", b))
	require.NotContains(t, h.virsh("domblklist", "web"), b)
	r.now("web: a.img EX", "db: b.img EX")
	h.virsh("destroy", "db")
	h.virsh("attach-device", "web", disk)
	h.virsh("attach-device", "web", shared)
	r.held("web: a.img EX", "web: b.img EX", "web: c.img PR")

	h.virsh("suspend", "web")
	r.held()
	h.virsh("detach-device", "web", disk)
	r.now()
	h.virsh("resume", "web")
	r.now("web: a.img EX", "web: c.img PR")
}

// Changed media, and an empty drive.
func TestMedia(t *testing.T) {
	r := start(t)
	h := r.host("alpha", "")
	one, two := r.image("one.iso"), r.image("two.iso")
	h.define("web", host.Disk{Path: r.image("a.img")}, host.Disk{Path: one, CDROM: true, ReadOnly: true})
	h.define("writer", host.Disk{Path: two})
	h.virsh("start", "web")
	r.now("web: a.img EX", "web: one.iso PR")
	h.changeMedia("web", "hdb", "--eject")
	r.held("web: a.img EX")
	h.changeMedia("web", "hdb", "--insert", two)
	r.held("web: a.img EX", "web: two.iso PR")
	require.Contains(t, h.refused("start", "writer"), "web: "+two)
	h.changeMedia("web", "hdb", "--update", one)
	r.held("web: a.img EX", "web: one.iso PR")
	h.virsh("start", "writer")
	require.Contains(t, h.refused("change-media", "web", "hdb", "--update", two, "--force"), "writer: "+two)
	r.now("web: a.img EX", "web: one.iso PR", "writer: two.iso EX")
}

// changeMedia tries until the guest's BIOS, which resets the drive when it starts, no longer closes
// the tray while libvirt has it open. QEMU does not report that, so libvirt 9.0 believes for ever
// that it is open, unless it is opened.
func (m *machine) changeMedia(args ...string) {
	m.rig.t.Helper()
	m.rig.until("media changed", func() bool {
		out, err := m.Virsh(m.rig.t.Context(), append(append([]string{"change-media"}, args...), "--force")...)
		require.True(m.rig.t, err == nil || strings.Contains(out, "Tray of "), "virsh change-media %v: %s", args,
			out)
		if err != nil {
			_, _ = m.Virsh(m.rig.t.Context(), "qemu-monitor-command", args[0],
				`{"execute":"blockdev-open-tray","arguments":{"id":"ide0-0-1","force":true}}`)
		}
		return err == nil
	})
}

// A guest that is saved releases its locks; one that is restored starts like any other.
func TestSaveAndRestore(t *testing.T) { bothDrivers(t, testSaveAndRestore) }

func testSaveAndRestore(t *testing.T, r *rig) {
	h := r.host("alpha", "")
	a := r.image("a.img")
	saved := r.dir + "/web.saved"
	h.define("web", host.Disk{Path: a})
	h.define("db", host.Disk{Path: a})
	h.virsh("start", "web")
	h.virsh("save", "web", saved)
	r.held()
	h.virsh("start", "db")
	require.Contains(t, h.refused("restore", saved), r.inUse("db", a))
	require.Equal(t, "shut off", h.state("web"))
	r.now("db: a.img EX")
	h.virsh("destroy", "db")
	r.held()
	h.virsh("restore", saved)
	r.now("web: a.img EX")
	h.virsh("restore", "--paused", h.save("web", saved))
	r.held()
	h.virsh("resume", "web")
	r.now("web: a.img EX")
	h.virsh("managedsave", "web")
	r.held()
	h.virsh("start", "web")
	r.now("web: a.img EX")
}

func (m *machine) save(name, path string) string {
	m.virsh("save", name, path)
	return path
}
