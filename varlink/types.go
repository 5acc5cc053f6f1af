package varlink

// The types of data/org.example.DlmLock.varlink, whose documentation is there; the
// comments here are about what a reader of the interface does not see. A test compares
// names, types and nullability with the description, in both directions.
//
// A pointer, and a slice with omitempty, is a nullable field (?T). The fields of a
// call (types in ...In, and selector, want, name, options) need no omitempty, because
// they are read by wire.Decode alone: it takes null and a field that is left out for the
// same. In replies a null is left out, as systemd's services do it.
//
// Whole numbers have a type of their own size, so that wire.Decode refuses what does
// not fit, in place of the service. Times and durations are in microseconds, and their
// names end in USec; those of a clock count from 1970 (CLOCK_REALTIME).

// want is a lock of AcquireMany. Its order in the call is that of the grants in the
// reply; the service itself takes locks in the order of their names, so that two calls
// can't wait for each other.
type want struct {
	Lockspace string  `json:"lockspace"`
	Resource  string  `json:"resource"`
	Mode      string  `json:"mode"`
	Label     *string `json:"label"`
}

// name is embedded in every call that is about one resource.
type name struct {
	Lockspace string `json:"lockspace"`
	Resource  string `json:"resource"`
}

// selector says which lock of a resource is meant, where a name does not. What is
// given has to match altogether; nothing is given if one lock only can be meant.
type selector struct {
	Owner  *string `json:"owner"`
	LockID *uint32 `json:"lockId"`
	Token  *uint64 `json:"token"`
	Lock   *string `json:"lock"`
}

// grant is what a caller needs to use a lock and to name it again.
type grant struct {
	Lockspace string `json:"lockspace"`
	Resource  string `json:"resource"`
	LockID    uint32 `json:"lockId"`
	Token     uint64 `json:"token"`
	Lock      string `json:"lock"`
}

// holder is what the holder of a lock, maybe on another node, has written into the
// lock value block of its resource (docs/tokens.md). It may be older than the queues
// beside it.
type holder struct {
	NodeID *uint32 `json:"nodeId,omitempty"`
	Mode   *string `json:"mode,omitempty"`
	Token  *uint64 `json:"token,omitempty"`
	Label  *string `json:"label,omitempty"`
}

// waiting is what a call with "progress" reports: null where it is not known, or not for
// this caller.
type waiting struct {
	Position *int    `json:"position,omitempty"`
	Holder   *holder `json:"holder,omitempty"`
}

// lock is a row of every list of locks, and an event of Monitor.
type lock struct {
	Lock       string  `json:"lock"`
	Lockspace  string  `json:"lockspace"`
	Resource   string  `json:"resource"`
	LockID     uint32  `json:"lockId"`
	Mode       *string `json:"mode,omitempty"`
	WantedMode *string `json:"wantedMode,omitempty"`
	State      string  `json:"state"`
	Token      uint64  `json:"token"`
	Owner      *string `json:"owner,omitempty"`
	Label      *string `json:"label,omitempty"`
	Lifetime   string  `json:"lifetime"`
	OnLost     *string `json:"onLost,omitempty"`
	UserID     uint32  `json:"userId"`
	ProcessID  *uint32 `json:"processId,omitempty"`
	SinceUSec  *int64  `json:"sinceUSec,omitempty"` // when it was granted; null while it waits for that

	WaitingSinceUSec *int64 `json:"waitingSinceUSec,omitempty"` // the request or conversion that still waits
}

// blocker is a lock that somebody waits for. All but Waits is null where the node that
// has it can't be asked, or does not know it.
type blocker struct {
	NodeID *uint32 `json:"nodeId,omitempty"`
	LockID *uint32 `json:"lockId,omitempty"`
	Mode   *string `json:"mode,omitempty"`
	Who    *string `json:"who,omitempty"`
	Waits  bool    `json:"waits"`
}

// waiter is a lock that waits, with those that are in its way.
type waiter struct {
	Lock         lock      `json:"lock"`
	Who          string    `json:"who"`
	Blockers     []blocker `json:"blockers"`
	MasterNodeID *uint32   `json:"masterNodeId,omitempty"` // whose queues were looked at
	Missing      *string   `json:"missing,omitempty"`      // why Blockers may not be all
}

// lost is a lock that ended without a release. It is kept for a while after the lock
// itself is forgotten, so it repeats what identifies it.
type lost struct {
	Lock      string  `json:"lock"`
	Lockspace string  `json:"lockspace"`
	Resource  string  `json:"resource"`
	LockID    uint32  `json:"lockId"`
	Mode      string  `json:"mode"`
	Owner     *string `json:"owner,omitempty"`
	Label     *string `json:"label,omitempty"`
	LostUSec  int64   `json:"lostUSec"`
	Reason    string  `json:"reason"`
}

// queued is an entry in a queue of the kernel, a lock of any program on any node. Who
// it belongs to is known only if it is one of this service's (lock).
type queued struct {
	LockID     uint32  `json:"lockId"`
	NodeID     uint32  `json:"nodeId"`
	Mode       *string `json:"mode,omitempty"`
	WantedMode *string `json:"wantedMode,omitempty"`
}

