package test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// naming runs the unit of the driver that names disks. It returns what it prints.
func naming(t *testing.T, env []string, args ...string) []string {
	t.Helper()
	cmd := exec.Command(root+"/bin/sanitize/naming", args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// pathNames are the names of what is at a path.
func pathNames(t *testing.T, path string) []string { return naming(t, nil, "path", path) }

// hashed is the name that virtlockd's driver and older releases of this one give
// a path.
func hashed(path string) string { return fmt.Sprintf("paths %x", sha256.Sum256([]byte(path))) }

func share(a, b []string) bool {
	return slices.ContainsFunc(a, func(n string) bool {
		return strings.HasPrefix(n, "paths ") &&
			slices.Contains(b, n)
	})
}

// images is a directory with a file and what leads to it, with all links resolved.
func images(t *testing.T) string {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(dir+"/img/sub", 0o755))
	require.NoError(t, os.MkdirAll(dir+"/far/deep", 0o755))
	require.NoError(t, os.WriteFile(dir+"/img/a.img", make([]byte, 512), 0o644))
	require.NoError(t, os.WriteFile(dir+"/far/a.img", make([]byte, 512), 0o644))
	for link, to := range map[string]string{
		"img/link.img": "a.img", "img/abs.img": dir + "/img/a.img", "img/chain.img": "link.img", "dir": "img",
		"dirs": "dir/../dir/./", "img/loop": "loop", "img/out": "../far/deep", "img/dangling.img": "not-there.img",
		"img/up.img": "sub/.././/a.img",
	} {
		require.NoError(t, os.Symlink(to, filepath.Join(dir, link)))
	}
	return dir
}

// mountedOnce reports whether the file system of path is mounted only once here.
func mountedOnce(t *testing.T, path string) bool {
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	device := fmt.Sprintf(" %d:%d ", unix.Major(st.Dev), unix.Minor(st.Dev))
	return strings.Count(string(mounts), device) == 1
}

// Every spelling of a file shares a name with its plain path, which is locked by
// one name: the one of virtlockd's driver and of older releases.
func TestNamesOfOneFile(t *testing.T) {
	d := images(t)
	plain := pathNames(t, d+"/img/a.img")
	require.Equal(t, []string{hashed(d + "/img/a.img")}, plain, "a plain path is one lock")
	if mountedOnce(t, d) {
		// The kernel may decline a look at its cache at any time, as when somebody mounts something.
		require.Eventually(t, func() bool { return slices.Equal(plain, naming(t, nil, "plain", d+"/img/a.img")) },
			time.Minute, time.Millisecond, "which is seen without asking the storage")
	}
	for _, spelling := range []string{
		"/img/link.img", "/img/abs.img", "/img/chain.img", "/img/up.img", "/img//a.img", "/img/./a.img",
		"/img/../img/a.img", "//img/sub/../a.img", "/dir/a.img", "/dir/link.img", "/dirs/chain.img",
		"/dir/../img/a.img", "/img/out/../../img/a.img", "/not-there/../img/a.img",
	} {
		names := pathNames(t, d+spelling)
		require.True(t, share(plain, names), "%s: %q", spelling, names)
		require.Equal(t, hashed(d+spelling), names[0], "the name by which older releases lock it")
		require.LessOrEqual(t, len(names), 5)
		require.Equal(t, []string{"no"}, naming(t, nil, "plain", d+spelling))
	}
	for _, other := range []string{"/far/a.img", "/img/out/../a.img", "/img/b.img", "/img/dangling.img"} {
		require.False(t, share(plain, pathNames(t, d+other)), "%s is another file", other)
	}
	require.Contains(t, pathNames(t, d+"/dir/dangling.img"), hashed(d+"/img/not-there.img"),
		"as it will be when it is made")
	require.Equal(t, []string{hashed("relative")}, pathNames(t, "relative")[:1])
}

// Any spelling: a path shares a name with the plain path of the file that the
// kernel finds there, and with no other file's.
func TestNamesAgreeWithTheKernel(t *testing.T) {
	d := images(t)
	files := []string{d + "/img/a.img", d + "/far/a.img"}
	words := []string{"img", "far", "dir", "dirs", "deep", "sub", "out", ".", "..", "", "a.img", "link.img",
		"chain.img", "abs.img", "up.img", "loop", "dangling.img", "nothing"}
	random := rand.New(rand.NewPCG(1, 2))
	spellings := slices.Clone(files)
	for range 40000 {
		path := d
		for range 1 + random.IntN(7) {
			path += "/" + words[random.IntN(len(words))]
		}
		spellings = append(spellings, path)
	}
	cmd := exec.Command(root+"/bin/sanitize/naming", "paths")
	cmd.Stdin = strings.NewReader(strings.Join(spellings, "\n") + "\n")
	out, err := cmd.Output()
	require.NoError(t, err)
	names := strings.Split(string(out), "\n\n")
	require.Len(t, names, len(spellings)+1)
	found := 0
	for i, path := range spellings {
		have := strings.Split(names[i], "\n")
		real, err := filepath.EvalSymlinks(path)
		if st, statErr := os.Stat(path); statErr != nil || st.IsDir() {
			continue // EvalSymlinks is no judge of them
		}
		require.NoError(t, err, path)
		found++
		for j, file := range files {
			require.Equal(t, real == file, share(have, strings.Split(names[j], "\n")), "%s is %s: %q", path, real, have)
		}
	}
	require.Greater(t, found, 100)
}

// Hosts whose directory of images is a link to different places agree, as far as they spell paths
// alike.
func TestNamesOnHostsWithOtherLinks(t *testing.T) {
	d := images(t)
	require.NoError(t, os.WriteFile(d+"/far/b.img", nil, 0o644))
	require.NoError(t, os.Symlink("b.img", d+"/far/link.img"))
	require.NoError(t, os.WriteFile(d+"/img/b.img", nil, 0o644))
	require.NoError(t, os.Symlink("img", d+"/pool"))
	here := map[string][]string{}
	for _, spelling := range []string{"/pool/b.img", "/pool//b.img"} {
		here[spelling] = pathNames(t, d+spelling)
	}
	require.NoError(t, os.Remove(d+"/pool"))
	require.NoError(t, os.Symlink("far", d+"/pool"))
	for spelling, names := range here {
		require.True(t, share(names, pathNames(t, d+"/pool/b.img")), spelling)
		require.True(t, share(names, pathNames(t, d+"/pool/link.img")),
			"the link of the image is followed, that of the directory is not: %s", spelling)
	}
}

// A hard link is another path of the same file, which a name for this host shows.
func TestNamesOfHardLinks(t *testing.T) {
	d := images(t)
	require.Len(t, pathNames(t, d+"/img/a.img"), 1)
	require.NoError(t, os.Link(d+"/img/a.img", d+"/far/hard.img"))
	a, hard := pathNames(t, d+"/img/a.img"), pathNames(t, d+"/far/hard.img")
	require.True(t, share(a, hard))
	require.Contains(t, a, "links 2")
	require.Equal(t, []string{"no"}, naming(t, nil, "plain", d+"/img/a.img"))
	require.False(t, share(a, pathNames(t, d+"/far/a.img")))
	require.Len(t, pathNames(t, d), 1, "a directory has no hard links that matter")
}

// A file system that is mounted twice, in whole or in part, shows one file under
// two paths.
func TestNamesOfMounts(t *testing.T) {
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
for p in "$1/img/a.img" "$1/a mount\/x/a.img" "$1/far/sub/b.img" "$1/second/sub/b.img" "$1/far/sub/none.img"; do
	"$2" path "$p"; echo; done
"$2" plain "$1/far/sub/b.img"`
	program, err := filepath.Abs(root + "/bin/sanitize/naming")
	require.NoError(t, err)
	out, err := exec.Command("unshare", "-m", "sh", "-c", script, "sh", d, program).CombinedOutput()
	require.NoError(t, err, "%s", out)
	var names [][]string
	for _, part := range strings.Split(strings.TrimSpace(string(out)), "\n\n") {
		names = append(names, strings.Split(part, "\n"))
	}
	require.Len(t, names, 6, "%s", out)
	require.Equal(t, []string{"no"}, names[5])
	require.Equal(t, []string{hashed(d + "/img/a.img"), hashed(d + "/a mount\\/x/a.img")}, names[0])
	require.Equal(t, []string{hashed(d + "/a mount\\/x/a.img"), hashed(d + "/img/a.img")}, names[1])
	require.True(t, share(names[2], names[3]))
	require.Equal(t, []string{hashed(d + "/far/sub/none.img"), "unseen No such file or directory"}, names[4])
}

// A path that can't be examined has the names of its spelling and says so, if that may be all
// right, and no name otherwise.
func TestNamesOfWhatCantBeLookedAt(t *testing.T) {
	d := images(t)
	require.Equal(t, []string{hashed(d + "/img/no.img"), "unseen No such file or directory"},
		pathNames(t, d+"/img/no.img"))
	require.Equal(t, []string{"error Too many levels of symbolic links"}, pathNames(t, d+"/img/loop"))
	require.Equal(t, []string{"error Too many levels of symbolic links"}, pathNames(t, d+"/img/loop/../a.img"))
	require.Equal(t, []string{"error File name too long"}, pathNames(t, d+"/"+strings.Repeat("n", 300)))
	require.Equal(t, []string{"error File name too long"}, pathNames(t, strings.Repeat("/name", 1000)))

	require.NoError(t, os.Chmod(d+"/img", 0o700))
	program := filepath.Join(d, "naming")
	text, err := os.ReadFile(root + "/bin/sanitize/naming")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(program, text, 0o755))
	for at := d; at != "/tmp" && at != "/"; at = filepath.Dir(at) {
		require.NoError(t, os.Chmod(at, 0o755))
	}
	cmd := exec.Command(program, "path", d+"/img//link.img")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, []string{hashed(d + "/img//link.img"), hashed(d + "/img/link.img"), "unseen Permission denied"},
		strings.Split(strings.TrimSpace(string(out)), "\n"))
}

// Two spellings of a block device share a name, and two devices none, whatever
// they are called on another host or after a boot.
func TestNamesOfDevices(t *testing.T) {
	sys := t.TempDir()
	attr := func(path, text string) {
		full := filepath.Join(sys, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(full), 0o755))
		require.NoError(t, os.WriteFile(full, []byte(text), 0o644))
	}
	attr("b1", "11111111-1111-4111-8111-111111111111\n")
	attr("b2", "22222222-2222-4222-8222-222222222222\n")
	attr("dev/block/253:3/dm/name", "vg-lv\n")
	attr("dev/block/253:3/dm/uuid", "LVM-x\n")
	attr("dev/block/253:9/dm/name", "vg-lv\n")
	attr("dev/block/253:4/dm/name", "mpatha\n")
	attr("dev/block/253:4/dm/uuid", "mpath-36001405abc\n")
	attr("dev/block/253:5/dm/name", "mpathb\n")
	attr("dev/block/253:5/dm/uuid", "mpath-36001405abc\n")
	attr("dev/block/8:16/size", "1\n")
	attr("dev/block/8:32/size", "1\n")
	name := func(boot, device, path string) []string {
		return naming(t, []string{"PATHS_ONLY=1"}, "device", sys, filepath.Join(sys, boot), device, path)
	}
	mapper := name("b1", "253:3", "/dev/mapper/vg-lv")
	require.Equal(t, []string{hashed("/dev/mapper/vg-lv")}, mapper, "one lock")
	require.Equal(t, []string{hashed("/dev/vg/lv"), hashed("/dev/mapper/vg-lv")}, name("b1", "253:3", "/dev/vg/lv"))
	require.True(t, share(mapper, name("b2", "253:9", "/dev/vg/lv")), "on another host")
	require.True(t, share(name("b1", "253:4", "/dev/mapper/mpatha"),
		name("b2", "253:5", "/dev/disk/by-id/wwn-0x6001405abc")), "multipath names are each host's own")
	require.False(t, share(name("b1", "253:4", "/dev/disk/by-id/x"), []string{hashed("/dev/mapper/mpatha")}))

	sdb := name("b1", "8:16", "/dev/sdb")
	require.Equal(t, hashed("/dev/sdb"), sdb[0])
	require.True(t, share(sdb, name("b1", "8:16", "/dev/disk/by-path/x")))
	require.False(t, share(sdb, name("b2", "8:16", "/dev/disk/by-path/x")),
		"sdb of another host, or after a boot, is another disk")
	require.False(t, share(sdb, name("b1", "8:32", "/dev/disk/by-path/y")))

	// A device that can't be examined is not taken for one without a UUID.
	require.NoError(t, os.MkdirAll(filepath.Join(sys, "dev/block/253:6/dm/uuid"), 0o755))
	require.Equal(t, []string{"error Is a directory"}, name("b1", "253:6", "/dev/vg/lv"))
	require.Equal(t, []string{"error Is a directory"}, naming(t, nil, "device", sys, sys+"/b1", "253:6", "/dev/vg/lv"))
	require.Equal(t, []string{"error No such file or directory"}, name("b1", "253:7", "/dev/vg/lv"))
	require.Equal(t, []string{"error No such file or directory"}, name("none", "8:16", "/dev/sdb"))
}

// The start time of a process. If it can't be read, that does not mean that the process has ended.
func TestStartTime(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	require.Equal(t, []string{startTime(t, os.Getpid())}, naming(t, nil, "start", "/proc", self))
	require.Equal(t, []string{"error No such process"}, naming(t, nil, "start", "/proc", "0"))
	require.Equal(t, []string{"error No such process"}, naming(t, nil, "start", "/proc", "2147483647"))
	require.Equal(t, []string{"error No such process"}, naming(t, nil, "start", "/proc", "4294967295"))
	proc := t.TempDir()
	require.Equal(t, []string{"error No such file or directory"}, naming(t, nil, "start", proc, self),
		"hidden, not gone")
	stat := filepath.Join(proc, self, "stat")
	require.NoError(t, os.Mkdir(filepath.Dir(stat), 0o755))
	for text, want := range map[string]string{
		"": "error Protocol error", "1 (x": "error Protocol error", "1 (x) S 1 2": "error Protocol error",
		"1 (a) b) S" + strings.Repeat(" 7", 18) + " 4711 9": "4711",
	} {
		require.NoError(t, os.WriteFile(stat, []byte(text), 0o644))
		require.Equal(t, []string{want}, naming(t, nil, "start", proc, self), "%q", text)
	}
	require.NoError(t, os.Remove(stat))
	require.NoError(t, os.Mkdir(stat, 0o755))
	require.Equal(t, []string{"error Is a directory"}, naming(t, nil, "start", proc, self))
}

// unitMounts runs the unit of the driver that reads the table of mounts.
func unitMounts(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(root+"/bin/sanitize/mounts", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// Only three octal digits behind a backslash are an escape.
func TestMountsAreUnescaped(t *testing.T) {
	for text, want := range map[string]string{
		`/a\040b`: "/a b", `/a\134040b`: `/a\040b`, `/tab\011`: "/tab\t", `/euro\342\202\254`: "/euro€",
		`/end\`: `/end\`, `/end\1`: `/end\1`, `/end\04`: `/end\04`, `/a\ 12b`: `/a\ 12b`, `/a\+12b`: `/a\+12b`,
		`/a\489`: `/a\489`, `/a\777`: `/a\777`,
	} {
		require.Equal(t, want+"\n", unitMounts(t, "unescape", text))
	}
}

// A table of mounts that changes while it is read is read again, and not used if it keeps changing.
func TestMountsChangeWhileTheyAreRead(t *testing.T) {
	for _, changes := range []int{0, 1, 2, 5} {
		want := fmt.Sprintf("/ /v%d\n/images %d /mnt%d\n", changes, changes, changes)
		require.Equal(t, want, unitMounts(t, "read", strconv.Itoa(changes)))
	}
	require.Equal(t, "error Resource temporarily unavailable\n", unitMounts(t, "read", "1000"))
}
