package lockd

import (
	"fmt"
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

// crashRig is the world of one run of a story.
type crashRig struct {
	t       *testing.T
	cluster *local.Cluster
	host    *host
	other   map[string]dlm.Lockspace // node 2
	v       *victim
}

var (
	crashSpaces    = []string{"pool", "vms"}
	crashResources = []string{"a", "b", "c"}
	alice          = user(1000, ":1.10")
)

func newCrashRig(t *testing.T) *crashRig {
	r := &crashRig{t: t, cluster: local.NewCluster("c"), other: map[string]dlm.Lockspace{}}
	r.host = newHost(r.cluster.AddNode(1))
	r.host.config.Lockspaces = crashSpaces
	r.host.config.HealthInterval = time.Hour
	e := r.cluster.AddNode(2).Engine()
	for _, name := range crashSpaces {
		h, err := e.Create(t.Context(), name, func(dlm.Event) {})
		require.NoError(t, err)
		r.other[name] = h
	}
	r.v = rise(t, r.host, fate{})
	return r
}

// hold takes locks before the story begins.
func (r *crashRig) hold(owner string, want ...api.Want) []api.Grant {
	a := r.v.acquireAll(alice, owner, 0, want...)
	r.v.settle()
	require.NoError(r.t, a.err)
	return a.grants
}

// after is what there is when the service has started again.
type after struct {
	*crashRig
	died   bool
	before []api.Lost // told by the process that died
	locks  []api.LockInfo
}

// find returns the lock of an owner.
func (a *after) find(owner, space, resource string) (api.LockInfo, bool) {
	i := slices.IndexFunc(a.locks, func(l api.LockInfo) bool {
		return l.Owner == owner && l.Lockspace == space && l.Resource == resource
	})
	if i < 0 {
		return api.LockInfo{}, false
	}
	return a.locks[i], true
}

// acquired checks an acquire: granted means held, refused means not held, and
// without an answer it is all or nothing.
func (a *after) acquired(call *told, owner string, want ...api.Want) {
	n := 0
	for i, w := range want {
		l, ok := a.find(owner, w.Lockspace, w.Resource)
		if !ok {
			continue
		}
		n++
		require.Equal(a.t, w.Mode, l.Mode)
		if call.ok() {
			require.Equal(a.t, call.grants[i].LockID, l.LockID, "the lockid has changed")
			require.Equal(a.t, call.grants[i].Ref, l.Ref)
			require.Equal(a.t, call.grants[i].Token, l.Token)
		}
	}
	switch {
	case call.ok():
		require.Equal(a.t, len(want), n, "granted, and not there")
	case call.answered:
		require.Zero(a.t, n, "refused with %v, and there", call.err)
	default:
		require.Contains(a.t, []int{0, len(want)}, n, "a part of it is there")
	}
}

// released checks a release of one lock.
func (a *after) released(call *told, owner string, g api.Grant) {
	l, ok := a.find(owner, g.Lockspace, g.Resource)
	switch {
	case call.ok():
		require.False(a.t, ok, "released, and there")
	case call.answered:
		require.True(a.t, ok, "not released because of %v, and gone", call.err)
	case ok:
		require.Equal(a.t, g.LockID, l.LockID)
	}
}

// unchanged checks that a lock is what it was.
func (a *after) unchanged(owner string, g api.Grant, m dlm.Mode) {
	l, ok := a.find(owner, g.Lockspace, g.Resource)
	require.True(a.t, ok, "%s/%s of %s is gone", g.Lockspace, g.Resource, owner)
	require.Equal(a.t, g.LockID, l.LockID, "the lockid has changed")
	require.Equal(a.t, g.Ref, l.Ref)
	require.Equal(a.t, m, l.Mode)
}

// story is one sequence of calls. prepare makes what is there before; act makes
// the calls and returns what to check when the service has started again.
type story struct {
	name  string
	play  func(r *crashRig, armed func()) (check func(a *after))
	lose  bool // locks may be lost in it
	stray bool // it is about an orphan that nobody knows of
}

// TestCrash plays each story once to count its steps, then once for every step,
// dying there, and for every step of the start after that, dying once more.
// Then a new process on the same node and state file must know exactly what the
// lock manager has, and every client's answer must be true.
func TestCrash(t *testing.T) {
	for _, st := range crashStories {
		t.Run(st.name, func(t *testing.T) {
			steps := playCrash(t, st, fate{}, fate{})
			require.NotEmpty(t, steps)
			deaths := 0
			for i := range steps {
				for _, late := range []bool{false, true} {
					first := fate{step: i + 1, late: late}
					t.Logf("dies before %s (%d)", steps[i], i+1)
					again := playCrash(t, st, first, fate{})
					for j := range again {
						for _, late := range []bool{false, true} {
							playCrash(t, st, first, fate{step: j + 1, late: late})
							deaths++
						}
					}
				}
			}
			t.Logf("%d steps %v, %d pairs of deaths", len(steps), steps, deaths)
		})
	}
}

// playCrash plays a story that ends with a death, and a start that may end with
// one, and then a start that lives. It returns the steps of what lived first.
func playCrash(t *testing.T, st story, first, second fate) (steps []string) {
	synctest.Test(t, func(t *testing.T) {
		r := newCrashRig(t)
		defer func() { r.v.bury() }()
		check := st.play(r, func() { r.v.settle(); r.v.arm(first) })
		r.v.settle()
		a := &after{crashRig: r, died: r.v.died.Load(), before: r.v.lost[r.v.lostAt:]}
		if first.step == 0 {
			require.False(t, r.v.died.Load())
			steps = r.v.taken()
		} else {
			require.True(t, r.v.died.Load(), "step %d was not reached in %v", first.step, r.v.taken())
		}
		r.v.bury()
		r.cluster.Fail(nil)
		r.host.journal.SetFail(0)
		for _, s := range crashSpaces {
			r.cluster.Resume(s)
		}

		r.v = rise(t, r.host, second)
		if second.step != 0 {
			if !r.v.died.Load() { // the first death was another one: it may have left less to do
				require.Less(t, len(r.v.taken()), second.step)
			}
			a.before = append(a.before, r.v.lost...)
			r.v.bury()
			r.v = rise(t, r.host, fate{})
		} else if first.step != 0 {
			steps = r.v.taken()
		}
		r.checkAfter(a, st)
		check(a)
	})
	return steps
}

// checkAfter checks what is true after every story.
func (r *crashRig) checkAfter(a *after, st story) {
	t, v := r.t, r.v
	require.True(t, v.Status().Ready)
	time.Sleep(time.Minute) // what is tried again later, too
	v.settle()
	require.NoError(t, v.t.Check())
	v.List(api.Filter{}, func(page api.Page, _ error) { a.locks = page.Locks })
	why := "not asked"
	v.Idle(func(needed string) { why = needed })
	v.settle()
	require.NotContains(t, why, "under way")
	require.NotContains(t, why, "released")
	r.checkEngine(a, st)
	r.checkRecords(a)
	if !st.lose {
		require.Empty(t, a.before, "called lost by the process that died")
		require.Empty(t, v.lost, "called lost after the restart")
	}
	for _, l := range a.locks {
		require.Equal(t, api.Held, l.State, fmt.Sprint(l))
	}
}

// stateOf returns how far a lockspace has got; 0 if it is not known.
func (v *victim) stateOf(name string) (is api.SpaceState) {
	v.Lockspaces(func(in []api.LockspaceInfo, _ error) {
		for _, sp := range in {
			if sp.Name == name {
				is = sp.State
			}
		}
	})
	v.settle()
	return is
}

// checkEngine holds what the service lists against the lock manager: no lock that
// it does not know, none that it only believes in.
func (r *crashRig) checkEngine(a *after, st story) {
	t, e := r.t, r.v.engine
	me, err := e.Node(t.Context())
	require.NoError(t, err)
	for _, name := range crashSpaces {
		is := r.v.stateOf(name)
		if is == 0 {
			continue
		}
		require.Equal(t, api.SpaceReady, is, "lockspace %s", name)
		require.Equal(t, state.Joined, r.host.journal.Spaces[name].Phase)
		got := map[dlm.LockID]string{}
		for _, res := range append([]string{api.AnchorName("test")}, crashResources...) {
			q, err := e.Queues(t.Context(), name, res)
			require.NoError(t, err)
			for _, h := range slices.Concat(q.Granted, q.Converting) {
				if h.Node == me.ID {
					got[h.LockID] = fmt.Sprint(res, " ", h.Mode)
				}
			}
		}
		var unknown []api.Orphan // those that the engine shows, and those that were adopted by accident
		r.v.Orphans(name, func(o []api.Orphan, err error) { unknown = o })
		r.v.settle()
		require.True(t, st.stray || len(unknown) == 0, "locks that nobody knows of: %v", unknown)
		for _, o := range unknown {
			delete(got, o.LockID)
		}
		want := map[dlm.LockID]string{r.host.journal.Spaces[name].AnchorID: fmt.Sprint(api.AnchorName("test"), " ", dlm.NL)}
		for _, l := range a.locks {
			if l.Lockspace == name {
				want[l.LockID] = fmt.Sprint(l.Resource, " ", l.Mode)
			}
		}
		require.Equal(t, want, got, "locks of %s in the table and in the lock manager", name)
	}
}

// checkRecords holds what the service lists against the state file.
func (r *crashRig) checkRecords(a *after) {
	want, got := map[uint64]string{}, map[uint64]string{}
	for _, rec := range r.host.journal.Contents("").Locks {
		require.Equal(r.t, state.Held, rec.Phase)
		got[rec.ID] = fmt.Sprint(rec.Lockspace, rec.Resource, rec.LockID, rec.Mode, rec.Token)
	}
	for _, l := range a.locks {
		want[uint64(l.Ref)] = fmt.Sprint(l.Lockspace, l.Resource, l.LockID, l.Mode, l.Token)
	}
	require.Equal(r.t, want, got, "locks in the table and in the state file")
}
