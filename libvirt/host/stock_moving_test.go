package host_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/libvirt/host"
)

// socketLink is what the hosts of a test have in the place of virtlockd's socket: a link
// that leads to whoever serves them.
func (r *rig) socketLink(to string) string {
	link, next := filepath.Join(r.dir, "serves"), filepath.Join(r.dir, "serves.next")
	require.NoError(r.t, os.Symlink(to, next))
	require.NoError(r.t, os.Rename(next, link))
	return link
}

// A host whose guests run under virtlockd moves to the service as docs/libvirt.md tells
// and virtlockd-socket does it: virtlockd is killed, because at an orderly stop it ends
// the guests, and each guest is suspended and resumed. Between these two steps no guest
// is locked by anybody, which the document says.
func TestMovingFromVirtlockd(t *testing.T) {
	r := startWith(t, stock, "")
	socket, virtlockd := realVirtlockd(t)
	h := r.stockHostAt(r.socketLink(socket), "alpha", "")
	a, b := r.image("a.img"), r.image("b.img")
	h.define("web", host.Disk{Path: a})
	h.define("paused", host.Disk{Path: b})
	h.define("db", host.Disk{Path: a})
	h.virsh("start", "web")
	h.virsh("start", "paused")
	h.virsh("suspend", "paused")
	require.Contains(t, h.refused("start", "db"), "is locked")

	require.NoError(t, virtlockd.Process.Signal(syscall.SIGKILL))
	_ = virtlockd.Wait()
	r.socketLink(r.virtlockd())
	require.Equal(t, "running", h.state("web"))
	r.now() // the moment that the document tells of
	for _, guest := range strings.Fields(h.virsh("list", "--name", "--state-running")) {
		h.virsh("suspend", guest)
		h.virsh("resume", guest)
	}
	r.now("web: a.img EX")
	require.Contains(t, h.refused("start", "db"), r.inUse("web", a))
	h.virsh("resume", "paused")
	r.now("paused: b.img EX", "web: a.img EX")
	h.StopLibvirtd(syscall.SIGKILL)
	h.StartLibvirtd()
	r.now("paused: b.img EX", "web: a.img EX")

	// And back: virtlockd does not know of the guests that run, and harms none.
	socket, _ = realVirtlockd(t)
	r.socketLink(socket)
	require.Equal(t, "running", h.state("web"))
	h.virsh("suspend", "web")
	h.virsh("resume", "web")
	r.now("paused: b.img EX", "web: a.img EX") // to their end
	require.Contains(t, h.refused("start", "db"), "is locked")
	h.virsh("destroy", "web")
	r.held("paused: b.img EX")
}

// What makes virtlockd-socket kill virtlockd: an orderly stop ends the guests that hold
// locks.
func TestVirtlockdEndsItsGuests(t *testing.T) {
	r := startWith(t, stock, "")
	socket, virtlockd := realVirtlockd(t)
	h := r.stockHostAt(socket, "alpha", "")
	h.define("web", host.Disk{Path: r.image("a.img")})
	h.virsh("start", "web")
	require.NoError(t, virtlockd.Process.Signal(syscall.SIGTERM))
	_ = virtlockd.Wait()
	r.until("virtlockd has ended the guest", func() bool { return h.state("web") == "shut off" })
}

// BenchmarkLibvirtdStarts compares how long libvirtd takes to start, up to its first
// answer, with virtlockd and with the service behind its lock driver.
func BenchmarkLibvirtdStarts(b *testing.B) {
	r := startWith(b, stock, "")
	theirs, _ := realVirtlockd(b)
	hosts := map[string]*machine{}
	for name, socket := range map[string]string{"theirs": theirs, "ours": r.virtlockd()} {
		hosts[name] = r.stockHostAt(socket, name, "file_lockspace_dir = \""+r.dir+"/files\"\n")
	}
	require.NoError(b, os.MkdirAll(r.dir+"/files", 0o755))
	took := map[string][]time.Duration{}
	for b.Loop() {
		for name, h := range hosts {
			h.StopLibvirtd(syscall.SIGTERM)
			begun := time.Now()
			h.StartLibvirtd()
			took[name] = append(took[name], time.Since(begun))
		}
	}
	for name, all := range took {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Milliseconds()), name+"-ms")
	}
}
