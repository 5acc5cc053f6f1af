package state

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/dlm"
)

// inDirectory opens a file in a directory that can be removed, with a log.
func inDirectory(t *testing.T) (f *File, dir string, log *bytes.Buffer) {
	dir, log = filepath.Join(t.TempDir(), "state"), &bytes.Buffer{}
	o := testOptions()
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	f, _ = mustOpen(t, dir, o)
	require.NoError(t, f.Append(sampleChanges()))
	require.NoError(t, f.NoteEpoch(17))
	require.Empty(t, log.String())
	return f, dir, log
}

// whole checks that a start in dir would find the sample and the lock 9.
func whole(t *testing.T, f *File) {
	t.Helper()
	require.NoError(t, f.Append([]Change{aLock(9)}))
	checkRoom(t, f)
	again, c := reopen(t, f, testOptions())
	locks, spaces := sampleContents()
	require.Equal(t, append(locks, aLock(9)), c.Locks)
	require.Equal(t, spaces, c.Spaces)
	require.Empty(t, c.Damage)
	epoch, err := again.Epoch()
	require.NoError(t, err)
	require.EqualValues(t, 17, epoch)
}

// A directory that somebody removed or replaced is created and locked again, and the map is in it,
// whether or not anything has to be written.
func TestDirectoryRemoved(t *testing.T) {
	for name, spoil := range map[string]func(string) error{
		"removed":            os.RemoveAll,
		"emptied":            func(d string) error { return os.RemoveAll(filepath.Join(d, stateName)) },
		"removed and made":   func(d string) error { os.RemoveAll(d); return os.Mkdir(d, 0o755) },
		"moved away":         func(d string) error { return os.Rename(d, d+".bak") },
		"moved and replaced": func(d string) error { os.Rename(d, d+".bak"); return os.Mkdir(d, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			f, dir, log := inDirectory(t)
			require.NoError(t, spoil(dir))
			f.Tend()
			require.NoError(t, f.Health())
			require.FileExists(t, stateOf(dir), "nothing had to be written for that")
			_, _, err := Open(dir, testOptions())
			require.ErrorIs(t, err, ErrInUse, "the new directory is locked as well")
			for range 5 {
				f.Tend()
			}
			require.Equal(t, 2, strings.Count(log.String(), "\n"), "said once, and that it is mended: %s", log)
			whole(t, f)
		})
		t.Run(name+", then a change", func(t *testing.T) {
			f, dir, _ := inDirectory(t)
			require.NoError(t, spoil(dir))
			if strings.HasPrefix(name, "moved") {
				f.Tend() // through the open directory it looks as before
			}
			whole(t, f)
		})
	}
}

// While the directory can't be created again nothing new is recorded. The end of a lock is
// recorded, because no start can find the record that it ends. This is logged once.
func TestDirectoryCanNotBeMadeAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil, mend func(string) error
		advice      string
	}{
		"a file in its place": {
			func(d string) error { os.RemoveAll(d); return os.WriteFile(d, nil, 0o600) }, os.Remove,
			"create the state directory again"},
		"others can write to it": {
			func(d string) error { os.RemoveAll(d); os.Mkdir(d, 0o700); return os.Chmod(d, 0o777) },
			func(d string) error { return os.Chmod(d, 0o700) }, "correct it"},
	} {
		t.Run(name, func(t *testing.T) {
			f, dir, log := inDirectory(t)
			require.NoError(t, tc.spoil(dir))
			for range 10 {
				f.Tend()
				require.Error(t, f.Health())
				require.ErrorContains(t, f.Append([]Change{aLock(9)}), dir)
				require.NoError(t, f.Append([]Change{Mark{ID: 1, Phase: Held}}), "people must be able to let go")
				require.Error(t, f.Health())
			}
			require.Contains(t, Advice(f.Health()), tc.advice)
			require.Equal(t, 1, strings.Count(log.String(), "\n"), "%s", log)
			require.NoError(t, tc.mend(dir))
			f.Tend()
			require.NoError(t, f.Health())
			whole(t, f)
		})
	}
}

// A second daemon that has locked the new directory keeps the first one out of it until it ends.
func TestSecondDaemonOnTheNewDirectory(t *testing.T) {
	f, dir, _ := inDirectory(t)
	require.NoError(t, os.RemoveAll(dir))
	second, _ := mustOpen(t, dir, testOptions())
	require.NoError(t, second.Append([]Change{aLock(50)}))
	f.Tend()
	require.ErrorIs(t, f.Health(), ErrInUse)
	require.ErrorIs(t, f.Append([]Change{aLock(9)}), ErrInUse)
	require.ErrorIs(t, f.Append([]Change{Mark{ID: 1, Phase: Releasing}}), ErrInUse,
		"a start would find a map that does not know of it")
	require.NoError(t, second.Append([]Change{aLock(51)}), "the second one is not disturbed")
	require.NoError(t, second.Close())
	f.Tend()
	require.NoError(t, f.Health())
	kept, err := os.ReadFile(filepath.Join(dir, replacedName))
	require.NoError(t, err)
	require.Contains(t, string(kept), "disk50", "the other map is kept")
	whole(t, f)
}

