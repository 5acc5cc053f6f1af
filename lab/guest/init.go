package guest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Init is process 1 of the initramfs: it makes the node's root and becomes
// the node's process 1. It doesn't return; a failure is written to the
// console and powers the node off.
func Init() {
	err := initNode()
	fmt.Printf("lab: init failed: %v\n", err)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func initNode() error {
	if err := mountAll(earlyMounts); err != nil {
		return err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	params, err := ParseParams(string(cmdline))
	if err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	say("modules loaded")
	if err := mountAll(rootMounts(params.Root)); err != nil {
		return err
	}
	if err := mountAll(nodeMounts); err != nil {
		return err
	}
	say("root mounted")
	if err := furnish("/new", params); err != nil {
		return err
	}
	if err := network(params.ID); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if err := switchRoot("/new"); err != nil {
		return err
	}
	if params.Systemd {
		say("starting systemd")
		return exe("/lib/systemd/systemd", "--unit=lab.target")
	}
	return exe(AgentPath, "reap")
}

// say writes a line with the time since boot to the console.
func say(what string) {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	fmt.Printf("lab: %.2f %s\n", time.Duration(ts.Nano()).Seconds(), what)
}

func exe(argv ...string) error {
	env := []string{"PATH=" + nodePath, "HOME=/root", "LANG=C.UTF-8"}
	return fmt.Errorf("exec %s: %w", argv[0], syscall.Exec(argv[0], argv, env))
}

// nodePath is the PATH of everything the agent starts.
const nodePath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// mount is one call of mount(2).
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

var earlyMounts = []mount{
	{"proc", "/proc", "proc", 0, ""},
	{"sysfs", "/sys", "sysfs", 0, ""},
	{"devtmpfs", "/dev", "devtmpfs", 0, ""},
}

// rootMounts make the node's root below /new, from a directory of the host. The node
// caches the lower layer and does not ask the host again, so it must not change.
func rootMounts(dir string) []mount {
	return []mount{
		{RootTag, "/host", "9p", unix.MS_RDONLY, "trans=virtio,version=9p2000.L,msize=512000,cache=loose"},
		{"tmpfs", "/upper", "tmpfs", 0, "mode=755"},
		{"overlay", "/new", "overlay", 0, "lowerdir=/host" + dir + ",upperdir=/upper/up,workdir=/upper/work"},
	}
}

// nodeMounts are the node's own file systems.
var nodeMounts = []mount{
	{"/proc", "/new/proc", "", unix.MS_MOVE, ""},
	{"/sys", "/new/sys", "", unix.MS_MOVE, ""},
	{"/dev", "/new/dev", "", unix.MS_MOVE, ""},
	{"tmpfs", "/new/dev/shm", "tmpfs", 0, "mode=1777"},
	{"devpts", "/new/dev/pts", "devpts", 0, "mode=620,gid=5,ptmxmode=666"},
	{"tmpfs", "/new/run", "tmpfs", 0, "mode=755"},
	{"tmpfs", "/new/tmp", "tmpfs", 0, "mode=1777"},
	{"tmpfs", "/new/var/tmp", "tmpfs", 0, "mode=1777"},
	{HostTag, "/new" + HostRoot, "9p", unix.MS_RDONLY, "trans=virtio,version=9p2000.L,msize=512000,cache=none"},
	{"debugfs", "/new/sys/kernel/debug", "debugfs", 0, ""},
	{"configfs", "/new/sys/kernel/config", "configfs", 0, ""},
	{"cgroup2", "/new/sys/fs/cgroup", "cgroup2", 0, ""},
}

func mountAll(mounts []mount) error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if m.fstype == "overlay" {
			for _, d := range []string{"/upper/up", "/upper/work"} {
				if err := os.MkdirAll(d, 0o755); err != nil {
					return err
				}
			}
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
		}
	}
	return nil
}

// loadModules loads every module of the directory, in the order of names.
func loadModules(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.ko"))
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := loadModule(name); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", name, err)
		}
		_ = os.Remove(name) // it is memory from now on
	}
	return nil
}

func loadModule(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// furnish puts the node's own files into its root.
func furnish(root string, p Params) error {
	self, err := os.ReadFile("/init")
	if err != nil {
		return err
	}
	files := []struct {
		path string
		body string
		mode os.FileMode
	}{
		{AgentPath, string(self), 0o755},
		{"/etc/hostname", Hostname(p.ID) + "\n", 0o644},
		{"/etc/hosts", hosts(), 0o644},
		{"/etc/fstab", "", 0o644},
		{"/etc/machine-id", fmt.Sprintf("%032x\n", 0xdead0000+p.ID), 0o444},
	}
	for _, f := range files {
		if err := replace(root+f.path, f.body, f.mode); err != nil {
			return err
		}
	}
	// systemd takes a machine with this file for a container.
	if err := os.Remove(root + "/.dockerenv"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(AgentPath), root+FencePath); err != nil {
		return err
	}
	if err := linkModules(root, p); err != nil {
		return err
	}
	if p.Systemd {
		if err := installUnits(root); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte(Hostname(p.ID))); err != nil {
		return err
	}
	// The start was quiet for speed; from here every line is wanted.
	return os.WriteFile(root+"/proc/sys/kernel/printk", []byte("7 4 1 7\n"), 0o644)
}

// replace writes a file anew: what is there may be a link to elsewhere, or in
// use by the host under the overlay.
func replace(path, body string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, []byte(body), mode)
}

// linkModules makes modprobe find the modules of the running kernel.
func linkModules(root string, p Params) error {
	if p.Modules == "" {
		return nil
	}
	dir := root + "/lib/modules"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	link := filepath.Join(dir, p.Release)
	if _, err := os.Lstat(link); err == nil {
		return nil // the host has this very kernel installed
	}
	// Not their path on the host: that may be in a /tmp, and the node has its own.
	return os.Symlink(HostRoot+p.Modules, link)
}

// hosts lists every possible node.
func hosts() string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n")
	for id := 1; id <= MaxID; id++ {
		fmt.Fprintf(&b, "%s %s\n", Address(id), Hostname(id))
	}
	return b.String()
}

// switchRoot makes the directory the root, as switch_root(8) does.
func switchRoot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := os.RemoveAll("/init"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s to /: %w", root, err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return os.Chdir("/")
}

// Reap is process 1 of a node without systemd: it starts the agent and waits
// for orphaned processes, for ever.
func Reap() error {
	agent := exec.Command(AgentPath, "serve")
	agent.Stdout, agent.Stderr = os.Stdout, os.Stderr
	if err := agent.Start(); err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case pid == agent.Process.Pid:
			// The host has hung up, or the agent is broken: either way
			// the node can no longer be used.
			say("the agent has ended, power off")
			return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		}
	}
}
