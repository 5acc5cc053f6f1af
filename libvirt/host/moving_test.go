package host_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/libvirt/host"
)

// lockManager sets the lock driver of a host and restarts its libvirtd; its guests
// run on. "" is none.
func (m *machine) lockManager(name string) {
	t := m.rig.t
	t.Helper()
	conf := filepath.Join(m.Dir, "etc/libvirt/qemu.conf")
	text, err := os.ReadFile(conf)
	require.NoError(t, err)
	lines := strings.Split(string(text), "\n")
	for i, l := range lines {
		if strings.Contains(l, "lock_manager") {
			lines[i] = "# no lock_manager"
			if name != "" {
				lines[i] = "lock_manager = \"" + name + "\""
			}
		}
	}
	m.StopLibvirtd(syscall.SIGTERM)
	// In place: the directory is mounted in the host.
	require.NoError(t, os.WriteFile(conf, []byte(strings.Join(lines, "\n")), 0o644))
	m.StartLibvirtd()
}

// What docs/libvirt.md says of a host whose guests run already when it gets the
// lock driver: they have no locks until they are suspended and resumed.
func TestDriverForGuestsThatRun(t *testing.T) {
	r := start(t)
	h := r.host("alpha", "")
	h.lockManager("")
	h.define("web", host.Disk{Path: r.image("a.img")})
	h.define("db", host.Disk{Path: filepath.Join(r.dir, "a.img")})
	h.virsh("start", "web")
	r.now()

	h.lockManager("dlmlock")
	require.Equal(t, "running", h.state("web"))
	r.now()
	for _, guest := range strings.Fields(h.virsh("list", "--name", "--state-running")) {
		h.virsh("suspend", guest)
		h.virsh("resume", guest)
	}
	r.now("web: a.img EX")
	require.Contains(t, h.refused("start", "db"), "stop the guest that has it first")

	// And back.
	h.lockManager("")
	r.now("web: a.img EX")
	// libvirtd may be connecting to the guest still, and then says that destroy
	// failed because the guest has ended.
	_, _ = h.Virsh(t.Context(), "destroy", "web")
	r.held()
}

// A guest migrates from a host without the lock driver to one with it, and is protected there;
// libvirt does not object.
func TestMigrationToTheDriver(t *testing.T) {
	r := start(t)
	a, b := r.host("alpha", ""), r.host("beta", "")
	a.lockManager("")
	a.virsh("create", r.file("web", domain("web", host.Disk{Path: r.image("a.img")}).XML()))
	r.now()
	a.virsh(migrate("web", b)...)
	require.Equal(t, "running", b.state("web"))
	r.now("web: a.img EX")
	// And away from it, where it is no longer protected.
	b.virsh(migrate("web", a)...)
	require.Equal(t, "running", a.state("web"))
	r.held()
}
