package host_test

import (
	"crypto/sha256"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/libvirt/host"
)

// migrate is the command that moves a guest to another host.
func migrate(name string, to *machine) []string {
	return []string{"migrate", "--live", "--unsafe", name, to.URI(), "tcp://127.0.0.1"}
}

// holder is the pid for which a guest's disk is locked.
func (r *rig) holder(label string) int {
	r.t.Helper()
	held, err := r.client.Locks(r.t.Context(), client.Filter{})
	require.NoError(r.t, err)
	for _, l := range held {
		if l.Label == label {
			return int(l.PID)
		}
	}
	r.t.Fatalf("nobody holds %s", label)
	return 0
}

// A guest moves to another host and back. Both sides have the same UUID: the end
// of the source's QEMU must not take the target's locks.
func TestMigration(t *testing.T) { bothDrivers(t, testMigration) }

func testMigration(t *testing.T, r *rig) {
	a, b := r.host("alpha", ""), r.host("beta", "")
	image := r.image("a.img")
	a.virsh("create", r.file("web", domain("web", host.Disk{Path: image}).XML()))
	a.define("db", host.Disk{Path: image})
	b.define("db", host.Disk{Path: image})
	r.now("web: a.img EX")
	var more []string
	for from, to := a, b; ; from, to = b, a {
		stayed := from.ending("web")
		from.virsh(append(migrate("web", to), more...)...)
		t.Logf("the source's locks were gone %v before its QEMU", -stayed().Round(time.Millisecond))
		pid, err := to.PID("web")
		require.NoError(t, err)
		r.now("web: a.img EX")
		require.Equal(t, pid, r.holder("web: "+image))
		require.Contains(t, from.refused("start", "db"), r.inUse("web", image))
		require.Contains(t, to.refused("start", "db"), r.inUse("web", image))
		require.Equal(t, "running", to.state("web"))
		if to == a {
			break
		}
		more = []string{"--p2p"} // back without virsh in between
	}
	a.virsh("destroy", "web")
	r.held()
}

// A paused guest moves without locks, and acquires them where it is resumed.
func TestMigrationOfAPausedGuest(t *testing.T) { bothDrivers(t, testMigrationOfAPausedGuest) }

func testMigrationOfAPausedGuest(t *testing.T, r *rig) {
	a, b := r.host("alpha", ""), r.host("beta", "")
	a.virsh("create", r.file("web", domain("web", host.Disk{Path: r.image("a.img")}).XML()))
	a.virsh("suspend", "web")
	a.virsh(migrate("web", b)...)
	r.held()
	b.virsh("resume", "web")
	r.now("web: a.img EX")
}

// The target can't have the disk: there its name belongs to another lockspace, where somebody else
// holds it. The source goes on and has its lock again.
func TestMigrationRefused(t *testing.T) {
	r := start(t)
	a, b := r.host("alpha", ""), r.host("beta", "lockspace = \"other\"\n")
	image := r.image("a.img")
	name := fmt.Sprintf("%x", sha256.Sum256([]byte(image)))
	_, err := r.client.Acquire(t.Context(), client.Want{Lockspace: "other", Resource: name, Mode: "EX"},
		client.Options{Label: "somebody"})
	require.NoError(t, err)
	a.virsh("create", r.file("web", domain("web", host.Disk{Path: image}).XML()))
	r.now("somebody EX", "web: a.img EX")
	pid, err := a.PID("web")
	require.NoError(t, err)
	for range 2 {
		said := a.refused(migrate("web", b)...)
		require.Contains(t, said, "somebody")
		require.Equal(t, "running", a.state("web"))
		require.Equal(t, pid, r.holder("web: "+image))
		require.Empty(t, b.virsh("list", "--name"))
		r.held("somebody EX", "web: a.img EX")
	}
	// Once it is free there, it moves.
	require.NoError(t, r.client.Release(t.Context(), "other", name, client.Selector{}))
	a.virsh(migrate("web", b)...)
	r.held("web: a.img EX")
	held, err := r.client.Locks(t.Context(), client.Filter{})
	require.NoError(t, err)
	require.Equal(t, "other", held[0].Lockspace)
}

