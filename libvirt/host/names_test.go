package host_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/libvirt/host"
)

// spellings are paths of one image: with links, and with redundant parts.
func (r *rig) spellings(name string) []string {
	r.t.Helper()
	dir := r.dir + "/" + name
	require.NoError(r.t, os.MkdirAll(dir+"/img", 0o755))
	require.NoError(r.t, host.WriteImage(dir+"/img/a.img"))
	require.NoError(r.t, os.Symlink("a.img", dir+"/img/link.img"))
	require.NoError(r.t, os.Symlink("img", dir+"/pool"))
	require.NoError(r.t, os.Link(dir+"/img/a.img", dir+"/hard.img"))
	var out []string
	for _, s := range []string{"/img/a.img", "/img/link.img", "/img//a.img", "/img/./a.img", "/img/../img/a.img",
		"/pool/a.img", "/pool/link.img", "/hard.img"} {
		out = append(out, dir+s)
	}
	return out
}

// One file belongs to one guest, however each guest spells it.
func TestOneFileManySpellings(t *testing.T) {
	r := start(t)
	h := r.host("alpha", "")
	all := r.spellings("x")
	for i, path := range all {
		h.define(fmt.Sprint("g", i), host.Disk{Path: path})
	}
	for first, path := range all {
		if first > 3 && testing.Short() {
			break
		}
		name := fmt.Sprint("g", first)
		h.virsh("start", name)
		for second := range all {
			if second != first && (first < 2 || second == 0) {
				require.Contains(t, h.refused("start", fmt.Sprint("g", second)), name+": "+path)
			}
		}
		h.virsh("suspend", name)
		r.held()
		h.virsh("resume", name)
		require.Contains(t, h.refused("start", fmt.Sprint("g", (first+1)%len(all))), name+": "+path)
		h.virsh("destroy", name)
		r.held()
	}
}

// A disk is attached under one spelling and detached under another.
func TestAttachUnderAnotherSpelling(t *testing.T) {
	r := start(t)
	h := r.host("alpha", "")
	all := r.spellings("x")
	h.define("web", host.Disk{Path: r.image("own.img")})
	h.define("db", host.Disk{Path: all[0]})
	h.virsh("start", "web")
	h.virsh("start", "db")
	disk := func(path string) string { return r.file("disk", host.Disk{Path: path, SCSI: true}.XML(1)) }
	require.Contains(t, h.refused("attach-device", "web", disk(all[1])), "db: "+all[0])
	r.now("web: own.img EX", "db: x/img/a.img EX", "db: x/img/a.img EX")
	h.virsh("destroy", "db")
	h.virsh("attach-device", "web", disk(all[1]))
	require.Contains(t, h.refused("start", "db"), "web: "+all[1])
	h.virsh("detach-device", "web", disk(all[1]))
	r.held("web: own.img EX")
	h.virsh("start", "db")
}

// Two drives have the same medium. One is emptied, and that of the other stays locked.
func TestOneMediumInTwoDrives(t *testing.T) {
	r := start(t)
	h := r.host("alpha", "")
	iso := host.Disk{Path: r.image("cd.iso"), CDROM: true, ReadOnly: true}
	h.define("web", iso, iso)
	h.define("writer", host.Disk{Path: iso.Path})
	h.virsh("start", "web")
	r.now("web: cd.iso PR")
	h.changeMedia("web", "hdb", "--eject")
	r.now("web: cd.iso PR")
	require.Contains(t, h.refused("start", "writer"), "web: "+iso.Path)
	h.changeMedia("web", "hda", "--eject")
	r.held()
	h.virsh("start", "writer")
}

// transient makes the disks of a description transient.
func transient(xml string) string { return strings.ReplaceAll(xml, "</disk>", "<transient/></disk>") }

// The image below a transient disk is locked shared: guests that only read it run beside each
// other, and none may write to it.
func TestTransient(t *testing.T) {
	r := start(t)
	h := r.host("alpha", "")
	a, b := r.image("a.img"), r.image("b.img")
	h.define("writer", host.Disk{Path: a})
	for _, name := range []string{"web", "db"} {
		h.virsh("define", r.file(name, transient(domain(name, host.Disk{Path: a}).XML())))
		h.virsh("start", name)
	}
	web := []string{"web: a.img.TRANSIENT-web EX", "web: a.img.TRANSIENT-web PR"}
	db := []string{"db: a.img.TRANSIENT-db EX", "db: a.img.TRANSIENT-db PR"}
	r.now(append(web, db...)...)
	require.Contains(t, h.refused("start", "writer"), a+".TRANSIENT-")
	h.virsh("destroy", "db")
	r.held(web...)
	h.virsh("suspend", "web")
	r.held()
	h.virsh("resume", "web")
	r.now(web...)

	disk := r.file("disk", transient(host.Disk{Path: b, SCSI: true}.XML(1)))
	h.virsh("attach-device", "web", disk)
	r.held(append(web, "web: b.img.TRANSIENT-web EX", "web: b.img.TRANSIENT-web PR")...)
	h.virsh("detach-device", "web", r.file("disk", transient(host.Disk{Path: b + ".TRANSIENT-web", SCSI: true}.XML(1))))
	r.held(web...)
	h.virsh("destroy", "web")
	r.held()
	h.virsh("start", "writer")
	require.Contains(t, h.refused("start", "web"), "writer: "+a)
}

