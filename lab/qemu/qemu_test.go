package qemu

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func config() Config {
	return Config{
		Kernel: "/k", Initrd: "/i", Append: "lab.id=1", MemoryMB: 512, MAC: "52:54:00:1a:b0:01",
		NetSocket: "/s/net", PortSocket: "/s/port", PortName: "lab.agent", RootTags: []string{"one", "two"},
	}
}

// after returns the values of an option that may be given several times.
func after(args []string, option string) []string {
	var values []string
	for i, a := range args[:len(args)-1] {
		if a == option {
			values = append(values, args[i+1])
		}
	}
	return values
}

func TestArgs(t *testing.T) {
	emulated, real := config().Args(false), config().Args(true)
	require.Equal(t, []string{"tcg,thread=multi"}, after(emulated, "-accel"))
	require.Equal(t, []string{"kvm"}, after(real, "-accel"))
	require.Equal(t, []string{"512"}, after(emulated, "-m"))
	require.Contains(t, emulated, "-no-reboot", "a kernel that crashes ends the machine")
	require.Contains(t, after(emulated, "-append")[0], "oops=panic")
	require.True(t, strings.HasSuffix(after(emulated, "-append")[0], " lab.id=1"))
	require.Contains(t, after(emulated, "-append")[0], " no_timer_check ",
		"a busy host must not end in \"IO-APIC + timer doesn't work\"")
	require.NotContains(t, after(real, "-append")[0], "nosoftlockup", "with KVM a soft lockup is one")
	require.Equal(t, []string{"stream,id=net0,server=off,addr.type=unix,addr.path=/s/net"}, after(emulated, "-netdev"))
	require.True(t, slices.Contains(after(emulated, "-device"),
		"virtio-net-pci,netdev=net0,romfile=,mac=52:54:00:1a:b0:01"))
	for _, fs := range after(emulated, "-virtfs") {
		require.Contains(t, fs, "readonly=on", "the host's root is never written")
	}
	require.Len(t, after(emulated, "-virtfs"), 2)
}

// A program that takes QEMU's name stands in for it: what is tested is the
// process's life, not the machine.
func TestMachineLife(t *testing.T) {
	bin := t.TempDir()
	fake := "#!/bin/sh\necho booted; exec sleep 100\n"
	require.NoError(t, os.WriteFile(filepath.Join(bin, "qemu-system-x86_64"), []byte(fake), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	seen := make(chan string, 1)
	c := config()
	c.Console = writerFunc(func(p []byte) { seen <- string(p) })
	m, err := Start(c)
	require.NoError(t, err)
	require.Equal(t, "booted\n", <-seen)
	require.NoError(t, m.Pause())
	require.NoError(t, m.Resume())
	require.NoError(t, m.Kill())
	<-m.Done()
	require.NoError(t, m.Kill(), "twice is once")
	require.ErrorIs(t, m.Pause(), os.ErrProcessDone)
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(bytes.Clone(p))
	return len(p), nil
}

func TestStartWithoutQEMU(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Start(config())
	require.ErrorContains(t, err, "qemu-system-x86_64")
}

func TestVirtualizes(t *testing.T) {
	require.True(t, virtualizes("model name\t: x\nflags\t\t: fpu vmx pse\n"))
	require.True(t, virtualizes("flags\t\t: fpu svm\n"))
	// A /dev/kvm of PVM: the file is there, the extension is not.
	require.False(t, virtualizes("flags\t\t: fpu vmmcall hypervisor\nbugs\t: svm vmx\n"))
	require.False(t, virtualizes(""))
}
