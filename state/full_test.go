package state

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// tinyFS mounts a tmpfs of the given size and returns a directory on it.
func tinyFS(t *testing.T, size string) string {
	needRoot(t)
	dir := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size+",mode=0700"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	return dir
}

// fill leaves no space.
func fill(t *testing.T, dir string) (filler string) {
	filler = filepath.Join(dir, "filler")
	fd, err := os.Create(filler)
	require.NoError(t, err)
	defer fd.Close()
	for err == nil {
		_, err = fd.Write(make([]byte, 4096))
	}
	require.ErrorIs(t, err, unix.ENOSPC)
	return filler
}

// batch returns a number of locks for one Append.
func batch(from, n uint64) (changes []Change, locks []Lock) {
	for id := from; id < from+n; id++ {
		changes, locks = append(changes, aLock(id)), append(locks, aLock(id))
	}
	return changes, locks
}

func TestFullDirectory(t *testing.T) {
	dir := tinyFS(t, "160k")
	f, _ := mustOpen(t, dir, testOptions())
	one, locks := batch(1, 1)
	require.NoError(t, f.Append(one))
	filler := fill(t, dir)
	size := fileSize(t, f.Path())

	// There is room up to the end of the page, so the write is cut short there.
	many, more := batch(2, 100)
	err := f.Append(many)
	var we *WriteError
	require.ErrorAs(t, err, &we)
	require.ErrorIs(t, err, unix.ENOSPC)
	require.Equal(t, "extend", we.Op)
	require.Equal(t, size, fileSize(t, f.Path()), "what was written of it is taken back")
	require.ErrorIs(t, f.Append(many), unix.ENOSPC, "again")
	require.NoError(t, f.Append([]Change{Mark{ID: 1, Phase: Held}}), "what fits in the page still goes")
	locks[0].Phase = Held

	// A restart in a full directory needs no space.
	f, c := reopen(t, f, testOptions())
	require.Equal(t, locks, c.Locks)
	require.Empty(t, c.Damage)

	require.NoError(t, os.Remove(filler))
	require.NoError(t, f.Append(many), "the same call, once there is space")
	_, c = reopen(t, f, testOptions())
	require.Equal(t, append(locks, more...), c.Locks)
}

func TestFullDirectoryAtStart(t *testing.T) {
	dir := tinyFS(t, "64k")
	filler := fill(t, dir)
	_, _, err := Open(dir, testOptions())
	require.ErrorIs(t, err, unix.ENOSPC)
	require.NoFileExists(t, filepath.Join(dir, temporaryName))
	require.NoFileExists(t, stateOf(dir))
	require.NoError(t, os.Remove(filler))
	mustOpen(t, dir, testOptions())
}

func TestNoSpaceToCompact(t *testing.T) {
	dir := tinyFS(t, "192k")
	o := testOptions()
	o.CompactMin = 16 << 10
	f, _ := mustOpen(t, dir, o)
	many, locks := batch(1, 100)
	require.NoError(t, f.Append(many))
	filler := fill(t, dir)
	f.mu.Lock()
	f.use.live = 0
	f.mu.Unlock()
	require.NoError(t, f.Append([]Change{Mark{ID: 1, Phase: Held}}))
	locks[0].Phase = Held
	f.background.Wait()
	require.NotZero(t, f.retryAt, "it was tried, and will not be at once again")
	require.NoFileExists(t, filepath.Join(dir, temporaryName))
	require.NoError(t, f.Append([]Change{Mark{ID: 2, Phase: Held}}))
	locks[1].Phase = Held

	require.NoError(t, os.Remove(filler))
	f, c := reopen(t, f, o)
	require.Equal(t, locks, c.Locks)
	require.NoError(t, compactNow(f))
	_, c = reopen(t, f, o)
	require.Equal(t, locks, c.Locks)
}

// Damage in a full directory is kept aside. If there is no room for the new file, not even in the
// spare file, the start fails and nothing is lost.
func TestDamageInAFullDirectory(t *testing.T) {
	dir := tinyFS(t, "192k")
	f, _ := mustOpen(t, dir, testOptions())
	many, _ := batch(1, 100)
	require.NoError(t, f.Append(many))
	require.NoError(t, f.Close())
	text, err := os.ReadFile(stateOf(dir))
	require.NoError(t, err)
	text[len(textOf(text))/2] ^= 1
	require.NoError(t, os.WriteFile(stateOf(dir), text, 0o600))
	filler := fill(t, dir)
	_, _, err = Open(dir, testOptions())
	require.ErrorIs(t, err, unix.ENOSPC)
	after, err := os.ReadFile(stateOf(dir))
	require.NoError(t, err)
	require.Equal(t, string(text), string(after))

	require.NoError(t, os.Remove(filler))
	_, c := mustOpen(t, dir, testOptions())
	require.Len(t, c.Locks, 99)
	require.NotEmpty(t, c.Quarantined)
}

// The space runs out while a compaction copies what was appended meanwhile.
func TestNoSpaceForTheTail(t *testing.T) {
	dir := tinyFS(t, "512k")
	f, _ := mustOpen(t, dir, testOptions())
	some, locks := batch(1, 100)
	require.NoError(t, f.Append(some))
	for name, step := range map[string]func(*compaction) error{"while it follows": f.follow, "at the end": f.goOver} {
		c := &compaction{src: f.fd, end: f.size, before: f.use}
		require.NoError(t, f.fold(c), name)
		from := locks[len(locks)-1].ID + 1
		more, moreLocks := batch(from, 30)
		if name == "while it follows" {
			more, moreLocks = batch(from, tailSize/400+10)
		}
		require.NoError(t, f.Append(more), name)
		locks = append(locks, moreLocks...)
		filler := fill(t, dir)
		require.ErrorIs(t, step(c), unix.ENOSPC, name)
		require.NoFileExists(t, filepath.Join(dir, temporaryName), name)
		require.NoError(t, os.Remove(filler))
		require.NoError(t, f.Append([]Change{Mark{ID: 1, Phase: Held}}), name)
		locks[0].Phase = Held
	}
	_, c := reopen(t, f, testOptions())
	require.Equal(t, locks, c.Locks)
}
