package state

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// checkRoom checks the padding: the reserved room is what a start would calculate, the file is as
// long as it should be, and behind the last record there is nothing but padding.
func checkRoom(t rapid.TB, f *File) {
	t.Helper()
	text, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	require.Equal(t, f.alloc, int64(len(text)))
	require.Empty(t, bytes.Trim(text[f.size:], "\n"))
	l, err := load(bytes.NewReader(text), int64(len(text)), false)
	require.NoError(t, err)
	require.Empty(t, l.Damage)
	require.Equal(t, f.size, l.end)
	again := newMirror(&l.Contents, l.packed)
	for id, d := range again.locks {
		mine := f.mirror.locks[id]
		require.Equal(t, d.phase, mine.phase)
		require.GreaterOrEqual(t, mine.lost+lostSlack, d.lost,
			"the record of a loss may have grown by no more than that")
	}
	require.Len(t, f.mirror.locks, len(again.locks))
	require.Equal(t, again.spaces, f.mirror.spaces)
	require.GreaterOrEqual(t, f.alloc, f.size+f.mirror.need)
	sum := int64(0)
	for id, d := range f.mirror.locks {
		sum += d.need(id)
	}
	for _, s := range f.mirror.spaces {
		sum += s.need()
	}
	require.Equal(t, sum, f.mirror.need)
}

// guarded is a lock that names a helper.
func guarded(id uint64) Lock {
	l := aLock(id)
	l.OnLost, l.OnLostData = "libvirt", "qemu:///system pause"
	return l
}

// ends returns the ways in which a lock that is held can end.
func ends(l Lock) map[string][]Change {
	gone := Mark{ID: l.ID, Phase: Gone}
	all := map[string][]Change{"released": {Mark{ID: l.ID, Phase: Releasing}, gone}, "void": {gone}}
	if l.OnLost != "" {
		lost := l
		lost.Phase, lost.Reason = Lost, "the lockspace was left and joined again since the lock was taken"
		all["lost"] = []Change{lost, gone}
	}
	return all
}

// However the file system fills up, everything in the file can be brought to its end; after that
// the file is small again and accepts new locks.
func TestRoomForEveryEnd(t *testing.T) {
	dir := tinyFS(t, "200k")
	rapid.Check(t, func(rt *rapid.T) {
		defer func() {
			names, _ := os.ReadDir(dir)
			for _, n := range names {
				require.NoError(rt, os.Remove(filepath.Join(dir, n.Name())))
			}
		}()
		f, _, err := Open(dir, testOptions())
		require.NoError(rt, err)
		defer func() { f.Close() }()
		require.NoError(rt, f.Append([]Change{Lockspace{Name: "vms", Phase: Creating},
			Lockspace{Name: "vms", Phase: Joined, AnchorID: 1}}))
		var held []Lock
		id := uint64(1)
		filled := rapid.Bool().Draw(rt, "somebody else fills it")
		if filled {
			fill(t, dir)
		}
		for {
			l := rapid.SampledFrom([]Lock{aLock(id), guarded(id)}).Draw(rt, "lock")
			if err := f.Append([]Change{l}); err != nil {
				require.ErrorIs(rt, err, unix.ENOSPC)
				break
			}
			require.NoError(rt, f.Append([]Change{Mark{ID: id, Phase: Held}}),
				"a lock that was written down can be marked held")
			held = append(held, l)
			id++
		}
		require.ErrorIs(rt, f.Health(), unix.ENOSPC)
		if !filled {
			fill(t, dir)
		}
		checkRoom(rt, f)
		if rapid.Bool().Draw(rt, "restart") {
			require.NoError(rt, f.Close())
			f, _, err = Open(dir, testOptions())
			require.NoError(rt, err)
			checkRoom(rt, f)
		}
		for _, l := range rapid.Permutation(held).Draw(rt, "order") {
			all := ends(l)
			how := rapid.SampledFrom(sortedKeys(all)).Draw(rt, "end")
			for _, c := range all[how] {
				require.NoError(rt, f.Append([]Change{c}), "%s", how)
			}
		}
		checkRoom(rt, f)
		require.NoError(rt, f.Append([]Change{Lockspace{Name: "vms", Phase: Leaving}}))
		require.NoError(rt, f.Append([]Change{Lockspace{Name: "vms", Phase: Left}}))
		f.Tend()
		require.NoError(rt, f.Health(), "it has recovered, with the file system still full")
		require.NoError(rt, f.Append([]Change{aLock(id)}))
		checkRoom(rt, f)
	})
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for _, k := range []string{"lost", "released", "void"} {
		if _, ok := m[k]; ok {
			keys = append(keys, k)
		}
	}
	return keys
}

