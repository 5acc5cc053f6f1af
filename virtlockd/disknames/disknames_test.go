package disknames

import (
	"os"
	"path/filepath"
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
