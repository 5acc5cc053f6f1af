// Package qemu starts one emulated machine and ends it.
//
// It owns the command line and the process. It refuses to know what the
// machine runs, what its network leads to and that there are others.
//
// Concurrency: a Machine's methods may be called from any goroutine.
package qemu

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Config describes the machine.
type Config struct {
	Kernel, Initrd string   // files to boot
	Append         string   // added to the kernel's command line
	MemoryMB       int      // memory in MiB
	MAC            string   // Ethernet address
	NetSocket      string   // unix socket that takes the Ethernet frames
	PortSocket     string   // unix socket that the virtio-serial port leads to
	PortName       string   // the port's name in the machine
	RootTags       []string // 9p mount tags, each of the host's root, read-only
	SharedMemory   string   // file that is memory of a PCI device (ivshmem-plain), its size a power of two; "": none

	Console io.Writer // gets what the machine writes to its serial port
	Errors  io.Writer // gets what QEMU itself complains about
}

// Accelerated reports whether KVM can run the machine's kernel here: this user may
// use it, and the processor virtualizes. Without it the machine is emulated,
// about ten times slower. A KVM on a processor without that (PVM, on some hosts
// that are virtual themselves) has a /dev/kvm too, and runs only kernels made
// for it: others stand still with the first instructions.
func Accelerated() bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	info, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && virtualizes(string(info))
}

// virtualizes looks for Intel's or AMD's extension in the text of /proc/cpuinfo.
func virtualizes(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		if name, flags, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "flags" {
			all := strings.Fields(flags)
			return slices.Contains(all, "vmx") || slices.Contains(all, "svm")
		}
	}
	return false
}

// Args returns QEMU's arguments for the machine.
func (c Config) Args(accelerated bool) []string {
	accel, cpu := "tcg,thread=multi", "max"
	cmdline := "console=ttyS0 quiet panic=1 oops=panic mitigations=off net.ifnames=0 random.trust_cpu=on "
	if accelerated {
		accel, cpu = "kvm", "host"
	} else {
		// An emulated machine that waits for its turn on a busy host is no
		// bug of its kernel, nor is a timer that seems not to tick at boot,
		// nor a TSC, which is that of the host, that differs from a timer.
		cmdline += "nosoftlockup rcupdate.rcu_cpu_stall_suppress=1 no_timer_check tsc=nowatchdog "
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none",
		"-machine", "pc,usb=off,vmport=off", "-accel", accel, "-cpu", cpu,
		"-m", strconv.Itoa(c.MemoryMB), "-smp", "1",
		"-kernel", c.Kernel, "-initrd", c.Initrd, "-append", cmdline + c.Append,
		"-serial", "stdio",
		"-netdev", "stream,id=net0,server=off,addr.type=unix,addr.path=" + c.NetSocket,
		// Without its boot ROM the card saves seconds.
		"-device", "virtio-net-pci,netdev=net0,romfile=,mac=" + c.MAC,
		"-chardev", "socket,id=port0,server=off,path=" + c.PortSocket,
		"-device", "virtio-serial-pci",
		"-device", "virtserialport,chardev=port0,name=" + c.PortName,
		"-device", "virtio-rng-pci",
	}
	for i, tag := range c.RootTags {
		args = append(args, "-virtfs",
			fmt.Sprintf("local,id=fs%d,path=/,mount_tag=%s,security_model=none,readonly=on,multidevs=remap", i, tag))
	}
	if c.SharedMemory != "" {
		args = append(args, "-object", "memory-backend-file,id=shared,share=on,size="+sizeOf(c.SharedMemory)+
			",mem-path="+c.SharedMemory, "-device", "ivshmem-plain,memdev=shared")
	}
	return args
}

// sizeOf is the size of a file in bytes. QEMU complains about one that is not there.
func sizeOf(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "0"
	}
	return strconv.FormatInt(info.Size(), 10)
}

// Machine is a running machine.
type Machine struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid once done is closed
}

// Start starts the machine. It ends with this process at the latest.
func Start(c Config) (*Machine, error) {
	cmd := exec.Command("qemu-system-x86_64", c.Args(Accelerated())...)
	cmd.Stdout, cmd.Stderr = c.Console, c.Errors
	m := &Machine{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The parent that a death signal watches is a thread. This one is
		// kept for the machine's whole life.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
		err := cmd.Start()
		started <- err
		if err == nil {
			m.err = cmd.Wait()
		}
		close(m.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start qemu: %w", err)
	}
	return m, nil
}

// PID is QEMU's process number.
func (m *Machine) PID() int { return m.cmd.Process.Pid }

// Done is closed when the machine has ended and its console is complete.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Kill pulls the machine's plug and waits until it is off.
func (m *Machine) Kill() error {
	if err := m.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-m.done
	return nil
}

// Pause stops the machine where it is, as a host that hangs; Resume lets it
// go on, unaware that time has passed.
func (m *Machine) Pause() error { return m.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (m *Machine) Resume() error { return m.cmd.Process.Signal(syscall.SIGCONT) }
