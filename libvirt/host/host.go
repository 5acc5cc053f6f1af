package host

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every wait for a process of this machine.
const patience = 60 * time.Second

// Config is what a host is made of.
type Config struct {
	Name   string // the host's
	Bus    string // the address of the system bus for libvirtd
	Driver string // the text of qemu-dlmlock.conf
	// Virtlockd is the socket where libvirt's own lock driver is served: then that
	// is the host's, and not dlmlock. Lockd is the text of its qemu-lockd.conf.
	Virtlockd, Lockd string
	// Install is the DESTDIR of a "make install-libvirt": what it put into
	// libvirt's directory of lock drivers is there in the host.
	Install string
	// Preload is a library that libvirtd must load first, or "": the runtime of
	// the sanitizer that the lock driver was built with.
	Preload string
	// Cache keeps what libvirtd has found out about QEMU, for all hosts of the test program.
	Cache string
	// Root is a root file system with another libvirt and QEMU than this machine's, or
	// "": then libvirtd runs in it, as chroot(8) does it.
	Root string
	// Daemon is "virtqemud" for libvirt's modular daemon in place of libvirtd.
	Daemon string
}

// Host is a libvirt host.
type Host struct {
	Name, Dir string

	t       testing.TB
	bus     string
	root    string // Config.Root
	daemon  string // libvirtd, or what Config.Daemon names
	cmd     *exec.Cmd
	control io.WriteCloser
	started chan string

	mu       sync.Mutex
	libvirtd int                   // its pid, or 0
	ends     map[int]chan struct{} // of the processes that are waited for
}

// Start makes a host and starts libvirtd on it, or fails the test. The host ends with the test.
func Start(t testing.TB, c Config) *Host {
	t.Helper()
	h := &Host{Name: c.Name, t: t, bus: c.Bus, root: c.Root, daemon: cmp.Or(c.Daemon, "libvirtd"),
		started: make(chan string), ends: map[int]chan struct{}{}}
	// Not t.TempDir: the path of a socket may have only 107 bytes.
	parent, err := os.MkdirTemp("", "host")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(parent) })
	h.Dir = filepath.Join(parent, c.Name)
	must(t, h.write(c))
	must(t, h.run(c.Preload))
	t.Cleanup(h.end)
	h.StartLibvirtd()
	return h
}

// UUID is the host's own: hosts with one UUID don't migrate guests between them.
func UUID(name string) string {
	digits := fmt.Sprintf("%012x", []byte(name + "      ")[:6])
	return "5f0e1d2c-0000-4000-8000-" + digits
}

// write makes the files of the host, and the list of what is mounted where: a line "FROM TO" for each,
// which the host's first process reads (reaper.go).
func (h *Host) write(c Config) error {
	if err := h.writeFiles(c); err != nil {
		return err
	}
	binds := []string{
		filepath.Join(h.Dir, "etc/passwd") + " /etc/passwd",
		filepath.Join(h.Dir, "etc/group") + " /etc/group",
	}
	driver, err := h.lockDriver(c)
	if err != nil {
		return err
	}
	binds = append(binds, driver...)
	own := map[string]string{"/var/cache/libvirt": c.Cache}
	for _, dir := range []string{"/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt"} {
		own[dir] = filepath.Join(h.Dir, dir)
	}
	for dir, from := range own {
		if err := errors.Join(os.MkdirAll(from, 0o755), os.MkdirAll(c.Root+dir, 0o755)); err != nil {
			return err
		}
		binds = append(binds, from+" "+dir)
	}
	return write(filepath.Join(h.Dir, "binds"), strings.Join(binds, "\n")+"\n", 0o644)
}

// writeFiles writes the configuration of libvirt and QEMU, and the machine's users with the one that QEMU
// runs as.
func (h *Host) writeFiles(c Config) error {
	files := Files(UUID(c.Name), h.Log(), c.Driver)
	files["/etc/libvirt/virtqemud.conf"] = files["/etc/libvirt/libvirtd.conf"]
	if c.Virtlockd != "" {
		files["/etc/libvirt/qemu.conf"] = strings.ReplaceAll(qemuConf, `"dlmlock"`, `"lockd"`)
		files["/etc/libvirt/qemu-lockd.conf"] = c.Lockd
	}
	for _, path := range []string{"/etc/passwd", "/etc/group"} {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files[path] = WithUser(string(text))
	}
	for path, text := range files {
		mode := os.FileMode(0o644)
		if path == Emulator {
			mode = 0o755
		}
		if err := write(filepath.Join(h.Dir, path), text, mode); err != nil {
			return err
		}
	}
	return nil
}

// lockDriver makes the lock driver available in the host: libvirt's own by a link to the socket that it
// connects to, whose path it has compiled in, and dlmlock's by a mount over the directory of drivers.
func (h *Host) lockDriver(c Config) (binds []string, err error) {
	if c.Virtlockd != "" {
		return nil, os.Symlink(c.Virtlockd, filepath.Join(h.Dir, virtlockdLink))
	}
	drivers, err := filepath.Glob(filepath.Join(c.Install, "usr/lib/*/libvirt/lock-driver"))
	if err != nil || len(drivers) != 1 {
		return nil, fmt.Errorf("%s has %d directories of lock drivers, not one: %w", c.Install, len(drivers), err)
	}
	return []string{drivers[0] + " " + strings.TrimPrefix(drivers[0], c.Install)}, nil
}

