package lab_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lab"
)

// unitRig is two nodes with systemd, on which "make install" has put the service.
type unitRig struct {
	t        *testing.T
	cluster  *lab.Cluster
	n, other *lab.Node
}

// run runs a line on the node, which must succeed.
func (r unitRig) run(line string) string {
	r.t.Helper()
	out, err := r.n.Shell(lab.Context(r.t, line, commandTime), line)
	require.NoError(r.t, err, "%s\n%s", line, out)
	return out
}

// fails runs a line that must not succeed, and returns what it said.
func (r unitRig) fails(line string) string {
	r.t.Helper()
	out, err := r.n.Shell(lab.Context(r.t, line, commandTime), line+" 2>&1")
	require.Error(r.t, err, "%s\n%s", line, out)
	return out + err.Error()
}

// await repeats a line until its output has text.
func (r unitRig) await(text, line string) {
	r.t.Helper()
	var out string
	require.Eventuallyf(r.t, func() bool {
		out, _ = r.n.Shell(lab.Context(r.t, line, commandTime), line)
		return strings.Contains(out, text)
	}, commandTime, 600*time.Millisecond, "%s: no %q", line, text)
}

const (
	// withAppArmor has the kernel confine programs by profiles.
	withAppArmor = "apparmor=1 security=apparmor"
	// ownProfile is where the profile of the service is installed.
	ownProfile = "/usr/share/apparmor/extra-profiles/dlmlockd"
	// denials prints what AppArmor has denied since the node has booted.
	denials = `dmesg | grep 'apparmor="DENIED"' || true`
)

// loadProfiles loads AppArmor's profiles into the kernel of the node.
func (r unitRig) loadProfiles(files string) {
	r.t.Helper()
	require.Equal(r.t, "Y\n", r.run("cat /sys/module/apparmor/parameters/enabled"))
	r.run("mountpoint -q /sys/kernel/security || mount -t securityfs securityfs /sys/kernel/security; " +
		"apparmor_parser -r " + files)
	require.Contains(r.t, r.run("cat /sys/kernel/security/apparmor/profiles"), "dlmlockd (enforce)")
}

// confined checks that a unit of the service runs in its profile.
func (r unitRig) confined(unit string) {
	r.t.Helper()
	require.Equal(r.t, "dlmlockd (enforce)\n",
		r.run("cat /proc/$(systemctl show --value --property=MainPID "+unit+")/attr/current"))
}

func newUnitRig(t *testing.T) unitRig {
	lab.Require(t)
	t.Parallel()
	dest := t.TempDir()
	program := buildPrograms(t).daemon
	out, err := exec.CommandContext(t.Context(), "make", "-C", "..", "--no-print-directory", "install-files",
		"DESTDIR="+dest).CombinedOutput()
	require.NoError(t, err, "%s", out)
	archive := filepath.Join(t.TempDir(), "root.tar")
	out, err = exec.CommandContext(t.Context(), "tar", "-C", dest, "-cf", archive, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)

	// On the older kernel, because the walk is on the newer one.
	c := lab.Start(t, lab.Config{Kernel: "6.1", Nodes: 2, Systemd: true, Fencing: true, KernelArgs: withAppArmor})
	r := unitRig{t, c, c.Node(1), c.Node(2)}
	ctx := lab.Context(t, "joining", joinTime)
	for _, n := range c.Nodes() {
		require.NoError(t, n.WaitSystemd(ctx))
		require.NoError(t, n.Push(ctx, archive, "/root/root.tar"))
		require.NoError(t, n.Push(ctx, program, "/usr/sbin/dlmlockd"))
		// The base directories of the node are links where those of the archive
		// are not.
		_, err := n.Shell(ctx, "tar -C / --keep-directory-symlink -xf /root/root.tar && systemctl daemon-reload")
		require.NoError(t, err)
		require.NoError(t, n.StartBus(ctx))
	}
	t.Cleanup(func() {
		for _, n := range c.Nodes() {
			if t.Failed() && n.Up() {
				out, _ := n.Run(context.Background(), "journalctl", "-b", "-n", "60", "--no-pager")
				t.Logf("%s:\n%s", n.Name, out)
			}
		}
	})
	return r
}

