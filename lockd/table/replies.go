package table

import "github.com/dlmlock/dlmlockd/lockd/api"

// Reply is the result of a call. Beside an error it is of the kind of the call,
// and only ReleasedReply says something then: what was released all the same.
type Reply interface{ reply() }

// The replies to the operations.
type (
	// DoneReply answers Release, Join and Leave.
	DoneReply struct{}
	// GrantedReply answers Acquire, Request, Convert and AdoptOrphan.
	GrantedReply struct{ Grants []api.Grant }
	// ReleasedReply answers Release, ReleaseOwner, ReleaseMany and Purge.
	ReleasedReply struct{ Count uint32 }
	// InspectionReply answers Inspect.
	InspectionReply struct{ Inspection api.Inspection }
	// OrphansReply answers Orphans.
	OrphansReply struct{ Orphans []api.Orphan }
	// PageReply answers List.
	PageReply struct{ Page api.Page }
	// WaitsReply answers Waits.
	WaitsReply struct{ Page api.WaitsPage }
)

func (DoneReply) reply()       {}
func (GrantedReply) reply()    {}
func (ReleasedReply) reply()   {}
func (InspectionReply) reply() {}
func (OrphansReply) reply()    {}
func (PageReply) reply()       {}
func (WaitsReply) reply()      {}
