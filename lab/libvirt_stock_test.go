package lab_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/libvirt/host"
)

// virtlockdConf has the service answer where virtlockd does. Of the directories only
// those have a lockspace of their own that dlmlock.so gives one.
const virtlockdConf = `[virtlockd]
socket = "/run/libvirt/virtlockd-sock"
timeout = "20s"
[virtlockd.lockspaces]
"/var/lib/libvirt/lockd/lvmvolumes" = "volumes"
"/var/lib/libvirt/lockd/scsivolumes" = "luns"
`

const lockdConf = `auto_disk_leases = 1
lvm_lockspace_dir = "/var/lib/libvirt/lockd/lvmvolumes"
scsi_lockspace_dir = "/var/lib/libvirt/lockd/scsivolumes"
`

// TestLibvirtBothDrivers has libvirt's own lock driver, unmodified, on one node and
// dlmlock.so on the other, with the kernel's DLM between them: a disk is used on one
// node only, whether it is a file, a logical volume or a SCSI device, and after a
// crash of one node the guest starts on the other.
func TestLibvirtBothDrivers(t *testing.T) {
	lab.Require(t)
	l := startLibvirtLab(t, 2)
	_ = t.Run("file", l.stockFile) && t.Run("volume", l.stockVolume) && t.Run("lun", l.stockLUN) && t.Run("crash", l.crash)
}

// stockFile starts one domain on both nodes.
func (l *libvirtLab) stockFile(t *testing.T) {
	for id := 1; id <= 2; id++ {
		l.define(t, id, "web", host.Disk{Path: images + "/web.img"})
	}
	l.do(t, 1, "start", "web")
	l.held(t, 1, webLock)
	said := l.refused(t, 2, "start", "web")
	t.Log(said)
	require.Contains(t, said, "error: resource busy: '"+images+"/web.img' is in use by domain 'web' on node 1")
	l.held(t, 2)
	l.do(t, 1, "destroy", "web")
	l.held(t, 1)

	l.do(t, 2, "start", "web")
	l.held(t, 2, webLock)
	require.Contains(t, l.refused(t, 1, "start", "web"), "held by node 2")
	l.do(t, 2, "suspend", "web")
	l.held(t, 2)
	l.do(t, 2, "resume", "web")
	l.held(t, 2, webLock)
	l.do(t, 2, "destroy", "web")
	l.held(t, 2)
}

// alternate starts a domain on each node in turn, while the other node can't start
// one with the same disk, whatever its path is there. It returns the resource.
func (l *libvirtLab) alternate(t *testing.T, lockspace string, paths [3]string) string {
	resources := map[string]bool{}
	for id := 1; id <= 2; id++ {
		l.define(t, id, fmt.Sprintf("blocks%d", id), host.Disk{Path: paths[id], Block: true})
	}
	for id := 1; id <= 2; id++ {
		other := 3 - id
		l.do(t, id, "start", fmt.Sprintf("blocks%d", id))
		c, err := l.services[id].Dial(lab.Context(t, "locks", commandTime))
		require.NoError(t, err)
		held, err := c.Locks(lab.Context(t, "locks", commandTime), client.Filter{})
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Len(t, held, 1)
		require.Equal(t, lockspace, held[0].Lockspace)
		require.Equal(t, "EX", held[0].Mode)
		resources[held[0].Resource] = true
		said := l.refused(t, other, "start", fmt.Sprintf("blocks%d", other))
		t.Log(said)
		require.Contains(t, said, "error: resource busy: ")
		require.Contains(t, said, fmt.Sprintf("node %d", id))
		l.do(t, id, "destroy", fmt.Sprintf("blocks%d", id))
		l.held(t, id)
	}
	require.Len(t, resources, 1, "both drivers give it one name: %v", resources)
	for resource := range resources {
		return resource
	}
	return ""
}

// stockVolume has one logical volume on both nodes, as shared storage has it.
func (l *libvirtLab) stockVolume(t *testing.T) {
	ctx := lab.Context(t, "volume", guestTime)
	one, two := l.cluster.Node(1), l.cluster.Node(2)
	lvm := " --config 'activation{udev_sync=0 udev_rules=0 verify_udev_operations=1} devices{use_devicesfile=0} " +
		"global{event_activation=0}' "
	_, err := one.Shell(ctx, "vgcreate"+lvm+"vg /dev/sda2 && lvcreate"+lvm+"--yes --extents 1 --name root vg && "+
		"vgcfgbackup"+lvm+"-f /root/vg vg")
	require.NoError(t, err)
	backup, err := one.Get(ctx, "/root/vg")
	require.NoError(t, err)
	pv, err := one.Shell(ctx, "pvs"+lvm+"--noheadings -o pv_uuid /dev/sda2")
	require.NoError(t, err)
	uuid, err := one.Shell(ctx, "lvs"+lvm+"--noheadings -o lv_uuid vg/root")
	require.NoError(t, err)
	require.NoError(t, two.Put(ctx, "/root/vg", 0o644, backup))
	_, err = two.Shell(ctx, "pvcreate"+lvm+"--yes --uuid "+strings.TrimSpace(
		pv)+" --restorefile /root/vg /dev/sda2 && vgcfgrestore"+lvm+
		"-f /root/vg vg && vgchange"+lvm+"-ay vg")
	require.NoError(t, err)
	name := l.alternate(t, "volumes", [3]string{1: "/dev/vg/root", 2: "/dev/vg/root"})
	require.Equal(t, strings.ReplaceAll(strings.TrimSpace(uuid), "-", ""), name)
}

// stockLUN has a SCSI device under another path on each node.
func (l *libvirtLab) stockLUN(t *testing.T) {
	ctx := lab.Context(t, "wwn", guestTime)
	wwid, err := l.cluster.Node(1).Shell(ctx, "cat /sys/block/sda/device/wwid")
	require.NoError(t, err)
	name := l.alternate(t, "luns", [3]string{1: "/dev/lun-of-node1", 2: "/dev/lun-of-node2"})
	require.Equal(t, "3"+strings.TrimPrefix(strings.TrimSpace(wwid), "naa."), name)
}
