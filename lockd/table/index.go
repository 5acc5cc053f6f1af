package table

import (
	"hash/maphash"
	"iter"
	"sort"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// locks are the locks of the table, by number, by cookie, by resource (in
// lockspace.byResource), and by owner. No change and no search looks at every lock: the cost
// of finding a number grows with the logarithm of how many there are.
//
// There may be a hundred thousand locks, and nearly all of them are alone on their resource. A map
// with an entry for every lock takes at least some twenty bytes for each, and adding to maps is most
// of the work of adding a lock. So there are only two such maps: byResource and owners.
type locks struct {
	// The youngest number. It is never smaller than one in the state file, so that no
	// number means two locks.
	last api.Ref
	// The locks of clients by ref: for finding one, and for lists, which give pages of them. A
	// lock that is removed leaves a hole.
	order []ordered
	// How many entries of order are holes.
	holes int
	own   map[api.Ref]*lock    // the table's own
	alias map[dlm.Cookie]*lock // those whose cookie is not their ref
	// By the hash of uid and owner, the youngest lock of the owner, where the chain of the
	// owner's locks begins. Owners with equal hashes share a chain.
	owners map[uint64]*lock
	// By the hash of lockspace, resource, uid and owner, the locks that have an owner, and whose
	// resource has or had several locks. Locks with equal hashes are chained.
	owned map[uint64]*lock
	hash  func(space, resource string, uid uint32, owner string) uint64
	// What each user has; one who has nothing is not kept.
	perUID map[uint32]*usage
	// How many locks name a helper. As long as there is one the service has to stay, to
	// run it.
	guarded int
}

type ordered struct {
	ref api.Ref
	l   *lock
}

type usage struct{ locks, waiting int }

func newLocks(seed maphash.Seed) locks {
	return locks{own: map[api.Ref]*lock{}, alias: map[dlm.Cookie]*lock{}, owners: map[uint64]*lock{},
		owned: map[uint64]*lock{}, hash: ownerHash(seed), perUID: map[uint32]*usage{}}
}

// reserve makes room for more locks, of so many owners, if there are none yet.
func (x *locks) reserve(n, owners int) {
	if len(x.order) > 0 {
		return
	}
	x.order = make([]ordered, 0, n+n/16)
	x.owners = make(map[uint64]*lock, owners)
}

// nextRef hands out a number that was never used before.
func (x *locks) nextRef() api.Ref {
	x.last++
	return x.last
}

// count is how many locks of clients there are.
func (x *locks) count() int { return len(x.order) - x.holes }

// byRef finds a lock by its number, or returns nil.
func (x *locks) byRef(r api.Ref) *lock {
	if i := x.orderIndex(r); i < len(x.order) && x.order[i].ref == r {
		return x.order[i].l
	}
	return x.own[r]
}

// has reports whether l has not been removed.
func (x *locks) has(l *lock) bool { return x.byRef(l.ref) == l }

// add puts l into every index. Its names, uid and owner are set, and its number is the youngest.
func (x *locks) add(l *lock) {
	if c := l.cookie(); c != dlm.Cookie(l.ref) {
		x.alias[c] = l
	}
	if l.kind != clientLock {
		x.own[l.ref] = l
		return
	}
	x.order = append(x.order, ordered{l.ref, l})
	if head := l.sp.byResource[l.resource]; head != nil {
		l.resource = head.resource // share the string
		l.nextRes, head.prevRes = head, l
		x.addOwned(head) // it may have been alone before
		x.addOwned(l)
	}
	l.sp.byResource[l.resource] = l
	l.sp.locks++
	x.usage(l.uid).locks++
	if l.onLost() != nil {
		x.guarded++
	}
	if l.hasOwner {
		x.addOwner(l)
	}
}

// locksOf yields the locks of a resource, the youngest first.
func (sp *lockspace) locksOf(resource string) iter.Seq[*lock] {
	return func(yield func(*lock) bool) {
		for l := sp.byResource[resource]; l != nil && yield(l); l = l.nextRes {
		}
	}
}

// ownersLocks yields the locks of an owner, the youngest first.
func (x *locks) ownersLocks(uid uint32, owner string) iter.Seq[*lock] {
	return func(yield func(*lock) bool) {
		for l := x.owners[x.hash("", "", uid, owner)]; l != nil; l = l.nextOwner {
			if l.uid == uid && l.owner == owner && !yield(l) {
				return
			}
		}
	}
}

// addOwner enters l among the locks of its owner, and shares the owner's name with the others:
// owners with many locks are usual.
func (x *locks) addOwner(l *lock) {
	h := x.hash("", "", l.uid, l.owner)
	if head := x.owners[h]; head != nil {
		if head.uid == l.uid && head.owner == l.owner {
			l.owner = head.owner
		}
		l.nextOwner, head.prevOwner = head, l
	}
	x.owners[h] = l
}

// addOwned enters l in owned, if it has an owner and is not there yet.
func (x *locks) addOwned(l *lock) {
	if !l.hasOwner || l.inOwned {
		return
	}
	h := x.hash(l.sp.name, l.resource, l.uid, l.owner)
	if next := x.owned[h]; next != nil {
		l.more().nextHash = next
	}
	x.owned[h], l.inOwned = l, true
}

// drop takes l out of every index.
func (x *locks) drop(l *lock) {
	if c := l.cookie(); x.alias[c] == l {
		delete(x.alias, c)
	}
	if l.kind != clientLock {
		delete(x.own, l.ref)
		return
	}
	x.unorder(l.ref)
	unlink(l)
	if l.prevRes == nil {
		if l.nextRes == nil {
			delete(l.sp.byResource, l.resource)
		} else {
			l.sp.byResource[l.resource] = l.nextRes
		}
	}
	l.sp.locks--
	x.unuse(l.uid)
	if l.onLost() != nil {
		x.guarded--
	}
	if l.hasOwner {
		x.removeOwner(l)
	}
	if l.inOwned {
		x.removeOwned(l)
	}
}

// unlink takes l out of the chain of its resource. The chain's head is in the
// map, which the caller mends.
func unlink(l *lock) {
	if l.prevRes != nil {
		l.prevRes.nextRes = l.nextRes
	}
	if l.nextRes != nil {
		l.nextRes.prevRes = l.prevRes
	}
}

// removeOwner takes l out of the chain of its owner.
func (x *locks) removeOwner(l *lock) {
	if l.nextOwner != nil {
		l.nextOwner.prevOwner = l.prevOwner
	}
	if l.prevOwner != nil {
		l.prevOwner.nextOwner = l.nextOwner
		return
	}
	h := x.hash("", "", l.uid, l.owner)
	if l.nextOwner == nil {
		delete(x.owners, h)
	} else {
		x.owners[h] = l.nextOwner
	}
}

// removeOwned takes l out of owned.
func (x *locks) removeOwned(l *lock) {
	l.inOwned = false
	h := x.hash(l.sp.name, l.resource, l.uid, l.owner)
	p, next := x.owned[h], l.nextHash()
	switch {
	case p != l:
		for p.nextHash() != l {
			p = p.nextHash()
		}
		p.rare.nextHash = next
	case next == nil:
		delete(x.owned, h)
	default:
		x.owned[h] = next
	}
}

// unorder leaves a hole, and closes the holes when they are the most.
func (x *locks) unorder(r api.Ref) {
	i := x.orderIndex(r)
	if i == len(x.order) || x.order[i].ref != r {
		return
	}
	x.order[i].l = nil
	x.holes++
	if x.holes < 64 || x.holes < len(x.order)/2 {
		return
	}
	live := x.order[:0]
	for _, o := range x.order {
		if o.l != nil {
			live = append(live, o)
		}
	}
	clear(x.order[len(live):])
	x.order, x.holes = live, 0
}

// orderIndex returns the place of the first entry with a ref of at least r.
func (x *locks) orderIndex(r api.Ref) int {
	return sort.Search(len(x.order), func(i int) bool { return x.order[i].ref >= r })
}

// all yields the locks of clients by ref.
func (x *locks) all(yield func(*lock) bool) {
	for _, o := range x.order {
		if o.l != nil && !yield(o.l) {
			return
		}
	}
}

// each yields all locks, those of clients by ref and then the table's own.
func (x *locks) each(yield func(*lock) bool) {
	for l := range x.all {
		if !yield(l) {
			return
		}
	}
	for _, l := range x.own {
		if !yield(l) {
			return
		}
	}
}

// ownerHash returns the hash function of locks.owned and locks.owners.
func ownerHash(seed maphash.Seed) func(space, resource string, uid uint32, owner string) uint64 {
	return func(space, resource string, uid uint32, owner string) uint64 {
		var h maphash.Hash
		h.SetSeed(seed)
		h.WriteString(space)
		h.WriteByte(0)
		h.WriteByte(byte(len(resource)))
		h.WriteString(resource)
		h.Write([]byte{byte(uid), byte(uid >> 8), byte(uid >> 16), byte(uid >> 24)})
		h.WriteString(owner)
		return h.Sum64()
	}
}

// findOwned returns the lock that an owner has on a resource, or nil: an owner
// has one at the most.
func (x *locks) findOwned(sp *lockspace, resource string, uid uint32, owner string) *lock {
	is := func(l *lock) bool {
		return l.hasOwner && l.sp == sp && l.resource == resource && l.uid == uid && l.owner == owner
	}
	head := sp.byResource[resource]
	if head == nil || is(head) {
		return head
	}
	if head.nextRes == nil {
		return nil
	}
	for l := x.owned[x.hash(sp.name, resource, uid, owner)]; l != nil; l = l.nextHash() {
		if is(l) {
			return l
		}
	}
	return nil
}

// setCookie changes how the engine knows l.
func (x *locks) setCookie(l *lock, c dlm.Cookie) {
	if old := l.cookie(); old == c {
		return
	} else if x.alias[old] == l {
		delete(x.alias, old)
	}
	l.knownAs(c)
	if c != dlm.Cookie(l.ref) {
		x.alias[c] = l
	}
}

// byCookie finds the lock that an event of the engine is about, or nil. Nearly every lock has
// its ref for a cookie.
func (x *locks) byCookie(c dlm.Cookie) *lock {
	if len(x.alias) > 0 {
		if l := x.alias[c]; l != nil {
			return l
		}
	}
	if l := x.byRef(api.Ref(c)); l != nil && l.cookie() == c {
		return l
	}
	return nil
}

// usage is what a user has, to be changed; unuse takes one lock off it.
func (x *locks) usage(uid uint32) *usage {
	u := x.perUID[uid]
	if u == nil {
		u = &usage{}
		x.perUID[uid] = u
	}
	return u
}

// unuse takes one lock off what a user has; one who has nothing is forgotten.
func (x *locks) unuse(uid uint32) {
	u := x.perUID[uid]
	u.locks--
	if *u == (usage{}) {
		delete(x.perUID, uid)
	}
}

// remove takes l out of the table, and wakes the calls that follow what is under way
// with it.
func (l *lock) remove() {
	t := l.sp.t
	t.retries.drop(l)
	if l.kind != clientLock {
		t.locks.drop(l)
		delete(t.probes.readers, l)
		if l.kind == unknownOrphan {
			delete(l.sp.orphans.adopted, l.lockid)
		}
		return
	}
	l.tellGone()
	l.unbind()
	t.locks.drop(l)
	if c := l.busy; c != nil {
		l.busy = nil
		t.calls.wakeFollowers(c)
	}
	l.sp.forget()
}
