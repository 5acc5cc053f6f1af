package state

import (
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Phase is how far the life of a lock has been written down.
type Phase uint8

// The phases of a lock. The file holds their names in lower case.
const (
	// Granted: the DLM has granted, the conversion to PERSISTENT may or may
	// not have happened. No client has had an answer.
	Granted Phase = iota + 1
	// Held: the lock is persistent in the DLM (or of a lifetime that needs no
	// PERSISTENT).
	Held
	// Releasing: somebody asked to let go of it; the unlock may or may not
	// have happened.
	Releasing
	// Gone ends the record. It appears in marks only.
	Gone
	// Lost: the lock is not there any more, and its helper (OnLost) may not
	// have ended yet. It appears in records only, and outlives the membership
	// in the lockspace.
	Lost
)

// Lifetime says what ends a lock by itself.
type Lifetime uint8

// The lifetimes. The file and the bus hold their names in lower case.
const (
	Persistent Lifetime = iota
	Connection
	Process
)

// Lock is the record of one lock: a [[lock]] table.
type Lock struct {
	ID        uint64 // this instance's number for it, never reused
	Lockspace string
	Resource  string // any bytes
	LockID    dlm.LockID
	Mode      dlm.Mode
	Phase     Phase
	Token     uint64
	Owner     string // "" with HasOwner false: the lock is its own
	HasOwner  bool
	Label     string
	Lifetime  Lifetime
	UID       uint32
	PID       uint32 // who asked, or for Lifetime Process the process that ends it
	PIDStart  uint64 // start time of PID in clock ticks since boot (/proc/PID/stat, field 22); 0 unknown
	Sender    string // unique bus name of who asked last
	BusID     string // GUID of the bus that Sender is a name on
	Since     time.Time

	OnLost     string // the configured helper to run if the lock is lost; "" for none
	OnLostData string // what the client gave it along
	Reason     string // why it was lost, for people; with phase Lost
}

// Mark changes a Lock that was recorded before: a [[mark]] table. Zero fields
// change nothing.
type Mark struct {
	ID      uint64
	Phase   Phase    // 0: unchanged
	Mode    dlm.Mode // with HasMode
	Token   uint64   // with HasMode
	Sender  string   // "": unchanged; the new connection of a Connection lock
	BusID   string   // goes with Sender
	HasMode bool
}

// SpacePhase is how far the membership in a lockspace has been written down.
type SpacePhase uint8

// The phases of a lockspace. The file holds their names in lower case.
const (
	// Creating: this instance is about to make the lockspace on this node; one
	// that is found without an anchor is ours.
	Creating SpacePhase = iota + 1
	// Joined: the anchor is held under AnchorID.
	Joined
	// Leaving: this instance is about to remove it.
	Leaving
	// Left ends the record and those of every lock in it.
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