// A file that alone has filled its file system accepts new locks again as soon as enough are
// released, also those of a client that acquires and releases one lock for ever.
func TestFullOfHistory(t *testing.T) {
	f, _ := mustOpen(t, tinyFS(t, "200k"), testOptions())
	for id := uint64(1); id < 3000; id++ {
		require.NoError(t, f.Append([]Change{aLock(id), Mark{ID: id, Phase: Held}}), "lock %d", id)
		require.NoError(t, f.Append([]Change{Mark{ID: id, Phase: Releasing}}))
		require.NoError(t, f.Append([]Change{Mark{ID: id, Phase: Gone}}))
		require.NoError(t, f.Health())
	}
	f.background.Wait()
	checkRoom(t, f)
}

// A crash in the middle of a write leaves its beginning, followed by padding: complete records are
// used, and the rest becomes padding again.
func TestCutInThePadding(t *testing.T) {
	text, ends, _ := sampleFile()
	records := sampleChanges()
	pad := bytes.Repeat([]byte{'\n'}, 5000)
	dir := t.TempDir()
	for cut := ends[1]; cut <= len(text); cut++ {
		require.NoError(t, os.WriteFile(stateOf(dir), append(bytes.Clone(text[:cut]), pad...), 0o600))
		f, c, err := Open(dir, testOptions())
		require.NoError(t, err)
		require.Empty(t, c.Damage, "cut at %d", cut)
		n := 0
		for n < len(records) && ends[n+2] <= cut+1 { // padding ends a last line
			n++
		}
		want := foldOf(t, records[:n])
		require.Equal(t, want.Locks, c.Locks, "cut at %d", cut)
		require.Equal(t, want.Spaces, c.Spaces, "cut at %d", cut)
		require.Equal(t, cut > ends[n+1]+1, c.Torn, "cut at %d", cut)
		checkRoom(t, f)
		require.NoError(t, f.Append(records[n:]), "and it goes on from there")
		require.NoError(t, f.Close())
		after, err := os.ReadFile(stateOf(dir))
		require.NoError(t, err)
		require.Equal(t, string(text), string(textOf(after)), "cut at %d", cut)
	}
}

// Anything in the padding except the beginning of a record is damage.
func TestDamageInThePadding(t *testing.T) {
	text, _, _ := sampleFile()
	whole := foldOf(t, sampleChanges())
	for name, junk := range map[string]string{"a letter": "x", "a zero": "\x00", "zeros": "\x00\x00\x00",
		"a table": "[[lock]]\n", "a comment": "# hello\n"} {
		for _, before := range []string{"\n", "\n\n\n"} {
			spoiled := []byte(string(text) + before + junk + "\n\n\n\n")
			l, err := load(bytes.NewReader(spoiled), int64(len(spoiled)), false)
			require.NoError(t, err)
			require.Equal(t, whole.Locks, l.Locks, name)
			require.True(t, len(l.Damage) == 1 || l.Torn && junk == "[[lock]]\n" && before == "\n", "%s behind %q: %+v",
				name, before, l)
		}
	}
}

// A file from before there was any padding gets it.
func TestFileWithoutPadding(t *testing.T) {
	text, _, _ := sampleFile()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(stateOf(dir), text, 0o600))
	f, c := mustOpen(t, dir, testOptions())
	require.Empty(t, c.Damage)
	require.Equal(t, foldOf(t, sampleChanges()).Locks, c.Locks)
	checkRoom(t, f)
}

// The same in a full file system: the service starts, reports it, and writes the marks that fit.
func TestFileWithoutPaddingInAFullDirectory(t *testing.T) {
	text, _, _ := sampleFile()
	dir := tinyFS(t, "64k")
	require.NoError(t, os.WriteFile(stateOf(dir), text, 0o600))
	filler := fill(t, dir)
	f, c := mustOpen(t, dir, testOptions())
	require.NotEmpty(t, c.Locks)
	require.ErrorIs(t, f.Health(), unix.ENOSPC)
	require.ErrorIs(t, f.Append([]Change{aLock(9)}), unix.ENOSPC)
	require.NoError(t, f.Append([]Change{Mark{ID: 1, Phase: Releasing}}))
	require.NoError(t, os.Remove(filler))
	f.Tend()
	require.NoError(t, f.Health())
	checkRoom(t, f)
	require.NoError(t, f.Append([]Change{aLock(9)}))
}

