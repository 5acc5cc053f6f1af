package lab_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/libvirt/host"
)

// qemuConf leaves AppArmor on, which is libvirt's default where the kernel enforces it.
const qemuConf = `user = "root"
group = "root"
dynamic_ownership = 0
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
lock_manager = "lockd"
`

// siteFiles is what has to survive a reboot of the node, whose disk is in memory.
const siteFiles = "etc/systemd/system etc/libvirt etc/apparmor.d etc/passwd etc/group etc/dlmlockd.toml srv/images"

// unpackLibvirt makes an archive of Debian's packages with libvirt's units and AppArmor
// profiles, and of dlmlockd's files.
func unpackLibvirt(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, argv := range [][]string{
		{"../scripts/unpack-packages.sh", dir + "/deb", "bookworm", "libvirt-daemon-system"},
		{"make", "-C", "..", "--no-print-directory", "install-files", "DESTDIR=" + dir + "/own"},
		{"sh", "-c", "cd \"$0\"/deb && mkdir -p usr/lib && cp -r lib/. usr/lib/ && rm -r lib ../own/usr/share/doc && " +
			"tar -cf ../libvirt.tar . -C ../own .", dir},
	} {
		out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
		require.NoError(t, err, "%v\n%s", argv, out)
	}
	return dir + "/libvirt.tar"
}

// libvirtUnits is a node with Debian's libvirt under systemd, confined by AppArmor.
type libvirtUnits struct {
	unitRig
	archive, program string
}

// install puts it all on the node, which has booted.
func (r libvirtUnits) install() {
	ctx := lab.Context(r.t, "installing", guestTime)
	require.NoError(r.t, r.n.WaitSystemd(ctx))
	require.NoError(r.t, r.n.Push(ctx, r.archive, "/root/libvirt.tar"))
	require.NoError(r.t, r.n.Push(ctx, r.program, "/usr/sbin/dlmlockd"))
	// The files in local/ are made by the package's script.
	r.run("tar -C / --keep-directory-symlink -xf /root/libvirt.tar; mkdir -p /var/lib/libvirt /var/log/libvirt " + images +
		"; cd /etc/apparmor.d/local; mkdir -p abstractions; touch usr.sbin.libvirtd usr.lib.libvirt.virt-aa-helper " +
		"abstractions/libvirt-qemu abstractions/libvirt-lxc")
	require.NoError(r.t, r.n.StartBus(ctx))
	require.NoError(r.t, r.cluster.JoinDLM(lab.Context(r.t, "joining", joinTime)))
}

// confine loads the profiles of Debian and that of dlmlockd, which enforce.
func (r libvirtUnits) confine() {
	r.t.Helper()
	r.loadProfiles("/etc/apparmor.d/usr.sbin.libvirtd /etc/apparmor.d/usr.lib.libvirt.virt-aa-helper " + ownProfile)
	require.Contains(r.t, r.run("cat /sys/kernel/security/apparmor/profiles"), "libvirtd (enforce)")
}

// define makes a guest known, which runs in a profile of its own.
func (r libvirtUnits) define(name string) {
	r.t.Helper()
	d := host.Domain{Name: name, UUID: fmt.Sprintf("d0000000-0000-4000-8000-%012x", []byte(name + "      ")[:6]),
		Disks: []host.Disk{{Path: images + "/" + name + ".img"}}}
	xml := strings.ReplaceAll(d.XML(), host.Emulator, "/usr/bin/qemu-system-x86_64")
	require.NoError(r.t, r.n.Put(lab.Context(r.t, "put", commandTime), "/run/"+name+".xml", 0o644, []byte(xml)))
	r.run("truncate -s 1M " + images + "/" + name + ".img; " + virsh + "define /run/" + name + ".xml")
}

const virsh = "LC_ALL=C.UTF-8 virsh -q -c qemu:///system "

// locks are the labels of what the service holds.
func (r libvirtUnits) locks() string {
	r.t.Helper()
	out := r.run("busctl call org.example.DlmLock /org/example/DlmLock org.example.DlmLock ListLocks 'a{sv}' 0")
	var found []string
	for _, name := range []string{"web", "db"} {
		if strings.Contains(out, fmt.Sprintf("%q", name+": "+images+"/"+name+".img")) {
			found = append(found, name)
		}
	}
	return strings.Join(found, " ")
}

// confinement reports how a guest's QEMU is confined.
func (r libvirtUnits) confinement(name string) string {
	r.t.Helper()
	return r.run("cat /proc/$(cat /run/libvirt/qemu/" + name + ".pid)/attr/current")
}

// hostDenials is denials without what Debian 13's profile of a guest denies QEMU with any lock
// manager, and QEMU does without.
const hostDenials = "(" + denials + `) | grep -v 'profile="libvirt-.*name="/proc/sys/vm/max_map_count"' || true`