// virtlockdLink is the link in a host's directory that its /run/libvirt gets as
// virtlockd's socket.
const virtlockdLink = "virtlockd-sock"

func write(path, text string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), mode)
}

// run starts the host's first process.
func (h *Host) run(preload string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	h.cmd = exec.Command(self)
	h.cmd.Env = append(os.Environ(), reaperDir+"="+h.Dir, reaperPreload+"="+preload, reaperRoot+"="+h.root,
		reaperDaemon+"="+h.daemon, "DBUS_SYSTEM_BUS_ADDRESS="+h.bus, "LC_ALL=C.UTF-8")
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWUTS, Setpgid: true}
	h.cmd.Stderr = os.Stderr
	if h.control, err = h.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := h.cmd.Start(); err != nil {
		return fmt.Errorf("a host's namespaces (root may make them): %w", err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		return errors.New("the host's first process has ended")
	}
	go h.listen(lines)
	return nil
}

// listen receives the reports of the first process.
func (h *Host) listen(lines *bufio.Scanner) {
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		pid, err := strconv.Atoi(rest)
		if word != "ended" || err != nil {
			h.started <- lines.Text()
			continue
		}
		h.mu.Lock()
		if ended, ok := h.ends[pid]; ok {
			close(ended)
			delete(h.ends, pid)
		}
		h.mu.Unlock()
	}
	close(h.started)
}

func (h *Host) end() {
	_ = h.control.Close()
	for range h.started {
	}
	_ = h.cmd.Wait()
	if !h.t.Failed() {
		return
	}
	for _, log := range []string{h.Log(), h.output()} {
		if text, err := os.ReadFile(log); err == nil && len(text) > 0 {
			h.t.Logf("libvirtd of host %s said:\n%s", h.Name, text)
		}
	}
}

// Log is the file with libvirtd's log.
func (h *Host) Log() string { return filepath.Join(h.Dir, "var/log/libvirt/libvirtd.log") }

// output is the file with libvirtd's standard output and error.
func (h *Host) output() string { return filepath.Join(h.Dir, "output") }

// Launch starts libvirtd and returns its pid; it may well end at once.
func (h *Host) Launch() int {
	h.t.Helper()
	_, err := fmt.Fprintln(h.control, h.output())
	must(h.t, err)
	var pid int
	if _, err := fmt.Sscanf(<-h.started, "started %d", &pid); err != nil {
		h.t.Fatalf("libvirtd of host %s can't be started: %v", h.Name, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.libvirtd = pid
	return pid
}

// StartLibvirtd starts libvirtd and waits until it answers.
func (h *Host) StartLibvirtd() {
	h.t.Helper()
	pid := h.Launch()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		out, err := h.Virsh(ctx, "list")
		if err == nil {
			return
		}
		if ctx.Err() != nil || unix.Kill(pid, 0) != nil {
			h.t.Fatalf("libvirtd of host %s did not come up: %s", h.Name, out)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Libvirtd is the pid of the libvirtd that was started last.
func (h *Host) Libvirtd() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.libvirtd
}

// StopLibvirtd sends libvirtd a signal that ends it, and waits for that.
func (h *Host) StopLibvirtd(s syscall.Signal) {
	h.t.Helper()
	pid := h.Libvirtd()
	ended := h.Ended(pid)
	must(h.t, unix.Kill(pid, s))
	select {
	case <-ended:
	case <-time.After(patience):
		h.t.Fatalf("libvirtd of host %s does not end", h.Name)
	}
}

// Ended returns a channel that is closed when a process of the host, whose parent has ended, has
// ended completely.
func (h *Host) Ended(pid int) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ends[pid] == nil {
		h.ends[pid] = make(chan struct{})
		if unix.Kill(pid, 0) != nil {
			ended := h.ends[pid]
			close(ended)
			delete(h.ends, pid)
			return ended
		}
	}
	return h.ends[pid]
}

// URI is where this machine's libvirt clients reach the host.
func (h *Host) URI() string {
	socket := "libvirt-sock"
	if h.daemon != "libvirtd" {
		socket = h.daemon + "-sock"
	}
	return fmt.Sprintf("qemu+unix:///system?socket=/proc/%d/root/run/libvirt/%s", h.cmd.Process.Pid, socket)
}

// MountNamespace is the file of the host's own one.
func (h *Host) MountNamespace() string { return fmt.Sprintf("/proc/%d/ns/mnt", h.cmd.Process.Pid) }

// Virsh runs virsh on the host. The text is what it printed, errors included.
func (h *Host) Virsh(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "virsh", append([]string{"-q", "-c", h.URI()}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// PID returns the pid of the QEMU of a running domain.
func (h *Host) PID(domain string) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/run/libvirt/qemu/%s.pid", h.cmd.Process.Pid, domain))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
