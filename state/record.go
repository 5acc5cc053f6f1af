package state

import (
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Phase says how much of the life of a lock has been recorded.
type Phase uint8

// The phases of a lock. The file holds their names in lower case.
const (
	// Granted: the DLM has granted the lock, and the conversion to PERSISTENT may or may not have
	// happened. No client has had an answer.
	Granted Phase = iota + 1
	// Held: the lock is persistent in the DLM, or has a lifetime that needs no PERSISTENT.
	Held
	// Releasing: somebody has asked to release it; the unlock may or may not have happened.
	Releasing
	// Gone ends the record. It appears in marks only.
	Gone
	// Lost: the lock no longer exists, and its helper (OnLost) may not have ended yet. This phase
	// appears in records only, and outlives the membership in the lockspace.
	Lost
)

// Lifetime says which event ends a lock without a release.
type Lifetime uint8

// The lifetimes. The file and the bus hold their names in lower case.
const (
	Persistent Lifetime = iota
	Connection
	Process
)

// Lock is the record of one lock: a [[lock]] table.
type Lock struct {
	ID        uint64 // the number that this instance gave it, never reused
	Lockspace string
	Resource  string // any bytes
	// The lock manager's number: how the next start finds the lock again.
	LockID dlm.LockID
	// The mode that was last recorded. After a crash in the middle of a conversion the
	// lock manager may say otherwise, and is right.
	Mode dlm.Mode
	// How far the client's call had got: whether the client may know of the lock.
	Phase Phase
	// The fencing token that the client was given.
	Token uint64
	// Owner is meaningful with HasOwner; without it the lock has no owner and belongs to one
	// Acquire.
	Owner    string
	HasOwner bool
	Label    string
	// Which event ends the lock without a release.
	Lifetime   Lifetime
	UID        uint32
	PID        uint32 // the process that asked, or with Lifetime Process the one whose end ends the lock
	PIDStart   uint64 // start time of PID in clock ticks since boot (/proc/PID/stat, field 22); 0 unknown
	Session    string // of the client that asked last: a unique bus name, or with its door's name
	SessionBus string // the GUID of the bus that assigned Session; "" for other doors
	// When it was granted.
	Since time.Time

	OnLost     string // the configured helper to run if the lock is lost; "" for none
	OnLostData string // data from the client for the helper
	Reason     string // why it was lost, for people; with phase Lost
}

// Mark changes a Lock that was recorded before: a [[mark]] table. Zero fields change nothing.
type Mark struct {
	ID         uint64
	Phase      Phase    // 0: unchanged
	Mode       dlm.Mode // with HasMode
	Token      uint64   // with HasMode
	Session    string   // "": unchanged; the new connection of a Connection lock
	SessionBus string   // goes with Session
	HasMode    bool
}

// SpacePhase says how much of a membership in a lockspace has been recorded.
type SpacePhase uint8

// The phases of a lockspace. The file holds their names in lower case.
const (
	// Creating: this instance is about to create the lockspace on this node. A lockspace that is
	// found without an anchor while this is recorded may be ours.
	Creating SpacePhase = iota + 1
	// Joined: the anchor lock is held, with the lockid AnchorID.
	Joined
	// Leaving: this instance is about to remove it.
	Leaving
	// Left ends the record, and those of all locks in the lockspace that are not Lost.
	Left
)

// Lockspace is the record of one lockspace: a [[lockspace]] table. A later one
// of the same name replaces an earlier one.
type Lockspace struct {
	Name     string
	Phase    SpacePhase
	AnchorID dlm.LockID // with Joined
}

// Change is one record to append: Lock, Mark or Lockspace.
type Change interface{ change() }

func (Lock) change()      {}
func (Mark) change()      {}
func (Lockspace) change() {}
