package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// smallFS mounts a file system of so many KiB and returns a state directory on
// it.
func smallFS(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size+",mode=0700"),
		"it takes root to mount a file system")
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return filepath.Join(dir, "state")
}

// fillUp leaves no space in the file system of a state directory.
func fillUp(t *testing.T, state string) (filler string) {
	t.Helper()
	filler = filepath.Join(filepath.Dir(state), "filler")
	fd, err := os.Create(filler)
	require.NoError(t, err)
	defer func() { require.NoError(t, fd.Close()) }()
	for err == nil {
		_, err = fd.Write(make([]byte, 512))
	}
	require.ErrorIs(t, err, unix.ENOSPC)
	return filler
}

// small is a daemon on a small file system, with a helper for lost locks.
type small struct {
	client
	*running
	bus     *testbus.Bus
	state   string
	helpers string // directory of what the helper writes
	guard   string // the option that names it
}

// newSmall starts one and takes some locks that name the helper.
func newSmall(t *testing.T, size string, resources ...string) *small {
	t.Helper()
	s := &small{bus: testbus.Start(t, testbus.Daemon), state: smallFS(t, size), helpers: t.TempDir()}
	s.guard = guardConfig(t, s.helpers, `echo "$DLM_RESOURCE" >> ran`)
	s.client = newClient(s.bus.Dial(t))
	s.again(t)
	require.NoError(t, s.join(crashSpace))
	s.take(t, resources...)
	return s
}

// again starts another daemon.
func (s *small) again(t *testing.T) {
	t.Helper()
	s.running = start(t, s.bus, s.state, s.guard)
}

func (s *small) take(t *testing.T, resources ...string) {
	t.Helper()
	for _, r := range resources {
		_, err := s.acquire(crashSpace, r, "EX", "owner", "vm", "on-lost", "guard")
		require.NoError(t, err)
	}
}

// there is which resources are locked.
func (s *small) there(t *testing.T) map[string]bool {
	t.Helper()
	m := map[string]bool{}
	for _, r := range s.settled(t) {
		m[r.Resource] = true
	}
	return m
}

// refused checks that err is for want of room.
func refused(t *testing.T, err error) {
	t.Helper()
	require.Equal(t, "org.example.DlmLock.Error.StateWriteFailed", errorName(err))
}

// takesAgain waits until new locks are taken.
func (s *small) takesAgain(t *testing.T, resource string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_,
			err := s.acquire(crashSpace, resource, "EX", "owner", "vm")
		return err == nil
	},
		patience, 50*time.Millisecond, "it goes on by itself")
}

func (s *small) awaitDegraded(t *testing.T, degraded bool) {
	t.Helper()
	require.Eventually(t, func() bool { return (s.property(t, "Degraded") != "") == degraded }, patience,
		20*time.Millisecond)
}

// awaitSilence waits until the daemon has logged nothing for so long. Lines that it has logged before
// may not have arrived here yet.
func (s *small) awaitSilence(t *testing.T, quiet time.Duration) {
	t.Helper()
	said, since := len(s.log()), time.Now()
	for end := since.Add(patience); time.Since(since) < quiet; time.Sleep(100 * time.Millisecond) {
		if n := len(s.log()); n != said {
			said, since = n, time.Now()
		}
		require.True(t, time.Now().Before(end), "it goes on: %s", s.log())
	}
}

// nothingLost compares what the daemon says with a life in which nothing was lost.
func (s *small) nothingLost(t *testing.T) {
	t.Helper()
	require.NotContains(t, s.log(), "lock lost")
	require.NotContains(t, s.log(), "can not be used")
	require.Empty(t, ran(t, s.helpers), "a helper was run for a lock that was let go of")
}

// A lock that is released in a full directory stays released and is not taken for lost: otherwise a
// guest that had released its disk in order would be switched off.
func TestReleaseInAFullDirectory(t *testing.T) {
	s := newSmall(t, "200k", "a", "b", "c", "d")
	filler := fillUp(t, s.state)
	var err error
	for n := 0; err == nil; n++ { // into the room that the file has
		_, err = s.acquire(crashSpace, fmt.Sprint("more", n), "EX", "label", strings.Repeat("x", 1000))
	}
	refused(t, err)
	require.ErrorContains(t, err, "make room")
	for _, r := range []string{"a", "b", "c"} {
		require.NoError(t, s.release(crashSpace, r, "owner", "vm"))
	}
	s.kill()
	s.again(t)
	there := s.there(t)
	require.True(t, there["d"])
	for _, r := range []string{"a", "b", "c"} {
		require.False(t, there[r], "%s was released, and is back", r)
	}
	s.nothingLost(t)
	require.NoError(t, os.Remove(filler))
	s.takesAgain(t, "a")
}

