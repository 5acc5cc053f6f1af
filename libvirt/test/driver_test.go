package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// Acquire and Release, once, again, and of nothing, on each kind of bus.
func TestAcquireRelease(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, bus *testbus.Bus) { acquireRelease(t, startOn(t, bus, overDBus, "")) })
	t.Run(overVarlink, func(t *testing.T) { acquireRelease(t, start(t, "")) })
}

func acquireRelease(t *testing.T, r *rig) {
	g := r.guest(uuidA, "web")
	r.ok("new 1 %s %s %d", g.uuid, g.name, g.pid)
	r.ok("inquire 1")
	r.ok("free 1")
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a", "0 /img/b"))
	require.Equal(t, []string{"web: /img/a EX", "web: /img/b EX"}, r.locks())
	held, err := r.client.Locks(t.Context(), client.Filter{})
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("%s/%d/%s", uuidA, g.pid, startTime(t, g.pid)), held[0].Owner)
	require.Equal(t, "libvirt", held[0].Lockspace)
	require.Len(t, held[0].Resource, 64)

	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a", "0 /img/b", "0 /img/c"), "partly held")
	require.Equal(t, "ok", r.do(g, "acquire 0"), "nothing, as with an ejected disk")
	require.Equal(t, "ok", r.do(g, "release", "0 /img/c"), "a detached disk")
	require.Equal(t, "ok", r.do(g, "release"))
	require.Len(t, r.locks(), 2)
	require.Equal(t, "ok", r.do(g, "release", "0 /img/a", "0 /img/b"))
	require.Equal(t, "ok", r.do(g, "release", "0 /img/a", "0 /img/b"), "a suspend releases twice")
	require.Empty(t, r.locks())
}

// Disks that several guests use, or only read, are locked shared. A refusal names the holder, and
// releases what the same call has locked, and only that.
func TestModesAndRefusal(t *testing.T) { bothWays(t, modesAndRefusal) }

func modesAndRefusal(t *testing.T, way string) {
	r := startBy(t, way, "")
	a, b := r.guest(uuidA, "web"), r.guest(uuidB, "db")
	require.Equal(t, "ok", r.do(a, "acquire 0", "2 /img/shared", "1 /img/base", "0 /img/a"))
	require.Equal(t, "ok", r.do(b, "acquire 0", "2 /img/shared", "1 /img/base", "0 /img/b"))
	answer := r.do(b, "acquire 0", "0 /img/b", "0 /img/b2", "0 /img/a")
	require.True(t, strings.HasPrefix(answer, busy), answer)
	for _, part := range []string{"domain 'db'", "'/img/a'", "this node", `"web: /img/a"`} {
		require.Contains(t, answer, part)
	}
	require.Equal(t, []string{"web: /img/shared PR", "web: /img/base PR", "web: /img/a EX",
		"db: /img/shared PR", "db: /img/base PR", "db: /img/b EX"}, r.locks())
	require.True(t, strings.HasPrefix(r.do(r.guest(uuidB, "third"), "acquire 0", "0 /img/base"), busy),
		"to write what others read")
}

// The forked child's call needs no bus, and its parent's connection is not
// touched.
func TestRegister(t *testing.T) { bothWays(t, register) }

func register(t *testing.T, way string) {
	r := startBy(t, way, "")
	g := r.guest(uuidA, "web")
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a"))
	require.Equal(t, "ok", r.do(g, "fork 0", "0 /img/b"), "a child that really acquires has a connection of its own")
	require.Equal(t, "ok", r.do(g, "release", "0 /img/a", "0 /img/b"))
	r.stopDaemon()
	require.Equal(t, "ok", r.do(g, "fork 3", "0 /img/a"), "register only, restrict")
	r.startDaemon()
	require.Empty(t, r.locks())
}

// The end of the process ends its locks. The other side of a migration has the
// same UUID and keeps its own.
func TestGuestDies(t *testing.T) { bothWays(t, guestDies) }

