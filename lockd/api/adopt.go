package api

import "github.com/dlmlock/dlmlockd/dlm"

// Orphan is a persistent lock on this node that no process has and no record
// explains, with what its value block tells.
type Orphan struct {
	dlm.Orphan
	// Holder, where HasHolder, is what the lock's owner has published: only
	// locks in PW or EX do.
	Holder    Holder
	HasHolder bool
}

// AdoptOptions say whose lock the orphan becomes.
type AdoptOptions struct {
	Owner    string // as in AcquireOptions
	HasOwner bool
	Label    string
	UID      uint32 // with HasUID; else the caller's
	HasUID   bool
	// Resource and Mode, if given, are what the caller has seen: a lockid alone
	// does not identify an orphan, because lockids are reused.
	Resource string
	Mode     dlm.Mode
	HasMode  bool
}
