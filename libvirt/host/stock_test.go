package host_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/libvirt/host"
)

// Libvirt's own lock driver, unmodified, at the door that answers as virtlockd
// does. A guest that starts has its disks locked, but for those that it only reads,
// which that driver leaves out; the owner is the one that dlmlock.so has.
func TestStockStart(t *testing.T) {
	r := startWith(t, stock, "")
	h := r.host("alpha", "")
	a, b, iso, common := r.image("a.img"), r.image("b.img"), r.image("cd.iso"), r.image("common.img")
	h.define("web", host.Disk{Path: a}, host.Disk{Path: b}, host.Disk{Path: iso, ReadOnly: true, CDROM: true},
		host.Disk{Path: common, Shareable: true})
	h.virsh("start", "web")
	web := []string{"web: a.img EX", "web: b.img EX", "web: common.img PR"}
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

	// The driver locks c.img first, gives up at b.img, and releases nothing.
	h.define("db", host.Disk{Path: r.image("c.img")}, host.Disk{Path: b}, host.Disk{Path: common, Shareable: true})
	said := h.refused("start", "db")
	t.Log(said)
	require.Contains(t, said, "error: resource busy: '"+b+"' is in use by domain 'web' on node 1 (this one); stop "+
		"that domain")
	require.Equal(t, "shut off", h.state("db"))
	require.Equal(t, "running", h.state("web"))
	r.now(web...)
	h.define("db", host.Disk{Path: r.image("c.img")}, host.Disk{Path: common, Shareable: true})
	h.virsh("start", "db")
	r.now(append(web, "db: c.img EX", "db: common.img PR")...)
	h.virsh("destroy", "web")
	r.held("db: c.img EX", "db: common.img PR")

	// A suspend releases each disk twice, and a resume takes again what is held.
	// None of it is an error, as it was with virtlockd.
	h.virsh("suspend", "db")
	r.held()
	h.virsh("resume", "db")
	log, err := os.ReadFile(h.Log())
	require.NoError(t, err)
	require.NotContains(t, string(log), "is not locked")
	require.NotContains(t, string(log), "does not hold")
}

// A lease goes to the lockspace that it names.
func TestStockLeases(t *testing.T) {
	r := startWith(t, stock, "")
	h := r.stockHost("alpha", "auto_disk_leases = 0\n")
	for _, name := range []string{"web", "db"} {
		d := domain(name, host.Disk{Path: r.image("a.img")})
		d.Leases = []host.Lease{{Lockspace: "other", Key: "the-disk"}}
		h.virsh("define", r.file(name, d.XML()))
	}
	h.virsh("start", "web")
	held, err := r.client.Locks(t.Context(), client.Filter{})
	require.NoError(t, err)
	require.Len(t, held, 1)
	require.Equal(t, "other/the-disk", held[0].Lockspace+"/"+held[0].Resource)
	require.Contains(t, h.refused("start", "db"), "is in use by domain 'web'")
}

// A disk is one guest's, whichever driver its host has: dlmlock.so, libvirt's own
// with the disk's path, and libvirt's own with a lockspace directory, of which the
// service gets only the SHA-256 of the path.
func TestBothDriversBesideEachOther(t *testing.T) {
	r := startWith(t, ours, "")
	files := r.dir + "/files"
	r.conf = fmt.Sprintf("[virtlockd.lockspaces]\n%q = \"libvirt\"\n", files)
	r.killDaemon()
	r.startDaemon()
	hosts := map[string]*machine{"dlmlock": r.host("alpha", ""), "direct": r.stockHost("beta", ""),
		"indirect": r.stockHost("gamma", fmt.Sprintf("file_lockspace_dir = %q\n", files))}
	a, common := r.image("a.img"), host.Disk{Path: r.image("common.img"), Shareable: true}
	label := map[string]string{"dlmlock": "web: a.img EX", "direct": "web: a.img EX",
		"indirect": fmt.Sprintf("web: files/%x EX", sha256.Sum256([]byte(a)))}
	for _, h := range hosts {
		h.define("web", host.Disk{Path: a})
		h.define("db", host.Disk{Path: a})
		h.define("shares-"+h.Name, common)
		h.define("writes", host.Disk{Path: common.Path})
	}
	for first, has := range hosts {
		has.virsh("start", "web")
		r.now(label[first])
		for second, wants := range hosts {
			said := wants.refused("start", "db")
			t.Logf("%s, %s: %s", first, second, said)
			require.Contains(t, said, "error: resource busy: ")
			require.Contains(t, said, "web")
		}
		r.now(label[first])
		has.virsh("destroy", "web")
		r.held()
	}
	for _, h := range hosts {
		h.virsh("start", "shares-"+h.Name)
	}
	require.Len(t, r.locks(), 3)
	for _, h := range hosts {
		require.Contains(t, h.refused("start", "writes"), "error: resource busy: ")
	}
	for _, h := range hosts {
		h.virsh("destroy", "shares-"+h.Name)
	}
	r.held()
}

// One file is one guest's, however each host spells it and whichever driver it has.
func TestSpellingsOnBothDrivers(t *testing.T) {
	r := startWith(t, ours, "")
	alpha, beta := r.host("alpha", ""), r.stockHost("beta", "")
	all := r.spellings("x")
	for i, path := range all {
		alpha.define(fmt.Sprint("a", i), host.Disk{Path: path})
		beta.define(fmt.Sprint("b", i), host.Disk{Path: path})
	}
	for i, path := range all {
		beta.virsh("start", fmt.Sprint("b", i))
		require.Contains(t, alpha.refused("start", fmt.Sprint("a", (i+1)%len(all))), fmt.Sprintf("b%d: %s", i, path))
		beta.virsh("suspend", fmt.Sprint("b", i))
		r.held()
		if i < 2 {
			alpha.virsh("start", fmt.Sprint("a", i))
			require.Contains(t, beta.refused("resume", fmt.Sprint("b", i)), fmt.Sprintf("domain 'a%d'", i))
			alpha.virsh("destroy", fmt.Sprint("a", i))
		}
		beta.virsh("destroy", fmt.Sprint("b", i))
		r.held()
	}
}

// The service is killed at any moment of a guest's start. Libvirt's own driver does not
// try again, so the start may fail; then nothing is left. A guest that runs has all of
// its locks.
func TestStockServiceKilledWhileAGuestStarts(t *testing.T) {
	r := startWith(t, stock, "")
	h := r.stockHost("alpha", "")
	h.define("web", host.Disk{Path: r.image("a.img")}, host.Disk{Path: r.image("b.img")})
	for _, after := range []time.Duration{0, 100, 200, 300, 400, 500, 700} {
		done := h.try("start", "web")
		time.Sleep(after * time.Millisecond) // any time will do
		r.killDaemon()
		time.Sleep(50 * time.Millisecond)
		r.startDaemon()
		got := <-done
		if got.err == nil {
			r.now("web: a.img EX", "web: b.img EX")
			h.virsh("destroy", "web")
		} else {
			t.Logf("killed after %v: %s", after*time.Millisecond, got.out)
			require.Equal(t, "shut off", h.state("web"))
		}
		r.held()
	}
}
