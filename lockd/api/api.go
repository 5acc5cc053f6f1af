package api

import (
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/state"
)

// Ref is this instance's number for a lock, never reused: the last part of a
// lock's object path.
type Ref uint64

// Caller is who makes a call. UID comes from the bus and decides; PID is only written
// down, because a pid alone authorises nothing.
type Caller struct {
	UID  uint32
	GIDs []uint32 // its groups, where HelperPolicy may ask for one
	PID  uint32   // in the service's pid namespace; 0: it has none there, or the front end does not know it
	// Seen is the time since boot when the front end knew of the caller first; a
	// process that began later is another one with its pid. 0: it can't tell.
	Seen    time.Duration
	Session Session // whose calls they are; "" where nothing tells when the caller goes
	// Privileged callers may act on locks of other uids. Whether somebody is,
	// the front end finds out (root, or polkit's release-others).
	Privileged bool
}

// Want is one lock to take.
type Want struct {
	Lockspace string
	Resource  string
	Mode      dlm.Mode
}

// AcquireOptions say how the locks of one Acquire are to be.
type AcquireOptions struct {
	Owner    string // who the lock is for; with HasOwner asking again is idempotent
	HasOwner bool
	Label    string   // what a person should read
	Labels   []string // nil, or instead of Label one for each lock wanted
	Lifetime state.Lifetime
	PID      uint32     // Lifetime Process: whose end ends the lock; 0: the caller
	Value    *dlm.Value // in a lockspace for raw values, with PW or EX: what to write into the value block
	Start    uint64     // with HasStart: the start time of that process, as the client sees it (process.ID)
	HasStart bool
	Wait     time.Duration // 0: don't queue
	OnLost   *OnLost       // nil: nobody but LockLost tells of a loss
}

// LabelAt returns the label of the lock wanted at place i.
func (o *AcquireOptions) LabelAt(i int) string {
	if o.Labels != nil {
		return o.Labels[i]
	}
	return o.Label
}

// ConvertOptions say how a Convert is to be.
type ConvertOptions struct {
	Wait time.Duration // 0: don't queue
	// Value, in a lockspace for raw values, is what to write into the value
	// block: from PW or EX to any mode, also the same, or up to PW or EX.
	Value *dlm.Value
}

// Grant is a lock that was granted and written down.
type Grant struct {
	Ref       Ref
	Lockspace string
	Resource  string
	LockID    dlm.LockID
	Token     uint64 // 0 until fencing tokens are there
	// New is false if the owner held the lock already when this call asked for it.
	New bool
}

// Selector narrows down which lock of a resource is meant. Zero fields match
// every lock.
type Selector struct {
	Owner    string
	HasOwner bool
	LockID   dlm.LockID
	Token    uint64
	Ref      Ref
}

// Filter and page of a listing. Zero fields match everything.
type Filter struct {
	Lockspace string
	Resource  string
	Owner     string
	HasOwner  bool
	UID       uint32
	HasUID    bool
	Mode      dlm.Mode // with HasMode
	HasMode   bool
	State     LockState // 0: every state
	Granted   bool      // only those that were granted, and not undone
	Queued    bool      // only those that stand in a queue
	After     Ref       // only locks with a larger Ref
	Limit     int       // at most so many; 0: the configured page size
}

// Page is one page of a listing.
type Page struct {
	Locks  []LockInfo
	Next   Ref // the After of the next page, or 0 at the end
	Looked int // how many locks were looked at, those that don't match included
}

// LockState is what a lock is doing.
type LockState uint8

// The states of a lock, in the words of the bus.
const (
	Acquiring  LockState = iota + 1 // asked for; the client has no answer yet
	Held                            // granted and written down
	Converting                      // held, and a conversion is under way
	Releasing                       // a release is under way
)

func (s LockState) String() string {
	switch s {
	case Acquiring:
		return "acquiring"
	case Held:
		return "held"
	case Converting:
		return "converting"
	case Releasing:
		return "releasing"
	}
	return "unknown"
}

// ParseLockState reads what String writes; ok is false for anything else.
func ParseLockState(s string) (st LockState, ok bool) {
	for _, st := range []LockState{Acquiring, Held, Converting, Releasing} {
		if st.String() == s {
			return st, true
		}
	}
	return 0, false
}