func guestDies(t *testing.T, way string) {
	r := startBy(t, way, "")
	source, target := r.guest(uuidA, "web"), r.guest(uuidA, "web")
	require.Equal(t, "ok", r.do(source, "acquire 0", "0 /img/a"))
	require.True(t, strings.HasPrefix(r.do(target, "acquire 0", "0 /img/a"), busy), "the source has not let go yet")
	require.Equal(t, "ok", r.do(source, "release", "0 /img/a"))
	require.Equal(t, "ok", r.do(target, "acquire 0", "0 /img/a"))
	source.kill()
	require.Equal(t, "ok", r.do(source, "release", "0 /img/a"), "nothing is left to release")
	require.Len(t, r.locks(), 1)
	began := time.Now()
	target.kill()
	require.Eventually(t, func() bool { return len(r.locks()) == 0 }, patience, time.Millisecond)
	t.Logf("the locks were gone %v after the guest", time.Since(began).Round(time.Millisecond))
	answer := r.do(target, "acquire 0", "0 /img/a")
	require.True(t, strings.HasPrefix(answer, failed), answer)
	require.Contains(t, answer, "no process")
}

// A restart of the service in between, or in the middle of a call, is not
// noticed.
func TestServiceRestarts(t *testing.T) { bothWays(t, serviceRestarts) }

func serviceRestarts(t *testing.T, way string) {
	r := startBy(t, way, "timeout = 20\n")
	g := r.guest(uuidA, "web")
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a"))
	r.stopDaemon()
	r.startDaemon()
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a", "0 /img/b"))
	require.Len(t, r.locks(), 2)

	r.ok("new 5 %s %s %d", g.uuid, g.name, g.pid)
	r.ok("disk 5 0 /img/c")
	r.signalDaemon(syscall.SIGSTOP) // the call is on its way when the service dies
	_, err := fmt.Fprintln(r.in, "acquire 5 0")
	require.NoError(t, err)
	time.Sleep(50 * time.Millisecond) // whether it is, or will be, both must do
	r.stopDaemon()
	r.startDaemon()
	require.True(t, r.out.Scan())
	require.Equal(t, "ok", r.out.Text())
	r.ok("free 5")
	require.Equal(t, []string{"web: /img/a EX", "web: /img/b EX", "web: /img/c EX"}, r.locks())
}

// A service that hangs holds up nobody longer than the timeout, and later does nothing with a call
// that was given up. It is not missing: it may be waiting for a cluster that recovers.
func TestServiceHangs(t *testing.T) { bothWays(t, serviceHangs) }

func serviceHangs(t *testing.T, way string) {
	r := startBy(t, way, "")
	g := r.guest(uuidA, "web")
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a"))
	r.ok("init %s", r.write("qemu-dlmlock.conf", r.reach(way)+"timeout = 1\non_service_missing = \"allow\"\n"))
	r.signalDaemon(syscall.SIGSTOP)
	began := time.Now()
	answer := r.do(g, "acquire 0", "0 /img/b")
	require.True(t, strings.HasPrefix(answer, failed), answer)
	require.Contains(t, answer, "has not answered for 1 s")
	t.Logf("given up after %v", time.Since(began).Round(time.Millisecond))
	require.Contains(t, r.do(g, "release", "0 /img/a"), "has not answered")
	r.signalDaemon(syscall.SIGCONT)
	r.ok("init %s", r.write("qemu-dlmlock.conf", r.reach(way)+"timeout = 20\n")) // the machine may be busy
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/c"))
	require.Eventually(t, func() bool {
		return !strings.Contains(strings.Join(r.locks(), "\n"), "/img/b")
	}, patience, 10*time.Millisecond)
	require.Equal(t, "ok", r.do(g, "release", "0 /img/a", "0 /img/b", "0 /img/c"))
	require.Empty(t, r.locks())
}

// A bus that hangs, and one that hangs for so long that its queue is full, hold up nobody longer
// than the timeout either.
func TestBusHangs(t *testing.T) {
	r := &rig{t: t, dir: t.TempDir()}
	path := filepath.Join(r.dir, "bus")
	listen, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(listen)
	require.NoError(t, unix.Bind(listen, &unix.SockaddrUnix{Name: path}))
	require.NoError(t, unix.Listen(listen, 1))
	r.startDriver("unix:path=" + path)
	// A bus that is there is not missing.
	conf := r.write("qemu-dlmlock.conf", r.reach("auto")+"timeout = 1\non_service_missing = \"allow\"\n")
	require.Equal(t, "ok", r.say("init %s", conf))
	g := r.guest(uuidA, "web")
	answer := r.do(g, "acquire 0", "0 /img/a")
	require.True(t, strings.HasPrefix(answer, failed), answer)
	require.Contains(t, answer, "the system bus can't be reached: Connection timed out")
	for full := false; !full; {
		c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		defer unix.Close(c)
		full = unix.Connect(c, &unix.SockaddrUnix{Name: path}) == unix.EAGAIN
	}
	require.Contains(t, r.do(g, "acquire 0", "0 /img/a"),
		"the system bus can't be reached: Resource temporarily unavailable")
	require.Contains(t, r.do(g, "release", "0 /img/a"), "the system bus can't be reached: ")
}

