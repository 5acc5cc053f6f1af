package host_test

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

	"github.com/dlmlock/dlmlockd/libvirt/host"
)

// guarded starts a rig and a host whose guests' locks have the helper, which runs
// on the host with the capabilities that dlmlockd.service has.
func guarded(t *testing.T) (*rig, *machine) {
	r := start(t)
	return r, guardedBy(r, r.host("alpha", "on_lost = \"libvirt\"\n"), "")
}

// guardedBy restarts the service with the helper for a host, and more in its
// configuration.
func guardedBy(r *rig, h *machine, conf string) *machine {
	t := r.t
	helper, err := filepath.Glob(filepath.Join(built.install, "usr/libexec/dlmlockd/libvirt-lost"))
	require.NoError(t, err)
	require.Len(t, helper, 1, "make install-libvirt installs the helper")
	r.conf = fmt.Sprintf("[on-lost.libvirt]\ncommand = [\"/usr/bin/nsenter\", \"--mount=%s\", \"/usr/bin/setpriv\", "+
		"\"--no-new-privs\", "+
		"\"--bounding-set=-all,+sys_admin\", %q]\n", h.MountNamespace(), helper[0]) + conf
	r.killDaemon()
	r.startDaemon()
	return h
}

// With libvirt's own driver the helper is named in the configuration of the service,
// and does what it does by default.
func TestStockLockLost(t *testing.T) {
	r := startWith(t, stock, "")
	h := guardedBy(r, r.stockHost("alpha", ""), "[virtlockd]\nhelper = \"libvirt\"\n")
	h.define("web", host.Disk{Path: r.image("a.img")})
	h.virsh("start", "web")
	r.now("web: a.img EX")
	r.lose("libvirt")
	h.becomes("web", "paused")
	r.held()
	h.virsh("resume", "web")
	r.now("web: a.img EX")
}

// lose makes the guests lose their locks in a lockspace: somebody makes the node
// leave it, and join it again.
func (r *rig) lose(lockspace string) {
	r.t.Helper()
	require.NoError(r.t, r.client.Leave(r.t.Context(), lockspace, true))
	require.NoError(r.t, r.client.Join(r.t.Context(), lockspace))
}

func (r *rig) log() string {
	text, err := os.ReadFile(filepath.Join(r.dir, "dlmlockd.log"))
	require.NoError(r.t, err)
	return string(text)
}

// becomes waits for the state of a domain.
func (m *machine) becomes(name, state string) {
	m.rig.t.Helper()
	require.Eventually(m.rig.t, func() bool { return m.state(name) == state }, patience, 10*time.Millisecond,
		"%s is not %s", name, state)
}

// A guest whose lock is lost is paused, switched off, started again or left alone, as its domain
// says.
func TestLockLost(t *testing.T) {
	r, h := guarded(t)
	for _, action := range []string{"pause", "poweroff", "restart", "ignore", ""} {
		name := "on" + action
		d := domain(name, host.Disk{Path: r.image(name + ".img")}, host.Disk{Path: r.image(name + "2.img")})
		d.OnLockFailure = action
		h.virsh("define", r.file(name, d.XML()))
		h.virsh("start", name)
	}
	require.Len(t, r.locks(), 10)
	before, err := h.PID("onrestart")
	require.NoError(t, err)
	r.lose("libvirt")
	h.becomes("onpause", "paused")
	h.becomes("onpoweroff", "shut off")
	h.becomes("on", "paused")
	require.Eventually(t, func() bool {
		pid, err := h.PID("onrestart")
		return err == nil && pid != before && h.state("onrestart") == "running"
	}, patience, 10*time.Millisecond, "%s", r.log())
	require.Equal(t, "running", h.state("onignore"))
	r.held("onrestart: onrestart.img EX", "onrestart: onrestart2.img EX")
	require.Eventually(t, func() bool { return strings.Count(r.log(), "lost lock has ended") == 8 }, patience,
		10*time.Millisecond,
		"one run for each disk, but for those that name no helper: %s", r.log())
	require.NotContains(t, r.log(), "has failed")

	// A paused guest has its locks again when somebody resumes it.
	h.virsh("resume", "onpause")
	r.held("onpause: onpause.img EX", "onpause: onpause2.img EX", "onrestart: onrestart.img EX",
		"onrestart: onrestart2.img EX")
	for _, name := range []string{"onpause", "onrestart", "onignore", "on"} {
		h.virsh("destroy", name)
	}
}

// The helper waits for a libvirtd that is being restarted, and only for the QEMU that lost the
// lock.
func TestLockLostWithoutLibvirtd(t *testing.T) {
	r, h := guarded(t)
	h.define("web", host.Disk{Path: r.image("a.img")})
	h.virsh("start", "web")
	h.StopLibvirtd(syscall.SIGKILL)
	r.lose("libvirt")
	require.Eventually(t, func() bool { return strings.Contains(r.log(), "is started") }, patience, 10*time.Millisecond)
	h.StartLibvirtd()
	h.becomes("web", "paused")

	// A run for an earlier QEMU does nothing to the current one.
	pid, err := h.PID("web")
	require.NoError(t, err)
	owner := fmt.Sprintf("%s/%d/%s", domain("web").UUID, pid, startTime(t, pid))
	h.virsh("destroy", "web")
	h.virsh("start", "web")
	run := func(owner, data string) (string, error) {
		cmd := exec.Command(filepath.Join(built.install, "usr/libexec/dlmlockd/libvirt-lost"), "--connect="+h.URI())
		cmd.Env = append(os.Environ(), "DLM_OWNER="+owner, "DLM_DATA="+data)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	said, err := run(owner, "poweroff qemu:///system")
	require.NoError(t, err, said)
	require.Contains(t, said, "nothing is left to do")
	require.Equal(t, "running", h.state("web"))

	// The same pid with a different start time is a different process.
	pid, err = h.PID("web")
	require.NoError(t, err)
	said, err = run(fmt.Sprintf("%s/%d/1", domain("web").UUID, pid), "poweroff qemu:///system")
	require.NoError(t, err, said)
	require.Equal(t, "running", h.state("web"))
	// The same is true of a different domain.
	said, err = run(fmt.Sprintf("%s/%d/%s", domain("db").UUID, pid, startTime(t, pid)), "poweroff qemu:///system")
	require.NoError(t, err, said)
	require.Equal(t, "running", h.state("web"))

	for _, words := range [][2]string{{"web", "pause qemu:///system"}, {owner, "explode qemu:///system"},
		{owner + "x", "pause qemu:///system"}} {
		said, err = run(words[0], words[1])
		require.Error(t, err, words)
		require.Contains(t, said, "usage")
	}
}
