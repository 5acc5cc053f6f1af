package table

import (
	"cmp"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// lockState is what a lock is doing. doc.go draws how one state follows another.
type lockState uint8

const (
	// lockAcquiring: a call takes it, and nothing is asked of the lock manager
	// now.
	lockAcquiring lockState = iota
	// lockLocking: Lock is in flight.
	lockLocking
	// lockPersisting: it is granted and written down, and the conversion in place
	// that makes it persistent is in flight.
	lockPersisting
	// lockHeld: it is granted and written down, and nothing is under way.
	lockHeld
	// lockConverting: a conversion of a held lock is in flight.
	lockConverting
	// lockChanging: a conversion is under way, and nothing is asked of the lock
	// manager now.
	lockChanging
	// lockReleasing: it is being released, or is to be, and nothing is asked of
	// the lock manager now.
	lockReleasing
	// lockUnlocking: Unlock is in flight.
	lockUnlocking
	// lockRecorded: the state file has it, and it is not adopted through the
	// handle that is open, if any.
	lockRecorded
)

// public is the state in the words of front ends.
func (l *lock) public() api.LockState {
	switch l.state {
	case lockAcquiring, lockLocking, lockPersisting:
		return api.Acquiring
	case lockConverting, lockChanging:
		return api.Converting
	case lockReleasing, lockUnlocking:
		return api.Releasing
	case lockRecorded:
		if l.phase != state.Held {
			return api.Releasing // to be released when it is adopted
		}
	}
	return api.Held
}

// inFlight reports whether an operation of the lock manager is under way.
func (l *lock) inFlight() bool {
	switch l.state {
	case lockLocking, lockPersisting, lockConverting, lockUnlocking:
		return true
	}
	return false
}

// landed is the state after the operation that is in flight in a state.
func (s lockState) landed() lockState {
	switch s {
	case lockLocking, lockPersisting:
		return lockAcquiring
	case lockConverting:
		return lockChanging
	case lockUnlocking:
		return lockReleasing
	}
	return s
}

// lockKind tells the locks of clients from the table's own.
type lockKind uint8

const (
	// clientLock is a lock that a caller has asked for.
	clientLock lockKind = iota
	// valueProbe is a null lock that only reads a value block.
	valueProbe
	// unknownOrphan is an orphan that no record explains. It was adopted because
	// it has the name and mode of one that was meant; there is no way to give it
	// back, and as a persistent lock it is an orphan again when the process ends.
	unknownOrphan
)

// lock is one lock of this instance, from the request to the end. The fields
// are ordered for size: a hundred thousand of them are nothing unusual.
type lock struct {
	// The number by which clients know it; never used again.
	ref api.Ref
	// The lockspace that it is in.
	sp *lockspace
	client
	links
	// The name, of which all locks of the resource share the memory.
	resource string
	// The call whose operation is under way, through all its stages. Other calls for the
	// lock follow it.
	busy  *call
	bound *binding // what its lifetime hangs on; nil for persistent
	rare  *rare    // nil for most
	since int64    // microseconds since 1970; when it was granted
	// The fencing token of the last grant in PW or EX, or the current one of the resource
	// at the grant in a weaker mode; 0 in raw lockspaces.
	token uint64
	asked uint64 // seq of the call that made it; 0: an earlier process did

	// The engine's number; 0 before the first grant. It is what the next start finds the
	// lock by, so it is recorded.
	lockid dlm.LockID
	mode   dlm.Mode // granted in the DLM; None while it has nothing
	// What the operation under way asks for; None if none is under way.
	wanted dlm.Mode
	// Somebody waits in this mode, and nobody has been told (blocking.go). None otherwise.
	// Only the strongest one is kept.
	blocked dlm.Mode
	// Whose it is: a client's, or the table's own.
	kind lockKind
	// What it is doing; see doc.go.
	state lockState
	phase state.Phase // what the state file says of it; 0: nothing
	noticed
	inOwned bool // locks.owned has it
}

// rare has the fields that few locks need. They are apart from the lock, so most locks need no memory
// for them.
type rare struct {
	onLost *api.OnLost // shared by the locks of a call; nil: nothing is run
	// In PW or EX, in a lockspace for raw values: what the block holds; nil: not known.
	value    *dlm.Value
	cookie   dlm.Cookie // of some adopted locks, the number by which the engine knows them; 0: the ref
	nextHash *lock      // in a chain of locks.owned
}

// more returns the rare fields of l for changing, and makes them if necessary.
func (l *lock) more() *rare {
	if l.rare == nil {
		l.rare = &rare{}
	}
	return l.rare
}

// cookie returns the number by which the engine knows l.
func (l *lock) cookie() dlm.Cookie {
	if l.rare == nil || l.rare.cookie == 0 {
		return dlm.Cookie(l.ref)
	}
	return l.rare.cookie
}

// knownAs records the number by which the engine knows l.
func (l *lock) knownAs(c dlm.Cookie) {
	switch {
	case c != dlm.Cookie(l.ref):
		l.more().cookie = c
	case l.rare != nil:
		l.rare.cookie = 0
	}
}

// onLost is what is to be done if l is lost; nil: nothing.
func (l *lock) onLost() *api.OnLost {
	if l.rare == nil {
		return nil
	}
	return l.rare.onLost
}

// value is the raw value that the block of the resource holds; nil: not known.
func (l *lock) value() *dlm.Value {
	if l.rare == nil {
		return nil
	}
	return l.rare.value
}

// nextHash is the next lock in a chain of locks.owned, or nil.
func (l *lock) nextHash() *lock {
	if l.rare == nil {
		return nil
	}
	return l.rare.nextHash
}

// noticed is what those who watch the locks know of one.
type noticed struct {
	told  bool // it was held once: they know of it
	dirty bool // its LockChanged is due at the end of the turn
}

// client is for whom a lock is.
type client struct {
	// What the client calls itself; hasOwner tells "" from no owner. An owner has at most
	// one lock of a resource.
	owner string
	// What a person should read about the lock, where it is in somebody's way.
	label string
	// Which session gets the notices about the lock; with lifetime connection its end ends
	// the lock.
	session api.Session
	// Whose lock it is: that user may convert and release it. pid is only for people to
	// read.
	uid, pid uint32
	// Which event ends it without a release.
	lifetime state.Lifetime
	hasOwner bool
}

// links chain the locks of a resource, and of an owner (locks.owners).
type links struct {
	nextRes, prevRes     *lock
	nextOwner, prevOwner *lock
}

// key names the lock's resource.
func (l *lock) key() resourceKey { return resourceKey{l.sp.name, l.resource} }

// keysOf names the resources of locks.
func keysOf(in []*lock) []resourceKey {
	keys := make([]resourceKey, len(in))
	for i, l := range in {
		keys[i] = l.key()
	}
	return keys
}

func byRef(a, b *lock) int { return cmp.Compare(a.ref, b.ref) }

// unlocked reports whether an unlock with this outcome leaves no lock behind.
func unlocked(st dlm.Status) bool {
	return st.OK() || st == dlm.StatusNotFound || st == dlm.StatusGone
}

// noteMode takes the mode that an event says the lock has after a failure.
func (l *lock) noteMode(ev dlm.Event) {
	if ev.Status == dlm.StatusGone || ev.Status == dlm.StatusNotFound {
		l.mode = dlm.None
	}
}

// idle ends the operation of l: it is held, and the calls that follow the one under
// way look again.
func (l *lock) idle() {
	c := l.busy
	l.busy, l.wanted, l.state = nil, dlm.None, lockHeld
	if !l.sp.open() {
		l.state = lockRecorded // its handle has gone meanwhile
	}
	l.tell()
	if m := l.blocked; m != dlm.None {
		l.blocked = dlm.None
		l.sp.blocked.tell(l, m)
	}
	if c != nil {
		l.sp.t.calls.wakeFollowers(c)
	}
}

// record returns the state file's record of l.
func (l *lock) record(p state.Phase) state.Lock {
	r := state.Lock{
		ID: uint64(l.ref), Lockspace: l.sp.name, Resource: l.resource, LockID: l.lockid, Mode: l.mode,
		Phase: p, Token: l.token, Owner: l.owner, HasOwner: l.hasOwner, Label: l.label,
		Lifetime: l.lifetime, UID: l.uid, PID: l.pid, Since: time.UnixMicro(l.since),
		PIDStart: l.procStart(),
	}
	r.Session, r.SessionBus = l.session.Recorded()
	if on := l.onLost(); on != nil {
		r.OnLost, r.OnLostData = on.Helper, on.Data
	}
	return r
}

// procStart is the start time of the process that ends l, or 0.
func (l *lock) procStart() uint64 {
	if l.bound == nil {
		return 0
	}
	return l.bound.proc.Start
}

// info describes l for front ends.
func (l *lock) info() api.LockInfo {
	i := api.LockInfo{
		Ref: l.ref, Lockspace: l.sp.name, Resource: l.resource, LockID: l.lockid, Mode: l.mode, Wanted: l.wanted,
		State: l.public(), Token: l.token, Owner: l.owner, HasOwner: l.hasOwner, Label: l.label, Lifetime: l.lifetime,
		UID: l.uid, PID: l.pid, Session: l.session, Since: time.UnixMicro(l.since), OnLost: l.onLost().Name(),
	}
	if l.queued() {
		i.Waiting = l.busy.begun
	}
	return i
}

// grant is what the answer says about l.
func (l *lock) grant() api.Grant {
	return api.Grant{Ref: l.ref, Lockspace: l.sp.name, Resource: l.resource, LockID: l.lockid, Token: l.token}
}
