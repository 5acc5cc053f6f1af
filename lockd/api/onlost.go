package api

import "slices"

// OnLost says what is to be done for a lock if it is lost.
type OnLost struct {
	Helper string // one of Config.Helpers
	Data   string // given to the helper as it is; it is the client's
}

// HelperPolicy says who may name a helper. Root always may.
type HelperPolicy struct {
	UIDs     []uint32
	GID      uint32
	HasGroup bool
}

// Allows reports whether a caller may name the helper. The groups are those that the
// kernel, or the bus, has of the caller.
func (p HelperPolicy) Allows(c Caller) bool {
	return c.UID == 0 || slices.Contains(p.UIDs, c.UID) || p.HasGroup && slices.Contains(c.GIDs, p.GID)
}

// LostRun is one run of a helper for one lost lock.
type LostRun struct {
	Lost
	Helper   string
	Data     string
	PIDStart uint64 // start time of PID with Lifetime Process, in clock ticks since boot; 0 unknown
}

// Name returns the name of the helper; "" if o is nil, that is if nothing is to be done.
func (o *OnLost) Name() string {
	if o == nil {
		return ""
	}
	return o.Helper
}
