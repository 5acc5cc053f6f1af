package main

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/config"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/cluster"
	"github.com/dlmlock/dlmlockd/state"
)

// settle compares a slot with what exists, which from now on is what is known.
func (s *slot) settle(t *testing.T, where string, is held) {
	t.Helper()
	fits := func(want held) bool {
		return want.mode == is.mode && (want.lockid == is.lockid || want.lockid == 0)
	}
	if !fits(s.now) && (!s.unsure || !fits(s.other)) {
		t.Errorf("%s: %v is %+v; the client was told %+v, unsure %v of %+v", where, s, is, s.now, s.unsure, s.other)
	}
}

// readDead reads the state file that a dead daemon left, without a daemon and without changing it.
func readDead(t *testing.T, dir string) state.Contents {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "state.toml"))
	require.NoError(t, err)
	copied := t.TempDir()
	require.NoError(t, os.Chmod(copied, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(copied, "state.toml"), text, 0o600))
	boot, err := readBootID()
	require.NoError(t, err)
	f, c, err := state.Open(copied, state.Options{Header: state.Header{BootID: boot, NodeID: 1, Engine: testEngine()},
		Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, f.Close())
	return c
}

// checkFile compares every slot with the state file that the dead daemon left,
// read without the daemon. Of an unsure slot, a record in another phase than
// held is an unfinished call, which may end either way.
func checkFile(t *testing.T, dir string, slots map[[2]string]*slot) {
	t.Helper()
	c := readDead(t, dir)
	require.Empty(t, c.Damage)
	found := map[[2]string]state.Lock{}
	for _, l := range c.Locks {
		key := [2]string{l.Resource, l.Owner}
		require.Contains(t, slots, key, "a record that nobody asked for: %+v", l)
		require.NotContains(t, found, key, "two records")
		found[key] = l
	}
	for key, s := range slots {
		l, there := found[key]
		if there && l.Phase != state.Held {
			require.True(t, s.unsure, "%v is in phase %v, but every call was answered", s, l.Phase)
			continue
		}
		is := held{}
		if there {
			is = held{l.Mode.String(), uint32(l.LockID)}
		}
		s.settle(t, "state file", is)
	}
}

// checkService compares every slot with what the restarted service says, and
// that with its lock manager, and takes it as the new truth.
func checkService(t *testing.T, c client, slots map[[2]string]*slot) {
	t.Helper()
	found := map[[2]string]row{}
	byResource := map[string]map[uint32]string{}
	for _, s := range slots {
		byResource[s.resource] = map[uint32]string{}
	}
	for _, r := range c.settled(t) {
		key := [2]string{r.Resource, r.Owner}
		require.Contains(t, slots, key, "a lock that nobody asked for: %+v", r)
		require.NotContains(t, found, key, "two locks")
		found[key] = r
		byResource[r.Resource][r.LockID] = r.Mode
	}
	for key, s := range slots {
		is := held{}
		if r, ok := found[key]; ok {
			require.Equal(t, "held", r.State, "%v", s)
			is = held{r.Mode, r.LockID}
		}
		s.settle(t, "service", is)
		s.now, s.unsure, s.other = is, false, held{}
	}
	for resource, listed := range byResource {
		if testEngine() == config.EngineDLM {
			checkKernel(t, resource, listed)
			continue
		}
		// Inspect reads the value block with a null lock, which the queue may show for a moment; a
		// lock that really exists shows every time.
		var queue map[uint32]string
		for range 10 {
			if queue = c.granted(t, resource); maps.Equal(queue, listed) {
				break
			}
		}
		require.Equal(t, listed, queue, "the lock manager's queue of %s", resource)
	}
	var orphans [][]any
	require.NoError(t, c.call("ListOrphans", crashSpace).Store(&orphans))
	require.Empty(t, orphans)
}

// granted is what the lock manager shows as granted: lockid to mode.
func (c client) granted(t *testing.T, resource string) map[uint32]string {
	t.Helper()
	var details map_
	require.NoError(t, c.call("Inspect", crashSpace, resource).Store(&details))
	for _, queue := range []string{"converting", "waiting"} {
		require.Empty(t, details[queue].Value(), queue)
	}
	var queue []struct {
		LockID, Node uint32
		Mode, Wanted string
	}
	require.NoError(t, godbus.Store([]any{details["granted"].Value()}, &queue))
	m := map[uint32]string{}
	for _, h := range queue {
		m[h.LockID] = h.Mode
	}
	return m
}

// settled returns the listing after the releases that the start has finished, and the conversions
// that it has published.
func (c client) settled(t *testing.T) []row {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		all := c.list(t)
		if !slices.ContainsFunc(all, func(r row) bool { return r.State == "releasing" || r.State == "converting" }) {
			return all
		}
		if time.Now().After(end) {
			logKernelTables(t)
			return all
		}
	}
}

// logKernelTables shows what the kernel has, for a test that fails.
func logKernelTables(t *testing.T) {
	t.Helper()
	if testEngine() != config.EngineDLM {
		return
	}
	for _, table := range []string{"_all", "_waiters"} {
		text, err := os.ReadFile("/sys/kernel/debug/dlm/" + crashSpace + table)
		t.Logf("the kernel's table %s (%v):\n%s", table, err, text)
	}
}

// checkKernel compares what the service lists of a resource with what the kernel has. Locks that
// ended with the killed process may remain visible for a moment, until the kernel has told the
// master.
func checkKernel(t *testing.T, resource string, listed map[uint32]string) {
	t.Helper()
	var queue map[uint32]string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if queue = kernelQueue(t, resource); maps.Equal(queue, listed) {
			return
		}
	}
	logKernelTables(t)
	require.Equal(t, listed, queue, "the kernel's queue of %s", resource)
}

// kernelQueue returns this node's locks on a resource in the kernel, without asking the service:
// lockid to mode, with the wanted mode if one waits.
func kernelQueue(t *testing.T, resource string) map[uint32]string {
	t.Helper()
	host := cluster.Local()
	self, err := host.Node(t.Context())
	require.NoError(t, err)
	q, err := host.Queues(t.Context(), crashSpace, resource)
	require.NoError(t, err)
	m := map[uint32]string{}
	for _, h := range slices.Concat(q.Granted, q.Converting, q.Waiting) {
		if h.Node != self.ID {
			continue // another node is at work on the same resources
		}
		m[uint32(h.LockID)] = h.Mode.String()
		if h.Wanted != dlm.None {
			m[uint32(h.LockID)] += " to " + h.Wanted.String()
		}
	}
	return m
}