// queues are those of the resource's master, or the part of them that this node has.
type queues struct {
	Granted    []queued `json:"granted"`
	Converting []queued `json:"converting"` // they are granted in one mode, and wait for another
	Waiting    []queued `json:"waiting"`
	Master     *uint32  `json:"master,omitempty"` // the id of its node
	Complete   bool     `json:"complete"`         // false: only the locks of this node are there
}

// wait is one edge of the graph of who waits for whom, with both ends in it, so that a
// reader need not join it with other rows.
type wait struct {
	NodeID        uint32  `json:"nodeId"`
	LockID        *uint32 `json:"lockId,omitempty"`
	Mode          string  `json:"mode"`
	Who           string  `json:"who"`
	BlockerNodeID *uint32 `json:"blockerNodeId,omitempty"`
	BlockerLockID *uint32 `json:"blockerLockId,omitempty"`
	BlockerMode   *string `json:"blockerMode,omitempty"`
	Blocker       *string `json:"blocker,omitempty"`
}

// blocking tells a holder that somebody waits for a mode that its lock excludes.
type blocking struct {
	Lock      string  `json:"lock"`
	Lockspace *string `json:"lockspace,omitempty"` // nullable: it is younger than the interface
	Resource  string  `json:"resource"`
	Mode      string  `json:"mode"`
	NodeID    *uint32 `json:"nodeId,omitempty"`
}

// health is what was found out last about a lockspace.
type health struct {
	Stopped  bool     `json:"stopped"`
	Quorate  *bool    `json:"quorate,omitempty"`
	Reason   *string  `json:"reason,omitempty"`
	Members  []uint32 `json:"members"`
	Recovery uint32   `json:"recovery"` // the kernel's recover_status; 0 if it has none
}

// lockspace is a row of ListLockspaces and an event of Monitor.
type lockspace struct {
	Name      string  `json:"name"`
	State     string  `json:"state"`
	Locks     int     `json:"locks"`
	Orphans   *int    `json:"orphans,omitempty"` // null: they could not be counted, which is not 0
	Error     *string `json:"error,omitempty"`
	RawValues bool    `json:"rawValues"`
	Health    *health `json:"health,omitempty"`
}

// orphan is a lock in the kernel that no record of this service explains.
type orphan struct {
	LockID      uint32  `json:"lockId"`
	Resource    string  `json:"resource"`
	Mode        string  `json:"mode"`
	Holder      *holder `json:"holder,omitempty"`
	HolderOwner *uint32 `json:"holderOwner,omitempty"`
}

// bucket counts the grants that took at most UpToUSec, those of the smaller buckets
// included, as a histogram of Prometheus does. The last one has no bound.
type bucket struct {
	UpToUSec *int64 `json:"upToUSec,omitempty"`
	Count    uint64 `json:"count"`
}

// latency is how long grants took since the service was started.
type latency struct {
	Count   uint64   `json:"count"`
	SumUSec int64    `json:"sumUSec"`
	Buckets []bucket `json:"buckets"`
}

// counters begin at 0 with each start of the service.
type counters struct {
	LocksGranted     uint64  `json:"locksGranted"`
	LocksReleased    uint64  `json:"locksReleased"`
	LocksConverted   uint64  `json:"locksConverted"`
	LocksLost        uint64  `json:"locksLost"`
	RequestsRefused  uint64  `json:"requestsRefused"`
	RequestsCanceled uint64  `json:"requestsCanceled"`
	GrantLatency     latency `json:"grantLatency"`
}

// nodeName stands in for a map, since the keys of a Varlink map are strings.
type nodeName struct {
	NodeID uint32 `json:"nodeId"`
	Name   string `json:"name"`
}

// service is the state of the service. As an event of Monitor it comes without the
// counters, which change with every call.
type service struct {
	Version   string  `json:"version"`
	Commit    string  `json:"commit"`
	BuildDate string  `json:"buildDate"`
	Engine    string  `json:"engine"`           // dlm or local, as in the configuration
	StateFile string  `json:"stateFile"`        // its path, for whoever has to save or mend it
	NodeID    *uint32 `json:"nodeId,omitempty"` // null until the cluster could be asked
	NodeName  string  `json:"nodeName"`

	Nodes []nodeName `json:"nodes"`

	ClusterName    *string `json:"clusterName,omitempty"`
	Quorate        *bool   `json:"quorate,omitempty"`
	LockCount      int     `json:"lockCount"`
	WaitingCount   int     `json:"waitingCount"`
	LockspaceCount int     `json:"lockspaceCount"`
	Degraded       *string `json:"degraded,omitempty"` // what does not work, for people; null: all does
}

// clusterNode is a node that is, or could be, a member. Missing says why it does not
// answer.
type clusterNode struct {
	NodeID  *uint32 `json:"nodeId,omitempty"`
	Name    *string `json:"name,omitempty"`
	Self    bool    `json:"self"`
	Answers bool    `json:"answers"`
	Version *string `json:"version,omitempty"`
	Missing *string `json:"missing,omitempty"`
}

// request is a call that waits, for Monitor. Request is its number, by which
// requestRemoved names it.
type request struct {
	Request   uint64  `json:"request"`
	Lockspace string  `json:"lockspace"`
	Resource  string  `json:"resource"`
	Mode      string  `json:"mode"`
	Owner     *string `json:"owner,omitempty"`
	Label     *string `json:"label,omitempty"`
	UserID    uint32  `json:"userId"`
	SinceUSec int64   `json:"sinceUSec"`
}