// If a file can't be looked at, it does not count as gone.
func TestCouldNotLook(t *testing.T) {
	f, dir, log := inDirectory(t)
	before, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	good := f.dir.self
	f.dir.self, err = os.Open(os.DevNull) // ENOTDIR would be one thing; this is another
	require.NoError(t, err)
	require.NoError(t, f.dir.self.Close())
	var we *WriteError
	require.ErrorAs(t, f.Append([]Change{aLock(9)}), &we)
	require.ErrorIs(t, f.Append([]Change{Mark{ID: 1, Phase: Gone}}), unix.EBADF)
	f.Tend()
	require.Error(t, f.Health())
	require.Empty(t, log.String(), "nobody is told that it was removed")
	after, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
	require.NoFileExists(t, filepath.Join(dir, replacedName))
	f.dir.self = good
	f.Tend()
	require.NoError(t, f.Health())
	whole(t, f)
}

// If a start can't open or read the file, it stops, and leaves the file as it is.
func TestStartThatCanNotLook(t *testing.T) {
	f, dir, _ := inDirectory(t)
	require.NoError(t, f.Close())
	before, err := os.ReadFile(stateOf(dir))
	require.NoError(t, err)
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	defer func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) }()
	failed := 0
	for n := uint64(3); ; n++ {
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}))
		f, c, err := Open(dir, testOptions())
		if err == nil {
			require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old))
			locks, _ := sampleContents()
			require.Equal(t, locks, c.Locks)
			require.NoError(t, f.Close())
			break
		}
		failed++
		require.ErrorIs(t, err, unix.EMFILE)
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old))
		after, err := os.ReadFile(stateOf(dir))
		require.NoError(t, err)
		require.Equal(t, string(before), string(after), "with %d descriptors", n)
	}
	require.Greater(t, failed, 3)
	names, err := filepath.Glob(filepath.Join(dir, "state.toml.*"))
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(dir, spareName)}, names)
}

// The advice fits the error.
func TestAdvice(t *testing.T) {
	for errno, says := range map[unix.Errno]string{
		unix.ENOSPC: "make room", unix.EDQUOT: "make room", unix.EROFS: "writable",
		unix.EACCES: "let the service write",
		unix.ENOENT: "create the state directory again", unix.ENOTDIR: "create the state directory again",
		unix.EIO: "failing", unix.EFBIG: "limit",
		unix.EINVAL: "troubleshooting",
	} {
		require.Contains(t, Advice(writeError("append", "/x", &os.PathError{Op: "write", Path: "/y", Err: errno})),
			says)
	}
	require.Contains(t, Advice(&Error{Op: "lock", Err: ErrInUse, Advice: "stop that one"}), "stop that one")
}

// spoiled are ways to destroy the file in place while the service uses it.
var spoiled = map[string]func(path string, text []byte) error{
	"emptied":         func(p string, _ []byte) error { return os.Truncate(p, 0) },
	"cut in a record": func(p string, _ []byte) error { return os.Truncate(p, 100) },
	"cut of a record": func(p string, b []byte) error {
		return os.Truncate(p, int64(bytes.LastIndex(textOf(b), []byte("\n[["))))
	},
	"a byte changed": func(p string, b []byte) error {
		return inPlace(p, bytes.Replace(b, []byte("disk1"), []byte("disk7"), 1))
	},
	"an editor": func(p string, b []byte) error {
		return os.WriteFile(p, append([]byte("# hello\n"), textOf(b)...), 0o600)
	},
	"written over":     func(p string, b []byte) error { return inPlace(p, bytes.Repeat([]byte("x"), len(b))) },
	"text in the room": func(p string, b []byte) error { return inPlace(p, append(b[:len(b)-3], "x\n\n"...)) },
}

// inPlace writes over a file without truncating it first.
func inPlace(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(text, 0)
	return errors.Join(err, f.Close())
}

// afterTick waits until the clock of the file system, which may tick only each 10 ms, has passed what
// was last written to path.
func afterTick(t *testing.T, path string) {
	t.Helper()
	probe := filepath.Join(t.TempDir(), "probe")
	old, err := os.Stat(path)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		require.NoError(t, os.WriteFile(probe, []byte("x"), 0o600))
		now, err := os.Stat(probe)
		require.NoError(t, err)
		return now.ModTime().After(old.ModTime().Add(10 * time.Millisecond))
	}, time.Minute, time.Millisecond)
}

