package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// guardConfig writes a configuration with the helper "guard", a script, and
// returns the option that names it.
func guardConfig(t *testing.T, dir, script string) string {
	t.Helper()
	path := filepath.Join(dir, "dlmlockd.toml")
	require.NoError(t,
		os.WriteFile(path, []byte("[on-lost.guard]\ncommand = [\"/bin/sh\", \"-c\", '''cd "+dir+"; "+script+"''']\n"),
			0o600))
	return "--config=" + path
}

// ran is what the helper has written, line by line.
func ran(t *testing.T, dir string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "ran"))
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(t, err)
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func awaitRan(t *testing.T, dir string, enough func(lines []string) bool) {
	t.Helper()
	require.Eventually(t, func() bool { return enough(ran(t, dir)) }, patience, 5*time.Millisecond)
}

// A helper has none of the descriptors that were open when the service was started.
func TestHelperInheritsNothing(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	guard := guardConfig(t, dir, `ls -l /proc/$$/fd > fds; echo >> ran`)
	wrapper := filepath.Join(dir, "wrapper")
	require.NoError(t, os.WriteFile(wrapper,
		[]byte("#!/bin/sh\nexec 3<"+wrapper+" 9<"+wrapper+"\nexec "+program(t)+" \"$@\"\n"), 0o700))
	p := launch(t, wrapper, bus.Address, filepath.Join(dir, "state"), nil, guard)
	p.awaitTold(t, "READY=1")
	c := newClient(bus.Dial(t))
	require.NoError(t, c.join(crashSpace))
	_, err := c.acquire(crashSpace, "disk", "EX", "owner", "vm", "on-lost", "guard")
	require.NoError(t, err)
	require.NoError(t, c.call("LeaveLockspace", crashSpace, opts("force", true)).Err)
	awaitRan(t, dir, func(l []string) bool { return len(l) == 1 })
	fds, err := os.ReadFile(filepath.Join(dir, "fds"))
	require.NoError(t, err)
	require.NotContains(t, string(fds), "wrapper")
	require.Equal(t, exitOK, p.stop(t))
}

// A helper that is running when the daemon is killed is run again by the next daemon; after an
// orderly end it is not.
func TestHelperRunsAgainAfterAKill(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	guard := guardConfig(t, dir,
		`echo "$DLM_RESOURCE $DLM_DATA $DLM_REASON" >> ran; while [ -e wait ]; do sleep 0.01; done`)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "wait"), nil, 0o600))
	state := filepath.Join(dir, "state")
	c := newClient(bus.Dial(t))
	p := start(t, bus, state, guard)
	require.NoError(t, c.join(crashSpace))
	_, err := c.acquire(crashSpace, "disk", "EX", "owner", "vm", "on-lost", "guard", "on-lost-data", "pause")
	require.NoError(t, err)
	p.kill()

	// The record is enough: another process detects the loss.
	p = start(t, bus, state, guard)
	require.NoError(t, c.call("LeaveLockspace", crashSpace, opts("force", true)).Err)
	awaitRan(t, dir, func(l []string) bool { return len(l) == 1 })
	p.kill()
	p = start(t, bus, state, guard)
	awaitRan(t, dir, func(l []string) bool { return len(l) == 2 })
	require.Equal(t, []string{"disk pause this node left the lockspace", "disk pause this node left the lockspace"},
		ran(t, dir))
	require.NoError(t, os.Remove(filepath.Join(dir, "wait")))
	p.await(t, "the end of the helper", func(_ []string, log string) bool { return strings.Contains(log, "has ended") })
	require.Zero(t, p.stop(t))

	p = start(t, bus, state, guard)
	require.Zero(t, p.stop(t))
	require.Len(t, ran(t, dir), 2, "it is done")
}

// TestCrashWhileLocksAreLost kills the program at every step of losing two locks
// that have a helper: each lock is still there, or its helper has run.
func TestCrashWhileLocksAreLost(t *testing.T) {
	bus := testbus.Start(t, testbus.Daemon)
	c := newClient(bus.Dial(t))
	for n, done := 1, false; !done; n++ {
		dir := t.TempDir()
		guard := guardConfig(t, dir, `echo "$DLM_RESOURCE" >> ran`)
		state := filepath.Join(dir, "state")
		p := start(t, bus, state, guard)
		require.NoError(t, c.join(crashSpace))
		for _, r := range []string{"a", "b"} {
			_, err := c.acquire(crashSpace, r, "EX", "owner", "vm", "on-lost", "guard")
			require.NoError(t, err)
		}
		p.kill()
		p = launch(t, hooked(t), bus.Address, state, []string{fmt.Sprintf("DLMLOCKD_CRASH_STEP=%d", n)}, guard)
		if p.readyOrDead(t) && c.call("LeaveLockspace", crashSpace, opts("force", true)).Err == nil {
			// The ends of the helpers are steps as well.
			awaitRan(t, dir, func(l []string) bool {
				return p.diesWithin(0) || len(l) == 2 && strings.Count(p.log(), "has ended") == 2
			})
			done = !p.diesWithin(200 * time.Millisecond)
			p.kill()
		}
		<-p.exited
		p = start(t, bus, state, guard)
		// An unfinished leave goes on after the start.
		awaitRan(t, dir, func(l []string) bool {
			known := map[string]bool{}
			for _, r := range l {
				known[r] = true
			}
			for _, l := range c.list(t) {
				known[l.Resource] = true
			}
			return known["a"] && known["b"]
		})
		p.kill()
		if done {
			require.Greater(t, n, 10, "the hook does not see the steps")
		}
	}
}

// diesWithin gives a daemon time to die without help.
func (p *running) diesWithin(d time.Duration) bool {
	select {
	case <-p.exited:
		return true
	case <-time.After(d):
		return false
	}
}
