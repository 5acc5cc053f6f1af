package state

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// compactNow compacts f as the background does, but waits for it.
func compactNow(f *File) error {
	f.background.Wait()
	f.mu.Lock()
	f.compacting = true
	c := &compaction{src: f.fd, end: f.size, before: f.use}
	f.mu.Unlock()
	f.compact(c)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.retryAt != 0 {
		return os.ErrInvalid
	}
	return nil
}

// textOf returns a file without its padding.
func textOf(file []byte) []byte { return append(bytes.TrimRight(file, "\n"), '\n') }

func fileSize(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return info.Size()
}

// The file stays small however many locks come and go, and the usage estimate that decides it stays
// near the truth.
func TestCompactionKeepsTheFileSmall(t *testing.T) {
	o := testOptions()
	o.CompactMin = 16 << 10
	f, _ := mustOpen(t, t.TempDir(), o)
	var keep []Lock
	largest := int64(0)
	for id := uint64(1); id <= 5000; id++ {
		require.NoError(t, f.Append([]Change{aLock(id), Mark{ID: id, Phase: Held}}))
		if id%500 == 0 {
			l := aLock(id)
			l.Phase = Held
			keep = append(keep, l)
		} else {
			require.NoError(t, f.Append([]Change{Mark{ID: id, Phase: Releasing}}))
			require.NoError(t, f.Append([]Change{Mark{ID: id, Phase: Gone}}))
		}
		f.background.Wait()
		largest = max(largest, fileSize(t, f.Path()))
	}
	require.Less(t, largest, o.CompactMin+2000+spareRoom+2*growth(0))
	_, c := reopen(t, f, o)
	require.Equal(t, keep, c.Locks)
	require.Equal(t, uint64(5001), c.NextID)
}

// When a lockspace is left its locks end; the estimate does not know how many, and must recover
// from that.
func TestCompactionAfterLeaving(t *testing.T) {
	o := testOptions()
	o.CompactMin = 4 << 10
	f, _ := mustOpen(t, t.TempDir(), o)
	for id := uint64(1); id <= 1000; id++ {
		require.NoError(t, f.Append([]Change{aLock(id)}))
	}
	full := fileSize(t, f.Path())
	for range 30_000 {
		require.NoError(t, f.Append([]Change{Lockspace{Name: "vms", Phase: Left}}))
		f.background.Wait()
	}
	require.Less(t, fileSize(t, f.Path()), 3*full)
}

// A change that is appended while a compaction runs is in the file afterwards, whatever the
// compaction is doing at that moment.
func TestAppendDuringCompaction(t *testing.T) {
	for name, at := range map[string]int{"before the fold": 0, "after the fold": 1, "after the first copy": 2} {
		t.Run(name, func(t *testing.T) {
			f, _ := mustOpen(t, t.TempDir(), testOptions())
			require.NoError(t, f.Append(sampleChanges()))
			c := &compaction{src: f.fd, end: f.size, before: f.use}
			id := uint64(100)
			late := func(step int) {
				if step != at {
					return
				}
				for range 500 { // more than tailSize
					require.NoError(t, f.Append([]Change{aLock(id), Mark{ID: id, Phase: Held}}))
					id++
				}
				require.NoError(t, f.Append([]Change{Mark{ID: 1, Phase: Gone}}))
			}
			late(0)
			require.NoError(t, f.fold(c))
			late(1)
			require.NoError(t, f.follow(c))
			late(2)
			require.NoError(t, f.goOver(c))
			require.NoError(t, f.Append([]Change{Mark{ID: 100, Phase: Releasing}}))
			_, got := reopen(t, f, testOptions())
			require.Empty(t, got.Damage)
			require.Len(t, got.Locks, 2+500)
			require.Equal(t, Releasing, got.Locks[2].Phase)
			require.Equal(t, Held, got.Locks[3].Phase)
			require.Equal(t, id, got.NextID)
		})
	}
}

// A crash at any point of a compaction leaves the old file or the new one.
func TestCrashDuringCompaction(t *testing.T) {
	dir := t.TempDir()
	f, _ := mustOpen(t, dir, testOptions())
	require.NoError(t, f.Append(sampleChanges()))
	old, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	require.NoError(t, compactNow(f))
	fresh, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	require.Less(t, len(textOf(fresh)), len(textOf(old)))
	require.NoError(t, f.Close())
	locks, spaces := sampleContents()
	check := func(what string) {
		f, c := mustOpen(t, dir, testOptions())
		require.Equal(t, locks, c.Locks, what)
		require.Equal(t, spaces, c.Spaces, what)
		require.Equal(t, uint64(5), c.NextID, what)
		require.Empty(t, c.Damage, what)
		require.NoFileExists(t, filepath.Join(dir, temporaryName), what)
		require.NoError(t, f.Close())
	}
	for cut := 0; cut <= len(fresh); cut += 97 {
		require.NoError(t, os.WriteFile(stateOf(dir), old, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, temporaryName), fresh[:cut], 0o600))
		check("the temporary file is unfinished or not yet renamed")
	}
	require.NoError(t, os.WriteFile(stateOf(dir), fresh, 0o600))
	check("renamed")
}

// A compaction that finds damage leaves everything as it is.
func TestCompactionOfADamagedFile(t *testing.T) {
	f, _ := mustOpen(t, t.TempDir(), testOptions())
	require.NoError(t, f.Append(sampleChanges()))
	text, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	text[len(textOf(text))/2] ^= 4
	fd, err := os.OpenFile(f.Path(), os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = fd.Write(text)
	require.NoError(t, err)
	require.NoError(t, fd.Close())
	require.Error(t, compactNow(f))
	after, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	require.Equal(t, string(text), string(after))
	require.NoFileExists(t, filepath.Join(f.dir.path, temporaryName))
	require.NoError(t, f.Append([]Change{aLock(50)}), "and appending goes on")
}
