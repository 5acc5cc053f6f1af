package process

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// blind returns a watcher whose kernel opens nothing after shut is called: neither pidfds nor files.
func blind(t *testing.T) (w *Watcher, shut func()) {
	f := newFaulty()
	w, err := newWatcher(&f.kernel)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	require.NoError(t, w.checkProc())
	return w, func() { f.fail["pidfd_open"], f.fail["open stat"] = unix.EMFILE, unix.EMFILE }
}

// A process that was needed lately is not examined again, as long as it lives.
func TestIdle(t *testing.T) {
	w, shut := blind(t)
	cmd := sleeper(t)
	pid := uint32(cmd.Process.Pid)
	first, err := w.Hold(pid, 0)
	require.NoError(t, err)
	_, err = w.Translate(uint32(os.Getpid()), pid, 0)
	require.NoError(t, err)
	w.Drop(first.ID)
	require.Empty(t, w.users, "an idle process counts for nobody")
	shut()
	again, err := w.Hold(pid, 0)
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Equal(t, map[uint32]int{0: 1}, w.users)
	_, err = w.Translate(uint32(os.Getpid()), pid, 0)
	require.NoError(t, err)
	news, tell := listener()
	w.Watch(again.ID, 0, tell)
	w.Drop(again.ID)
	require.NoError(t, cmd.Process.Kill())
	require.Equal(t, told{again.ID, Ended, nil}, next(t, news))
}

// The start time of a watched process is known without reading /proc for as long as the process
// lives.
func TestStartOfWatched(t *testing.T) {
	w, shut := blind(t)
	cmd := sleeper(t)
	pid := uint32(cmd.Process.Pid)
	want, err := Start(pid)
	require.NoError(t, err)
	got, err := w.Start(pid)
	require.NoError(t, err)
	require.Equal(t, want, got)
	i, err := w.Hold(pid, 0)
	require.NoError(t, err)
	w.Drop(i.ID)
	shut()
	got, err = w.Start(pid)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	_, err = w.Start(pid)
	require.ErrorIs(t, err, unix.EMFILE, "another process may have the pid now")
}

// The end of an idle process is found out by the next one who asks for it.
func TestIdleEnds(t *testing.T) {
	w := watcher(t)
	cmd := sleeper(t)
	i, err := w.Hold(uint32(cmd.Process.Pid), 0)
	require.NoError(t, err)
	w.Drop(i.ID)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	_, err = w.Hold(i.PID, 0)
	require.ErrorIs(t, err, ErrGone)
	_, err = w.Translate(i.PID, 1, 0)
	require.ErrorIs(t, err, ErrGone)
	quiet(t, w, nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Nil(t, w.watches[i.ID])
	require.Empty(t, w.idle)
}

// For anybody but root the uid is read again, which may have changed.
func TestIdleUser(t *testing.T) {
	w, shut := blind(t)
	pid := uint32(sleeper(t).Process.Pid)
	i, err := w.Hold(pid, 1000)
	require.NoError(t, err)
	w.Drop(i.ID)
	shut()
	_, err = w.Hold(pid, 1000)
	require.ErrorIs(t, err, unix.EMFILE)
	_, err = w.Hold(pid, 0)
	require.NoError(t, err)
}

// A lock of an earlier start is told that its process lives, whether or not the process is idle.
func TestIdleIsWatched(t *testing.T) {
	w := watcher(t)
	i, err := w.Hold(uint32(sleeper(t).Process.Pid), 0)
	require.NoError(t, err)
	w.Drop(i.ID)
	news, tell := listener()
	w.Watch(i.ID, 1000, tell)
	require.Equal(t, told{i.ID, Alive, nil}, next(t, news))
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Equal(t, map[uint32]int{1000: 1}, w.users)
}

// The number of idle processes is bounded, and those that were needed last stay. An idle one takes
// its place among those of the user again.
func TestIdleIsBounded(t *testing.T) {
	w := watcher(t)
	w.most = 2
	var held []ID
	for range 4 {
		i, err := w.Hold(uint32(sleeper(t).Process.Pid), 1000)
		require.NoError(t, err)
		held = append(held, i.ID)
	}
	before := descriptors(t)
	for _, id := range held {
		w.Drop(id)
	}
	require.Equal(t, before-2, descriptors(t))
	require.Nil(t, w.watches[held[1]])
	require.NotNil(t, w.watches[held[2]])
	w.LimitPerUser(1)
	_, err := w.Hold(held[2].PID, 1000)
	require.NoError(t, err)
	_, err = w.Hold(held[3].PID, 1000)
	require.ErrorIs(t, err, ErrUserLimit)
}

// Where descriptors are scarce no process is idle.
func TestIdleTakesNoDescriptors(t *testing.T) {
	w := watcher(t)
	before := descriptors(t)
	w.mu.Lock()
	w.limit = before
	w.mu.Unlock()
	_, err := w.Translate(uint32(os.Getpid()), 1, 0)
	require.NoError(t, err)
	require.Equal(t, before, descriptors(t))
}
