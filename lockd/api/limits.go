package api

import "time"

// Limits bound what one caller can make the service keep.
type Limits struct {
	LocksPerUID   int // locks held or asked for by one uid
	WaitingPerUID int // of those, requests that wait in a queue
	OwnerBytes    int // length of an owner
	LabelBytes    int // length of a label
	BatchLocks    int // locks in one AcquireMany
	PageSize      int // locks in one page of a listing, and the default
}

// DefaultLimits are the limits where the configuration names none.
func DefaultLimits() Limits {
	return Limits{
		LocksPerUID:   65536,
		WaitingPerUID: 16384,
		OwnerBytes:    256,
		LabelBytes:    1024,
		BatchLocks:    1024,
		PageSize:      1000,
	}
}

// MaxWait is the longest Wait of an Acquire or Convert. It is below the 25 s
// after which sd-bus and GDBus clients stop listening.
const MaxWait = 20 * time.Second