// A guest that has been running since before an upgrade holds only the lock on its path as it is
// spelled. It blocks each spelling that leads to that; a suspend and a resume give it all names.
func TestGuestOfAnOlderDriver(t *testing.T) {
	r := start(t)
	h := r.host("alpha", "")
	all := r.spellings("x")
	h.lockManager("")
	older := func(name, path string) {
		h.define(name, host.Disk{Path: path})
		h.virsh("start", name)
		pid, err := h.PID(name)
		require.NoError(t, err)
		hash := fmt.Sprintf("%x", sha256.Sum256([]byte(path)))
		_, err = r.client.Acquire(t.Context(), client.Want{Lockspace: "libvirt", Resource: hash, Mode: "EX"},
			client.Options{Owner: fmt.Sprintf("%s/%d/%s", domain(name).UUID, pid, startTime(t, pid)),
				Label: name + ": " + path, Lifetime: "process", PID: uint32(pid)})
		require.NoError(t, err)
	}
	older("web", all[0])
	h.lockManager("dlmlock")
	for i, path := range all[1:7] {
		h.define(fmt.Sprint("g", i), host.Disk{Path: path})
		require.Contains(t, h.refused("start", fmt.Sprint("g", i)), "web: "+all[0])
	}
	h.virsh("suspend", "web")
	r.held()
	h.virsh("resume", "web")
	require.Contains(t, h.refused("start", "g0"), "web: "+all[0])
	h.virsh("destroy", "web")
	r.held()

	h.lockManager("")
	older("link", all[1])
	h.lockManager("dlmlock")
	h.virsh("suspend", "link")
	h.virsh("resume", "link")
	h.define("web", host.Disk{Path: all[0]})
	require.Contains(t, h.refused("start", "web"), "link: "+all[1])
}

// A block device belongs to one guest, whichever node or link leads to it.
func TestOneDeviceManyNodes(t *testing.T) {
	r := start(t)
	h := r.host("alpha", "")
	out, err := exec.Command("losetup", "--find", "--show", r.image("a.img")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", loop).Run() })
	var st unix.Stat_t
	require.NoError(t, unix.Stat(loop, &st))
	require.NoError(t, unix.Mknod(r.dir+"/node", unix.S_IFBLK|0o600, int(st.Rdev)))
	require.NoError(t, os.Symlink(loop, r.dir+"/by-id"))
	h.define("web", host.Disk{Path: loop, Block: true})
	h.define("node", host.Disk{Path: r.dir + "/node", Block: true})
	h.define("by-id", host.Disk{Path: r.dir + "/by-id", Block: true})
	h.virsh("start", "web")
	require.Contains(t, h.refused("start", "node"), "web: "+loop)
	require.Contains(t, h.refused("start", "by-id"), "web: "+loop)
	h.virsh("destroy", "web")
	r.held()
	h.virsh("start", "by-id")
	require.Contains(t, h.refused("start", "web"), "by-id: ")
}

// A mirror is still written to while the guest is paused, so its lock stays.
func TestPausedWhileADiskIsCopied(t *testing.T) {
	r := start(t)
	h := r.host("alpha", "")
	h.virsh("create", r.file("web", domain("web", host.Disk{Path: r.image("a.img")}).XML()))
	h.virsh("blockcopy", "web", "vda", "--dest", r.dir+"/one.img", "--format", "raw", "--wait")
	h.virsh("suspend", "web")
	r.held("web: one.img EX")
	h.virsh("resume", "web")
	r.now("web: a.img EX", "web: one.img EX")
}

// A bind mount shows a file under a second path, even if it is made while a guest has the file.
func TestOneFileManyMounts(t *testing.T) {
	r := start(t)
	h := r.host("alpha", "")
	require.NoError(t, os.MkdirAll(r.dir+"/img", 0o755))
	require.NoError(t, os.MkdirAll(r.dir+"/bound", 0o755))
	require.NoError(t, host.WriteImage(r.dir+"/img/a.img"))
	h.define("web", host.Disk{Path: r.dir + "/img/a.img"})
	h.define("db", host.Disk{Path: r.dir + "/bound/a.img"})
	h.virsh("start", "web")
	r.now("web: img/a.img EX")
	in := "--mount=" + h.MountNamespace()
	dir := built.root + r.dir // libvirtd's root is a mount of its own
	out, err := exec.Command("nsenter", in, "mount", "--bind", dir+"/img", dir+"/bound").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, h.refused("start", "db"), "web: "+r.dir+"/img/a.img")
	h.virsh("destroy", "web")
	r.held()
	h.virsh("start", "db")
	require.Contains(t, h.refused("start", "web"), "db: "+r.dir+"/bound/a.img")
}
