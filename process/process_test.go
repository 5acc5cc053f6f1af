package process

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

func TestIdentify(t *testing.T) {
	id, err := Identify(uint32(os.Getpid()))
	require.NoError(t, err)
	require.NotZero(t, id.Start)
	uid, err := UID(id.PID)
	require.NoError(t, err)
	require.EqualValues(t, os.Getuid(), uid)
	_, err = UID(1 << 30)
	require.ErrorIs(t, err, ErrGone)
	_, err = Identify(1 << 30)
	require.ErrorIs(t, err, ErrGone)
}

func TestStartTime(t *testing.T) {
	const tail = " S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 22"
	n, err := startTime([]byte("42 (a) b) (c)" + tail))
	require.NoError(t, err)
	require.EqualValues(t, 4711, n)
	_, err = startTime([]byte("42 (x) Z 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 22"))
	require.ErrorIs(t, err, ErrGone)
	for _, bad := range []string{"", "42", "42 (x)", "42 (x) S 1"} {
		_, err = startTime([]byte(bad))
		require.Error(t, err, bad)
	}
}

func TestEnded(t *testing.T) {
	cmd := sleeper(t)
	before := descriptors(t)
	w := watcher(t)
	id, err := Identify(uint32(cmd.Process.Pid))
	require.NoError(t, err)
	ended := make(chan ID, 1)
	w.Watch(id, func(id ID) { ended <- id })
	select {
	case <-ended:
		require.Fail(t, "ended while it lives")
	case <-time.After(50 * time.Millisecond):
	}
	require.NoError(t, cmd.Process.Kill())
	select {
	case got := <-ended:
		require.Equal(t, id, got)
	case <-time.After(5 * time.Second):
		require.Fail(t, "not told of the end")
	}
	require.NoError(t, w.Close())
	require.Equal(t, before, descriptors(t))
}

// A pid that another process has now is not the process that was meant.
func TestReusedPID(t *testing.T) {
	w := watcher(t)
	id, err := Identify(uint32(os.Getpid()))
	require.NoError(t, err)
	id.Start--
	ended := make(chan ID, 1)
	w.Watch(id, func(id ID) { ended <- id })
	require.Equal(t, id, <-ended)
}

func TestUnwatch(t *testing.T) {
	w := watcher(t)
	cmd := sleeper(t)
	id, err := Identify(uint32(cmd.Process.Pid))
	require.NoError(t, err)
	w.Watch(id, func(ID) { panic("told of a process that is not watched") })
	w.Unwatch(id)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	gone := make(chan ID, 1)
	w.Watch(ID{PID: id.PID, Start: id.Start}, func(id ID) { gone <- id })
	<-gone
}