// In the gap between the source's release and the target's acquire a third guest gets the disk.
// Then neither side runs, and nothing is written by two.
func TestMigrationGap(t *testing.T) {
	r := start(t)
	a, b := r.host("alpha", ""), r.host("beta", "")
	image := r.image("a.img")
	name := fmt.Sprintf("%x", sha256.Sum256([]byte(image)))
	a.virsh("create", r.file("web", domain("web", host.Disk{Path: image}).XML()))
	got := make(chan error, 1)
	go func() { // waits until the source has released it
		_, err := r.client.Acquire(t.Context(), client.Want{Lockspace: "libvirt", Resource: name, Mode: "EX"},
			client.Options{Label: "third", Wait: -1})
		got <- err
	}()
	r.until("somebody waits", func() bool {
		at, err := r.client.Inspect(t.Context(), "libvirt", name)
		require.NoError(t, err)
		return len(at.Waiting) > 0
	})
	require.Contains(t, a.refused(migrate("web", b)...), "third")
	require.NoError(t, <-got)
	r.now("third EX")
	require.Equal(t, "paused", a.state("web"))
	require.Empty(t, b.virsh("list", "--name"))
	require.Contains(t, a.refused("resume", "web"), "third")
	require.NoError(t, r.client.Release(t.Context(), "libvirt", name, client.Selector{}))
	a.virsh("resume", "web")
	r.now("web: a.img EX")
}

// The service is killed in the gap, when the source releases its locks. The guest moves
// nevertheless.
func TestMigrationWhileTheServiceIsKilled(t *testing.T) {
	r := startOver(t, dbus)
	a, b := r.host("alpha", "timeout = 30\n"), r.host("beta", "timeout = 30\n")
	image := r.image("a.img")
	a.virsh("create", r.file("web", domain("web", host.Disk{Path: image}).XML()))
	letsGo := r.calls("ReleaseMany")
	done := a.try(migrate("web", b)...)
	<-letsGo
	r.killDaemon()
	r.startDaemon()
	got := <-done
	require.NoError(t, got.err, got.out)
	r.held("web: a.img EX")
	pid, err := b.PID("web")
	require.NoError(t, err)
	require.Equal(t, pid, r.holder("web: "+image))
}

// The target's libvirtd dies in the gap. The guest runs on one host, where it has its disk, or is
// paused on the source, if the target already had the disk when the source wanted to go on.
func TestMigrationWhileTheTargetDies(t *testing.T) {
	r := startOver(t, dbus)
	a, b := r.host("alpha", ""), r.host("beta", "")
	image := r.image("a.img")
	a.virsh("create", r.file("web", domain("web", host.Disk{Path: image}).XML()))
	letsGo := r.calls("ReleaseMany")
	done := a.try(migrate("web", b)...)
	<-letsGo
	b.StopLibvirtd(syscall.SIGKILL)
	got := <-done
	t.Log(got.out)
	b.StartLibvirtd()
	var states [2]string
	r.until("the guest is on one host", func() bool {
		for i, m := range []*machine{a, b} {
			states[i], _ = m.Virsh(t.Context(), "domstate", "web")
		}
		return (states[0] == "running") != (states[1] == "running") || states[0] == "paused" &&
			b.virsh("list", "--name") == ""
	})
	t.Logf("the guest on the source: %s, on the target: %s", states[0], states[1])
	at := a
	if states[1] == "running" {
		at = b
	} else if states[0] == "paused" {
		r.held()
		a.virsh("resume", "web")
	}
	r.held("web: a.img EX")
	pid, err := at.PID("web")
	require.NoError(t, err)
	require.Equal(t, pid, r.holder("web: "+image))
}