// A lock that does not fit is refused, and Tend does not find room for it where there is only less.
func TestTendKeepsWhatDoesNotFit(t *testing.T) {
	dir := tinyFS(t, "64k")
	f, _ := mustOpen(t, dir, testOptions())
	filler := fill(t, dir)
	for id := uint64(1); ; id++ {
		if err := f.Append([]Change{aLock(id)}); err != nil {
			require.ErrorIs(t, err, unix.ENOSPC)
			break
		}
		require.Less(t, id, uint64(1000), "the file never fills")
	}
	for range 3 {
		f.Tend()
		require.ErrorIs(t, f.Health(), unix.ENOSPC, "the same lock would be refused again")
	}
	require.NoError(t, os.Remove(filler))
	f.Tend()
	require.NoError(t, f.Health())
	require.NoError(t, f.Append([]Change{aLock(1000)}))
}

// A failed write leaves nothing; if it has left something, that is made padding again before
// anything else is written.
func TestFailedWriteIsMadePadding(t *testing.T) {
	f, _ := mustOpen(t, t.TempDir(), testOptions())
	require.NoError(t, f.Append([]Change{aLock(1), Mark{ID: 1, Phase: Held}}))
	good := f.fd
	bad, err := os.Open(f.Path()) // nothing can be written through it
	require.NoError(t, err)
	defer bad.Close()
	f.fd = bad
	var we *WriteError
	require.ErrorAs(t, f.Append([]Change{Mark{ID: 1, Phase: Releasing}}), &we)
	require.Error(t, f.Health())
	_, err = good.WriteAt([]byte("\n[[mark]]\nid = 1\npha"), f.size) // as if part of it had been written
	require.NoError(t, err)
	require.ErrorAs(t, f.Append([]Change{Mark{ID: 1, Phase: Gone}}), &we)
	f.fd = good
	require.NoError(t, f.Append([]Change{Mark{ID: 1, Mode: 3, HasMode: true}}))
	require.NoError(t, f.Health())
	checkRoom(t, f)
	_, c := reopen(t, f, testOptions())
	require.Len(t, c.Locks, 1)
	require.Equal(t, Held, c.Locks[0].Phase)
}

// The room for a batch that is refused is not reserved.
func TestRefusedBatchNeedsNoRoom(t *testing.T) {
	f, _ := mustOpen(t, t.TempDir(), testOptions())
	require.NoError(t, f.Append(sampleChanges()))
	before := f.mirror.need
	for _, bad := range []Change{Mark{}, nil} {
		require.ErrorIs(t, f.Append([]Change{aLock(7), Mark{ID: 1, Phase: Gone}, Lockspace{Name: "vms", Phase: Left},
			Lockspace{Name: "new", Phase: Creating}, bad}), ErrRecord)
		require.Equal(t, before, f.mirror.need)
		checkRoom(t, f)
	}
}

// It does no harm if somebody removes or spoils the spare file.
func TestSpareIsNobodysTrouble(t *testing.T) {
	for name, spoil := range map[string]func(string) error{
		"removed": os.Remove, "cut": func(p string) error { return os.Truncate(p, 0) },
		"written to": func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("x"), 100_000), 0o600) },
		"a symlink":  func(p string) error { os.Remove(p); return os.Symlink("/etc/passwd", p) },
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := mustOpen(t, t.TempDir(), testOptions())
			require.NoError(t, f.Append(sampleChanges()))
			require.NoError(t, spoil(filepath.Join(f.dir.path, spareName)))
			require.NoError(t, compactNow(f))
			checkRoom(t, f)
			require.NoError(t, spoil(filepath.Join(f.dir.path, spareName)))
			f, c := reopen(t, f, testOptions())
			locks, _ := sampleContents()
			require.Equal(t, locks, c.Locks)
			checkRoom(t, f)
		})
	}
}

// The cost of the padding: how much longer it makes a file.
func TestPaddingIsModest(t *testing.T) {
	f, _ := mustOpen(t, t.TempDir(), testOptions())
	for id := uint64(1); id <= 10_000; id++ {
		require.NoError(t, f.Append([]Change{aLock(id), Mark{ID: id, Phase: Held}}))
	}
	require.Less(t, float64(f.alloc), 1.45*float64(f.size), fmt.Sprintf("%d for %d", f.alloc, f.size))
}

// A spare file that was used for a draft in vain has its full size again.
func TestAbandonedSpareIsWhole(t *testing.T) {
	f, _, err := Open(t.TempDir(), testOptions())
	require.NoError(t, err)
	defer f.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	d, err := f.newDraft()
	require.NoError(t, err)
	require.True(t, d.isSpare)
	require.NoError(t, d.write(f.header, &Contents{}))
	require.NoError(t, d.pad(0))
	require.ErrorIs(t, f.abandon(d, os.ErrInvalid), os.ErrInvalid)
	b, err := os.ReadFile(filepath.Join(f.dir.path, spareName))
	require.NoError(t, err)
	require.Equal(t, string(padding[:spareSize]), string(b))
}
