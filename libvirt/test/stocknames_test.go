package test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/virtlockd/disknames"
)

// serviceNames are the names that the service gives a disk for libvirt's own driver,
// as the unit of this driver prints its own.
func serviceNames(pid uint32, path string) string {
	found, err := disknames.Of(pid, path)
	if err != nil {
		errno, _ := errors.AsType[syscall.Errno](err)
		return "error " + cError(errno)
	}
	var b strings.Builder
	for _, name := range found.Names {
		fmt.Fprintf(&b, "paths %s\n", name)
	}
	if found.Unseen != nil {
		errno, _ := errors.AsType[syscall.Errno](found.Unseen)
		fmt.Fprintf(&b, "unseen %s\n", cError(errno))
	}
	if found.Links > 0 {
		fmt.Fprintf(&b, "links %d\n", found.Links)
	}
	return strings.TrimSpace(b.String())
}

// cError is the C library's text of an errno.
func cError(errno syscall.Errno) string {
	switch errno {
	case unix.ENOENT:
		return "No such file or directory"
	case unix.ENOTDIR:
		return "Not a directory"
	case unix.ELOOP:
		return "Too many levels of symbolic links"
	}
	return errno.Error()
}

// Libvirt's own driver leaves the names to the service, which gives any spelling
// the names that this driver gives it.
func TestServiceGivesTheSameNames(t *testing.T) {
	d := images(t)
	require.NoError(t, os.Link(d+"/img/a.img", d+"/far/hard.img"))
	words := []string{"img", "far", "dir", "dirs", "deep", "sub", "out", ".", "..", "", "a.img", "link.img", "hard.img",
		"chain.img", "abs.img", "up.img", "loop", "dangling.img", "nothing"}
	random := rand.New(rand.NewPCG(3, 4))
	spellings := []string{"/", "relative", "", "/dev/null", "/etc//passwd", d + "/img/a.img", d + "/far/hard.img"}
	for range 20000 {
		path := d
		for range 1 + random.IntN(7) {
			path += "/" + words[random.IntN(len(words))]
		}
		spellings = append(spellings, path)
	}
	same(t, spellings, uint32(os.Getpid()), nil)
}

// same requires that the driver, run by the given command, and the service, for the
// process with that pid, give these paths the same names.
func same(t *testing.T, spellings []string, pid uint32, in []string) {
	t.Helper()
	program, err := filepath.Abs(root + "/bin/sanitize/naming")
	require.NoError(t, err)
	argv := append(append([]string{}, in...), program, "paths")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin = strings.NewReader(strings.Join(spellings, "\n") + "\n")
	out, err := cmd.Output()
	require.NoError(t, err)
	names := strings.Split(string(out), "\n\n")
	require.Len(t, names, len(spellings)+1)
	for i, path := range spellings {
		want, got := strings.TrimSpace(names[i]), serviceNames(pid, path)
		if strings.HasPrefix(want, "error ") && strings.HasPrefix(got, "error ") {
			continue // which of several reasons is told, does not matter
		}
		require.Equal(t, want, got, path)
	}
}

// The service looks with libvirtd's eyes: at its mounts, and below its root. Its own
// mount namespace, which systemd makes for it, may show less.
func TestServiceSeesTheMountsOfLibvirtd(t *testing.T) {
	d := images(t)
	require.NoError(t, os.MkdirAll(d+"/a mount\\/x", 0o755))
	require.NoError(t, os.MkdirAll(d+"/second", 0o755))
	require.NoError(t, os.MkdirAll(d+"/hidden/img", 0o755))
	script := `set -e
mount --make-rprivate /
mount --bind "$1/img" "$1/a mount\/x"
mount -t tmpfs tmpfs "$1/far"
mkdir "$1/far/sub"; : >"$1/far/sub/b.img"
mount --bind "$1/far" "$1/second"
mount --bind "$1/img" "$1/hidden/img"
mount -t tmpfs tmpfs "$1/hidden"
echo ready
exec sleep infinity`
	cmd := exec.Command("unshare", "--mount", "sh", "-c", script, "sh", d)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	ready := make([]byte, 6)
	_, err = out.Read(ready)
	require.NoError(t, err)
	pid := uint32(cmd.Process.Pid)
	same(t, []string{d + "/img/a.img", d + `/a mount\/x/a.img`, d + "/far/sub/b.img", d + "/second/sub/b.img",
		d + "/far/sub/none.img", d + "/hidden/img/a.img", d + "/dir/a.img"}, pid,
		[]string{"nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", pid)})
	here, err := disknames.Of(uint32(os.Getpid()), d+"/img/a.img")
	require.NoError(t, err)
	there, err := disknames.Of(pid, d+"/img/a.img")
	require.NoError(t, err)
	require.Subset(t, there.Names, here.Names)
	require.Contains(t, there.Names, disknames.Hash(d+`/a mount\/x/a.img`))

	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	gone, err := disknames.Of(pid, d+"//img/a.img")
	require.NoError(t, err)
	require.ErrorIs(t, gone.Unseen, unix.ENOENT)
	require.Equal(t, []string{disknames.Hash(d + "//img/a.img"), disknames.Hash(d + "/img/a.img")}, gone.Names)
}
