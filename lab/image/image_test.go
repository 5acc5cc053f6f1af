package image

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPackageList(t *testing.T) {
	require.Equal(t, []string{"cpio", "kmod"}, PackageList("# all of them\n\ncpio\n  kmod # modprobe\n"))
}

func TestNotInstalled(t *testing.T) {
	status := "cpio installed\nkmod not-installed\nudev config-files\n"
	require.Equal(t, []string{"kmod", "udev", "corosync"}, notInstalled([]string{"cpio", "kmod", "udev", "corosync"},
		status))
	require.Empty(t, notInstalled([]string{"cpio"}, status))
	err := &MissingError{Packages: []string{"kmod", "udev"}}
	require.EqualError(t, err, "missing Debian packages, do: apt-get install kmod udev")
}

// The lab's own list has to be one that apt-get install takes.
func TestShippedPackageList(t *testing.T) {
	text, err := os.ReadFile("../packages.txt")
	require.NoError(t, err)
	names := PackageList(string(text))
	require.Contains(t, names, "qemu-system-x86")
	for _, n := range names {
		require.Regexp(t, `^[a-z0-9][a-z0-9.+-]+$`, n)
	}
}

func TestDependency(t *testing.T) {
	tests := []struct{ name, text, series, want string }{
		{"behind the meta package", "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n", "6.1",
			"linux-image-6.1.0-56-amd64"},
		{"second kernel", "linux-image-6.12-amd64\n  Depends: linux-image-6.12.117+deb12-amd64\n", "6.12",
			"linux-image-6.12.117+deb12-amd64"},
		{"6.1 is not 6.12", "linux-image-amd64\n  Depends: linux-image-6.12.40-amd64\n", "6.1", ""},
		{"cloud kernels have no DLM", "x\n  Depends: linux-image-6.1.0-56-cloud-amd64\n", "6.1", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, dependency(tt.text, tt.series))
		})
	}
}

func TestInsmodPaths(t *testing.T) {
	out := "insmod /t/./lib/modules/k/fs/configfs.ko \nbuiltin unix\ninsmod /t/lib/modules/k/fs/dlm.ko.xz opt=1\n"
	require.Equal(t, []string{"/t/lib/modules/k/fs/configfs.ko", "/t/lib/modules/k/fs/dlm.ko.xz"}, insmodPaths(out))
}

func TestKernelInNeedsAFinishedTree(t *testing.T) {
	tree := t.TempDir()
	_, err := kernelIn(tree)
	require.ErrorIs(t, err, os.ErrNotExist)
	dir := filepath.Join(tree, "lib/modules/6.1.0-1-amd64")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	_, err = kernelIn(tree)
	require.ErrorIs(t, err, os.ErrNotExist, "unpacked, but depmod has not run")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "modules.dep"), nil, 0o644))
	k, err := kernelIn(tree)
	require.NoError(t, err)
	require.Equal(t, "6.1.0-1-amd64", k.release)
	require.Equal(t, dir, k.modules())
}

func TestUnknownSeries(t *testing.T) {
	_, err := findKernel(t.Context(), "../..", t.TempDir(), "5.10")
	require.ErrorContains(t, err, "5.10")
}

// Clusters that begin together don't take the kernel away from each other. The
// kernel here has no modules.
func TestKernelIsFetchedOnce(t *testing.T) {
	dir := t.TempDir()
	for name, script := range map[string]string{
		"apt-cache": `on="linux-image-6.12.1-amd64"
			[ "$LC_ALL" = C ] && echo "  Depends: $on" || echo "  Hängt ab von: $on"`,
		"apt-get":  `sleep 0.2; : > kernel.deb; echo once >> ` + dir + `/downloads`,
		"dpkg-deb": `mkdir -p "$3/lib/modules/6.12.1-amd64"`,
		"depmod":   `: > "$2/lib/modules/$3/modules.dep"`,
		"modprobe": `echo no modules >&2; exit 1`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh -e\n"+script+"\n"), 0o755))
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	cache := filepath.Join(dir, "cache")
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			_, err := Prepare(t.Context(), "../..", cache, "6.12")
			assert.ErrorContains(t, err, "no modules")
		})
	}
	all.Wait()
	downloads, err := os.ReadFile(filepath.Join(dir, "downloads"))
	require.NoError(t, err)
	require.Equal(t, "once\n", string(downloads))
}

// The initramfs is packed once for the same content, anew for another.
func TestPackIsKeyedByContent(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("needs the Debian package cpio")
	}
	cache := t.TempDir()
	agent, module := filepath.Join(cache, "agent"), filepath.Join(cache, "dlm.ko")
	require.NoError(t, os.WriteFile(agent, []byte("an agent"), 0o755))
	require.NoError(t, os.WriteFile(module, []byte("a module"), 0o644))
	k := kernel{release: "6.1.0-1-amd64"}
	first, err := pack(t.Context(), cache, k, agent, []string{module})
	require.NoError(t, err)
	list, err := exec.Command("sh", "-c", "cpio --quiet -t < "+first).Output()
	require.NoError(t, err)
	require.Subset(t, strings.Fields(string(list)), []string{"init", "modules/00-dlm.ko", "new"})

	again, err := pack(t.Context(), cache, k, agent, []string{module})
	require.NoError(t, err)
	require.Equal(t, first, again)

	require.NoError(t, os.WriteFile(module, []byte("b module"), 0o644))
	other, err := pack(t.Context(), cache, k, agent, []string{module})
	require.NoError(t, err)
	require.NotEqual(t, first, other)
	require.NoFileExists(t, first, "the old one is removed")
}

// The kernel in a bzImage is found, and nothing in a file that is none.
func TestUnpackVmlinuz(t *testing.T) {
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("needs the Debian package xz-utils")
	}
	cmd := exec.Command("xz", "-c")
	cmd.Stdin = strings.NewReader("\x7fELF and more")
	packed, err := cmd.Output()
	require.NoError(t, err)
	file := make([]byte, 2*sector+16)
	file[setupSectors] = 1
	copy(file[headerMagic:], "HdrS")
	binary.LittleEndian.PutUint32(file[payloadOffset:], 16)
	binary.LittleEndian.PutUint32(file[payloadLength:], uint32(len(packed)+4))
	file = append(append(file, packed...), "size"...)

	k := kernel{release: "6.1.0-1-amd64", tree: t.TempDir()}
	require.NoError(t, os.MkdirAll(filepath.Dir(k.vmlinuz()), 0o755))
	require.NoError(t, os.WriteFile(k.vmlinuz(), file, 0o644))
	path, err := unpackVmlinuz(t.Context(), k)
	require.NoError(t, err)
	elf, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "\x7fELF and more", string(elf))

	for n := range len(file) {
		_, err := payload(file[:n])
		require.Error(t, err, "%d bytes", n)
	}
	_, err = unpacker([]byte("BZh9"))
	require.ErrorContains(t, err, "425a6839")
}
