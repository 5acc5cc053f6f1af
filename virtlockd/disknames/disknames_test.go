package disknames

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestSpelled(t *testing.T) {
	for path, want := range map[string][]string{
		"/a/b":        {"/a/b"},
		"/a//./b/":    {"/a//./b/", "/a/b"},
		"/a/../b":     {"/a/../b"},
		"//":          {"//", "/"},
		"relative//x": {"relative//x"},
		"":            {""},
	} {
		var names []string
		for _, text := range want {
			names = append(names, Hash(text))
		}
		require.Equal(t, names, Spelled(path), path)
	}
}

// A block device has, besides its spelling, a name that does not depend on its
// number, or one for this host and boot alone.
func TestDevices(t *testing.T) {
	dir := t.TempDir()
	sys, boot := filepath.Join(dir, "sys"), filepath.Join(dir, "boot")
	defer func(a, b string) { sysfs, bootID = a, b }(sysfs, bootID)
	sysfs, bootID = sys, boot
	require.NoError(t, os.WriteFile(boot, []byte("the-boot\n"), 0o644))
	for i, c := range []struct {
		uuid, name, want string
	}{
		{"LVM-x", "vg-root", "/dev/mapper/vg-root"},
		{"mpath-3600", "mpatha", "/dev/disk/by-id/dm-uuid-mpath-3600"},
		{"part1-mpath-3600", "mpatha1", "/dev/disk/by-id/dm-uuid-part1-mpath-3600"},
		{"CRYPT-mpath-3600", "secret", "/dev/mapper/secret"},
		{"", "", "dlmlock the-boot block 253:4"},
	} {
		at := filepath.Join(sys, "dev/block/253:"+string(rune('0'+i)), "dm")
		require.NoError(t, os.MkdirAll(at, 0o755))
		if c.uuid != "" {
			require.NoError(t, os.WriteFile(at+"/uuid", []byte(c.uuid+"\n"), 0o644))
			require.NoError(t, os.WriteFile(at+"/name", []byte(c.name+"\n"), 0o644))
		}
		var f Found
		require.NoError(t, f.addDevice(253, uint32(i)))
		require.Equal(t, []string{Hash(c.want)}, f.Names)
	}
	require.ErrorIs(t, new(Found).addDevice(7, 7), unix.ENOENT, "nothing can be said of it")
}

