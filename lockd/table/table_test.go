package table

import (
	"fmt"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// newTestTable returns a table with one ready lockspace.
func newTestTable() (*Table, *lockspace) {
	t := testTable()
	sp := t.space("vms")
	sp.state = spaceReady
	return t, sp
}

func addHeld(t *Table, sp *lockspace, resource string, uid uint32, owner string) *lock {
	l := &lock{ref: t.locks.nextRef(), sp: sp, resource: resource,
		client: client{uid: uid, owner: owner,
			hasOwner: owner != ""}, blocked: dlm.None, mode: dlm.NL, wanted: dlm.None, state: lockHeld}
	t.locks.add(l)
	return l
}

// Any order of adding and removing keeps every index right, also where all
// owners have the same hash.
func TestIndices(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tab, sp := newTestTable()
		if rapid.Bool().Draw(rt, "collide") {
			tab.locks.hash = func(_, _ string, uid uint32, _ string) uint64 { return uint64(uid % 2) }
		}
		var live []*lock
		rt.Repeat(map[string]func(*rapid.T){
			"add": func(rt *rapid.T) {
				res := rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "resource")
				owner := rapid.SampledFrom([]string{"", "vm1", "vm2"}).Draw(rt, "owner")
				uid := rapid.Uint32Range(0, 3).Draw(rt, "uid")
				if owner == "" || tab.locks.findOwned(sp, res, uid, owner) == nil {
					live = append(live, addHeld(tab, sp, res, uid, owner))
				}
			},
			"remove": func(rt *rapid.T) {
				if len(live) > 0 {
					i := rapid.IntRange(0, len(live)-1).Draw(rt, "which")
					live[i].remove()
					live = slices.Delete(live, i, i+1)
				}
			},
			"": func(rt *rapid.T) {
				checkIntegrity(rt, tab)
				require.Equal(rt, len(live), tab.locks.count())
			},
		})
	})
}

// The holes that removed locks leave never take more room than the locks.
func TestHolesAreClosed(t *testing.T) {
	tab, sp := newTestTable()
	var live []*lock
	for i := range 10_000 {
		live = append(live, addHeld(tab, sp, fmt.Sprint(i), 0, ""))
	}
	for len(live) > 10 {
		i := len(live) * 7 / 11 // neither end
		live[i].remove()
		live = slices.Delete(live, i, i+1)
		require.LessOrEqual(t, len(tab.locks.order), 2*len(live)+64)
	}
	checkIntegrity(t, tab)
	page, next := tab.list(api.Filter{})
	require.Zero(t, next)
	require.Len(t, page, 10)
}

// walk reads all pages of a listing.
func walk(t *testing.T, tab *Table, f api.Filter) (refs []api.Ref, pages int) {
	for {
		page, next := tab.list(f)
		pages++
		for _, l := range page {
			require.Greater(t, l.Ref, f.After)
			refs = append(refs, l.Ref)
		}
		if next == 0 {
			return refs, pages
		}
		require.Greater(t, next, f.After, "paging does not get on")
		f.After = next
	}
}

func TestPaging(t *testing.T) {
	tab, sp := newTestTable()
	var all, odd, ofX []api.Ref
	for i := range 100 {
		res := []string{"x", "y", "z"}[i%3]
		l := addHeld(tab, sp, res, uint32(i%2), "")
		if i%10 == 9 {
			l.remove()
			continue
		}
		all = append(all, l.ref)
		if i%2 == 1 {
			odd = append(odd, l.ref)
		}
		if res == "x" {
			ofX = append(ofX, l.ref)
		}
	}
	for _, limit := range []int{0, 1, 7, 30, 90, 1000, -1} {
		got, _ := walk(t, tab, api.Filter{Limit: limit})
		require.Equal(t, all, got, "limit %d", limit)
		got, _ = walk(t, tab, api.Filter{Limit: limit, UID: 1, HasUID: true})
		require.Equal(t, odd, got, "limit %d", limit)
		got, _ = walk(t, tab, api.Filter{Limit: limit, Lockspace: "vms", Resource: "x"})
		require.Equal(t, ofX, got, "limit %d", limit)
	}
	_, pages := walk(t, tab, api.Filter{Limit: 30})
	require.Equal(t, 3, pages, "an empty page at the end")
	for name, f := range map[string]api.Filter{
		"no such lockspace": {Lockspace: "nowhere"}, "no such resource": {Lockspace: "vms", Resource: "w"},
		"no such owner": {HasOwner: true, Owner: "vm1"}, "no such mode": {HasMode: true, Mode: dlm.EX},
		"no such state": {State: api.Converting}, "after the last": {After: all[len(all)-1]}, "after " +
			"everything": {After: ^api.Ref(0)},
	} {
		page, next := tab.list(f)
		require.Empty(t, page, name)
		require.Zero(t, next, name)
	}
}

