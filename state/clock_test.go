package state

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEpochLivesAsLongAsTheBoot(t *testing.T) {
	dir := t.TempDir()
	f, _ := mustOpen(t, dir, testOptions())
	epoch := func(f *File) int64 {
		e, err := f.Epoch()
		require.NoError(t, err)
		return e
	}
	require.Zero(t, epoch(f), "nothing was noted")
	require.NoError(t, f.NoteEpoch(1_767_225_600_000_001))
	require.NoError(t, f.NoteEpoch(1_767_225_600_000_002))
	f, _ = reopen(t, f, testOptions())
	require.Equal(t, int64(1_767_225_600_000_002), epoch(f))
	info, err := os.Stat(filepath.Join(dir, clockName))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())

	o := testOptions()
	o.Header.BootID = "11111111-2222-3333-4444-555555555555"
	f, _ = reopen(t, f, o)
	require.Zero(t, epoch(f), "another boot began at another time")
}

func TestEpochOfADamagedFile(t *testing.T) {
	dir := t.TempDir()
	f, _ := mustOpen(t, dir, testOptions())
	require.NoError(t, f.NoteEpoch(1_767_225_600_000_000))
	path := filepath.Join(dir, clockName)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	for i := range text {
		bad := append([]byte{}, text...)
		bad[i] ^= 1
		require.NoError(t, os.WriteFile(path, bad, 0o600))
		e, err := f.Epoch()
		require.Zero(t, e, "byte %d changed, and the number was believed", i)
		if string(bad[:len(clockBanner)]) != clockBanner {
			require.Error(t, err)
		}
	}
	for i := range text {
		require.NoError(t, os.WriteFile(path, text[:i], 0o600))
		e, _ := f.Epoch()
		require.Zero(t, e, "%d bytes", i)
	}
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Symlink("/etc/hostname", path))
	_, err = f.Epoch()
	require.ErrorIs(t, err, ErrUnsafe)
}

// A write that fails leaves what was saved before.
func TestEpochCanNotBeWritten(t *testing.T) {
	dir := t.TempDir()
	f, _ := mustOpen(t, dir, testOptions())
	require.NoError(t, f.NoteEpoch(7))
	require.NoError(t, os.Mkdir(filepath.Join(dir, temporaryClockName), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, temporaryClockName, "in the way"), nil, 0o600))
	require.ErrorIs(t, f.NoteEpoch(8), syscall.EEXIST)
	e, err := f.Epoch()
	require.NoError(t, err)
	require.Equal(t, int64(7), e)
	require.ErrorIs(t, f.NoteEpoch(-1), ErrRecord)
}
