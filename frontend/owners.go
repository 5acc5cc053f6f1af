package frontend

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Owners selects the locks and requests of one user by their owner.
type Owners struct {
	Name   string // the owner or, with Prefix, how it begins
	Prefix bool
}

// Match reports whether an owner is one of them; "" never is.
func (o *Owners) Match(owner string) bool {
	if o.Prefix {
		return owner != "" && strings.HasPrefix(owner, o.Name)
	}
	return owner != "" && owner == o.Name
}

// ownerIndex finds, among the subscriptions to owners, those that an event concerns. So a notice
// costs the same however many there are. Each user has a separate index, so the subscriptions of one
// user cost nothing when the locks of another one change.
type ownerIndex struct {
	// Leaf lock: nothing is called with it held, so a receiver may end subscriptions.
	mu    sync.Mutex
	count int
	users map[uint32]*userOwners
}

// userOwners are the subscriptions of one user.
type userOwners struct {
	names    map[string][]*Subscription
	prefixes map[string][]*Subscription
	// lengths has the number of prefixes of each length: find looks up one prefix of each length.
	lengths map[int]int
}

func newOwnerIndex() *ownerIndex { return &ownerIndex{users: make(map[uint32]*userOwners)} }

// add adds a subscription.
func (x *ownerIndex) add(s *Subscription) {
	x.mu.Lock()
	defer x.mu.Unlock()
	u := x.users[s.uid]
	if u == nil {
		u = &userOwners{names: make(map[string][]*Subscription), prefixes: make(map[string][]*Subscription),
			lengths: make(map[int]int)}
		x.users[s.uid] = u
	}
	x.count++
	if !s.of.Prefix {
		u.names[s.of.Name] = append(u.names[s.of.Name], s)
		return
	}
	if len(u.prefixes[s.of.Name]) == 0 {
		u.lengths[len(s.of.Name)]++
	}
	u.prefixes[s.of.Name] = append(u.prefixes[s.of.Name], s)
}

// remove removes a subscription; a second call does nothing.
func (x *ownerIndex) remove(s *Subscription) {
	x.mu.Lock()
	defer x.mu.Unlock()
	u := x.users[s.uid]
	if u == nil {
		return
	}
	of := u.names
	if s.of.Prefix {
		of = u.prefixes
	}
	i := slices.Index(of[s.of.Name], s)
	if i < 0 {
		return
	}
	x.count--
	if of[s.of.Name] = slices.Delete(of[s.of.Name], i, i+1); len(of[s.of.Name]) > 0 {
		return
	}
	delete(of, s.of.Name)
	if n := len(s.of.Name); s.of.Prefix {
		if u.lengths[n]--; u.lengths[n] == 0 {
			delete(u.lengths, n)
		}
	}
	if len(u.names)+len(u.prefixes) == 0 {
		delete(x.users, s.uid)
	}
}

// find appends to found the subscriptions that an event concerns.
func (x *ownerIndex) find(e Event, found []*Subscription) []*Subscription {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.count == 0 {
		return found
	}
	uid, owner, ok := ownerOf(e)
	u := x.users[uid]
	if !ok || u == nil {
		return found
	}
	found = append(found, u.names[owner]...)
	for n := range maps.Keys(u.lengths) {
		if n <= len(owner) {
			found = append(found, u.prefixes[owner[:n]]...)
		}
	}
	return found
}

// ownerOf returns the user and the owner of the lock or request that an event is about; ok is false
// if that has no owner, and for an event that is about neither.
func ownerOf(e Event) (uid uint32, owner string, ok bool) {
	var l *api.LockInfo
	switch e := e.(type) {
	case api.LockAdded:
		l = &e.LockInfo
	case api.LockChanged:
		l = &e.LockInfo
	case api.LockRemoved:
		l = &e.LockInfo
	case api.LockLost:
		l = &e.LockInfo
	case api.BlockingNotice:
		l = &e.LockInfo
	case RequestAdded:
		return e.UID, e.Owner, e.Owner != ""
	case RequestChanged:
		return e.UID, e.Owner, e.Owner != ""
	case RequestRemoved:
		return e.UID, e.Owner, e.Owner != ""
	default:
		return 0, "", false
	}
	return l.UID, l.Owner, l.HasOwner
}
