package table

import (
	"iter"
	"slices"
	"sort"
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// A page of a listing. It ends when it is full or when no lock is left, however
// many locks have to be looked at for that: the owner looks at a slice
// of them at a time, and at everything else that has come in between the slices.

const (
	// scanSlice is how many locks a turn looks at, at most.
	scanSlice = 2000
	// indexedMost is how many locks of a resource or of an owner a turn looks
	// at. Where there are more, all locks are looked at in slices: the chains of
	// the indexes can't be followed from one turn to another.
	indexedMost = 2000
)

// listing is one page on its way.
type listing struct {
	t *Table
	f api.Filter
	// How many locks the page may have: the client's wish, bounded by the configuration.
	limit int
	after api.Ref // the last lock that was looked at
	// What was found so far.
	page api.Page
}

// newListing begins a page after the lock that the last page ended with.
func (t *Table) newListing(f api.Filter) *listing {
	g := &listing{t: t, f: f, limit: t.conf.Limits.PageSize, after: f.After}
	if f.Limit > 0 {
		g.limit = min(g.limit, f.Limit)
	}
	return g
}

// lookOn looks at a slice of the locks. It reports whether that was not all.
func (g *listing) lookOn() (more bool) {
	t := g.t
	if g.after == g.f.After {
		if in, ok := g.indexed(); ok {
			g.take(in)
			return false
		}
	}
	from := 0
	if g.after > 0 {
		from = sort.Search(len(t.locks.order), func(i int) bool { return t.locks.order[i].ref > g.after })
	}
	for _, o := range t.locks.order[from:min(len(t.locks.order), from+scanSlice)] {
		g.page.Looked++
		if o.l != nil && o.l.matches(&g.f) && !g.add(o.l) {
			return false
		}
		g.after = o.ref
	}
	return from+scanSlice < len(t.locks.order)
}

// add reports false where the page is full: then there is a next one.
func (g *listing) add(l *lock) bool {
	if n := len(g.page.Locks); n == g.limit {
		g.page.Next = g.page.Locks[n-1].Ref
		return false
	}
	g.page.Locks = append(g.page.Locks, l.info())
	return true
}

// take fills the page from the matches that an index has.
func (g *listing) take(in []*lock) {
	slices.SortFunc(in, byRef)
	g.page.Looked += len(in)
	for _, l := range in {
		if !g.add(l) {
			return
		}
	}
}

// indexed finds the locks that match a filter which names a resource of a
// lockspace, or an owner. It is false where there is no such index, or too much
// in it.
func (g *listing) indexed() (in []*lock, ok bool) {
	t, f := g.t, &g.f
	left := indexedMost
	walk := func(locks iter.Seq[*lock]) bool {
		for l := range locks {
			if left--; left < 0 {
				return false
			}
			if l.ref > f.After && l.matches(f) {
				in = append(in, l)
			}
		}
		return true
	}
	switch {
	case f.Lockspace != "" && t.spaces.byName[f.Lockspace] == nil:
		return nil, true
	case f.Lockspace != "" && f.Resource != "":
		ok = walk(t.spaces.byName[f.Lockspace].locksOf(f.Resource))
		return in, ok
	case f.HasOwner && len(t.locks.perUID) <= indexedMost:
		for uid := range t.locks.perUID {
			if !walk(t.locks.ownersLocks(uid, f.Owner)) {
				return nil, false
			}
		}
		return in, true
	}
	return nil, false
}

// list returns one page, in one turn.
func (t *Table) list(f api.Filter) (page []api.LockInfo, next api.Ref) {
	g := t.newListing(f)
	for g.lookOn() {
	}
	return g.page.Locks, g.page.Next
}

// matches reports whether a filter means l.
func (l *lock) matches(f *api.Filter) bool {
	return (f.Lockspace == "" || l.sp.name == f.Lockspace) &&
		(f.Resource == "" || l.resource == f.Resource) &&
		(!f.HasOwner || l.hasOwner && l.owner == f.Owner) &&
		(!f.HasUID || l.uid == f.UID) &&
		(!f.HasMode || l.mode == f.Mode) &&
		(f.State == 0 || l.public() == f.State) &&
		(!f.Granted || l.told) &&
		(!f.Queued || l.queued())
}

// listOp gives a page of locks. It changes nothing:
//
//	look at a slice of the locks in each turn
//	the page is full, or there are no more: reply
type listOp struct {
	call
	filter api.Filter
	// The answer, once the last slice was looked at.
	page api.Page
}

func (o *listOp) result() Reply           { return PageReply{o.page} }
func (o *listOp) patience() time.Duration { return 0 }

// start looks at the first slice of the locks now, and leaves the rest to later turns.
func (o *listOp) start() {
	g := o.t.newListing(o.filter)
	o.t.chore(func() bool {
		if g.lookOn() {
			return true
		}
		o.page = g.page
		o.reply()
		return false
	})
}
