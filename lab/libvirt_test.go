package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
	"github.com/dlmlock/dlmlockd/lab/service"
	"github.com/dlmlock/dlmlockd/libvirt/host"
)

// guestTime bounds what is done with a guest, which is an emulated machine in an
// emulated machine.
const guestTime = 3 * time.Minute

// heldTime is how long locks may take to be as they must be.
const heldTime = 30 * time.Second

// images is a folder that all nodes have at the same path.
const images = "/srv/images"

// TestLibvirt has two nodes with libvirtd and the lock driver on the kernel's DLM:
// a disk is used on one node only, whatever it is called there, a guest moves to
// the other node, and after a crash it is started there, but not before the lost
// node has been powered off.
func TestLibvirt(t *testing.T) {
	lab.Require(t)
	l := startLibvirtLab(t, 0)
	// Each needs the nodes as the one before leaves them.
	_ = t.Run("second host", l.secondHost) && t.Run("names", l.names) &&
		t.Run("migration", l.migration) && t.Run("crash", l.crash)
}

// libvirtLab is a cluster whose nodes have dlmlockd, libvirtd and a scsi disk of
// one WWN.
type libvirtLab struct {
	cluster  *lab.Cluster
	stock    int        // the node that has libvirt's own lock driver; 0: none
	mu       sync.Mutex // of services, while they are installed
	services map[int]*service.Service
	fence    chan struct{} // closed: lost nodes may be powered off
	fencing  chan int      // the node that is to be
}

