package process

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that should come at once.
const patience = time.Minute

// sleeper starts a process that lives until it is killed.
func sleeper(t *testing.T) *exec.Cmd {
	cmd := exec.Command("sleep", "1000")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

func watcher(t *testing.T) *Watcher {
	w, err := NewWatcher()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	return w
}

func descriptors(t *testing.T) int {
	in, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(in)
}

// told is one report of a watch.
type told struct {
	id    ID
	state State
	err   error
}

// listener collects reports.
func listener() (chan told, func(ID, State, error)) {
	c := make(chan told, 16)
	return c, func(id ID, s State, err error) { c <- told{id, s, err} }
}

func next(t *testing.T, c <-chan told) told {
	t.Helper()
	select {
	case n := <-c:
		return n
	case <-time.After(patience):
		require.Fail(t, "nothing was told")
		return told{}
	}
}

// quiet checks that nothing was reported, not even by what the watcher still has to do: the end of
// a process that ends afterwards is reported after it.
func quiet(t *testing.T, w *Watcher, c <-chan told) {
	t.Helper()
	cmd := sleeper(t)
	i, err := w.Hold(uint32(cmd.Process.Pid), 0)
	require.NoError(t, err)
	other, tell := listener()
	w.Watch(i.ID, 0, tell)
	w.Drop(i.ID)
	require.NoError(t, cmd.Process.Kill())
	require.Equal(t, Ended, next(t, other).state)
	_ = cmd.Wait()
	require.Empty(t, c)
}

func TestHold(t *testing.T) {
	w := watcher(t)
	me, err := w.Hold(uint32(os.Getpid()), 0)
	require.NoError(t, err)
	require.NotZero(t, me.Start)
	require.EqualValues(t, os.Getuid(), me.UID)
	require.EqualValues(t, os.Getppid(), me.Parent)
	require.False(t, me.Nested())
	start, err := Start(me.PID)
	require.NoError(t, err)
	require.Equal(t, me.Start, start)
	for _, pid := range []uint32{0, 1 << 30, 1<<32 - 1} {
		_, err = w.Hold(pid, 0)
		require.ErrorIs(t, err, ErrGone, "pid %d", pid)
	}
	_, err = Start(1 << 30)
	require.ErrorIs(t, err, ErrGone)
}

func TestEnded(t *testing.T) {
	cmd := sleeper(t)
	before := descriptors(t)
	w := watcher(t)
	i, err := w.Hold(uint32(cmd.Process.Pid), 0)
	require.NoError(t, err)
	news, tell := listener()
	w.Watch(i.ID, 0, tell)
	w.Drop(i.ID)
	quiet(t, w, news)
	require.NoError(t, cmd.Process.Kill())
	require.Equal(t, told{i.ID, Ended, nil}, next(t, news))
	require.Empty(t, w.users)
	require.NoError(t, w.Close())
	require.Equal(t, before, descriptors(t))
}

// The end of a process that a call holds is reported when its lock is bound, however late that is.
func TestEndedBeforeWatch(t *testing.T) {
	w := watcher(t)
	cmd := sleeper(t)
	i, err := w.Hold(uint32(cmd.Process.Pid), 0)
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	quiet(t, w, nil)
	for range 2 {
		news, tell := listener()
		w.Watch(i.ID, 0, tell)
		require.Equal(t, told{i.ID, Ended, nil}, next(t, news))
	}
	w.Drop(i.ID)
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Empty(t, w.watches)
}

// A record names a process that nobody holds.
func TestWatchOfARecord(t *testing.T) {
	w := watcher(t)
	cmd := sleeper(t)
	start, err := Start(uint32(cmd.Process.Pid))
	require.NoError(t, err)
	news, tell := listener()
	id := ID{uint32(cmd.Process.Pid), start}
	w.Watch(id, 0, tell)
	require.Equal(t, told{id, Alive, nil}, next(t, news))
	// A pid that belongs to another process now is not the process that was meant.
	other := ID{id.PID, id.Start - 1}
	w.Watch(other, 0, tell)
	require.Equal(t, told{other, Ended, nil}, next(t, news))
	require.NoError(t, cmd.Process.Kill())
	require.Equal(t, told{id, Ended, nil}, next(t, news))
	_ = cmd.Wait()
	w.Watch(id, 0, tell)
	require.Equal(t, told{id, Ended, nil}, next(t, news))
}

// A zombie that its parent has not waited for has ended.
func TestZombie(t *testing.T) {
	w := watcher(t)
	cmd := sleeper(t)
	pid := uint32(cmd.Process.Pid)
	i, err := w.Hold(pid, 0)
	require.NoError(t, err)
	news, tell := listener()
	w.Watch(i.ID, 0, tell)
	require.NoError(t, cmd.Process.Kill())
	require.Equal(t, Ended, next(t, news).state)
	_, err = w.Hold(pid, 0) // nobody has waited for it yet
	require.ErrorIs(t, err, ErrGone)
	w.Drop(i.ID)
}

func TestUnwatch(t *testing.T) {
	w := watcher(t)
	cmd := sleeper(t)
	i, err := w.Hold(uint32(cmd.Process.Pid), 0)
	require.NoError(t, err)
	news, tell := listener()
	w.Watch(i.ID, 0, tell)
	w.Unwatch(i.ID)
	w.Drop(i.ID)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	quiet(t, w, news)
	w.Watch(i.ID, 0, tell)
	require.Equal(t, told{i.ID, Ended, nil}, next(t, news))
}

// A process to which many locks are tied takes one descriptor.
func TestHoldIsCounted(t *testing.T) {
	w := watcher(t)
	cmd := sleeper(t)
	before := descriptors(t)
	for range 100 {
		_, err := w.Hold(uint32(cmd.Process.Pid), 1000)
		require.NoError(t, err)
	}
	require.Equal(t, before+1, descriptors(t))
	require.Equal(t, map[uint32]int{1000: 1}, w.users)
	i, err := w.Hold(uint32(cmd.Process.Pid), 1001)
	require.NoError(t, err)
	for range 101 {
		w.Drop(i.ID)
	}
	require.Empty(t, w.users)
	require.Equal(t, before+1, descriptors(t), "it is idle")
	w.mu.Lock()
	w.most = 0
	w.trim()
	w.mu.Unlock()
	require.Equal(t, before, descriptors(t))
	require.Empty(t, w.watches)
}

func TestLimitPerUser(t *testing.T) {
	w := watcher(t)
	w.LimitPerUser(2)
	var ids []ID
	var last error
	for range 3 {
		var i Info
		if i, last = w.Hold(uint32(sleeper(t).Process.Pid), 1000); last == nil {
			ids = append(ids, i.ID)
		}
	}
	require.ErrorIs(t, last, ErrUserLimit)
	require.Len(t, ids, 2)
	_, err := w.Hold(uint32(sleeper(t).Process.Pid), 1001) // others have their own
	require.NoError(t, err)
	_, err = w.Hold(ids[0].PID, 1000) // and what is watched costs nothing
	require.NoError(t, err)
	w.Drop(ids[1])
	_, err = w.Hold(uint32(sleeper(t).Process.Pid), 1000)
	require.NoError(t, err)
}

// Whatever the bound is, one user leaves descriptors for the others.
func TestHalfForOneUser(t *testing.T) {
	f := newFaulty()
	limit := uint64(descriptors(t) + 30)
	f.getrlimit = func(_ int, lim *unix.Rlimit) error { lim.Cur = limit; return nil }
	w, err := newWatcher(&f.kernel)
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	w.users[1000] = w.usable() / 2
	_, err = w.Hold(uint32(sleeper(t).Process.Pid), 1000)
	require.ErrorIs(t, err, ErrUserLimit)
	_, err = w.Hold(uint32(sleeper(t).Process.Pid), 1001)
	require.NoError(t, err)
	limit *= 100 // prlimit(1)
	_, err = w.Hold(uint32(sleeper(t).Process.Pid), 1000)
	require.NoError(t, err)
}

// A recorded process is watched even above the bound, because its lock exists.
func TestRecordsAboveTheLimit(t *testing.T) {
	w := watcher(t)
	w.LimitPerUser(1)
	news, tell := listener()
	for range 3 {
		pid := uint32(sleeper(t).Process.Pid)
		start, err := Start(pid)
		require.NoError(t, err)
		w.Watch(ID{pid, start}, 1000, tell)
		require.Equal(t, Alive, next(t, news).state)
	}
}

func TestErrors(t *testing.T) {
	require.False(t, errors.Is(failed(1, "x", errFormat), ErrGone))
	require.Equal(t, "process 1: x: its format is not that of proc(5)", failed(1, "x", errFormat).Error())
	require.Equal(t, "alive ended undetermined invalid",
		Alive.String()+" "+Ended.String()+" "+Undetermined.String()+" "+State(0).String())
}