// A page of a filter that matches little has what matches, however many locks
// have to be looked at for it, and a turn looks at so many only.
func TestPageOfAFilterThatMatchesLittle(t *testing.T) {
	tab, sp := newTestTable()
	const each = 3*scanSlice + 10
	var rare, needles []api.Ref
	for i := range 3 * each {
		addHeld(tab, sp, "x", 0, "")
		if i%each == each-1 {
			l := addHeld(tab, sp, "x", 1, "needle")
			rare = append(rare, l.ref)
			needles = append(needles, l.ref)
		}
		if i%3 == 0 { // more of one owner than are looked at in one turn
			needles = append(needles, addHeld(tab, sp, fmt.Sprint(i), 2, "needle").ref)
		}
	}
	got, pages := walk(t, tab, api.Filter{UID: 1, HasUID: true})
	require.Equal(t, rare, got)
	require.Equal(t, 1, pages)
	got, _ = walk(t, tab, api.Filter{Lockspace: "vms", Resource: "x", UID: 1, HasUID: true})
	require.Equal(t, rare, got)
	got, _ = walk(t, tab, api.Filter{HasOwner: true, Owner: "needle"})
	require.Equal(t, needles, got)
	got, _ = walk(t, tab, api.Filter{HasOwner: true, Owner: "needle", After: needles[len(needles)-10]})
	require.Equal(t, needles[len(needles)-9:], got)

	g := tab.newListing(api.Filter{UID: 3, HasUID: true})
	turns := 1
	for last := g.after; g.lookOn(); turns++ {
		require.LessOrEqual(t, tab.locks.orderIndex(g.after)-tab.locks.orderIndex(last), scanSlice)
		last = g.after
	}
	require.Greater(t, turns, len(tab.locks.order)/scanSlice)
	require.Empty(t, g.page.Locks)
	require.Equal(t, len(tab.locks.order), g.page.Looked)
}

// Inspect of a resource with very many holders shows some of them, and says so.
func TestInspectShowsAPage(t *testing.T) {
	s := newSim(t, local.NewCluster("c").AddNode(1), "vms")
	s.limits.PageSize = 3
	s.start()
	s.rest()
	for n := range 5 {
		require.NoError(t, s.done(s.acquire(root, api.AcquireOptions{}, wantOf("vms", "x", dlm.PR))))
		c := s.inspect("vms", "x")
		require.NoError(t, s.done(c))
		require.Len(t, c.inspection.Locks, min(n+1, 3))
		require.Equal(t, n >= 3, len(c.inspection.Missing) > 0)
	}
}

// However many locks a resource has, Inspect looks at so many and shows so many,
// and what it shows is right.
func TestInspectIsBounded(t *testing.T) {
	s := newSim(t, local.NewCluster("c").AddNode(1), "vms")
	s.start()
	s.rest()
	for n := range inspectedMost + 10 {
		require.NoError(t, s.done(s.acquire(user(1000, ":1.2"), api.AcquireOptions{}, wantOf("vms", "x", dlm.NL))))
		if n != inspectedShown && n != inspectedMost+9 {
			continue
		}
		c := s.inspect("vms", "x")
		require.NoError(t, s.done(c))
		in := c.inspection
		require.Len(t, in.Locks, inspectedShown)
		require.Len(t, in.Queues.Granted, inspectedShown)
		require.Len(t, in.Missing, 2, "%v", in.Missing)
	}
}

