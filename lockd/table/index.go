package table

import (
	"hash/maphash"
	"sort"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// locks are the locks of the table, by number, by cookie, by resource (in
// lockspace.byResource), and by owner. Each change and each search costs the same
// however many locks there are.
type locks struct {
	// The youngest number. It is never smaller than one in the state file, so that no
	// number means two locks.
	last api.Ref
	// All of them, the table's own as well.
	byRef map[api.Ref]*lock
	alias map[dlm.Cookie]*lock // those whose cookie is not their ref
	// The locks of clients by ref, for lists, which give pages of them. A lock that is
	// removed leaves a hole.
	order []ordered
	// How many entries of order are holes.
	holes  int
	owners map[ownerKey]*lock // head of the owner's locks
	// By the hash of lockspace, resource, uid and owner, because a key of all four
	// would take more memory than a lock. Equal hashes are chained.
	owned map[uint64]*lock
	hash  func(space, resource string, uid uint32, owner string) uint64
	// What each user has; one who has nothing is not kept.
	perUID map[uint32]*usage
	// guarded is how many name a helper.
	// How many locks name a helper. As long as there is one the service has to stay, to
	// run it.
	guarded int
}

type ordered struct {
	ref api.Ref
	l   *lock
}

type ownerKey struct {
	uid   uint32
	owner string
}

type usage struct{ locks, waiting int }

func newLocks(seed maphash.Seed) locks {
	return locks{byRef: map[api.Ref]*lock{}, alias: map[dlm.Cookie]*lock{}, owners: map[ownerKey]*lock{},
		owned: map[uint64]*lock{}, hash: ownerHash(seed), perUID: map[uint32]*usage{}}
}

// reserve makes room for more locks, of so many owners, if there are none yet.
func (x *locks) reserve(n, owners int) {
	if len(x.byRef) > 0 {
		return
	}
	x.byRef = make(map[api.Ref]*lock, n)
	x.order = make([]ordered, 0, n+n/16)
	x.owners = make(map[ownerKey]*lock, owners)
	if owners > 0 {
		x.owned = make(map[uint64]*lock, n)
	}
}

// nextRef hands out a number that was never used before.
func (x *locks) nextRef() api.Ref {
	x.last++
	return x.last
}

// count is how many locks of clients there are, and own how many of the table's.
func (x *locks) count() int { return len(x.order) - x.holes }
func (x *locks) own() int   { return len(x.byRef) - x.count() }

// add puts l, whose names, uid and owner are set, into every index.
func (x *locks) add(l *lock) {
	x.byRef[l.ref] = l
	if l.cookie == 0 {
		l.cookie = dlm.Cookie(l.ref)
	}
	if l.cookie != dlm.Cookie(l.ref) {
		x.alias[l.cookie] = l
	}
	if l.kind != clientLock {
		return
	}
	x.order = append(x.order, ordered{l.ref, l})
	if head := l.sp.byResource[l.resource]; head != nil {
		l.resource = head.resource // share the string
		l.nextRes, head.prevRes = head, l
	}
	l.sp.byResource[l.resource] = l
	l.sp.locks++
	x.usage(l.uid).locks++
	if l.onLost != nil {
		x.guarded++
	}
	if l.hasOwner {
		x.addOwner(l)
	}
}

// addOwner enters l among the locks of its owner, and shares the owner's name with the others:
// owners with many locks are usual.
func (x *locks) addOwner(l *lock) {
	k := ownerKey{l.uid, l.owner}
	if head := x.owners[k]; head != nil {
		k.owner, l.owner = head.owner, head.owner
		l.nextOwner, head.prevOwner = head, l
	}
	x.owners[k] = l
	h := x.hash(l.sp.name, l.resource, l.uid, l.owner)
	l.nextHash = x.owned[h]
	x.owned[h] = l
}

// drop takes l out of every index.
func (x *locks) drop(l *lock) {
	delete(x.byRef, l.ref)
	if x.alias[l.cookie] == l {
		delete(x.alias, l.cookie)
	}
	if l.kind != clientLock {
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
	if l.onLost != nil {
		x.guarded--
	}
	if l.hasOwner {
		x.removeOwner(l)
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

// removeOwner takes l out of both chains of its owner.
func (x *locks) removeOwner(l *lock) {
	if l.prevOwner != nil {
		l.prevOwner.nextOwner = l.nextOwner
	}
	if l.nextOwner != nil {
		l.nextOwner.prevOwner = l.prevOwner
	}
	k := ownerKey{l.uid, l.owner}
	if l.prevOwner == nil {
		if l.nextOwner == nil {
			delete(x.owners, k)
		} else {
			x.owners[k] = l.nextOwner
		}
	}
	h := x.hash(l.sp.name, l.resource, l.uid, l.owner)
	p := x.owned[h]
	if p == l {
		if l.nextHash == nil {
			delete(x.owned, h)
		} else {
			x.owned[h] = l.nextHash
		}
		return
	}
	for ; p != nil; p = p.nextHash {
		if p.nextHash == l {
			p.nextHash = l.nextHash
			return
		}
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

// ownerHash returns the hash function of locks.owned.
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
	for l := x.owned[x.hash(sp.name, resource, uid, owner)]; l != nil; l = l.nextHash {
		if l.sp == sp && l.resource == resource && l.uid == uid && l.owner == owner {
			return l
		}
	}
	return nil
}

// setCookie changes how the engine knows l.
func (x *locks) setCookie(l *lock, c dlm.Cookie) {
	if x.alias[l.cookie] == l {
		delete(x.alias, l.cookie)
	}
	l.cookie = c
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
	if l := x.byRef[api.Ref(c)]; l != nil && l.cookie == c {
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