// Whatever somebody does to the file while the service runs, the whole map is written again from
// memory, by the next Tend at the latest, including a mark that is written meanwhile.
func TestSpoiledInPlace(t *testing.T) {
	for name, spoil := range spoiled {
		for when, mark := range map[string]bool{"": false, ", then a mark": true} {
			t.Run(name+when, func(t *testing.T) {
				f, dir, log := inDirectory(t)
				text, err := os.ReadFile(f.Path())
				require.NoError(t, err)
				afterTick(t, f.Path())
				require.NoError(t, spoil(f.Path(), bytes.Clone(text)))
				spoiledText, err := os.ReadFile(f.Path())
				require.NoError(t, err)
				if mark {
					require.NoError(t, f.Append([]Change{Mark{ID: 3, Mode: dlm.PR, HasMode: true, Token: 99}}))
					require.NoError(t, f.Append([]Change{Mark{ID: 3, Mode: dlm.EX, HasMode: true,
						Token: sampleToken(3)}}))
				}
				for range 3 {
					f.Tend()
					require.NoError(t, f.Health())
				}
				require.Equal(t, 2, strings.Count(log.String(), "\n"), "said once, and that it is mended: %s", log)
				if !mark {
					kept, err := os.ReadFile(filepath.Join(dir, replacedName))
					require.NoError(t, err)
					require.Equal(t, string(spoiledText), string(kept), "what they left is kept aside")
				}
				whole(t, f)
			})
		}
	}
}

// sampleToken returns the token of the lock with that ID in the sample.
func sampleToken(id uint64) uint64 {
	locks, _ := sampleContents()
	for _, l := range locks {
		if l.ID == id {
			return l.Token
		}
	}
	return 0
}

// A sound copy that was saved earlier says less than the service knows, although every record in it
// verifies.
func TestOlderCopyInPlace(t *testing.T) {
	f, _, log := inDirectory(t)
	old, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	require.NoError(t, f.Append([]Change{aLock(8), Mark{ID: 8, Phase: Gone}}))
	afterTick(t, f.Path())
	require.NoError(t, inPlace(f.Path(), append(textOf(old), bytes.Repeat([]byte{'\n'}, 2000)...)))
	f.Tend()
	require.Contains(t, log.String(), "has been written again")
	whole(t, f)
}

// A file that was only touched, even with a time in the future, stays as it is.
func TestTouched(t *testing.T) {
	f, dir, log := inDirectory(t)
	for _, when := range []time.Time{time.Now(), time.Now().Add(time.Hour)} {
		afterTick(t, f.Path())
		require.NoError(t, os.Chtimes(f.Path(), when, when))
		before := f.id
		f.Tend()
		require.NoError(t, f.Health())
		require.Equal(t, before, f.id)
		require.False(t, f.suspect)
	}
	require.Empty(t, log.String())
	require.NoFileExists(t, filepath.Join(dir, replacedName))
	whole(t, f)
}

// A file that somebody has cut short and that can't be written again accepts nothing new. The end
// of a lock is recorded behind the damage, and in the file that is written in the end. A start
// before that uses what verifies on both sides of the damage.
func TestCutShort(t *testing.T) {
	for _, mended := range []bool{true, false} {
		f, dir, log := inDirectory(t)
		require.NoError(t, f.Append([]Change{aLock(9), Mark{ID: 9, Phase: Held}}))
		text, err := os.ReadFile(f.Path())
		require.NoError(t, err)
		inTheWay := filepath.Join(dir, replacedName)
		require.NoError(t, os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700))
		cut := bytes.Index(text, []byte("\n[[lock]]\nid = 2\n"))
		require.NoError(t, os.Truncate(f.Path(), int64(cut)))
		for range 2 {
			f.Tend()
			require.ErrorIs(t, f.Health(), ErrDamaged)
			require.ErrorIs(t, f.Append([]Change{aLock(10)}), ErrDamaged)
			require.NoError(t, f.Append([]Change{Mark{ID: 1, Phase: Releasing}, Mark{ID: 1, Phase: Gone}}))
			require.NoError(t, f.Append([]Change{Mark{ID: 9, Phase: Gone}}))
			require.ErrorIs(t, f.Health(), ErrDamaged)
			require.Contains(t, Advice(f.Health()), "do not restart")
		}
		require.Equal(t, 1, strings.Count(log.String(), "\n"), "%s", log)
		if !mended {
			f, c := reopen(t, f, testOptions())
			require.NotEmpty(t, c.Quarantined)
			require.Empty(t, c.Locks, "1 has ended, and the others were cut off: %s", dir)
			require.NoError(t, f.Append([]Change{aLock(c.NextID)}))
			checkRoom(t, f)
			continue
		}
		require.NoError(t, os.RemoveAll(inTheWay))
		f.repairedAt = time.Time{}
		f.Tend()
		require.NoError(t, f.Health())
		locks, _ := sampleContents()
		checkRoom(t, f)
		_, c := reopen(t, f, testOptions())
		require.Empty(t, c.Damage)
		require.Equal(t, locks[1:], c.Locks, "1 has ended, the others are there")
	}
}

// A compaction does not use a file that somebody has edited: neither a damaged one nor a sound copy
// that was saved earlier.
func TestCompactionOfAnEditedFile(t *testing.T) {
	f, _, _ := inDirectory(t)
	old, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	require.NoError(t, f.Append([]Change{aLock(8), Mark{ID: 8, Phase: Gone}}))
	afterTick(t, f.Path())
	require.NoError(t, inPlace(f.Path(), append(textOf(old), bytes.Repeat([]byte{'\n'}, 2000)...)))
	require.Error(t, compactNow(f))
	f.Tend()
	require.NoError(t, f.Health())
	whole(t, f)
}
