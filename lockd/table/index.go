package table

import (
	"cmp"
	"hash/maphash"
	"sort"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// The indexes of the table: by number, by cookie, by resource, by owner. Each
// change and each search costs the same however many locks there are.

// add puts l, whose names, uid and owner are set, into every index.
func (t *Table) add(l *lock) {
	t.locks[l.ref] = l
	if l.cookie == 0 {
		l.cookie = dlm.Cookie(l.ref)
	}
	if l.cookie != dlm.Cookie(l.ref) {
		t.alias[l.cookie] = l
	}
	if l.probe {
		return
	}
	t.order = append(t.order, ordered{l.ref, l})
	if head := l.sp.byResource[l.resource]; head != nil {
		l.resource = head.resource // share the string
		l.nextRes, head.prevRes = head, l
	}
	l.sp.byResource[l.resource] = l
	l.sp.locks++
	t.usage(l.uid).locks++
	if l.onLost != nil {
		t.guarded++
	}
	if l.hasOwner {
		t.addOwner(l)
	}
}

func (t *Table) addOwner(l *lock) {
	k := ownerKey{l.uid, l.owner}
	if head := t.owners[k]; head != nil {
		k.owner, l.owner = head.owner, head.owner
		l.nextOwner, head.prevOwner = head, l
	}
	t.owners[k] = l
	h := t.hash(l.sp.name, l.resource, l.uid, l.owner)
	l.nextHash = t.owned[h]
	t.owned[h] = l
}

// remove takes l out of every index and wakes the calls parked behind it.
func (t *Table) remove(l *lock) {
	delete(t.locks, l.ref)
	delete(t.doomed, l)
	delete(t.stuck, l)
	delete(t.overdue, l)
	if t.alias[l.cookie] == l {
		delete(t.alias, l.cookie)
	}
	if l.probe {
		delete(t.probes, l)
		if l.stray {
			delete(l.sp.strays, l.lockid)
		}
		return
	}
	t.tellGone(l)
	t.unorder(l.ref)
	t.unbind(l)
	unlink(l)
	if l.prevRes == nil {
		if l.nextRes == nil {
			delete(l.sp.byResource, l.resource)
		} else {
			l.sp.byResource[l.resource] = l.nextRes
		}
	}
	l.sp.locks--
	t.unuse(l.uid)
	if l.onLost != nil {
		t.guarded--
	}
	if l.hasOwner {
		t.removeOwner(l)
	}
	l.busy = nil
	t.unpark(l)
	t.forgetSpace(l.sp)
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

func (t *Table) removeOwner(l *lock) {
	if l.prevOwner != nil {
		l.prevOwner.nextOwner = l.nextOwner
	}
	if l.nextOwner != nil {
		l.nextOwner.prevOwner = l.prevOwner
	}
	k := ownerKey{l.uid, l.owner}
	if l.prevOwner == nil {
		if l.nextOwner == nil {
			delete(t.owners, k)
		} else {
			t.owners[k] = l.nextOwner
		}
	}
	h := t.hash(l.sp.name, l.resource, l.uid, l.owner)
	p := t.owned[h]
	if p == l {
		if l.nextHash == nil {
			delete(t.owned, h)
		} else {
			t.owned[h] = l.nextHash
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
func (t *Table) unorder(r api.Ref) {
	i := t.orderIndex(r)
	if i == len(t.order) || t.order[i].ref != r {
		return
	}
	t.order[i].l = nil
	t.holes++
	if t.holes < 64 || t.holes < len(t.order)/2 {
		return
	}
	live := t.order[:0]
	for _, o := range t.order {
		if o.l != nil {
			live = append(live, o)
		}
	}
	clear(t.order[len(live):])
	t.order, t.holes = live, 0
}

// orderIndex returns the place of the first entry with a ref of at least r.
func (t *Table) orderIndex(r api.Ref) int {
	return sort.Search(len(t.order), func(i int) bool { return t.order[i].ref >= r })
}

// ownerHash returns the hash function of table.owned.
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
func (t *Table) findOwned(sp *space, resource string, uid uint32, owner string) *lock {
	for l := t.owned[t.hash(sp.name, resource, uid, owner)]; l != nil; l = l.nextHash {
		if l.sp == sp && l.resource == resource && l.uid == uid && l.owner == owner {
			return l
		}
	}
	return nil
}

func byRef(a, b *lock) int { return cmp.Compare(a.ref, b.ref) }

// setCookie changes how the engine knows l.
func (t *Table) setCookie(l *lock, c dlm.Cookie) {
	if t.alias[l.cookie] == l {
		delete(t.alias, l.cookie)
	}
	l.cookie = c
	if c != dlm.Cookie(l.ref) {
		t.alias[c] = l
	}
}

func (t *Table) byCookie(c dlm.Cookie) *lock {
	if len(t.alias) > 0 {
		if l := t.alias[c]; l != nil {
			return l
		}
	}
	if l := t.locks[api.Ref(c)]; l != nil && l.cookie == c {
		return l
	}
	return nil
}

func (t *Table) usage(uid uint32) *usage {
	u := t.perUID[uid]
	if u == nil {
		u = &usage{}
		t.perUID[uid] = u
	}
	return u
}

func (t *Table) unuse(uid uint32) {
	u := t.perUID[uid]
	u.locks--
	if *u == (usage{}) {
		delete(t.perUID, uid)
	}
}
