package lockd

import (
	"syscall"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

var (
	vmsA  = wantOf("vms", "a", dlm.EX)
	vmsB  = wantOf("vms", "b", dlm.PR)
	poolC = wantOf("pool", "c", dlm.PW)
)

// crashStories are the calls whose every step TestCrash dies at.
var crashStories = []story{
	{name: "acquire", play: func(r *crashRig, armed func()) func(*after) {
		armed()
		call := r.v.acquireAll(alice, "vm1", 0, vmsA)
		return func(a *after) { a.acquired(call, "vm1", vmsA) }
	}},
	{name: "acquire with wait", play: func(r *crashRig, armed func()) func(*after) {
		r.other["vms"].Lock(1, "a", dlm.PR, 0)
		armed()
		call := r.v.acquireAll(alice, "vm1", 10*time.Second, vmsA)
		r.v.settle()
		r.other["vms"].Unlock(1, nil)
		return func(a *after) { a.acquired(call, "vm1", vmsA) }
	}},
	{name: "acquire waits too long", play: func(r *crashRig, armed func()) func(*after) {
		r.other["vms"].Lock(1, "a", dlm.PR, 0)
		armed()
		call := r.v.acquireAll(alice, "vm1", time.Second, vmsA, vmsB)
		r.v.settle()
		time.Sleep(2 * time.Second)
		return func(a *after) { a.acquired(call, "vm1", vmsA, vmsB) }
	}},
	{name: "acquire refused", play: func(r *crashRig, armed func()) func(*after) {
		r.other["vms"].Lock(1, "a", dlm.PR, 0)
		armed()
		call := r.v.acquireAll(alice, "vm1", 0, vmsA)
		return func(a *after) { a.acquired(call, "vm1", vmsA) }
	}},
	{name: "acquire many", play: func(r *crashRig, armed func()) func(*after) {
		armed()
		call := r.v.acquireAll(alice, "vm1", 0, vmsA, vmsB, poolC)
		return func(a *after) { a.acquired(call, "vm1", vmsA, vmsB, poolC) }
	}},
	{name: "acquire many refused", play: func(r *crashRig, armed func()) func(*after) {
		r.other["vms"].Lock(1, "a", dlm.PR, 0)
		armed()
		call := r.v.acquireAll(alice, "vm1", 0, poolC, vmsA, vmsB)
		return func(a *after) { a.acquired(call, "vm1", poolC, vmsA, vmsB) }
	}},
	{name: "acquire again", play: func(r *crashRig, armed func()) func(*after) {
		g := r.hold("vm1", vmsA)
		armed()
		call := r.v.acquireAll(alice, "vm1", 0, vmsA)
		return func(a *after) {
			a.unchanged("vm1", g[0], dlm.EX)
			a.acquired(call, "vm1", vmsA)
		}
	}},
	{name: "acquire many, one again", play: func(r *crashRig, armed func()) func(*after) {
		g := r.hold("vm1", vmsA)
		armed()
		call := r.v.acquireAll(alice, "vm1", 0, vmsA, poolC)
		return func(a *after) {
			a.unchanged("vm1", g[0], dlm.EX)
			_, there := a.find("vm1", "pool", "c")
			require.True(a.t, there || !call.ok())
		}
	}},
	{name: "acquire and release pipelined", play: func(r *crashRig, armed func()) func(*after) {
		armed()
		acquire := r.v.acquireAll(alice, "vm1", 0, vmsA)
		release := r.v.releaseOf(alice, "vm1", "vms", "a")
		return func(a *after) {
			_, there := a.find("vm1", "vms", "a")
			require.False(a.t, release.ok() && there, "released, and there")
			require.False(a.t, acquire.answered && acquire.err != nil)
		}
	}},
	{name: "acquire, caller vanishes", play: func(r *crashRig, armed func()) func(*after) {
		armed()
		call := r.v.acquireAll(alice, "vm1", 0, vmsA, poolC)
		synctest.Wait()
		r.v.SessionGone(alice.Session)
		return func(a *after) { a.acquired(call, "vm1", vmsA, poolC) }
	}},
	{name: "acquire, the state file is full", play: func(r *crashRig, armed func()) func(*after) {
		armed()
		r.host.journal.SetFail(syscall.ENOSPC)
		call := r.v.acquireAll(alice, "vm1", 0, vmsA, poolC)
		r.v.settle()
		r.host.journal.SetFail(0)
		time.Sleep(3 * time.Second)
		return func(a *after) { a.acquired(call, "vm1", vmsA, poolC) }
	}},
	{name: "acquire, becoming persistent fails", play: func(r *crashRig, armed func()) func(*after) {
		armed()
		r.failOn("convert", "c")
		call := r.v.acquireAll(alice, "vm1", 0, vmsA, poolC)
		return func(a *after) { a.acquired(call, "vm1", vmsA, poolC) }
	}},
	{name: "acquire, undoing it fails at first", play: func(r *crashRig, armed func()) func(*after) {
		armed()
		r.cluster.Fail(func(at local.Attempt) syscall.Errno {
			if at.Node == 1 && (at.Op == "convert" && at.Resource == "c" || at.Op == "unlock") {
				return syscall.ENOMEM
			}
			return 0
		})
		call := r.v.acquireAll(alice, "vm1", 0, vmsA, poolC)
		r.v.settle()
		r.cluster.Fail(nil)
		time.Sleep(2 * retryInterval)
		return func(a *after) { a.acquired(call, "vm1", vmsA, poolC) }
	}},
	{name: "acquire, the lockspace stops after the grant", play: func(r *crashRig, armed func()) func(*after) {
		armed()
		call := r.v.acquireAll(alice, "vm1", 0, vmsA, poolC)
		synctest.Wait()
		r.cluster.Stop("vms", "fencing")
		r.v.settle()
		time.Sleep(11 * time.Second)
		r.cluster.Resume("vms")
		return func(a *after) { a.acquired(call, "vm1", vmsA, poolC) }
	}},
	{name: "convert up", play: func(r *crashRig, armed func()) func(*after) {
		g := r.hold("vm1", vmsB)
		armed()
		call := r.v.convertTo(alice, "vm1", wantOf("vms", "b", dlm.EX), 0)
		return convertedTo(call, g[0], dlm.PR, dlm.EX)
	}},
	{name: "convert up with wait", play: func(r *crashRig, armed func()) func(*after) {
		g := r.hold("vm1", vmsB)
		r.other["vms"].Lock(1, "b", dlm.PR, 0)
		armed()
		call := r.v.convertTo(alice, "vm1", wantOf("vms", "b", dlm.EX), 10*time.Second)
		r.v.settle()
		r.other["vms"].Unlock(1, nil)
		return convertedTo(call, g[0], dlm.PR, dlm.EX)
	}},
	{name: "convert refused", play: func(r *crashRig, armed func()) func(*after) {
		g := r.hold("vm1", vmsB)
		r.other["vms"].Lock(1, "b", dlm.PR, 0)
		armed()
		call := r.v.convertTo(alice, "vm1", wantOf("vms", "b", dlm.EX), 0)
		return convertedTo(call, g[0], dlm.PR, dlm.EX)
	}},
	{name: "convert down", play: func(r *crashRig, armed func()) func(*after) {
		g := r.hold("vm1", vmsA)
		armed()
		call := r.v.convertTo(alice, "vm1", wantOf("vms", "a", dlm.NL), 0)
		return convertedTo(call, g[0], dlm.EX, dlm.NL)
	}},
	{name: "release", play: func(r *crashRig, armed func()) func(*after) {
		g := r.hold("vm1", vmsA)
		kept := r.hold("vm2", vmsB)
		armed()
		call := r.v.releaseOf(alice, "vm1", "vms", "a")
		return func(a *after) {
			a.released(call, "vm1", g[0])
			a.unchanged("vm2", kept[0], dlm.PR)
		}
	}},
	{name: "release, one of two holders", play: func(r *crashRig, armed func()) func(*after) {
		kept := r.hold("vm1", vmsB)
		g := r.hold("vm2", vmsB)
		armed()
		call := r.v.releaseOf(alice, "vm2", "vms", "b")
		return func(a *after) {
			a.released(call, "vm2", g[0])
			a.unchanged("vm1", kept[0], dlm.PR)
		}
	}},
	{name: "release fails", play: func(r *crashRig, armed func()) func(*after) {
		g := r.hold("vm1", vmsA)
		armed()
		r.failOn("unlock", "a")
		call := r.v.releaseOf(alice, "vm1", "vms", "a")
		return func(a *after) { a.released(call, "vm1", g[0]) }
	}},
	{name: "release owner", play: func(r *crashRig, armed func()) func(*after) {
		g := r.hold("vm1", vmsA, vmsB, poolC)
		kept := r.hold("vm2", vmsB)
		armed()
		call := &told{}
		r.v.ReleaseOwner(alice, "", "vm1", call.doneCount())
		return func(a *after) {
			for _, g := range g { // each by itself
				a.released(call, "vm1", g)
			}
			a.unchanged("vm2", kept[0], dlm.PR)
		}
	}},
	{name: "release, the state file is full", play: func(r *crashRig, armed func()) func(*after) {
		g := r.hold("vm1", vmsA, vmsB, poolC)
		armed()
		r.host.journal.SetFail(syscall.ENOSPC)
		call := r.v.releaseOf(alice, "vm1", "vms", "a")
		return func(a *after) {
			require.True(a.t, a.died || call.ok(), "people must be able to let go: %v", call.err)
			a.released(call, "vm1", g[0])
			a.unchanged("vm1", g[2], poolC.Mode)
		}
	}},
	{name: "release, the state file is broken", play: func(r *crashRig, armed func()) func(*after) {
		g := r.hold("vm1", vmsA)
		armed()
		r.host.journal.SetFail(syscall.EIO)
		call := r.v.releaseOf(alice, "vm1", "vms", "a")
		return func(a *after) {
			a.released(call, "vm1", g[0])
			a.unchanged("vm1", g[0], dlm.EX)
		}
	}},
	{name: "release, the state file breaks after the first mark", play: func(r *crashRig, armed func()) func(*after) {
		g := r.hold("vm1", vmsA)
		armed()
		r.breakAfterNext()
		call := r.v.releaseOf(alice, "vm1", "vms", "a")
		return func(a *after) {
			require.True(a.t, a.died || call.ok(), "%v", call.err)
			a.released(call, "vm1", g[0])
		}
	}},
	{name: "release fails, and the state file breaks after the first mark",
		play: func(r *crashRig, armed func()) func(*after) {
			g := r.hold("vm1", vmsA)
			armed()
			r.breakAfterNext()
			r.failOn("unlock", "a")
			call := r.v.releaseOf(alice, "vm1", "vms", "a")
			return func(a *after) {
				_, there := a.find("vm1", "vms", "a")
				require.False(a.t, call.ok() && there)
				require.True(a.t, a.died || !there, "that it is let go of was written down")
				_ = g
			}
		}},
	{name: "release owner, the state file is broken", play: func(r *crashRig, armed func()) func(*after) {
		g := r.hold("vm1", vmsA, poolC)
		armed()
		r.host.journal.SetFail(syscall.EIO)
		call := &told{}
		r.v.ReleaseOwner(alice, "", "vm1", call.doneCount())
		return func(a *after) {
			require.False(a.t, call.ok())
			a.unchanged("vm1", g[0], dlm.EX)
			a.unchanged("vm1", g[1], poolC.Mode)
		}
	}},
	{name: "connection ends, the state file is broken for a while", play: func(r *crashRig, armed func()) func(*after) {
		call := &told{}
		r.v.Acquire(alice, []api.Want{vmsA, poolC}, api.AcquireOptions{Owner: "gui", HasOwner: true,
			Lifetime: state.Connection}, call.doneGrants())
		armed()
		r.host.journal.SetFail(syscall.EIO)
		r.v.SessionGone(alice.Session)
		r.v.settle()
		r.host.journal.SetFail(0)
		time.Sleep(2 * retryInterval)
		return func(a *after) {
			for _, w := range []api.Want{vmsA, poolC} {
				_, there := a.find("gui", w.Lockspace, w.Resource)
				require.True(a.t, a.died || !there, "the connection is gone, and its lock there")
			}
		}
	}},
	{name: "acquire, the state file breaks after the record", play: func(r *crashRig, armed func()) func(*after) {
		armed()
		r.breakAfterNext()
		call := r.v.acquireAll(alice, "vm1", 0, vmsA, poolC)
		r.v.settle()
		time.Sleep(20 * time.Second)
		r.host.journal.SetFail(0)
		time.Sleep(2 * retryInterval)
		return func(a *after) {
			require.False(a.t, call.ok())
			a.acquired(call, "vm1", vmsA, poolC)
		}
	}},
	{name: "convert up, the state file breaks", play: func(r *crashRig, armed func()) func(*after) {
		g := r.hold("vm1", vmsB)
		armed()
		r.host.journal.SetFail(syscall.EIO)
		call := r.v.convertTo(alice, "vm1", wantOf("vms", "b", dlm.EX), 0)
		r.v.settle()
		r.host.journal.SetFail(0)
		time.Sleep(2 * retryInterval)
		return func(a *after) {
			require.False(a.t, call.ok())
			if call.answered {
				a.unchanged("vm1", g[0], dlm.PR)
			}
			a.keepsToken("vm1", g[0], dlm.PR)
		}
	}},
	{name: "leave, the state file is broken", play: func(r *crashRig, armed func()) func(*after) {
		r.v.Join(root, "more", (&told{}).done())
		armed()
		r.host.journal.SetFail(syscall.EIO)
		call := &told{}
		r.v.Leave(root, "more", false, call.done())
		return func(a *after) {
			names, err := a.v.engine.Lockspaces(a.t.Context())
			require.NoError(a.t, err)
			require.False(a.t, call.ok())
			require.Len(a.t, names, 3)
			require.NotZero(a.t, a.v.stateOf("more"))
		}
	}},
	{name: "connection ends", play: func(r *crashRig, armed func()) func(*after) {
		call := &told{}
		r.v.Acquire(alice, []api.Want{vmsA, poolC}, api.AcquireOptions{Owner: "gui", HasOwner: true,
			Lifetime: state.Connection}, call.doneGrants())
		kept := r.hold("vm2", vmsB)
		armed()
		r.v.SessionGone(alice.Session)
		return func(a *after) {
			a.unchanged("vm2", kept[0], dlm.PR)
			for _, w := range []api.Want{vmsA, poolC} {
				_, there := a.find("gui", w.Lockspace, w.Resource)
				require.True(a.t, a.died || !there, "the connection is gone, and its lock there")
			}
		}
	}},
	{name: "join", play: func(r *crashRig, armed func()) func(*after) {
		armed()
		call := &told{}
		r.v.Join(root, "more", call.done())
		return func(a *after) {
			is := a.v.stateOf("more")
			require.True(a.t, is == api.SpaceReady || !call.ok(), "joined, and not there")
			names, err := a.v.engine.Lockspaces(a.t.Context())
			require.NoError(a.t, err)
			require.Equal(a.t, is != 0, len(names) == 3, "a lockspace that nobody knows of: %v", names)
		}
	}},
	{name: "leave", play: func(r *crashRig, armed func()) func(*after) {
		r.v.Join(root, "more", (&told{}).done())
		armed()
		call := &told{}
		r.v.Leave(root, "more", false, call.done())
		return func(a *after) {
			names, err := a.v.engine.Lockspaces(a.t.Context())
			require.NoError(a.t, err)
			require.Equal(a.t, a.v.stateOf("more") != 0, len(names) == 3, "%v", names)
			require.False(a.t, call.ok() && len(names) == 3, "left, and there")
		}
	}},
	{name: "leave with force", lose: true, play: func(r *crashRig, armed func()) func(*after) {
		g := r.hold("vm1", vmsA, poolC)
		armed()
		call := &told{}
		r.v.Leave(root, "pool", true, call.done())
		return func(a *after) {
			a.unchanged("vm1", g[0], dlm.EX)
			_, there := a.find("vm1", "pool", "c")
			require.False(a.t, call.ok() && there, "left, and the lock there")
			told := len(a.before) + len(a.v.lost)
			require.Equal(a.t, !there, told > 0, "the lock is there: %v; told that it is lost: %d times", there, told)
		}
	}},
	{name: "lost, with a helper", lose: true, play: func(r *crashRig, armed func()) func(*after) {
		r.holdGuarded("vm1", vmsA, poolC)
		armed()
		r.host.node.Unlock("vms", r.v.list("a")[0].LockID)
		r.v.settle()
		time.Sleep(2 * time.Second)
		return func(a *after) { a.ranFor("a") }
	}},
	{name: "left by force, with helpers", lose: true, play: func(r *crashRig, armed func()) func(*after) {
		r.holdGuarded("vm1", vmsA, vmsB, poolC)
		armed()
		r.v.Leave(root, "vms", true, (&told{}).done())
		r.v.settle()
		time.Sleep(2 * time.Second)
		return func(a *after) {
			if _, there := a.find("vm1", "vms", "a"); !there {
				a.ranFor("a", "b")
			}
		}
	}},
	{name: "adopt an orphan", stray: true, play: func(r *crashRig, armed func()) func(*after) {
		stray := r.orphan("vms", "b", dlm.EX)
		armed()
		call := &told{}
		r.v.AdoptOrphan(root, "vms", stray, api.AdoptOptions{Owner: "vm9", HasOwner: true}, call.doneGrant())
		return func(a *after) {
			orphans, err := a.v.engine.Orphans(a.t.Context(), "vms")
			require.NoError(a.t, err)
			l, there := a.find("vm9", "vms", "b")
			require.True(a.t, there || len(orphans) == 1, "it was let go of")
			require.True(a.t, there || !call.ok(), "adopted, and not there")
			require.True(a.t, a.died || call.ok(), "%v", call.err)
			if there {
				require.Equal(a.t, stray, l.LockID)
				require.Empty(a.t, orphans)
			}
			if call.ok() {
				require.Equal(a.t, call.grants[0].Token, l.Token)
			}
		}
	}},
	{name: "purge", stray: true, play: func(r *crashRig, armed func()) func(*after) {
		kept := r.hold("vm1", vmsA)
		stray := r.orphan("vms", "b", dlm.PR)
		armed()
		call := &told{}
		r.v.Purge(root, "vms", []dlm.LockID{stray}, false, call.doneCount())
		return func(a *after) {
			a.unchanged("vm1", kept[0], dlm.EX)
			require.True(a.t, a.died || call.ok(), "%v", call.err)
			r.v.Purge(root, "vms", []dlm.LockID{stray}, false, (&told{}).doneCount())
			r.v.settle()
		}
	}},
}

// convertedTo checks a conversion: an answer is true, without one it is done or not.
func convertedTo(call *told, g api.Grant, from, to dlm.Mode) func(*after) {
	return func(a *after) {
		mode := from
		if l, _ := a.find("vm1", g.Lockspace, g.Resource); call.ok() || !call.answered && l.Mode == to {
			mode = to
		}
		a.unchanged("vm1", g, mode)
		a.keepsToken("vm1", g, from)
	}
}

// keepsToken checks that a lock that is still in its mode, or again, has the token that its client was
// given.
func (a *after) keepsToken(owner string, g api.Grant, m dlm.Mode) {
	if l, ok := a.find(owner, g.Lockspace, g.Resource); ok && l.Mode == m {
		require.Equal(a.t, g.Token, l.Token, "the token of %s/%s", g.Lockspace, g.Resource)
	}
}

// breakAfterNext lets one more write succeed.
func (r *crashRig) breakAfterNext() {
	j := r.host.journal
	j.Mu.Lock()
	defer j.Mu.Unlock()
	j.OnDone = func() { j.Fail, j.OnDone = syscall.EIO, nil }
}

// failOn makes one operation on a resource fail.
func (r *crashRig) failOn(op, resource string) {
	r.cluster.Fail(func(at local.Attempt) syscall.Errno {
		if at.Node == 1 && at.Op == op && at.Resource == resource {
			return syscall.ENOMEM
		}
		return 0
	})
}

// orphan leaves a persistent lock behind that the service knows nothing of.
func (r *crashRig) orphan(space, resource string, m dlm.Mode) (id dlm.LockID) {
	e := r.host.node.Engine()
	h, err := e.Open(r.t.Context(), space, func(ev dlm.Event) { id = ev.LockID })
	require.NoError(r.t, err)
	h.Lock(1, resource, m, dlm.NoQueue|dlm.Persistent)
	require.NoError(r.t, e.Close())
	return id
}