// TestUnit has the shipped unit do in its sandbox what the service is for: the
// bus starts it, it sees what dlm_controld and the kernel say, and what
// administrators do to a service works.
func TestUnit(t *testing.T) {
	rig := newUnitRig(t)
	step := func(name string, do func(t *testing.T, r unitRig)) {
		t.Run(name, func(t *testing.T) {
			r := unitRig{t, rig.cluster, rig.n, rig.other}
			do(t, r)
			if r.n.Up() {
				require.Empty(t, r.run(denials), "AppArmor denies nothing")
			}
		})
	}
	step("systemd", func(t *testing.T, r unitRig) {
		require.Equal(t, "systemd\n", r.run("cat /proc/1/comm"))
		require.Empty(t, r.run("systemctl --failed --plain --no-legend"), "no unit has failed")
		require.NoError(t, r.cluster.JoinDLM(lab.Context(t, "joining", joinTime)))
		r.loadProfiles(ownProfile)
	})
	const call = "busctl call org.example.DlmLock /org/example/DlmLock org.example.DlmLock "
	const property = "busctl get-property org.example.DlmLock /org/example/DlmLock org.example.DlmLock "

	step("activation", func(t *testing.T, r unitRig) {
		require.Contains(t, r.fails("systemctl is-active dlmlockd"), "inactive")
		r.run(call + "JoinLockspace 'sa{sv}' vms 0")
		r.run(call + "Acquire 'sssa{sv}' vms disk EX 1 owner s web")
		require.Equal(t, "active\n", r.run("systemctl is-active dlmlockd"))
		r.confined("dlmlockd")
		require.Contains(t, r.run(call+"Inspect ss vms disk"), `"granted" a(uuss) 1`, "debugfs is seen")
	})
	step("varlink", locksOfUnits) // before the configuration is broken, since it restarts the service
	step("dlm_controld", func(t *testing.T, r unitRig) {
		r.await("b true", property+"Quorate")
		require.Contains(t, r.run(call+"ListLockspaces"), `"quorate" b true`, "the way out of the network namespace")
		r.run("systemctl is-active dlmlockd-controld.service")
		r.run("systemctl stop dlmlockd-controld.service")
		r.await(`"quorate" b true`, call+"ListLockspaces")
	})
	step("other nodes", func(t *testing.T, r unitRig) {
		// The kernel's connections are made by who joins first: here the
		// service, in its network namespace and cgroup.
		require.NoError(t, r.other.JoinLockspace(lab.Context(t, "joining", joinTime), "vms"))
		r.await(`"members" au 2 1 2`, call+"ListLockspaces")
		r.await(`"stopped" b false`, call+"ListLockspaces")
		r.run(call + "Acquire 'sssa{sv}' vms shared EX 1 owner s web")
		r.run(call + "Release 'ssa{sv}' vms shared 0")
	})
	step("log", func(t *testing.T, r unitRig) {
		r.run("systemctl service-log-level dlmlockd debug")
		require.Equal(t, "debug\n", r.run("systemctl service-log-level dlmlockd"))
		require.Equal(t, "journal\n", r.run("systemctl service-log-target dlmlockd"))
		r.run(call + "Release 'ssa{sv}' vms disk 0")
		r.run(call + "Acquire 'sssa{sv}' vms disk EX 1 owner s web")
		r.await("DLM_RESOURCE=disk", "journalctl -t dlmlockd DLM_LOCKSPACE=vms -o export")
		r.run("systemctl service-log-level dlmlockd info")
	})
	step("stop", func(_ *testing.T, r unitRig) {
		for _, how := range []string{"systemctl restart dlmlockd", "systemctl kill -s KILL dlmlockd",
			"systemctl daemon-reexec", "systemctl stop dlmlockd"} {
			r.run(how)
			r.await(`"web"`, call+"ListLocks 'a{sv}' 0")
		}
	})
	step("watchdog", func(t *testing.T, r unitRig) {
		r.run("mkdir -p /run/systemd/system/dlmlockd.service.d && printf '[Service]\\nWatchdogSec=3\\n' > " +
			"/run/systemd/system/dlmlockd.service.d/test.conf && systemctl daemon-reload && systemctl restart dlmlockd")
		before := r.run("systemctl show -P MainPID dlmlockd")
		r.run("kill -STOP " + before)
		r.await("Watchdog timeout", "journalctl -u dlmlockd | grep Watchdog")
		r.await(`"web"`, call+"ListLocks 'a{sv}' 0")
		require.NotEqual(t, before, r.run("systemctl show -P MainPID dlmlockd"))
		// An emulated node on a busy machine may be that slow in what follows.
		r.run("rm /run/systemd/system/dlmlockd.service.d/test.conf; systemctl daemon-reload; systemctl restart dlmlockd")
	})
	step("reload", func(t *testing.T, r unitRig) {
		r.run("echo 'lockspaces = [\"images\"]' > /etc/dlmlockd.toml && systemctl reload dlmlockd")
		r.await(`"images" "ready"`, call+"ListLockspaces")
		r.run("echo 'lockspace = 3' > /etc/dlmlockd.toml")
		require.Contains(t, r.fails("systemctl reload dlmlockd"), "dlmlockd")
		require.Equal(t, "active\n", r.run("systemctl is-active dlmlockd"))
		r.await("dlmlockd.toml:1:1: lockspace: unknown key", "journalctl -u dlmlockd")
	})
	step("idle", func(t *testing.T, r unitRig) {
		r.run("echo 'exit-on-idle = \"1s\"' > /etc/dlmlockd.toml && systemctl reload dlmlockd")
		r.await("inactive", "systemctl is-active dlmlockd || true")
		require.Equal(t, "success\n", r.run("systemctl show -P Result dlmlockd"))
		// Calls again and again around the end: each is answered, by the one
		// that ends or by the next.
		for range 5 {
			require.Contains(t, r.run(call+"ListLocks 'a{sv}' 0"), `"web"`)
			r.run("sleep 1")
		}
		r.run("rm /etc/dlmlockd.toml; systemctl restart dlmlockd")
	})
	step("metrics", func(_ *testing.T, r unitRig) {
		// As dlmlockd.toml(5) tells.
		r.run("mkdir -p /run/systemd/system/dlmlockd.service.d && printf " +
			"'[Service]\\nCacheDirectory=dlmlockd\\nCacheDirectoryMode=0755\\n' > " +
			"/run/systemd/system/dlmlockd.service.d/metrics.conf")
		r.run("echo 'metrics-file = \"/var/cache/dlmlockd/dlmlockd.prom\"' > /etc/dlmlockd.toml; systemctl " +
			"daemon-reload; systemctl restart dlmlockd")
		r.await("dlmlockd_locks{lockspace=\"vms\"} 1",
			"setpriv --reuid=65534 --regid=65534 --clear-groups cat /var/cache/dlmlockd/dlmlockd.prom")
		r.run("rm /etc/dlmlockd.toml; systemctl reload dlmlockd")
		r.await("gone", "[ -e /var/cache/dlmlockd/dlmlockd.prom ] || echo gone")
	})
	step("users", usersAreSeen)
	step("uevents", func(t *testing.T, r unitRig) {
		// The kernel tells of it in the network namespace of the service, too;
		// otherwise the service would keep the device open, and the node could
		// not leave.
		r.run("timeout 30 dlm_tool leave vms; dmesg | grep -i dlm | tail -5")
		r.await("this node has left the lockspace", "journalctl -t dlmlockd DLM_LOCKSPACE=vms")
		r.await("lock lost", "journalctl -t dlmlockd DLM_LOCKSPACE=vms DLM_RESOURCE=disk")
		require.Contains(t, r.run("journalctl --update-catalog; journalctl -x -t dlmlockd DLM_RESOURCE=disk"),
			"Subject: A cluster lock was lost", "journald knows the catalog")
	})
	step("shutdown", shutdown)
}

