package table

import (
	"context"
	"maps"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// chaos is a service, a second node that contends with it, and everything that
// can go wrong, in any order of events.
type chaos struct {
	*sim
	rt      *rapid.T
	cluster *local.Cluster
	other   map[string]dlm.Lockspace // node 2
	theirs  map[dlm.Cookie]dlm.Mode  // its locks, granted or not
	cookies dlm.Cookie
	broken  bool           // the engine refuses operations now
	strays  map[string]int // orphans ever made that the service knows nothing of
	halted  map[string]bool
	owed    map[api.Ref]*promise
	excused map[api.Ref]bool // may be called lost without a promise
}

// promise is a lock that a client was told it has.
type promise struct {
	grant api.Grant
	uid   uint32
	owner string
	life  state.Lifetime
	may   bool // somebody asked to let go of it, or took it away
}

var (
	chaosSpaces    = []string{"a", "b"}
	chaosResources = []string{"x", "y", "z"}
	chaosOwners    = []string{"", "vm1", "vm2"}
	chaosCallers   = []api.Caller{
		{UID: 0, Session: busSession(":1.0"), Privileged: true},
		{UID: 7, Session: busSession(":1.7")}, {UID: 7, Session: busSession(":1.8")}, {UID: 8, Session: busSession(":1.9")},
	}
)

func newChaos(rt *rapid.T) *chaos {
	c := &chaos{rt: rt, cluster: local.NewCluster("c"), other: map[string]dlm.Lockspace{},
		theirs: map[dlm.Cookie]dlm.Mode{},
		strays: map[string]int{}, halted: map[string]bool{}, owed: map[api.Ref]*promise{}, excused: map[api.Ref]bool{}}
	c.sim = newSim(rt, c.cluster.AddNode(1), chaosSpaces...)
	c.limits.LocksPerUID, c.limits.WaitingPerUID = 8, 3
	e := c.cluster.AddNode(2).Engine()
	for _, name := range chaosSpaces {
		h, err := e.Create(context.Background(), name, c.heard)
		require.NoError(rt, err)
		c.other[name] = h
	}
	c.onGrant, c.onLost = c.granted, c.lost
	c.start()
	return c
}

// heard keeps track of node 2's locks.
func (c *chaos) heard(ev dlm.Event) {
	switch {
	case ev.Kind == dlm.Ended, ev.Kind == dlm.Completed && ev.Mode == dlm.None:
		delete(c.theirs, ev.Cookie)
	case ev.Kind == dlm.Completed:
		c.theirs[ev.Cookie] = ev.Mode
	}
}

func (c *chaos) granted(sc *simCall, g api.Grant) {
	require.NotZero(c.rt, g.LockID)
	l := c.tab.locks.byRef(g.Ref)
	require.NotNil(c.rt, l, "%s answered with lock %d, which is not there", sc.name, g.Ref)
	rec, ok := c.recordOf(g.Ref)
	if c.journal.Fail == 0 && len(c.writer.Backlog()) == 0 {
		require.True(c.rt, ok, "lock %d was answered and is not written down", g.Ref)
		require.NotEqual(c.rt, state.Granted, rec.Phase, "lock %d was answered before it was marked held", g.Ref)
	}
	if p := c.owed[g.Ref]; p != nil {
		require.Equal(c.rt, p.grant.LockID, g.LockID, "the lockid of lock %d has changed", g.Ref)
		return
	}
	p := &promise{grant: g, uid: l.uid, owner: l.owner, life: l.lifetime}
	p.may = slices.ContainsFunc(c.calls, func(sc *simCall) bool {
		return sc.answers == 0 && p.meant(sc.what)
	})
	c.owed[g.Ref] = p
}

// meant reports whether a release may mean the lock.
func (p *promise) meant(o Operation) bool {
	of := func(c api.Caller) bool { return p.uid == c.UID || c.Privileged }
	switch o := o.(type) {
	case Release:
		return of(o.Caller) && o.Lockspace == p.grant.Lockspace && o.Resource == p.grant.Resource &&
			(!o.Selector.HasOwner || o.Selector.Owner == p.owner)
	case ReleaseOwner:
		return of(o.Caller) && (o.Lockspace == "" || o.Lockspace == p.grant.Lockspace) && o.Owner == p.owner
	case ReleaseMany:
		return p.uid == o.Caller.UID && o.Owner == p.owner && slices.ContainsFunc(o.Resources, func(w api.Want) bool {
			return w.Lockspace == p.grant.Lockspace && w.Resource == p.grant.Resource
		})
	}
	return false
}

func (c *chaos) lost(l api.Lost) {
	p := c.owed[l.Ref]
	require.True(c.rt, p != nil || c.excused[l.Ref],
		"lock %d was called lost, and nobody was told that he has it: %s", l.Ref, l.Reason)
	delete(c.owed, l.Ref)
}

// drop notes that promises may end: match tells which.
func (c *chaos) drop(match func(*promise) bool) {
	for _, p := range c.owed {
		if match(p) {
			p.may = true
		}
	}
}

func (c *chaos) want() api.Want {
	return wantOf(rapid.SampledFrom(chaosSpaces).Draw(c.rt, "space"),
		rapid.SampledFrom(chaosResources).Draw(c.rt, "resource"),
		rapid.SampledFrom(dlm.Modes[:]).Draw(c.rt, "mode"))
}

func (c *chaos) wait() time.Duration {
	return rapid.SampledFrom([]time.Duration{0, 0, time.Second, 15 * time.Second}).Draw(c.rt, "wait")
}

func (c *chaos) caller() api.Caller { return rapid.SampledFrom(chaosCallers).Draw(c.rt, "caller") }

func (c *chaos) owner() (string, bool) {
	o := rapid.SampledFrom(chaosOwners).Draw(c.rt, "owner")
	return o, o != ""
}

func (c *chaos) doAcquire(rt *rapid.T) {
	n := rapid.SampledFrom([]int{1, 1, 1, 2, 3}).Draw(rt, "locks")
	want := make([]api.Want, n)
	for i := range want {
		want[i] = c.want()
	}
	o, has := c.owner()
	life := rapid.SampledFrom([]state.Lifetime{state.Persistent, state.Persistent, state.Connection}).Draw(rt, "lifetime")
	c.acquire(c.caller(), api.AcquireOptions{Owner: o, HasOwner: has, Wait: c.wait(), Lifetime: life}, want...)
}

func (c *chaos) doRequest(rt *rapid.T) {
	o, has := c.owner()
	c.request(c.caller(), api.AcquireOptions{Owner: o, HasOwner: has}, c.want())
}

func (c *chaos) doCancel(rt *rapid.T) {
	refs := slices.Sorted(maps.Keys(c.tab.calls.requests))
	if len(refs) == 0 {
		return
	}
	ref := rapid.SampledFrom(refs).Draw(rt, "request")
	c.turn(func() { require.NoError(rt, c.tab.CancelRequest(chaosCallers[0], ref)) })
}

// doGone has a connection end. Its name does not come back, but that is for
// others to see to.
func (c *chaos) doGone(*rapid.T) {
	who := c.caller()
	c.drop(func(p *promise) bool {
		l := c.tab.locks.byRef(p.grant.Ref)
		return p.life == state.Connection && l != nil && l.session == who.Session
	})
	c.turn(func() { c.tab.SessionGone(who.Session) })
}

// doRemove has another process take the lockspace away.
func (c *chaos) doRemove(rt *rapid.T) {
	space := rapid.SampledFrom(chaosSpaces).Draw(rt, "space")
	if c.node.Engine().Remove(context.Background(), space) == nil {
		c.drop(func(p *promise) bool { return p.grant.Lockspace == space })
		for _, l := range c.journal.Contents("").Locks {
			c.excused[api.Ref(l.ID)] = true
		}
	}
}

// doStray leaves an orphan behind that the service knows nothing of, and has it
// purged.
func (c *chaos) doStray(rt *rapid.T) {
	w := c.want()
	if c.halted[w.Lockspace] || c.broken {
		return
	}
	e := c.node.Engine()
	var id dlm.LockID
	h, err := e.Open(context.Background(), w.Lockspace, func(ev dlm.Event) {
		if ev.Kind == dlm.Completed {
			id = ev.LockID
		}
	})
	if err != nil {
		return
	}
	h.Lock(1, w.Resource, w.Mode, dlm.NoQueue|dlm.Persistent)
	require.NoError(rt, e.Close())
	if id != 0 {
		c.strays[w.Lockspace]++
	}
}

func (c *chaos) doPurge(rt *rapid.T) {
	space := rapid.SampledFrom(chaosSpaces).Draw(rt, "space")
	if e, _ := c.engine.Orphans(context.Background(), space); c.tab.spaces.byName[space] != nil {
		var ids []dlm.LockID
		for _, o := range c.tab.spaces.byName[space].orphans.among(e) {
			ids = append(ids, o.LockID)
		}
		c.call(Purge{Caller: chaosCallers[0], Lockspace: space, Expect: ids, Some: false})
	}
}

func (c *chaos) doConvert(rt *rapid.T) {
	o, has := c.owner()
	c.convert(c.caller(), c.want(), api.Selector{Owner: o, HasOwner: has}, c.wait())
}

func (c *chaos) doRelease(rt *rapid.T) {
	who, w := c.caller(), c.want()
	o, has := c.owner()
	sc := c.release(who, w.Lockspace, w.Resource, api.Selector{Owner: o, HasOwner: has})
	c.drop(func(p *promise) bool { return p.meant(sc.what) })
}

func (c *chaos) doReleaseOwner(rt *rapid.T) {
	who := c.caller()
	o := rapid.SampledFrom(chaosOwners[1:]).Draw(rt, "owner")
	space := rapid.SampledFrom([]string{"", "a", "b"}).Draw(rt, "space")
	sc := c.releaseOwner(who, space, o)
	c.drop(func(p *promise) bool { return p.meant(sc.what) })
}

func (c *chaos) doReleaseMany(rt *rapid.T) {
	who := c.caller()
	o := rapid.SampledFrom(chaosOwners[1:]).Draw(rt, "owner")
	sc := c.releaseMany(who, o, c.want(), c.want(), c.want())
	c.drop(func(p *promise) bool { return p.meant(sc.what) })
}

func (c *chaos) doSpace(rt *rapid.T) {
	space := rapid.SampledFrom(chaosSpaces).Draw(rt, "space")
	switch rapid.SampledFrom([]string{"join", "join", "leave", "force"}).Draw(rt, "what") {
	case "join":
		c.join(chaosCallers[0], space)
	case "leave":
		c.leave(chaosCallers[0], space, false)
	case "force":
		c.leave(chaosCallers[0], space, true)
	}
}

func (c *chaos) doContend(rt *rapid.T) {
	w := c.want()
	h := c.other[w.Lockspace]
	var have []dlm.Cookie
	for ck := range c.theirs {
		have = append(have, ck)
	}
	slices.Sort(have)
	if len(have) > 0 && rapid.Bool().Draw(rt, "unlock") {
		ck := rapid.SampledFrom(have).Draw(rt, "theirs")
		for _, h := range c.other {
			h.Unlock(ck, nil)
		}
		return
	}
	c.cookies++
	c.theirs[c.cookies] = dlm.None
	h.Lock(c.cookies, w.Resource, w.Mode, rapid.SampledFrom([]dlm.Flags{0, dlm.NoQueue}).Draw(rt, "flags"))
}

// doForeign has another process unlock a lock of the service, or its anchor.
func (c *chaos) doForeign(rt *rapid.T) {
	space := rapid.SampledFrom(chaosSpaces).Draw(rt, "space")
	sp := c.tab.spaces.byName[space]
	if sp == nil || c.halted[space] {
		return
	}
	var in []*lock
	for _, o := range c.tab.locks.order {
		if o.l != nil && o.l.sp == sp && o.l.mode != dlm.None {
			in = append(in, o.l)
		}
	}
	if len(in) == 0 {
		return
	}
	l := in[rapid.IntRange(0, len(in)-1).Draw(rt, "which")]
	if c.node.Unlock(space, l.lockid) {
		c.excused[l.ref] = true
		c.drop(func(p *promise) bool { return p.grant.Ref == l.ref })
	}
}

func (c *chaos) doHalt(rt *rapid.T) {
	space := rapid.SampledFrom(chaosSpaces).Draw(rt, "space")
	if c.halted[space] {
		c.cluster.Resume(space)
	} else {
		c.cluster.Stop(space, "fencing")
	}
	c.halted[space] = !c.halted[space]
	if rapid.Bool().Draw(rt, "known") {
		c.health()
	}
}

func (c *chaos) doBreak(rt *rapid.T) {
	c.broken = !c.broken
	if !c.broken {
		c.cluster.Fail(nil)
		return
	}
	op := rapid.SampledFrom([]string{"lock", "convert", "unlock", "adopt", "open", "create", "remove"}).Draw(rt, "op")
	c.cluster.Fail(func(a local.Attempt) syscall.Errno {
		if a.Op == op && a.Node == 1 {
			return syscall.ENOMEM
		}
		return 0
	})
}

// forgive notes the locks whose end the state file was not able to take, and
// those that are held although the answer does not reach anybody any more.
func (c *chaos) forgive() {
	for _, l := range c.journal.Contents("").Locks {
		if l.Phase == state.Held && c.owed[api.Ref(l.ID)] == nil {
			c.excused[api.Ref(l.ID)] = true
		}
	}
	for _, ch := range c.writer.Backlog() {
		if m, ok := ch.(state.Mark); ok {
			c.excused[api.Ref(m.ID)] = true
			delete(c.owed, api.Ref(m.ID))
		}
	}
}

func (c *chaos) doKill(*rapid.T) {
	c.forgive()
	c.kill()
	c.start()
}

func (c *chaos) doStop(*rapid.T) {
	c.turn(c.tab.Stop)
	c.rest()
	c.forgive()
	c.kill() // to the engine, closing is the same
	c.start()
}

// steps lets a few things happen that the service waits for.
func (c *chaos) doSteps(rt *rapid.T) {
	for range rapid.IntRange(1, 4).Draw(rt, "steps") {
		switch rapid.SampledFrom([]string{"deliver", "deliver", "write", "work"}).Draw(rt, "step") {
		case "deliver":
			c.deliver()
		case "write":
			c.write()
		case "work":
			c.toil(rapid.IntRange(0, 3).Draw(rt, "which"))
		}
	}
}

// TestChaos plays any order of events and checks after each that the table's
// indices agree, and after each rest that table, state file and lock manager
// tell the same.
func TestChaos(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := newChaos(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"acquire": c.doAcquire, "acquire2": c.doAcquire, "convert": c.doConvert, "release": c.doRelease,
			"releaseOwner": c.doReleaseOwner,
			"releaseMany":  c.doReleaseMany,
			"space":        c.doSpace, "contend": c.doContend, "foreign": c.doForeign, "halt": c.doHalt, "break": c.doBreak,
			"request": c.doRequest, "cancel": c.doCancel, "remove": c.doRemove, "stray": c.doStray, "purge": c.doPurge,
			"kill": c.doKill, "stop": c.doStop, "steps": c.doSteps, "steps2": c.doSteps, "steps3": c.doSteps,
			"gone": c.doGone,
			"journal": func(rt *rapid.T) {
				c.journal.SetFail([]syscall.Errno{0, syscall.ENOSPC, syscall.EIO}[rapid.IntRange(0, 2).Draw(rt, "how")])
			},
			"clock": func(rt *rapid.T) {
				c.pass(rapid.SampledFrom([]time.Duration{time.Second, 3 * time.Second, 12 * time.Second}).Draw(rt, "time"))
				c.compare()
			},
			"look": func(rt *rapid.T) { w := c.want(); c.inspect(w.Lockspace, w.Resource) },
			"rest": func(*rapid.T) { c.rest(); c.compare() },
			"":     func(rt *rapid.T) { checkIntegrity(rt, c.tab) },
		})
		c.heal()
		c.end()
	})
}