func TestServiceMissing(t *testing.T) { bothWays(t, serviceMissing) }

func serviceMissing(t *testing.T, way string) {
	for policy, want := range map[string]string{"refuse": failed, "allow": "ok"} {
		t.Run(policy, func(t *testing.T) {
			r := startBy(t, way, "timeout = 2\non_service_missing = \""+policy+"\"\n")
			r.stopDaemon()
			g := r.guest(uuidA, "web")
			answer := r.do(g, "acquire 0", "0 /img/a")
			require.True(t, strings.HasPrefix(answer, want), answer)
			if policy == "refuse" {
				require.Contains(t, answer, "systemctl status dlmlockd")
			}
		})
	}
}

// Many threads, each with a connection of its own, at the same time.
func TestThreads(t *testing.T) { bothWays(t, threads) }

func threads(t *testing.T, way string) {
	const count = 24
	r := startBy(t, way, "timeout = 30\n")
	for i := range count {
		g := r.guest(uuidA, fmt.Sprint("guest", i))
		r.ok("new %d %s %s %d", i+10, g.uuid, g.name, g.pid)
		r.ok("disk %d 0 /img/%d-a", i+10, i)
		r.ok("disk %d 0 /img/%d-b", i+10, i)
		r.ok("disk %d 2 /img/common", i+10)
	}
	require.Equal(t, "ok", r.say("threads %d 10 10", count))
	require.Empty(t, r.locks())
	for i := range count {
		r.ok("free %d", i+10)
	}
}

// Leases are locked in the lockspace that they name, beside or instead of disks.
func TestLeases(t *testing.T) { bothWays(t, leases) }

func leases(t *testing.T, way string) {
	r := startBy(t, way, "auto_disk_leases = 0\n")
	g := r.guest(uuidA, "web")
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a", "lease leases key1"))
	held, err := r.client.Locks(t.Context(), client.Filter{})
	require.NoError(t, err)
	require.Len(t, held, 1)
	require.Equal(t, "leases/key1", held[0].Lockspace+"/"+held[0].Resource)
	require.Equal(t, "ok", r.do(g, "release", "lease leases key1"))

	answer := r.do(g, "acquire 0", "0 /img/a")
	require.True(t, strings.HasPrefix(answer, failed), answer)
	require.Contains(t, answer, "no lease")
	require.Equal(t, "ok", r.do(g, "acquire 0", "1 /img/a"), "a disk that is only read needs none")

	answer = r.do(g, "acquire 0", "lease nowhere key1")
	require.Contains(t, answer, "JoinLockspace", "says what to do")
	require.Equal(t, "ok", r.do(g, "release", "lease nowhere key1"), "nothing is held where nobody is")
	answer = r.do(g, "acquire 0", "lease leases "+strings.Repeat("k", 65))
	require.Contains(t, answer, "1 to 64 bytes")
}

// A domain may have one disk more than once; the stronger mode counts.
func TestSameDiskTwice(t *testing.T) { bothWays(t, sameDiskTwice) }

func sameDiskTwice(t *testing.T, way string) {
	r := startBy(t, way, "")
	g := r.guest(uuidA, "web")
	require.Equal(t, "ok", r.do(g, "acquire 0", "1 /img/iso", "1 /img/iso", "2 /img/a", "0 /img/a", "1 /img/a"))
	require.Equal(t, []string{"web: /img/iso PR", "web: /img/a EX"}, r.locks())
	require.Equal(t, "ok", r.do(g, "release", "1 /img/iso", "1 /img/iso", "2 /img/a", "0 /img/a", "1 /img/a"))
	require.Empty(t, r.locks())
}