// LockInfo describes one lock of this instance.
type LockInfo struct {
	Ref       Ref
	Lockspace string
	Resource  string
	LockID    dlm.LockID
	Mode      dlm.Mode // granted; None while acquiring
	Wanted    dlm.Mode // acquiring, converting: the mode asked for; else None
	State     LockState
	Token     uint64
	Owner     string
	HasOwner  bool
	Label     string
	Lifetime  state.Lifetime
	UID       uint32
	PID       uint32
	Session   Session
	Since     time.Time // when it was granted
	Waiting   time.Time // acquiring, converting: since when it stands in a queue; zero: it does not
	OnLost    string    // the helper that is run if it is lost; "" for none
}

// Lost describes a lock that was written down as held and is not there any
// more.
type Lost struct {
	LockInfo
	Reason string // for people
	At     time.Time
}

// Inspection is all that is known of one resource.
type Inspection struct {
	Lockspace string
	Resource  string
	Locks     []LockInfo // of this instance, by Ref
	Lost      []Lost     // lately lost here, oldest first
	Queues    dlm.Queues // what the lock manager shows, with locks of other nodes
	HasQueues bool
	Health    dlm.Health
	HasHealth bool
	// Value is the lock value block as a null lock reads it, where HasValue;
	// Holder what it says, where HasHolder.
	Value        dlm.Value
	HasValue     bool
	ValueInvalid bool // a holder died: Value may be older than the last write
	Holder       Holder
	HasHolder    bool
	Waits        []Wait   // who waits for whom, the first hundred
	Missing      []string // what could not be looked at and why, for people; that of Queues included
}

// SpaceState is what this instance does with a lockspace.
type SpaceState uint8

// The states of a lockspace, in the words of the bus.
const (
	SpaceJoining SpaceState = iota + 1
	SpaceReady
	SpaceLeaving
	SpaceFailed // joined or known, but not usable now: see LockspaceInfo.Error
)

func (s SpaceState) String() string {
	switch s {
	case SpaceJoining:
		return "joining"
	case SpaceReady:
		return "ready"
	case SpaceLeaving:
		return "leaving"
	case SpaceFailed:
		return "failed"
	}
	return "unknown"
}

// LockspaceInfo describes one lockspace of this instance.
type LockspaceInfo struct {
	Name      string
	State     SpaceState
	Error     string // SpaceFailed: why and what to do
	Locks     int    // locks of this instance in it
	Orphans   int    // orphans that no record explains; -1 where the engine can't tell
	Waiting   int    // requests of this instance that wait for a lock in it
	Health    dlm.Health
	HasHealth bool
	RawValues bool // the value blocks are the clients', and there are no tokens
}

// Quorum is what is known of the cluster's.
type Quorum uint8

// What is known of it, in the words of the bus. Unknown is neither: nobody could
// be asked, because the cluster does not run here, or has not been yet.
const (
	QuorumUnknown Quorum = iota
	Quorate
	Inquorate
)

func (q Quorum) String() string {
	switch q {
	case Quorate:
		return "quorate"
	case Inquorate:
		return "inquorate"
	}
	return "unknown"
}

// Status is a snapshot of the service for properties and the status line.
type Status struct {
	Ready      bool
	Engine     string
	Node       dlm.NodeInfo
	Names      NodeNames // of all nodes, as far as the engine knows them
	Quorum     Quorum
	Locks      int
	Waiting    int
	Lockspaces int
	Helpers    int    // those of lost locks that have not ended
	Degraded   string // what is out of order: why new locks are refused, or a process can't be watched; "" if nothing
	Counters   Counters
}

// Notice is what the service says unasked: LockLost, BlockingNotice,
// LockspaceChanged, StatusChanged or, while somebody watches (Service.Watch),
// LockAdded, LockChanged or LockRemoved.
type Notice interface{ notice() }

// LockLost: a lock that was held is not there any more.
type LockLost struct{ Lost }

// BlockingNotice: somebody waits for Mode, and the lock is in the way.
type BlockingNotice struct {
	LockInfo
	Blocked dlm.Mode
	Node    uint32 // of who waits; 0 where that is not known
}

// LockspaceChanged: State, Error or Health of a lockspace is another.
type LockspaceChanged struct {
	LockspaceInfo
	Gone bool // left
}

// StatusChanged: a field of Status has changed, other than Locks, Waiting and the counters,
// which change with every call. Several changes may come as one.
type StatusChanged struct{ Status }

// LockAdded: a lock was granted and written down.
type LockAdded struct{ LockInfo }

// LockChanged: the State, Mode, Wanted mode or Token of a lock that was granted
// is another. Several changes may come as one.
type LockChanged struct{ LockInfo }

// LockRemoved: a lock that was granted is gone, by whatever way.
type LockRemoved struct{ LockInfo }

func (LockAdded) notice()        {}
func (LockChanged) notice()      {}
func (LockRemoved) notice()      {}
func (LockLost) notice()         {}
func (BlockingNotice) notice()   {}
func (LockspaceChanged) notice() {}
func (StatusChanged) notice()    {}