// What must not be looked at has the names of its spelling; what can't be looked at
// is not taken for something else.
func TestUnseen(t *testing.T) {
	require.True(t, closed(unix.EACCES))
	require.False(t, closed(unix.EIO))
	f, err := Of(uint32(os.Getpid()), "/no//where")
	require.NoError(t, err)
	require.ErrorIs(t, f.Unseen, unix.ENOENT)
	require.Equal(t, []string{Hash("/no//where"), Hash("/no/where")}, f.Names)
	_, plain := Plain(uint32(os.Getpid()), "/no/where")
	require.False(t, plain)
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		`/a`: "/a", `/a\040b`: "/a b", `/a\134040`: `/a\040`, `/a\08`: `/a\08`, `/\377`: "/\xff", `/\400`: `/\400`, `\`: `\`,
	} {
		require.Equal(t, want, unescape(in), in)
	}
}

// A disk has its names whatever is renamed elsewhere meanwhile.
func TestWhileOthersRename(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(dir+"/img/sub", 0o755))
	require.NoError(t, os.WriteFile(dir+"/img/a.img", nil, 0o644))
	path := dir + strings.Repeat("/img/sub/../..", 20) + "/img/a.img"
	want, err := Of(uint32(os.Getpid()), path)
	require.NoError(t, err)
	var stop atomic.Bool
	var renaming sync.WaitGroup
	elsewhere := t.TempDir()
	require.NoError(t, os.WriteFile(elsewhere+"/0", nil, 0o644))
	renaming.Go(func() {
		for from, to := elsewhere+"/0", elsewhere+"/1"; !stop.Load(); from, to = to, from {
			_ = os.Rename(from, to)
		}
	})
	defer renaming.Wait()
	defer stop.Store(true)
	for range 10000 {
		got, err := Of(uint32(os.Getpid()), path)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

// Without openat2, which the sandbox of the unit forbids, the names are the same.
func TestWithoutOpenat2(t *testing.T) {
	defer noOpenat2.Store(noOpenat2.Load())
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(dir+"/img/sub", 0o755))
	require.NoError(t, os.MkdirAll(dir+"/far/deep", 0o755))
	for _, name := range []string{"/img/a.img", "/far/a.img"} {
		require.NoError(t, os.WriteFile(dir+name, nil, 0o644))
	}
	require.NoError(t, os.Link(dir+"/far/a.img", dir+"/far/hard.img"))
	for link, to := range map[string]string{"img/link": "a.img", "img/abs": dir + "/img/a.img", "dir": "img", "root": "/",
		"dirs": "dir/../dir/./", "img/loop": "loop", "img/out": "../far/deep", "img/none": "nothing",
		"up": "../../../../../.."} {
		require.NoError(t, os.Symlink(to, dir+"/"+link))
	}
	words := []string{"img", "far", "dir", "dirs", "deep", "sub", "out", ".", "..", "", "a.img", "link", "hard.img", "abs",
		"loop", "none", "nothing", "root", "up"}
	random, me := rand.New(rand.NewPCG(5, 6)), uint32(os.Getpid())
	for range 10000 {
		path := dir
		for range 1 + random.IntN(6) {
			path += "/" + words[random.IntN(len(words))]
		}
		noOpenat2.Store(false)
		want, wantErr := Of(me, path)
		noOpenat2.Store(true)
		got, err := Of(me, path)
		require.Equal(t, wantErr, err, path)
		require.Equal(t, want, got, path)
	}
	_, err := Of(me, dir+strings.Repeat("/.", unix.PathMax/2)+"/img/a.img")
	require.ErrorIs(t, err, unix.ENAMETOOLONG, "nobody can open it")
	_, plain := Plain(me, dir+"/img/a.img")
	require.False(t, plain, "storage is asked elsewhere")
	before, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for range 100 {
		_, _ = Of(me, dir+"/root/"+dir+"/dirs/link")
		_, _ = Of(me, dir+"/img/loop/x")
	}
	after, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	require.InDelta(t, len(before), len(after), 3, "descriptors")
}

// thread runs a function on a thread that shares neither root directory nor mounts with the others, and
// returns its number. The thread stays until the test has ended.
func thread(t *testing.T, run func() error) uint32 {
	ready, end := make(chan error), make(chan struct{})
	var tid int
	go func() {
		runtime.LockOSThread() // it is not unlocked, so the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			tid, err = unix.Gettid(), run()
		}
		ready <- err
		<-end
	}()
	t.Cleanup(func() { close(end) })
	require.NoError(t, <-ready)
	return uint32(tid)
}

// Processes of one mount namespace can have different root directories, below which the same mounts
// have other paths.
func TestRootsOfOneNamespace(t *testing.T) {
	jail := t.TempDir()
	require.NoError(t, os.MkdirAll(jail+"/images", 0o755))
	require.NoError(t, os.MkdirAll(jail+"/again", 0o755))
	free := thread(t, func() error {
		return errors.Join(
			unix.Unshare(unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("images", jail+"/images", "tmpfs", 0, ""),
			unix.Mount(jail+"/images", jail+"/again", "", unix.MS_BIND, ""),
			os.WriteFile(jail+"/images/a.img", nil, 0o644))
	})
	jailed := thread(t, func() error {
		space, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", free))
		if err != nil {
			return err
		}
		defer space.Close()
		return errors.Join(unix.Setns(int(space.Fd()), unix.CLONE_NEWNS), unix.Chroot(jail))
	})
	for range 2 { // also with the table that is kept
		for pid, root := range map[uint32]string{free: jail, jailed: ""} {
			found, err := Of(pid, root+"/images/a.img")
			require.NoError(t, err)
			require.Equal(t, []string{Hash(root + "/images/a.img"), Hash(root + "/again/a.img")}, found.Names)
			_, plain := Plain(pid, root+"/images/a.img")
			require.False(t, plain)
		}
	}
}

// What is mounted only at its first use is mounted to see a disk there, with and without openat2. The
// kernel does that in debugfs, which is mounted anew for each try.
func TestMountedAtFirstUse(t *testing.T) {
	defer noOpenat2.Store(noOpenat2.Load())
	dir := t.TempDir()
	for _, without := range []bool{false, true} {
		for _, path := range []string{"/debug/tracing/README", "/debug/tracing/../tracing/README", "/use"} {
			var unmountable error
			debug := t.TempDir()
			tid := thread(t, func() error {
				if unmountable = errors.Join(
					unix.Unshare(unix.CLONE_NEWNS),
					unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
					unix.Mount("debugfs", debug, "debugfs", 0, "")); unmountable != nil {
					return nil
				}
				_ = os.Remove(dir + "/debug")
				_ = os.Remove(dir + "/use")
				return errors.Join(os.Symlink(debug, dir+"/debug"), os.Symlink("debug/tracing/README", dir+"/use"))
			})
			if errors.Is(unmountable, unix.EPERM) {
				t.Skip("debugfs can't be mounted in this user namespace; make test runs this test")
			}
			require.NoError(t, unmountable)
			noOpenat2.Store(without)
			found, err := Of(tid, dir+path)
			require.NoError(t, err)
			require.NoError(t, found.Unseen, "%s without openat2: %v", path, without)
		}
	}
}
