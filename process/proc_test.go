package process

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	const tail = " S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 22"
	var i Info
	require.NoError(t, i.parseStat([]byte("42 (a) b) (c)"+tail)))
	require.EqualValues(t, 4711, i.Start)
	// The first thread of a process has ended, the others have not.
	require.NoError(t, i.parseStat([]byte("42 (x) Z"+tail[2:])))
	require.ErrorIs(t, i.parseStat([]byte("42 (x) S 1 1 1 0 -1 2129984 1 2 3 4 5 6 7 8 20 0 1 0 4711 22")),
		ErrKernelThread)
	for _, bad := range []string{"", "42", "42 (x)", "42 (x) S 1",
		"42 (x) S 1 1 1 0 -1 y 1 2 3 4 5 6 7 8 20 0 1 0 4711 22",
		"42 (x) S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 z 22"} {
		require.ErrorIs(t, i.parseStat([]byte(bad)), errFormat, bad)
	}
}

func TestParseStatus(t *testing.T) {
	const begin = "Name:\tx\nTgid:\t42\nPid:\t42\nPPid:\t7\nUid:\t1000\t0\t0\t0\n"
	i := Info{ID: ID{PID: 42}}
	require.NoError(t, i.parseStatus([]byte(begin+"NSpid:\t42\t3\t1\n")))
	require.Equal(t, Info{ID: ID{PID: 42}, UID: 1000, Parent: 7, Numbers: []uint32{42, 3, 1}}, i)
	require.True(t, i.Nested())
	require.NoError(t, i.parseStatus([]byte(begin))) // a kernel without pid namespaces
	require.False(t, i.Nested())
	for _, bad := range []string{"", "Tgid:\t42\n", begin + "NSpid:\n", begin + "NSpid:\t43\n", begin +
		"NSpid:\t42\tx\n", strings.Replace(begin, "Uid", "Vid", 1)} {
		require.ErrorIs(t, i.parseStatus([]byte(bad)), errFormat, bad)
	}
	i.PID = 43
	require.ErrorIs(t, i.parseStatus([]byte(begin)), ErrThread)
}

// A process may be in so many groups that NSpid is far down in its status.
func TestManyGroups(t *testing.T) {
	w := watcher(t)
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Credential: &syscall.Credential{}}
	for i := range 2000 {
		cmd.SysProcAttr.Credential.Groups = append(cmd.SysProcAttr.Credential.Groups, uint32(1<<30+i))
	}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	i, err := w.Hold(uint32(cmd.Process.Pid), 0)
	require.NoError(t, err)
	require.Equal(t, []uint32{i.PID, 1}, i.Numbers)
}

// A thread of a living process, and one of the kernel.
func TestThreads(t *testing.T) {
	w := watcher(t)
	tid, end := make(chan int), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tid <- unix.Gettid()
		<-end
	}()
	defer close(end)
	thread := uint32(<-tid)
	if thread == uint32(os.Getpid()) {
		t.Skip("the goroutine got the first thread")
	}
	_, err := w.Hold(thread, 0)
	require.ErrorIs(t, err, ErrThread)
	f := newFaulty() // before Linux 6.15
	f.fail["pidfd_open"] = unix.EINVAL
	_, _, err = f.examine(thread)
	require.ErrorIs(t, err, ErrThread)
	_, err = w.Hold(2, 0) // kthreadd
	require.ErrorIs(t, err, ErrKernelThread)

	// Recorded by an older version: it is unknown what was meant.
	start, err := Start(thread)
	require.NoError(t, err)
	news, tell := listener()
	w.Watch(ID{thread, start}, 0, tell)
	require.Equal(t, Undetermined, next(t, news).state)
	// It began later than what was recorded: the pid belonged to another process.
	w.Watch(ID{thread, start - 1}, 0, tell)
	require.Equal(t, Ended, next(t, news).state)
}

// The first thread of a process ends, and the process lives on.
func TestFirstThreadEnded(t *testing.T) {
	w := watcher(t)
	// The first thread goes, a second one sleeps.
	cmd := exec.Command("python3", "-c", `
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
print(flush=True)
ctypes.CDLL(None).syscall(60 if __import__("platform").machine() == "x86_64" else 93, 0)`)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start(), "install python3")
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	_, err = out.Read(make([]byte, 1))
	require.NoError(t, err)
	pid := uint32(cmd.Process.Pid)
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile(path(pid, "stat"))
		return err == nil && strings.Contains(string(stat), ") Z ")
	}, patience, pause)
	i, err := w.Hold(pid, 0)
	require.NoError(t, err)
	news, tell := listener()
	w.Watch(i.ID, 0, tell)
	quiet(t, w, news)
	require.NoError(t, cmd.Process.Kill())
	require.Equal(t, Ended, next(t, news).state)
}

// A process that is alive is told from one that has ended, waited for or not, and from another one
// with its pid. What can't be found out is neither.
func TestLives(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	id := ID{PID: uint32(cmd.Process.Pid)}
	var err error
	id.Start, err = Start(id.PID)
	require.NoError(t, err)
	require.NoError(t, Lives(id))
	require.ErrorIs(t, Lives(ID{id.PID, id.Start + 1}), ErrGone)
	require.ErrorIs(t, Lives(ID{2, 0}), ErrGone, "kthreadd")
	require.ErrorIs(t, Lives(ID{}), ErrGone)
	f := newFaulty()
	f.fail["pidfd_open"] = unix.EMFILE
	require.ErrorIs(t, f.lives(id), unix.EMFILE)
	require.NotErrorIs(t, f.lives(id), ErrGone)
	require.NoError(t, cmd.Process.Kill())
	require.Eventually(t, func() bool { return errors.Is(Lives(id), ErrGone) }, patience, pause, "it is a zombie")
	stat, err := os.ReadFile(path(id.PID, "stat"))
	require.NoError(t, err, "nobody has waited for it")
	require.Contains(t, string(stat), ") Z ")
	_ = cmd.Wait()
	require.ErrorIs(t, Lives(id), ErrGone)
}