// deafSpace does not hear Cancel, as the kernel does not when it is in the
// middle of a message.
type deafSpace struct {
	dlm.Lockspace
	deaf    bool
	cancels int
}

func (d *deafSpace) Cancel(c dlm.Cookie) {
	d.cancels++
	if !d.deaf {
		d.Lockspace.Cancel(c)
	}
}

// A cancel that was not heard is repeated until the wait has ended.
func TestCancelIsRepeated(t *testing.T) {
	s := newSim(t, local.NewCluster("c").AddNode(1), "vms")
	d := &deafSpace{deaf: true}
	s.wrap = func(h dlm.Lockspace) dlm.Lockspace { d.Lockspace = h; return d }
	s.start()
	s.rest()
	s.acquire(root, api.AcquireOptions{}, wantOf("vms", "x", dlm.EX))
	s.rest()
	c := s.acquire(root, api.AcquireOptions{Wait: time.Second}, wantOf("vms", "x", dlm.PR))
	s.pass(time.Second)
	require.ErrorIs(t, c.err, api.Timeout)
	require.Len(t, s.tab.retries.cancels, 1)
	n := d.cancels
	s.pass(3 * retryInterval)
	require.Equal(t, n+3, d.cancels)
	d.deaf = false
	s.pass(retryInterval)
	require.Empty(t, s.tab.retries.cancels)
	require.Equal(t, 1, s.tab.locks.count())
	_, armed := s.tab.Next()
	require.False(t, armed, "a timer that nobody needs")
}

// A lock that has no mode yet is nobody's lock to release, and nobody can hide
// behind the owner of another uid.
func TestOwnersAreOfOneUID(t *testing.T) {
	s := newSim(t, local.NewCluster("c").AddNode(1), "vms")
	s.start()
	s.rest()
	bob, eve := user(1000, ":1.1"), user(1001, ":1.2")
	owned := api.AcquireOptions{Owner: "vm1", HasOwner: true}
	sel := api.Selector{Owner: "vm1", HasOwner: true}
	require.NoError(t, s.done(s.acquire(bob, owned, wantOf("vms", "x", dlm.PR))))
	require.NoError(t, s.done(s.acquire(eve, owned, wantOf("vms", "x", dlm.PR))))
	require.NotEqual(t, s.calls[0].grants[0].Ref, s.calls[1].grants[0].Ref)
	require.NoError(t, s.done(s.release(bob, "vms", "x", sel)))
	require.ErrorIs(t, s.done(s.release(bob, "vms", "x", sel)), api.AccessDenied)
	require.ErrorIs(t, s.done(s.convert(bob, wantOf("vms", "x", dlm.EX), sel, 0)), api.AccessDenied)
	c := s.releaseOwner(bob, "", "vm1")
	require.NoError(t, s.done(c))
	require.Zero(t, c.count)
	c = s.releaseOwner(root, "", "vm1")
	require.NoError(t, s.done(c))
	require.EqualValues(t, 1, c.count)
	checkIntegrity(t, s.tab)
}

// done lets everything happen and returns the call's error.
func (s *sim) done(c *simCall) error {
	s.rest()
	require.Equal(s.t, 1, c.answers, "%s has no answer", c.name)
	return c.err
}