// usersAreSeen leaves a lockspace that other processes have open, of root with all
// capabilities and of another user: the service sees them from its sandbox. Without
// the capabilities for it, the service does not conclude that there is none.
func usersAreSeen(t *testing.T, r unitRig) {
	const call = "busctl call org.example.DlmLock /org/example/DlmLock org.example.DlmLock "
	const leave = call + "LeaveLockspace 'sa{sv}' pool 1 force b true"
	r.run(call + "JoinLockspace 'sa{sv}' pool 0")
	for _, as := range []string{"", "setpriv --reuid=65534 --regid=65534 --clear-groups "} {
		r.run("sh -c '" + as + "sleep 1000 3<>/dev/misc/dlm_pool >/dev/null 2>&1 & echo $! >/run/user.pid'")
		r.await("sleep", "cat /proc/$(cat /run/user.pid)/comm") // it has the device by then
		require.Contains(t, r.fails(leave), "(sleep) has it open")
		r.run("kill $(cat /run/user.pid)")
	}
	r.run("sleep 1000 >/dev/null 2>&1 & echo $! >/run/user.pid")
	const dropIn = "/run/systemd/system/dlmlockd.service.d/caps.conf"
	r.run("mkdir -p /run/systemd/system/dlmlockd.service.d && printf " +
		"'[Service]\\nCapabilityBoundingSet=\\nCapabilityBoundingSet=CAP_SYS_ADMIN\\n' > " + dropIn +
		" && systemctl daemon-reload && systemctl restart dlmlockd")
	r.await(`"pool" "ready"`, call+"ListLockspaces")
	require.Contains(t, r.fails(leave), "can't tell whether another process uses it")
	r.run("rm " + dropIn + " && systemctl daemon-reload && systemctl restart dlmlockd")
	r.await(`"pool" "ready"`, call+"ListLockspaces")
	r.run(leave)
	r.run("kill $(cat /run/user.pid)")
}