// A state file that has filled its file system is usable again when the locks are released, without
// anybody making room.
func TestFullOfLocks(t *testing.T) {
	s := newSmall(t, "200k")
	n := 0
	var err error
	for ; err == nil; n++ {
		_, err = s.acquire(crashSpace, fmt.Sprint("disk", n), "EX", "owner", "vm", "on-lost", "guard")
	}
	refused(t, err)
	require.Greater(t, n, 100)
	require.NoError(t, s.call("ReleaseOwner", "", "vm").Err)
	s.takesAgain(t, "again")
	s.kill()
	s.again(t)
	require.Equal(t, map[string]bool{"again": true}, s.there(t))
	s.nothingLost(t)
}

// TestCrashAtEveryStepOfReleasesInAFullDirectory kills the program at every step of three releases
// while there is no space: each lock is held or gone as the client was told, and none is reported
// as lost.
func TestCrashAtEveryStepOfReleasesInAFullDirectory(t *testing.T) {
	s := newSmall(t, "200k")
	names := []string{"a", "b", "c"}
	first, stride := shareOfSteps(t)
	for n, done := first, false; !done; n += stride {
		s.take(t, names...)
		filler := fillUp(t, s.state)
		s.kill()
		s.running = launch(t, hooked(t), s.bus.Address, s.state, []string{fmt.Sprintf("DLMLOCKD_CRASH_STEP=%d", n)},
			s.guard)
		released := map[string]bool{}
		for i := 0; s.readyOrDead(t) && i < len(names); i++ {
			err := s.release(crashSpace, names[i], "owner", "vm")
			if err != nil {
				require.NotContains(t, errorName(err), "org.example", "step %d", n)
				break
			}
			released[names[i]] = true
		}
		done = len(released) == len(names)
		s.kill()
		s.again(t)
		unknown, there := 0, s.there(t)
		for _, r := range names {
			require.False(t, released[r] && there[r], "step %d: %s was released, and is back", n, r)
			if !released[r] && !there[r] {
				unknown++ // the one whose answer did not come
			}
		}
		require.LessOrEqual(t, unknown, 1, "step %d", n)
		s.nothingLost(t)
		require.NoError(t, s.call("ReleaseOwner", "", "vm").Err)
		require.NoError(t, os.Remove(filler))
		s.awaitDegraded(t, false)
		require.True(t, !done || n > 10, "the hook does not see the steps")
	}
}

// A state directory that is removed while the daemon runs exists again, with the whole map, before
// anybody has called; this is logged once.
func TestStateDirectoryRemoved(t *testing.T) {
	s := newSmall(t, "1m", "a", "b")
	before := s.list(t)
	file := filepath.Join(s.state, "state.toml")
	for name, spoil := range map[string]func() error{
		"removed":          func() error { return os.RemoveAll(s.state) },
		"removed and made": func() error { return errors.Join(os.RemoveAll(s.state), os.Mkdir(s.state, 0o700)) },
		"the file removed": func() error { return os.Remove(file) },
	} {
		require.NoError(t, spoil())
		require.Eventually(t, func() bool { _, err := os.Stat(file); return err == nil }, patience, 20*time.Millisecond,
			name)
		s.await(t, "that it was", logs("was removed or replaced"))
		s.kill()
		require.Equal(t, 1, strings.Count(s.log(), "was removed or replaced"), "%s: %s", name, s.log())
		s.again(t)
		require.Equal(t, before, s.settled(t), name)
		s.nothingLost(t)
	}
}

// If it can't be created again, that is logged once, with what to do; locks that are held can be
// released, and no new ones acquired.
func TestStateDirectoryCanNotBeMadeAgain(t *testing.T) {
	s := newSmall(t, "1m", "a", "b")
	above := filepath.Dir(s.state)
	hidden := t.TempDir() // as in the sandbox of the unit: what is above is read-only
	require.NoError(t, unix.Mount(hidden, above, "", unix.MS_BIND, ""))
	require.NoError(t, unix.Mount("", above, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	mounted := true
	defer func() {
		if mounted {
			_ = unix.Unmount(above, unix.MNT_DETACH)
		}
	}()
	s.awaitDegraded(t, true)
	require.Contains(t, s.property(t, "Degraded"), "read-only file system")
	require.NoError(t, s.release(crashSpace, "a", "owner", "vm"), "people must be able to let go")
	_, err := s.acquire(crashSpace, "new", "EX", "owner", "vm")
	refused(t, err)
	s.awaitSilence(t, 3*time.Second) // no line each second
	require.NoError(t, unix.Mount("", above, "", unix.MS_BIND|unix.MS_REMOUNT, ""))
	s.awaitDegraded(t, false)
	require.Equal(t, map[string]bool{"b": true}, s.there(t))
	text, err := os.ReadFile(filepath.Join(s.state, "state.toml"))
	require.NoError(t, err)
	require.Contains(t, string(text), "resource = \"b\"")
	s.nothingLost(t)
	s.kill()
	s.again(t)
	require.Equal(t, map[string]bool{"b": true}, s.there(t))
	s.kill()
	require.NoError(t, unix.Unmount(above, unix.MNT_DETACH))
	mounted = false
}