// startLibvirtLab starts it. stock is the node that has libvirt's own lock driver,
// or 0.
func startLibvirtLab(t *testing.T, stock int) *libvirtLab {
	l := &libvirtLab{stock: stock, services: map[int]*service.Service{}, fence: make(chan struct{}),
		fencing: make(chan int, 8)}
	dir := t.TempDir()
	daemon, err := service.Build(t.Context(), dir)
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), "make", "--no-print-directory", "-C", "..", "install-libvirt",
		"DESTDIR="+dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	plugins, err := filepath.Glob(filepath.Join(dir, "usr/lib/*/libvirt/lock-driver/dlmlock.so"))
	require.NoError(t, err)
	require.Len(t, plugins, 1)
	l.cluster = lab.Start(t, lab.Config{Fencing: true, MemoryMB: 1536, BeforeFence: func(_ *lab.Node, victim int) {
		l.fencing <- victim
		<-l.fence
	}})
	t.Cleanup(l.allowFencing)
	ctx := lab.Context(t, "starting", guestTime)
	require.NoError(t, l.cluster.JoinDLM(ctx))
	var all sync.WaitGroup
	for _, n := range l.cluster.Nodes() {
		all.Go(func() {
			err := l.install(ctx, n, daemon, plugins[0], strings.TrimPrefix(plugins[0], dir))
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return l
}

func (l *libvirtLab) allowFencing() {
	select {
	case <-l.fence:
	default:
		close(l.fence)
	}
}

// libvirtdConf lets other nodes' libvirtd migrate guests here.
const libvirtdConf = "listen_tls = 0\nlisten_tcp = 1\nauth_tcp = \"none\"\n"

// install starts the service and libvirtd on a node.
func (l *libvirtLab) install(ctx context.Context, n *lab.Node, daemon, plugin, pluginPath string) error {
	conf := "lockspaces = [\"libvirt\", \"volumes\", \"luns\"]\n"
	if n.ID == l.stock {
		conf += virtlockdConf
		if _, err := n.Shell(ctx, "mkdir -p /run/libvirt"); err != nil {
			return err
		}
	}
	s, err := service.Install(ctx, n, daemon, conf)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.services[n.ID] = s
	l.mu.Unlock()
	if err := s.Start(ctx); err != nil {
		return err
	}
	files := host.Files(host.UUID(n.Name), "/var/log/libvirt/libvirtd.log",
		"timeout = 20\nlvm_lockspace = \"volumes\"\nscsi_lockspace = \"luns\"\n")
	files["/etc/libvirt/libvirtd.conf"] += libvirtdConf
	if n.ID == l.stock {
		files["/etc/libvirt/qemu.conf"] = strings.ReplaceAll(files["/etc/libvirt/qemu.conf"], `"dlmlock"`, `"lockd"`)
		files["/etc/libvirt/qemu-lockd.conf"] = lockdConf
	}
	for _, path := range []string{"/etc/passwd", "/etc/group"} {
		text, err := n.Get(ctx, path)
		if err != nil {
			return err
		}
		files[path] = host.WithUser(string(text))
	}
	for path, text := range files {
		if err := n.Put(ctx, path, 0o755, []byte(text)); err != nil {
			return err
		}
	}
	if err := n.Push(ctx, plugin, pluginPath); err != nil {
		return err
	}
	_, err = n.Shell(ctx,
		"hostname "+n.Name+" && modprobe scsi_debug dev_size_mb=16 num_parts=2 && modprobe sd_mod && modprobe dm_mod && "+
			"mkdir -p /var/log/libvirt "+images+
			" && truncate -s 1M "+images+"/web.img && until [ -b /dev/sda2 ]; do sleep 0.1; done && "+
			"ln -s sda /dev/lun-of-"+n.Name)
	if err != nil {
		return err
	}
	if _, err := n.Daemon(ctx, "libvirtd", agent.Command{Argv: []string{"libvirtd", "--listen"}}); err != nil {
		return err
	}
	for {
		out, err := l.virsh(ctx, n.ID, "list")
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("libvirtd of %s: %w: %s", n.Name, err, out)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// virsh runs virsh on a node; the text has its errors.
func (l *libvirtLab) virsh(ctx context.Context, id int, args ...string) (string, error) {
	out, said, err := l.cluster.Node(id).RunCommand(ctx, agent.Command{
		Argv: append([]string{"virsh", "-q", "-c", "qemu:///system"}, args...),
		Env:  []string{"LC_ALL=C.UTF-8"}}, nil)
	return strings.TrimSpace(string(out) + string(said)), err
}

func (l *libvirtLab) do(t *testing.T, id int, args ...string) string {
	t.Helper()
	out, err := l.virsh(lab.Context(t, "virsh "+args[0], guestTime), id, args...)
	require.NoError(t, err, "virsh %v on node %d: %s", args, id, out)
	return out
}

func (l *libvirtLab) refused(t *testing.T, id int, args ...string) string {
	t.Helper()
	ctx := lab.Context(t, "virsh "+args[0], guestTime)
	out, err := l.virsh(ctx, id, args...)
	require.Error(t, err, "virsh %v on node %d: %s", args, id, out)
	require.NoError(t, ctx.Err(), "virsh %v", args)
	return out
}

// define makes a domain known on a node.
func (l *libvirtLab) define(t *testing.T, id int, name string, disks ...host.Disk) {
	t.Helper()
	d := host.Domain{Name: name, UUID: fmt.Sprintf("d0000000-0000-4000-8000-%012x", []byte(name + "      ")[:6]),
		Disks: disks}
	path := "/run/" + name + ".xml"
	require.NoError(t, l.cluster.Node(id).Put(lab.Context(t, "put", commandTime), path, 0o644, []byte(d.XML())))
	l.do(t, id, "define", path)
}

// held waits until a node's service holds just these: "LOCKSPACE LABEL MODE".
func (l *libvirtLab) held(t *testing.T, id int, want ...string) []client.Lock {
	t.Helper()
	ctx := lab.Context(t, "locks", commandTime)
	c, err := l.services[id].Dial(ctx)
	require.NoError(t, err)
	defer c.Close()
	slices.Sort(want)
	for end := time.Now().Add(heldTime); ; time.Sleep(20 * time.Millisecond) {
		held, err := c.Locks(ctx, client.Filter{})
		require.NoError(t, err)
		var got []string
		for _, h := range held {
			got = append(got, h.Lockspace+" "+h.Label+" "+h.Mode)
		}
		slices.Sort(got)
		if slices.Equal(got, want) {
			return held
		}
		if time.Now().After(end) {
			require.Equal(t, want, got, "the locks of node %d", id)
		}
	}
}

const webLock = "libvirt web: " + images + "/web.img EX"

// secondHost starts one domain on both nodes.
func (l *libvirtLab) secondHost(t *testing.T) {
	for id := 1; id <= 2; id++ {
		l.define(t, id, "web", host.Disk{Path: images + "/web.img"})
	}
	l.do(t, 1, "start", "web")
	l.held(t, 1, webLock)
	said := l.refused(t, 2, "start", "web")
	t.Log(said)
	require.Contains(t, said, "domain 'web' can't have '"+images+"/web.img', it is in use")
	require.Contains(t, said, "held by node 1")
	l.held(t, 2)

	l.do(t, 1, "destroy", "web")
	l.held(t, 1)
	l.do(t, 2, "start", "web")
	l.held(t, 2, webLock)
	require.Contains(t, l.refused(t, 1, "start", "web"), "held by node 2")
	l.do(t, 2, "destroy", "web")
	l.held(t, 2)
}

// names locks a logical volume by its UUID, and a disk and a partition by the WWN,
// whatever their path is on each node.
func (l *libvirtLab) names(t *testing.T) {
	ctx := lab.Context(t, "volume", guestTime)
	one := l.cluster.Node(1)
	lvm := " --config 'activation{udev_sync=0 udev_rules=0 verify_udev_operations=1} devices{use_devicesfile=0} " +
		"global{event_activation=0}' "
	_, err := one.Shell(ctx, "vgcreate"+lvm+"vg /dev/sda2 && lvcreate"+lvm+"--yes --extents 1 --name root vg")
	require.NoError(t, err)
	uuid, err := one.Shell(ctx, "lvs"+lvm+"--noheadings -o lv_uuid vg/root")
	require.NoError(t, err)
	wwid, err := one.Shell(ctx, "cat /sys/block/sda/device/wwid")
	require.NoError(t, err)
	t.Logf("the volume's UUID is %s, the disk's WWN %s", strings.TrimSpace(uuid), strings.TrimSpace(wwid))
	wwn := "3" + strings.TrimPrefix(strings.TrimSpace(wwid), "naa.")

	l.define(t, 1, "blocks", host.Disk{Path: "/dev/vg/root", Block: true},
		host.Disk{Path: "/dev/sda1", Block: true, Shareable: true},
		host.Disk{Path: "/dev/lun-of-node1", Block: true})
	l.do(t, 1, "start", "blocks")
	held := l.held(t, 1, "volumes blocks: /dev/vg/root EX", "luns blocks: /dev/sda1 PR",
		"luns blocks: /dev/lun-of-node1 EX")
	names := map[string]string{}
	for _, h := range held {
		names[strings.TrimPrefix(h.Label, "blocks: ")] = h.Resource
	}
	require.Equal(t, map[string]string{"/dev/vg/root": strings.ReplaceAll(strings.TrimSpace(uuid), "-", ""),
		"/dev/sda1": wwn + "-part1", "/dev/lun-of-node1": wwn}, names)

	// The other node knows the disk under another path.
	l.define(t, 2, "other", host.Disk{Path: "/dev/lun-of-node2", Block: true})
	said := l.refused(t, 2, "start", "other")
	require.Contains(t, said, "can't have '/dev/lun-of-node2'")
	require.Contains(t, said, "held by node 1")
	l.do(t, 1, "destroy", "blocks")
	l.held(t, 1)
	l.do(t, 2, "start", "other")
	l.do(t, 2, "destroy", "other")
	l.held(t, 2)
}

// migration moves a guest to the other node and back.
func (l *libvirtLab) migration(t *testing.T) {
	l.do(t, 1, "start", "web")
	l.held(t, 1, webLock)
	for from, to := 1, 2; ; from, to = to, from {
		address := l.cluster.Node(to).Addr
		l.do(t, from, "migrate", "--live", "--unsafe", "web", "qemu+tcp://"+address+"/system", "tcp://"+address)
		l.held(t, from)
		l.held(t, to, webLock)
		require.Equal(t, "running", l.do(t, to, "domstate", "web"))
		require.Contains(t, l.refused(t, from, "start", "web"), fmt.Sprintf("held by node %d", to))
		if to == 1 {
			break
		}
	}
	l.do(t, 1, "destroy", "web")
	l.held(t, 1)
}

// crash takes the plug from the node that runs the guest. The other one gets the
// guest's disk when the first is known to be off, and not before.
func (l *libvirtLab) crash(t *testing.T) {
	l.do(t, 1, "start", "web")
	l.held(t, 1, webLock)
	crashed := time.Now()
	require.NoError(t, l.cluster.Node(1).Crash())
	select {
	case victim := <-l.fencing:
		require.Equal(t, 1, victim)
	case <-time.After(guestTime):
		t.Fatal("nobody powers the lost node off")
	}
	t.Logf("%v after the crash the cluster wants the node powered off", time.Since(crashed).Round(time.Second))
	t.Log(l.refused(t, 2, "start", "web"))
	l.held(t, 2)
	l.allowFencing()
	ctx := lab.Context(t, "start on the other node", guestTime)
	for {
		out, err := l.virsh(ctx, 2, "start", "web")
		if err == nil {
			break
		}
		_, exit := errors.AsType[*agent.ExitError](err)
		require.True(t, exit, "%v", err)
		require.NoError(t, ctx.Err(), out)
	}
	t.Logf("%v after the crash the guest runs on the other node", time.Since(crashed).Round(time.Second))
	l.held(t, 2, webLock)
	require.NotEmpty(t, l.cluster.Fenced())
}
