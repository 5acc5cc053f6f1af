package host_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/libvirt/host"
)

// The file that a guest writes to is the one that is locked, whichever it is: an overlay, the base
// that it was committed to, a copy. Lock drivers do not learn of backing files.
func TestSnapshotAndCommit(t *testing.T) { bothDrivers(t, testSnapshotAndCommit) }

func testSnapshotAndCommit(t *testing.T, r *rig) {
	h := r.host("alpha", "")
	a := r.image("a.img")
	h.define("web", host.Disk{Path: a})
	h.define("db", host.Disk{Path: r.image("taken.img")})
	h.virsh("start", "web")
	h.virsh("start", "db")
	rest := "db: taken.img EX"
	h.virsh("snapshot-create-as", "web", "--disk-only", "--no-metadata", "--diskspec", "vda,file="+r.dir+"/over.img")
	r.held(rest, "web: over.img EX")
	h.virsh("blockcommit", "web", "vda", "--active", "--wait", "--pivot")
	r.held(rest, "web: a.img EX")
	said := h.refused("snapshot-create-as", "web", "--disk-only", "--no-metadata", "--reuse-external", "--diskspec",
		"vda,file="+r.dir+"/taken.img")
	require.Contains(t, said, r.inUse("db", r.dir+"/taken.img"))
	r.now(rest, "web: a.img EX")
	require.Equal(t, "running", h.state("web"))
}

func TestCopy(t *testing.T) { bothDrivers(t, testCopy) }

func testCopy(t *testing.T, r *rig) {
	h := r.host("alpha", "")
	h.virsh("create", r.file("web", domain("web", host.Disk{Path: r.image("a.img")}).XML()))
	copyTo := func(name string, args ...string) []string {
		return append([]string{"blockcopy", "web", "vda", "--dest", r.dir + "/" + name, "--format", "raw", "--wait"},
			args...)
	}
	h.virsh(copyTo("one.img")...)
	r.held("web: a.img EX", "web: one.img EX")
	h.virsh("blockjob", "web", "vda", "--abort")
	r.held("web: a.img EX")
	h.virsh(copyTo("two.img", "--pivot")...)
	r.held("web: two.img EX")

	h.virsh("create", r.file("db", domain("db", host.Disk{Path: r.image("taken.img")}).XML()))
	said := h.refused(copyTo("taken.img", "--reuse-external")...)
	require.Contains(t, said, r.inUse("db", r.dir+"/taken.img"))
	r.now("db: taken.img EX", "web: two.img EX")
}