// TestLibvirtUnits has Debian's libvirt with its units, systemd as process 1 and
// AppArmor that enforces Debian's profiles: a host whose guests run under virtlockd
// moves to dlmlockd, goes back, and boots again.
func TestLibvirtUnits(t *testing.T) {
	lab.Require(t)
	t.Parallel()
	archive := unpackLibvirt(t)
	c := lab.Start(t, lab.Config{Nodes: 1, Systemd: true, MemoryMB: 1536, KernelArgs: withAppArmor})
	r := libvirtUnits{unitRig{t, c, c.Node(1), nil}, archive, buildPrograms(t).daemon}
	t.Cleanup(func() {
		if t.Failed() && r.n.Up() {
			out, _ := r.n.Shell(context.Background(), "journalctl -b -n 80 --no-pager; dmesg | grep -i denied; "+
				"cat /var/log/libvirt/*.log")
			t.Log(out)
		}
	})
	r.install()
	for _, file := range []string{"passwd", "group"} {
		text, err := os.ReadFile(filepath.Join("/etc", file))
		require.NoError(t, err)
		require.NoError(t, r.n.Put(lab.Context(t, "put", commandTime), "/etc/"+file, 0o644,
			[]byte(host.WithUser(string(text)))))
	}
	require.NoError(t, r.n.Put(lab.Context(t, "put", commandTime), "/etc/libvirt/qemu.conf", 0o644, []byte(qemuConf)))
	r.confine()
	r.run("systemctl daemon-reload; systemctl enable virtlockd.socket libvirtd.service; systemctl start libvirtd.service")
	step := func(name string, do func(t *testing.T, r libvirtUnits)) {
		if !t.Failed() {
			t.Run(name, func(t *testing.T) {
				r := r
				r.t = t
				do(t, r)
				require.Empty(t, r.run(hostDenials), "AppArmor denies nothing")
			})
		}
	}
	step("moving", unitsMove)
	step("boot", unitsBoot)
	step("back", unitsBack)
}

const tool = "/usr/libexec/dlmlockd/virtlockd-socket "

// unitsMove gives the socket to dlmlockd while a guest runs under virtlockd.
func unitsMove(t *testing.T, r libvirtUnits) {
	r.define("web")
	r.define("db")
	r.run(virsh + "start web")
	require.Contains(t, r.confinement("web"), "libvirt-d0000000-0000-4000-8000-")
	require.Contains(t, r.confinement("web"), "(enforce)")
	require.Equal(t, "active\n", r.run("systemctl is-active virtlockd.service"))
	require.Contains(t, r.run(tool+"status"), "not enabled")
	libvirtd := r.run("systemctl show -P MainPID libvirtd")
	require.Contains(t, r.run("cat /proc/"+strings.TrimSpace(libvirtd)+"/attr/current"), "libvirtd (enforce)")

	require.Equal(t, "dlmlockd serves libvirt's lock driver\n", r.run(tool+"enable"))
	require.Equal(t, "inactive\n", r.run("systemctl is-active virtlockd.service || true"))
	require.Equal(t, "inactive\n", r.run("systemctl is-active virtlockd-admin.socket || true"))
	require.Equal(t, libvirtd, r.run("systemctl show -P MainPID libvirtd"))
	require.Equal(t, "running\n", r.run(virsh+"domstate web | grep ."))
	require.Empty(t, r.locks(), "not locked in the cluster yet")
	r.run(virsh + "start db")
	require.Contains(t, r.confinement("db"), "(enforce)")
	require.Equal(t, "db", r.locks())
	r.confined("dlmlockd")
	r.run(virsh + "suspend web; " + virsh + "resume web")
	require.Equal(t, "web db", r.locks())
	r.run("systemctl restart dlmlockd; systemctl restart libvirtd")
	require.Equal(t, "web db", r.locks())
	require.Equal(t, "running\n", r.run(virsh+"domstate web | grep ."))
	r.run(virsh + "destroy db")
	require.Equal(t, "web", r.locks())
}

// unitsBoot boots the node again, which forgets its files and gets them back before
// systemd starts what is enabled: nothing is left of virtlockd, and libvirtd finds
// dlmlockd at the first guest.
func unitsBoot(t *testing.T, r libvirtUnits) {
	ctx := lab.Context(t, "booting", guestTime)
	r.run("tar -C / -cf /root/site.tar " + siteFiles)
	site, err := r.n.Get(ctx, "/root/site.tar")
	require.NoError(t, err)
	require.NoError(t, r.n.Restart(ctx))
	r.install()
	require.NoError(t, r.n.Put(ctx, "/root/site.tar", 0o644, site))
	r.run("tar -C / -xf /root/site.tar")
	r.confine()
	// What systemd starts at a boot, in one transaction.
	r.run("systemctl daemon-reload; systemctl start sockets.target $(cd /etc/systemd/system; " +
		"ls multi-user.target.wants sockets.target.wants | grep -E '^(lib)?virt.*(service|socket)$')")
	require.Equal(t, "active\n", r.run("systemctl is-active virtlockd.socket"))
	r.run(virsh + "start web")
	require.Equal(t, "dlmlockd serves libvirt's lock driver\n", r.run(tool+"status"))
	require.Equal(t, "web", r.locks())
	require.Equal(t, "inactive\n", r.run("systemctl is-active virtlockd.service || true"))
}

// unitsBack gives the socket back to virtlockd.
func unitsBack(t *testing.T, r libvirtUnits) {
	require.Contains(t, r.run(tool+"disable"), "not enabled")
	require.Equal(t, "active\n", r.run("systemctl is-active virtlockd.service"))
	require.Equal(t, "web", r.locks(), "as long as it runs")
	r.run(virsh + "start db")
	require.Equal(t, "web", r.locks())
	r.run(virsh + "suspend web; " + virsh + "resume web")
	require.Empty(t, r.run("ls -A /etc/systemd/system/*.d/*dlmlockd* 2>/dev/null || true"))
}
