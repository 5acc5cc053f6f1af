package host

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// reaperDir tells Main to be a host's first process, and names its directory.
const reaperDir = "LIBVIRT_HOST_DIR"

// What else the first process gets in its environment: libvirtd's LD_PRELOAD, the root
// that it runs in ("" is this machine's), and its name.
const (
	reaperPreload = "LIBVIRT_HOST_PRELOAD"
	reaperRoot    = "LIBVIRT_HOST_ROOT"
	reaperDaemon  = "LIBVIRT_HOST_DAEMON"
)

// Main returns at once, unless this program was started as the first process of
// a host; then it does not return. TestMain calls it first.
//
// The first process mounts what the host has of its own, starts libvirtd as often
// as it is told on standard input, and is the parent of every process below that
// loses its own: QEMU is gone, and not a zombie, as soon as it has ended. Each end
// is told on standard output. At the end of its input it kills them all.
func Main() {
	dir := os.Getenv(reaperDir)
	if dir == "" {
		return
	}
	if err := enter(dir); err != nil {
		fmt.Fprintln(os.Stderr, "host:", err)
		os.Exit(1)
	}
	go obey()
	reap()
}

// enter makes the host, in the namespaces that this process was started in. The file
// dir/binds lists what is mounted over which path of the host's root.
func enter(dir string) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming a subreaper: %w", err)
	}
	if err := unix.Sethostname([]byte(filepath.Base(dir))); err != nil {
		return fmt.Errorf("naming the host: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mounting /run: %w", err)
	}
	if socket, err := os.Readlink(filepath.Join(dir, virtlockdLink)); err == nil {
		err = errors.Join(os.Mkdir("/run/libvirt", 0o755), os.Symlink(socket, "/run/libvirt/virtlockd-sock"))
		if err != nil {
			return err
		}
	}
	root := os.Getenv(reaperRoot)
	if err := furnish(root); err != nil {
		return err
	}
	binds, err := os.ReadFile(filepath.Join(dir, "binds"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(binds)) {
		from, to, _ := strings.Cut(strings.TrimSpace(line), " ")
		if err := unix.Mount(from, root+to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting %s on %s: %w", from, root+to, err)
		}
	}
	fmt.Println("ready")
	return nil
}

// furnish mounts in a root of its own what the host shares with this machine, and the
// host's /run.
func furnish(root string) error {
	if root == "" {
		return nil
	}
	if err := unix.Mount(root, root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting %s: %w", root, err)
	}
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run", os.TempDir()} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(dir, root+dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mounting %s in %s: %w", dir, root, err)
		}
	}
	return nil
}

// over is set when there is no more input.
var over atomic.Bool

// obey starts libvirtd for each line of input, which names the file that takes
// its output.
func obey() {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		out, err := os.OpenFile(in.Text(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			fmt.Println("error", err)
			continue
		}
		name := os.Getenv(reaperDaemon)
		p, err := os.StartProcess("/usr/sbin/"+name, []string{name}, &os.ProcAttr{Env: libvirtdEnv(), Dir: "/",
			Files: []*os.File{nil, out, out}, Sys: &unix.SysProcAttr{Setsid: true, Chroot: os.Getenv(reaperRoot)}})
		out.Close()
		if err != nil {
			fmt.Println("error", err)
			continue
		}
		fmt.Println("started", p.Pid)
	}
	over.Store(true)
	// One that is killed may leave children, which are ours then.
	for {
		for _, pid := range children() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(time.Millisecond)
	}
}

func libvirtdEnv() []string {
	preload := os.Getenv(reaperPreload)
	if preload == "" {
		return os.Environ()
	}
	// Leaks of libvirtd itself are not what this test looks for.
	return append(os.Environ(), "LD_PRELOAD="+preload, "ASAN_OPTIONS=detect_leaks=0")
}

// children are those of this process, whichever of its threads made them.
func children() []int {
	var pids []int
	files, _ := filepath.Glob("/proc/self/task/*/children")
	for _, f := range files {
		text, _ := os.ReadFile(f)
		for _, word := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// reap reports every child that has ended.
func reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == nil:
			fmt.Println("ended", pid)
		case over.Load():
			os.Exit(0)
		default:
			time.Sleep(time.Millisecond) // there are none
		}
	}
}