func TestLimits(t *testing.T) {
	for _, tc := range []struct {
		name string
		call func(s *sim) *simCall
		kind api.Kind
	}{
		{"locks of a uid", func(s *sim) *simCall {
			return s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "x", dlm.NL), wantOf("vms", "y", dlm.NL),
				wantOf("vms", "z", dlm.NL))
		}, api.LimitExceeded},
		{"of another uid", func(s *sim) *simCall {
			return s.acquire(root, api.AcquireOptions{},
				wantOf("vms", "x", dlm.NL))
		}, ""},
		{"just as many", func(s *sim) *simCall {
			return s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "x", dlm.NL), wantOf("vms", "y", dlm.NL))
		}, ""},
		{"waiting", func(s *sim) *simCall {
			return s.acquire(alice, api.AcquireOptions{Wait: time.Second}, wantOf("vms", "x", dlm.NL),
				wantOf("vms", "y", dlm.NL))
		}, api.LimitExceeded},
		{"batch", func(s *sim) *simCall {
			return s.acquire(alice, api.AcquireOptions{}, make([]api.Want, 5)...)
		}, api.LimitExceeded},
		{"owner", func(s *sim) *simCall {
			return s.acquire(alice, api.AcquireOptions{Owner: "123456789", HasOwner: true}, wantOf("vms", "x", dlm.NL))
		}, api.LimitExceeded},
		{"label", func(s *sim) *simCall {
			return s.acquire(alice, api.AcquireOptions{Label: "123456789"}, wantOf("vms", "x", dlm.NL))
		}, api.LimitExceeded},
		{"empty owner", func(s *sim) *simCall {
			return s.acquire(alice, api.AcquireOptions{HasOwner: true}, wantOf("vms", "x", dlm.NL))
		}, api.InvalidArgs},
		{"owner of no text", func(s *sim) *simCall {
			return s.acquire(alice, api.AcquireOptions{Owner: "\xff", HasOwner: true}, wantOf("vms", "x", dlm.NL))
		}, api.InvalidArgs},
		{"wait", func(s *sim) *simCall {
			return s.acquire(alice, api.AcquireOptions{Wait: api.MaxWait + 1}, wantOf("vms", "x", dlm.NL))
		}, api.InvalidArgs},
		{"negative wait", func(s *sim) *simCall {
			return s.acquire(alice, api.AcquireOptions{Wait: -1}, wantOf("vms", "x", dlm.NL))
		}, api.InvalidArgs},
		{"mode", func(s *sim) *simCall { return s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "x", 6)) },
			api.InvalidMode},
		{"no mode", func(s *sim) *simCall {
			return s.acquire(alice, api.AcquireOptions{},
				wantOf("vms", "x", dlm.None))
		}, api.InvalidMode},
		{"no name", func(s *sim) *simCall {
			return s.acquire(alice, api.AcquireOptions{},
				wantOf("vms", "", dlm.NL))
		}, api.InvalidName},
		{"reserved name", func(s *sim) *simCall {
			return s.acquire(alice, api.AcquireOptions{}, wantOf("vms", api.AnchorName("test"), dlm.NL))
		}, api.InvalidName},
		{"reserved name, converted", func(s *sim) *simCall {
			return s.convert(root, wantOf("vms", api.AnchorName("test"), dlm.EX), api.Selector{}, 0)
		}, api.InvalidName},
		{"reserved name, released", func(s *sim) *simCall {
			return s.release(root, "vms", api.AnchorName("test"), api.Selector{})
		}, api.InvalidName},
		{"lockspace", func(s *sim) *simCall {
			return s.acquire(alice, api.AcquireOptions{},
				wantOf("a/b", "x", dlm.NL))
		}, api.InvalidName},
		{"nothing", func(s *sim) *simCall { return s.acquire(alice, api.AcquireOptions{}) }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSim(t, local.NewCluster("c").AddNode(1), "vms")
			s.limits = api.Limits{LocksPerUID: 3, WaitingPerUID: 1, OwnerBytes: 8, LabelBytes: 8, BatchLocks: 4, PageSize: 10}
			s.start()
			s.rest()
			require.NoError(t, s.done(s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "w", dlm.NL))))
			c := tc.call(s)
			err := s.done(c)
			if tc.kind == "" {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, tc.kind)
				require.Equal(t, 1, s.tab.locks.count())
			}
			checkIntegrity(t, s.tab)
		})
	}
}

// A hundred thousand locks are nothing unusual, and the allocator rounds up: one more field may cost
// sixteen bytes for each. Fields that few locks need belong in rare.
func TestSizeOfLocks(t *testing.T) {
	require.LessOrEqual(t, unsafe.Sizeof(lock{}), uintptr(192))
}
