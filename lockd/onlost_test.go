package lockd

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// holdGuarded takes locks that have a helper.
func (r *crashRig) holdGuarded(owner string, want ...api.Want) {
	a := &told{}
	r.v.Acquire(alice, want, api.AcquireOptions{Owner: owner, HasOwner: true, Label: "disk",
		OnLost: &api.OnLost{Helper: "guard", Data: "pause"}}, a.doneGrants())
	r.v.settle()
	require.NoError(r.t, a.err)
}

func (v *victim) list(resource string) (page []api.LockInfo) {
	v.List(api.Filter{Resource: resource}, func(p api.Page, _ error) { page = p.Locks })
	v.settle()
	return page
}

// ranFor checks that a helper has come to its end for exactly these resources,
// that it knew everything, and that nothing is left to do.
func (a *after) ranFor(resources ...string) {
	a.t.Helper()
	a.host.ranMu.Lock()
	defer a.host.ranMu.Unlock()
	var ran []string
	for _, run := range a.host.ran {
		require.Equal(a.t, "guard", run.Helper)
		require.Equal(a.t, "pause", run.Data)
		require.Equal(a.t, "vm1", run.Owner)
		require.Equal(a.t, "disk", run.Label)
		require.Equal(a.t, "vms", run.Lockspace)
		require.NotZero(a.t, run.LockID)
		require.NotEmpty(a.t, run.Reason)
		ran = append(ran, run.Resource)
	}
	slices.Sort(ran)
	require.Equal(a.t, resources, slices.Compact(ran), "died: %v", a.died)
	if !a.died {
		require.Len(a.t, a.host.ran, len(resources), "once, where nothing died")
	}
	for _, l := range a.host.journal.Contents("").Locks {
		require.NotEqual(a.t, state.Lost, l.Phase, "%+v", l)
	}
	require.Zero(a.t, a.v.Status().Helpers)
}

// A service that stops in order waits for helpers for a moment; what has not
// ended then runs again at the next start, with the words of the loss.
func TestHelperOutlastsAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(local.NewCluster("c").AddNode(1))
		var runs []api.LostRun
		var lost []api.Lost
		h.config.Helpers = map[string]api.HelperPolicy{"guard": {}}
		h.config.RunLost = func(r api.LostRun, _ func()) { runs = append(runs, r) } // for ever
		h.config.Notify = func(n api.Notice) {
			if l, ok := n.(api.LockLost); ok {
				lost = append(lost, l.Lost)
			}
		}
		d := h.start(t)
		g, err := d.acquire(root, "x", dlm.EX, api.AcquireOptions{Owner: "vm", HasOwner: true,
			OnLost: &api.OnLost{Helper: "guard"}})
		require.NoError(t, err)
		require.Equal(t, "guard", d.list(api.Filter{})[0].OnLost)
		require.Equal(t, "1 locks have a helper that is run if they are lost", d.needed())
		require.True(t, h.node.Unlock("vms", g.LockID))
		synctest.Wait()
		require.Len(t, runs, 1)
		require.Equal(t, 1, d.Service.t.Status().Helpers)
		require.Equal(t, "helpers of 1 lost locks run", d.needed())
		began := time.Now()
		d.stop()
		require.Equal(t, drainTime, time.Since(began))

		d = h.start(t)
		synctest.Wait()
		require.Len(t, runs, 2)
		require.Len(t, lost, 2, "told again as well")
		require.Equal(t, runs[0].Reason, runs[1].Reason)
		require.Equal(t, runs[0].LockID, runs[1].LockID)
		require.Empty(t, d.list(api.Filter{}), "it is no lock any more")
		_, err = d.acquire(root, "x", dlm.EX, api.AcquireOptions{Owner: "other", HasOwner: true})
		require.NoError(t, err)
		d.stop()
	})
}

// needed is what Idle tells.
func (d *daemon) needed() (why string) {
	d.Idle(func(needed string) { why = needed })
	synctest.Wait()
	return why
}

// After a reboot the helper runs too, where the state file has outlived it; if
// the service dies then, the loss is in the new file.
func TestHelperAfterAReboot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := local.NewCluster("c")
		h := newHost(cluster.AddNode(1))
		var runs []api.LostRun
		h.config.Helpers = map[string]api.HelperPolicy{"guard": {}}
		h.config.RunLost = func(r api.LostRun, _ func()) { runs = append(runs, r) }
		d := h.start(t)
		_, err := d.acquire(root, "x", dlm.EX, api.AcquireOptions{Owner: "vm", HasOwner: true,
			OnLost: &api.OnLost{Helper: "guard", Data: "d"}})
		require.NoError(t, err)
		d.stop()
		h.node.Crash()
		h.node = cluster.AddNode(1)
		h.boot = "boot-0"
		before := h.journal.Contents("").Locks
		d = h.start(t)
		synctest.Wait()
		require.Len(t, runs, 1)
		require.Equal(t, "d", runs[0].Data)
		d.stop()
		after := h.journal.Contents("").Locks
		require.Len(t, after, 1)
		require.Equal(t, before[0].ID, after[0].ID)
		require.Equal(t, state.Lost, after[0].Phase)
	})
}