func TestReadOnlyIgnored(t *testing.T) { bothWays(t, readOnlyIgnored) }

func readOnlyIgnored(t *testing.T, way string) {
	r := startBy(t, way, "readonly_disks = \"ignore\"\n")
	require.Equal(t, "ok", r.do(r.guest(uuidA, "web"), "acquire 0", "1 /img/iso", "0 /img/a"))
	require.Equal(t, []string{"web: /img/a EX"}, r.locks())
}

// Every mistake in the file is refused with its line. libvirtd would not start.
func TestConfigurationMistakes(t *testing.T) {
	r := start(t, "")
	for text, want := range map[string]string{
		"\n\nlockspac = \"x\"\n":           ":3: unknown key lockspac",
		"lockspace = x\n":                  ":1: lockspace takes a number, or a text in double quotes",
		"lockspace = 3\n":                  ":1: lockspace takes a text",
		"lockspace = \"a b\"\n":            ":1: lockspace: a lockspace name has letters",
		"lockspace = \"\"\n":               ":1: lockspace: a lockspace name has 1 to 64",
		"lvm_lockspace = \".x\"\n":         "does not begin with a dot",
		"scsi_lockspace = \"a/b\"\n":       "letters, digits",
		"# fine\ntimeout = 0\n":            ":2: timeout takes 1 to 60 seconds",
		"timeout = 61\n":                   ":1: timeout takes",
		"timeout = \"5\"\n":                ":1: timeout takes",
		"timeout = 99999999999999999999\n": ":1: timeout takes a number",
		"timeout = 5 6\n":                  ":1: there is something behind the value of timeout",
		"timeout 5\n":                      ":1: a '=' is missing after timeout",
		"lockspace = \"a\n":                ":1: the text of lockspace has no end",
		"lockspace = \"" + strings.Repeat("a", 300) + "\"\n": "is too long",
		"auto_disk_leases = 2\n":                             ":1: auto_disk_leases takes 0 or 1",
		"require_lease_for_disks = \"yes\"\n":                "takes 0 or 1",
		"readonly_disks = \"maybe\"\n":                       `takes "shared" or "ignore"`,
		"on_service_missing = \"pray\"\n":                    `takes "refuse" or "allow"`,
		"= 3\n":                                              ":1: a line is KEY = VALUE",
		"on_lost = \"/bin/sh\"\n":                            `takes the NAME of a table [on-lost.NAME] in dlmlockd.toml`,
		"timeout = \x00":                                     ":1: a zero byte",
	} {
		answer := r.say("init %s", r.write("bad.conf", text))
		require.True(t, strings.HasPrefix(answer, "error 1 "), "%q: %s", text, answer)
		require.Contains(t, answer, want, "%q", text)
	}
	r.ok("init %s",
		r.write("good.conf",
			"# all\r\n  lockspace=\"a.b+c_d-e\" # yes\n\ttimeout = 60\nauto_disk_leases=0\nlockspace=\"z\""))
	r.ok("init %s", filepath.Join(r.dir, "not there"))
	require.Contains(t, r.say("init %s", r.dir), "Is a directory")
}

// The example names every key, with its default where it has one.
func TestExampleConfiguration(t *testing.T) {
	text, err := os.ReadFile(root + "/libvirt/qemu-dlmlock.conf")
	require.NoError(t, err)
	source, err := os.ReadFile(root + "/libvirt/config.c")
	require.NoError(t, err)
	var all []string
	for _, part := range strings.Split(string(source), `strcmp(key, "`)[1:] {
		key, _, _ := strings.Cut(part, `"`)
		require.Contains(t, string(text), "\n#"+key+" = ")
		all = append(all, key)
	}
	require.Len(t, all, 11)
	r := start(t, "")
	for line := range strings.Lines(string(text)) {
		if key, _, ok := strings.Cut(line, " = "); ok && strings.HasPrefix(key, "#") && !strings.Contains(key, " ") {
			r.ok("init %s", r.write("one.conf", strings.TrimPrefix(line, "#")))
		}
	}
}