// Service is the lock service as front ends see it. Names and modes are checked here
// again, so that no front end can forget to. Every error is an *Error. done is
// called exactly once.
type Service interface {
	// Acquire takes all the locks or none. The grants come in the order of
	// want; an empty list succeeds.
	Acquire(c Caller, want []Want, o AcquireOptions, done func([]Grant, error))
	// Request queues for a lock without a deadline: started gets its number or
	// why it can't wait, then done how it ended.
	Request(c Caller, w Want, o AcquireOptions, started func(Ref, error), done func(Grant, error))
	// CancelRequest withdraws a Request that still waits.
	CancelRequest(c Caller, ref Ref, done func(error))
	// Position tells a waiting Request's place among those of this instance for
	// its resource, 1 being the next. 0: it does not wait, or more than a
	// thousand are before it. Requests of other nodes are not known.
	Position(ref Ref, done func(int))
	// Lock describes one lock; an error of kind NotHeld if it is gone.
	Lock(ref Ref, done func(LockInfo, error))
	// Sessions returns those that locks of lifetime connection hang on. When the
	// service is ready, each front end passes those of its own that have ended
	// meanwhile to SessionGone, and none of another front end.
	Sessions(done func([]Session))
	// Convert changes the mode of a lock of the caller in place.
	Convert(c Caller, w Want, sel Selector, o ConvertOptions, done func(Grant, error))
	// Release releases one lock.
	Release(c Caller, lockspace, resource string, sel Selector, done func(error))
	// ReleaseOwner releases everything of one owner of the caller's uid, in
	// one lockspace or, with "", in all. A privileged caller means the owners
	// of that name of every uid.
	ReleaseOwner(c Caller, lockspace, owner string, done func(released uint32, err error))
	// ReleaseMany releases what one owner of the caller's uid holds of some
	// resources (the modes are ignored), and of whatever resource with one of
	// these labels, and tells how many locks that were. Where a lockspace can't be used now, what is
	// in the others is released
	// all the same, and the call fails.
	ReleaseMany(c Caller, resources []Want, owner string, labels []string, done func(released uint32, err error))
	Inspect(lockspace, resource string, done func(Inspection, error))
	// List returns a page of locks by Ref.
	List(f Filter, done func(Page, error))
	// Waits returns a page of the locks that stand in a queue, by Ref, with what each
	// waits for. Waits of other nodes are known to them.
	Waits(f Filter, done func(WaitsPage, error))
	// Lost lists locks that were lately lost here, the last one first, also those of
	// lockspaces that were left since. Of the filter it takes Lockspace, Resource,
	// Owner, UID and Limit.
	Lost(f Filter, done func([]Lost, error))
	Lockspaces(done func([]LockspaceInfo, error))
	// Watch says whether the notices about single locks are wanted. What was
	// granted before is in a Snapshot asked for afterwards.
	Watch(on bool)
	// Snapshot is the lockspaces and, of one page of List, the locks that were
	// granted, at one moment: notices that came before it are in it, later
	// ones are not. place is Position at this moment, and good until done returns.
	Snapshot(limit int, done func(spaces []LockspaceInfo, locks []LockInfo, place func(Ref) int))
	Join(c Caller, lockspace string, done func(error))
	// Leave leaves a lockspace. With locks held in it, it is refused unless
	// force; then each is reported lost. With force or without it is refused
	// while another process uses the lockspace, or orphans are in it that no
	// record explains. One that is not the service's is only forgotten.
	Leave(c Caller, lockspace string, force bool, done func(error))
	// Orphans lists the orphans of a lockspace that no record explains, with what
	// their value blocks tell.
	Orphans(lockspace string, done func([]Orphan, error))
	// AdoptOrphan makes one of them the persistent lock of an owner, without
	// letting go of it.
	AdoptOrphan(c Caller, lockspace string, id dlm.LockID, o AdoptOptions, done func(Grant, error))
	// Purge removes them if they still are exactly those in expect; with some,
	// it removes those in expect, if all of them are there, and no others.
	Purge(c Caller, lockspace string, expect []dlm.LockID, some bool, done func(purged uint32, err error))
	// SessionGone says that a session has ended: its unanswered calls are
	// canceled, and its locks of lifetime connection released.
	SessionGone(s Session)
	// Idle tells why the service is needed while nobody calls it, or "" if a
	// daemon that the next call starts would do as well.
	Idle(done func(needed string))
	// Status never blocks and needs no answer from the owner.
	Status() Status
}
