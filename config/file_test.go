package config_test

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/config"
)

// place is a directory that only its owner can change.
func place(t *testing.T) string {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

func write(t *testing.T, path, text string, mode fs.FileMode) string {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	require.NoError(t, os.Chmod(path, mode)) // whatever the umask is
	return path
}

func refused(t *testing.T, path, want string) {
	t.Helper()
	_, err := config.Load(path)
	require.ErrorContains(t, err, want)
	var e *config.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, path, e.File)
	require.NotErrorIs(t, err, fs.ErrNotExist, "a file that is absent is no error at its default place; this is")
}

// Whatever has the name of the file, reading it ends at once, with a reason.
func TestOddFiles(t *testing.T) {
	dir := place(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, unix.Mkfifo(in("fifo"), 0o600))
	l, err := net.Listen("unix", in("socket"))
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, os.Symlink("loop2", in("loop1")))
	require.NoError(t, os.Symlink("loop1", in("loop2")))
	require.NoError(t, os.Symlink("nothing", in("dangling")))
	require.NoError(t, os.Symlink("fifo", in("to-fifo")))
	write(t, in("huge"), strings.Repeat("#", 65<<10), 0o600)
	require.NoError(t, os.Truncate(write(t, in("sparse"), "", 0o600), 1<<40))
	for name, want := range map[string]string{
		in("fifo"): "it is a fifo, not a regular file", in("to-fifo"): "it is a fifo", in("socket"): "it is a socket",
		dir: "it is a directory", "/dev/zero": "it is a device", "/dev/full": "it is a device",
		"/dev/tty":  "it is a device",
		in("loop1"): "its symbolic links form a loop", in("dangling"): "it is a symbolic link, and " + in("nothing") +
			" does not exist",
		in("huge"): "more than 65536 bytes", in("sparse"): "more than 65536 bytes", in("huge") +
			"/x": "not a directory",
	} {
		refused(t, name, want)
	}
	c, err := config.Load("/dev/null")
	require.NoError(t, err, "the way to say: without a file")
	c.Source = nil
	require.Equal(t, config.Default(), c)
}

// A file that others could change is refused, with the command that corrects it.
func TestOthersMayNotWrite(t *testing.T) {
	dir := place(t)
	sub := filepath.Join(dir, "sub")
	require.NoError(t, os.Mkdir(sub, 0o755))
	path := write(t, filepath.Join(sub, "c.toml"), "group = \"nogroup\"\n", 0o640)
	link := filepath.Join(dir, "link.toml")
	require.NoError(t, os.Symlink("sub/../sub/./c.toml", link))
	good := func() {
		t.Helper()
		for _, p := range []string{path, link} {
			c, err := config.Load(p)
			require.NoError(t, err)
			require.Equal(t, "nogroup", c.Group)
		}
	}
	good()
	for mode, at := range map[fs.FileMode]string{0o602: path, 0o620: path, 0o757: sub, 0o775: sub} {
		was, err := os.Stat(at)
		require.NoError(t, err)
		require.NoError(t, os.Chmod(at, mode))
		for _, p := range []string{path, link} {
			refused(t, p, "users other than its owner can write to "+at)
			refused(t, p, `"chmod go-w `+at+`"`)
		}
		require.NoError(t, os.Chmod(at, was.Mode()))
		good()
	}
	require.NoError(t, os.Chmod(sub, 0o777|fs.ModeSticky))
	good()
	require.NoError(t, os.Chmod(sub, 0o755))
	if os.Geteuid() != 0 {
		t.Fatal("run as root: make test does that")
	}
	for _, at := range []string{path, sub} {
		require.NoError(t, os.Chown(at, 65534, -1))
		refused(t, link, at+" belongs to uid 65534")
		refused(t, link, `"chown 0 `+at+`"`)
		require.NoError(t, os.Chown(at, 0, -1))
		good()
	}
	require.NoError(t, os.Lchown(link, 65534, -1))
	refused(t, link, link+" belongs to uid 65534")
}

func TestProgram(t *testing.T) {
	dir := place(t)
	path := write(t, filepath.Join(dir, "helper"), "#!/bin/sh\n", 0o755)
	unsafe, err := config.Program(path)
	require.NoError(t, err)
	require.False(t, unsafe)
	_, err = config.Program("/bin/sh") // a link in a link
	require.NoError(t, err)
	for _, tc := range []struct {
		path   string
		mode   fs.FileMode
		want   string
		unsafe bool
	}{
		{path, 0o644, `it can't be executed (mode 0644): "chmod +x ` + path + `"`, false},
		{path, 0o777, "users other than its owner can write to " + path, true},
		{path + "x", 0o755, "no such file", false},
		{dir, 0o755, "it is a directory", false},
	} {
		require.NoError(t, os.Chmod(path, tc.mode))
		unsafe, err := config.Program(tc.path)
		require.ErrorContains(t, err, tc.want)
		require.Equal(t, tc.unsafe, unsafe)
	}
}

// No file makes the reader use much memory.
func TestMemory(t *testing.T) {
	path := filepath.Join(place(t), "c.toml")
	const n = 64 << 10
	for _, text := range []string{
		"a = " + strings.Repeat("[", n-4), "[" + strings.Repeat("a.", n/2-1) + "a]"[:2], strings.Repeat("a.", n/2-2) +
			"a=1",
		"lockspaces = [" + strings.Repeat("1,", n/2-8) + "]", "a = " + strings.Repeat("{a=", n/3-2),
		strings.Repeat("\x00", n),
	} {
		write(t, path, text[:min(len(text), n)], 0o600)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := config.Load(path)
		runtime.ReadMemStats(&after)
		require.Error(t, err)
		require.Less(t, (after.TotalAlloc-before.TotalAlloc)>>20, uint64(32), "%.20s", text)
	}
}