// Two hosts with different paths give a volume or a disk of a storage network the same name, with
// and without multipath.
func TestNames(t *testing.T) {
	sys := t.TempDir()
	attr := func(path, text string) {
		full := filepath.Join(sys, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(full), 0o755))
		require.NoError(t, os.WriteFile(full, []byte(text+"\n"), 0o644))
	}
	const vg, lv = "abcdefghijklmnopqrstuvwxyzABCDEF", "0123456789abcdefghijklmnopqrstuv"
	const sda, part = "devices/pci0/block/sda", "devices/pci0/block/sda/sda1"
	attr("dev/block/253:0/dm/uuid", "LVM-"+vg+lv)
	attr("dev/block/253:1/dm/uuid", "LVM-"+vg+lv+"-cow")
	attr("dev/block/253:2/dm/uuid", "mpath-36001405abc")
	attr("dev/block/253:3/dm/uuid", "part1-mpath-36001405abc")
	attr("dev/block/253:4/dm/uuid", "CRYPT-LUKS2-x-y")
	attr(sda+"/device/wwid", "naa.6001405abc")
	attr(part+"/partition", "1")
	attr("dev/block/259:0/wwid", "eui.0025385b71b0a1c2")
	attr("dev/block/8:32/device/wwid", "t10.ATA     QEMU HARDDISK                           QM00001")
	attr("dev/block/253:5/dm/uuid", "mpath-1ATA_QEMU_HARDDISK_QM00001")
	attr("dev/block/8:64/device/wwid", "eui.0011223344556677")
	attr("dev/block/8:80/device/wwid",
		"t10.ATA     QEMU HARDDISK                           QM00001 and more of that sort, too long for a name")
	attr("dev/block/8:48/size", "1")
	require.NoError(t, os.Symlink("../../"+sda, filepath.Join(sys, "dev/block/8:0")))
	require.NoError(t, os.Symlink("../../"+part, filepath.Join(sys, "dev/block/8:1")))

	boot := filepath.Join(sys, "boot_id")
	attr("boot_id", "b1")
	name := func(device, path string) string {
		out, err := exec.Command(root+"/bin/sanitize/naming", "device", sys, boot, device, path).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return strings.TrimSpace(string(out))
	}
	require.Equal(t, "lvm "+lv, name("253:0", "/dev/vg/lv"))
	require.Regexp(t, "^paths [0-9a-f]{64}\npaths [0-9a-f]{64}$", name("253:1", "/dev/mapper/vg-lv-cow"))
	require.Equal(t, "scsi 36001405abc", name("8:0", "/dev/sda"))
	require.Equal(t, name("8:0", "/dev/sda"), name("253:2", "/dev/mapper/mpatha"))
	require.Equal(t, "scsi 36001405abc-part1", name("8:1", "/dev/sda1"))
	require.Equal(t, name("8:1", "/dev/sda1"), name("253:3", "/dev/mapper/mpatha1"))
	require.Regexp(t, "^paths ", name("253:4", "/dev/mapper/secret"))
	require.Equal(t, "scsi eui.0025385b71b0a1c2", name("259:0", "/dev/nvme0n1"))
	require.Equal(t, "scsi 1ATA_QEMU_HARDDISK_QM00001", name("8:32", "/dev/sdc"))
	require.Equal(t, name("8:32", "/dev/sdc"), name("253:5", "/dev/mapper/mpathb"))
	require.Equal(t, "scsi 20011223344556677", name("8:64", "/dev/sde"))
	require.Regexp(t, "^scsi [0-9a-f]{64}$", name("8:80", "/dev/sdf"))
	// The SHA-256 of the path, as with virtlockd.
	require.Regexp(t, "^paths 09e4b403ffc9ebe1d44865f4506a445aafbf3891e52d3682c41ca094ddae67e2\n",
		name("8:48", "/dev/sdd"))
}

// One driver serves every libvirt: it links nothing of libvirt, and exports only the table of
// functions.
func TestLinkage(t *testing.T) {
	out, err := exec.Command("nm", "-D", "--defined-only", root+"/bin/dlmlock.so").CombinedOutput()
	require.NoError(t, err)
	require.Regexp(t, `^\S+ D virLockDriverImpl\n$`, string(out))
	out, err = exec.Command("readelf", "-d", root+"/bin/dlmlock.so").CombinedOutput()
	require.NoError(t, err)
	require.NotContains(t, string(out), "libvirt")
	require.Contains(t, string(out), "NODELETE")
	require.Contains(t, string(out), "BIND_NOW")
}
