package table

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// plainLock is a lock of plain, the model: what one caller has who waits for
// each answer before the next call, and who meets nobody.
type plainLock struct {
	want  api.Want
	owner string // "": a lock of its own
}

type plain struct{ locks []*plainLock }

// outcome is what a call comes to.
type outcome struct {
	kind  api.Kind
	count int // locks granted or released
}

func (m *plain) find(owner string, w api.Want) *plainLock {
	i := slices.IndexFunc(m.locks, func(l *plainLock) bool {
		return l.owner == owner && l.want.Lockspace == w.Lockspace && l.want.Resource == w.Resource
	})
	if i < 0 || owner == "" {
		return nil
	}
	return m.locks[i]
}

func (m *plain) acquire(owner string, want []api.Want) outcome {
	before := slices.Clone(m.locks)
	for _, w := range want {
		if l := m.find(owner, w); l == nil {
			m.locks = append(m.locks, &plainLock{w, owner})
		} else if l.want.Mode != w.Mode {
			m.locks = before
			return outcome{kind: api.AlreadyHeld}
		}
	}
	return outcome{count: len(want)}
}

// meant returns the locks that a selector means.
func (m *plain) meant(owner string, w api.Want) (in []*plainLock) {
	for _, l := range m.locks {
		if l.want.Lockspace == w.Lockspace && l.want.Resource == w.Resource && (owner == "" || l.owner == owner) {
			in = append(in, l)
		}
	}
	return in
}

func one(in []*plainLock) api.Kind {
	switch len(in) {
	case 0:
		return api.NotHeld
	case 1:
		return ""
	}
	return api.Ambiguous
}

func (m *plain) convert(owner string, w api.Want) outcome {
	in := m.meant(owner, w)
	if k := one(in); k != "" {
		return outcome{kind: k}
	}
	in[0].want.Mode = w.Mode
	return outcome{count: 1}
}

func (m *plain) remove(in []*plainLock) {
	m.locks = slices.DeleteFunc(m.locks, func(l *plainLock) bool { return slices.Contains(in, l) })
}

func (m *plain) release(owner string, w api.Want) outcome {
	in := m.meant(owner, w)
	if k := one(in); k != "" {
		return outcome{kind: k}
	}
	m.remove(in)
	return outcome{count: 1}
}

func (m *plain) releaseOwner(space, owner string) outcome {
	var in []*plainLock
	for _, l := range m.locks {
		if l.owner == owner && (space == "" || l.want.Lockspace == space) {
			in = append(in, l)
		}
	}
	m.remove(in)
	return outcome{count: len(in)}
}

func (m *plain) String() string {
	var s []string
	for _, l := range m.locks {
		s = append(s, fmt.Sprint(l.want, l.owner))
	}
	slices.Sort(s)
	return fmt.Sprint(s)
}

// TestOneCallerInOrder has one connection make calls without waiting for the
// answers. Whatever happens in between, each comes to what it would have come
// to if he had waited, and so does the whole.
func TestOneCallerInOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newSim(rt, local.NewCluster("c").AddNode(1), "a", "b")
		s.start()
		s.rest()
		m := &plain{}
		var want []outcome
		draw := func() (string, api.AcquireOptions, api.Selector, api.Want) {
			owner := rapid.SampledFrom([]string{"", "vm1", "vm2"}).Draw(rt, "owner")
			w := wantOf(rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "space"),
				rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "resource"),
				rapid.SampledFrom([]dlm.Mode{dlm.NL, dlm.CR}).Draw(rt, "mode")) // nothing is in the way of each other
			return owner, api.AcquireOptions{Owner: owner, HasOwner: owner != ""}, api.Selector{Owner: owner,
				HasOwner: owner != ""}, w
		}
		rt.Repeat(map[string]func(*rapid.T){
			"acquire": func(rt *rapid.T) {
				owner, o, _, w := draw()
				all := []api.Want{w}
				for range rapid.IntRange(0, 2).Draw(rt, "more") {
					_, _, _, w := draw()
					all = append(all, w)
				}
				want = append(want, m.acquire(owner, all))
				s.acquire(alice, o, all...)
			},
			"convert": func(rt *rapid.T) {
				owner, _, sel, w := draw()
				want = append(want, m.convert(owner, w))
				s.convert(alice, w, sel, 0)
			},
			"release": func(rt *rapid.T) {
				owner, _, sel, w := draw()
				want = append(want, m.release(owner, w))
				s.release(alice, w.Lockspace, w.Resource, sel)
			},
			"releaseOwner": func(rt *rapid.T) {
				owner := rapid.SampledFrom([]string{"vm1", "vm2"}).Draw(rt, "owner")
				space := rapid.SampledFrom([]string{"", "a"}).Draw(rt, "space")
				want = append(want, m.releaseOwner(space, owner))
				s.releaseOwner(alice, space, owner)
			},
			"deliver": func(*rapid.T) { s.deliver() },
			"write":   func(*rapid.T) { s.write() },
			"":        func(rt *rapid.T) { checkIntegrity(rt, s.tab) },
		})
		s.rest()
		for i, c := range s.calls {
			require.Equal(rt, 1, c.answers, "call %d (%s) has no answer", i, c.name)
			got := outcome{count: len(c.grants) + int(c.count)}
			if e, ok := c.err.(*api.Error); ok {
				got = outcome{kind: e.Kind}
			}
			require.Equal(rt, want[i], got, "call %d (%s)", i, c.name)
		}
		got := &plain{}
		for l := range s.tab.locks.each {
			got.locks = append(got.locks, &plainLock{wantOf(l.sp.name, l.resource, l.mode), l.owner})
		}
		require.Equal(rt, m.String(), got.String())
		s.agree("x", "y")
	})
}
