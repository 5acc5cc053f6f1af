package process

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// container starts a shell as the first process of a pid namespace, and returns
// its pid here. It runs script and then reads its standard input to the end.
func container(t *testing.T, script string) (pid uint32, lines *bufio.Scanner) {
	cmd := exec.Command("sh", "-c", script+"\ncat >/dev/null")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return uint32(cmd.Process.Pid), bufio.NewScanner(out)
}

// numbers32 reads n lines of a name and a number, in whatever order they come.
func numbers32(t *testing.T, lines *bufio.Scanner, n int) map[string]uint32 {
	t.Helper()
	all := map[string]uint32{}
	for range n {
		require.True(t, lines.Scan(), lines.Err())
		name, text, _ := strings.Cut(lines.Text(), " ")
		number, err := strconv.ParseUint(text, 10, 32)
		require.NoError(t, err)
		all[name] = uint32(number)
	}
	return all
}

// For a caller in our own pid namespace the pid means what it says.
func TestTranslateHere(t *testing.T) {
	w := watcher(t)
	pid, err := w.Translate(uint32(os.Getpid()), 4711, 0)
	require.NoError(t, err)
	require.EqualValues(t, 4711, pid)
	me, err := Start(uint32(os.Getpid()))
	require.NoError(t, err)
	_, err = w.Translate(uint32(os.Getpid()), 4711, me)
	require.NoError(t, err)
	_, err = w.Translate(uint32(os.Getpid()), 4711, me-1)
	require.ErrorIs(t, err, ErrGone, "it began after it was seen")
	_, err = w.Translate(1<<30, 4711, 0)
	require.ErrorIs(t, err, ErrGone)
}

// A caller in another pid namespace means the processes of that one.
func TestTranslateContainer(t *testing.T) {
	w := watcher(t)
	// The third process loses its parent and becomes a child of the shell, which is
	// the first process of the namespace.
	shell, lines := container(t, `
		sleep 1000 & echo child $!
		sh -c 'sleep 1001 & echo grandchild $!; exec sleep 1000' &
		sh -c 'sleep 1002 >/dev/null & echo adopted $!'
		echo end 0`)
	n := numbers32(t, lines, 4)

	pid, err := w.Translate(shell, 1, 0)
	require.NoError(t, err)
	require.Equal(t, shell, pid, "itself")
	pid, err = w.Translate(shell, n["child"], 0)
	require.NoError(t, err)
	requireArgv(t, "sleep\x001000\x00", pid)
	pid, err = w.Translate(shell, n["adopted"], 0)
	require.NoError(t, err)
	requireArgv(t, "sleep\x001002\x00", pid)
	_, err = w.Translate(shell, n["grandchild"], 0)
	require.ErrorIs(t, err, ErrElsewhere)
	for _, n := range []uint32{999999, 0} {
		_, err = w.Translate(shell, n, 0)
		require.ErrorIs(t, err, ErrElsewhere)
	}
}

// A child in a namespace below has a number there that is not meant.
func TestTranslateDeeper(t *testing.T) {
	w := watcher(t)
	shell, lines := container(t, `unshare -pf sh -c 'echo inner $$; exec sleep 1000' &`)
	require.EqualValues(t, 1, numbers32(t, lines, 1)["inner"])
	pid, err := w.Translate(shell, 1, 0)
	require.NoError(t, err)
	require.Equal(t, shell, pid, "1 is the shell, not the first process further down")
}

func TestTranslateFails(t *testing.T) {
	shell, lines := container(t, `echo shell $$`)
	numbers32(t, lines, 1)
	for _, call := range []string{"pidfd_open", "open stat", "open status", "read", "poll", "readdir"} {
		f := newFaulty()
		w, err := newWatcher(&f.kernel)
		require.NoError(t, err)
		require.NoError(t, w.checkProc())
		f.fail[call] = unix.EMFILE
		_, err = w.Translate(shell, 2, 0)
		require.Error(t, err)
		require.False(t, certain(err), "%s: %v", call, err)
		require.NoError(t, w.Close())
	}
}

// A caller with very many threads or children costs one call no more than the bound.
func TestTranslateIsBounded(t *testing.T) {
	shell, lines := container(t, `echo shell $$`)
	numbers32(t, lines, 1)
	for what, children := range map[string]string{"threads": "", "children": strings.Repeat("7 ", 1000)} {
		f := newFaulty()
		w, err := newWatcher(&f.kernel)
		require.NoError(t, err)
		require.NoError(t, w.checkProc())
		threads := mostChildren
		if children == "" {
			threads = 100_000
		}
		f.readDir = func(path string, most int) ([]os.DirEntry, error) {
			one, err := linux.readDir(path, most)
			return slices.Repeat(one[:1], min(threads, most)), err
		}
		opened, file := 0, filepath.Join(t.TempDir(), "children")
		require.NoError(t, os.WriteFile(file, []byte(children), 0o600))
		f.open = func(path string, flags int, mode uint32) (int, error) {
			if strings.HasSuffix(path, "/children") {
				opened++
				path = file
			}
			return linux.open(path, flags, mode)
		}
		_, err = w.Translate(shell, 2, 0)
		require.ErrorIs(t, err, ErrElsewhere, what)
		require.LessOrEqual(t, opened, 5, what)
		require.NoError(t, w.Close())
	}
}

// requireArgv waits until the process has become the program.
func requireArgv(t *testing.T, argv string, pid uint32) {
	t.Helper()
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(path(pid, "cmdline"))
		return err == nil && string(text) == argv
	}, patience, pause)
}
