package varlink

// The types of data/org.example.DlmLock.varlink, whose documentation is there.
// A pointer, and a slice with omitempty, is a nullable field (?T).

type want struct {
	Lockspace string  `json:"lockspace"`
	Resource  string  `json:"resource"`
	Mode      string  `json:"mode"`
	Label     *string `json:"label"`
}

type name struct {
	Lockspace string `json:"lockspace"`
	Resource  string `json:"resource"`
}

type selector struct {
	Owner  *string `json:"owner"`
	LockID *uint32 `json:"lockId"`
	Token  *uint64 `json:"token"`
	Lock   *string `json:"lock"`
}

type grant struct {
	Lockspace string `json:"lockspace"`
	Resource  string `json:"resource"`
	LockID    uint32 `json:"lockId"`
	Token     uint64 `json:"token"`
	Lock      string `json:"lock"`
}

type holder struct {
	NodeID *uint32 `json:"nodeId,omitempty"`
	Mode   *string `json:"mode,omitempty"`
	Token  *uint64 `json:"token,omitempty"`
	Label  *string `json:"label,omitempty"`
}

type waiting struct {
	Position *int    `json:"position,omitempty"`
	Holder   *holder `json:"holder,omitempty"`
}

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
	SinceUSec  *int64  `json:"sinceUSec,omitempty"`

	WaitingSinceUSec *int64 `json:"waitingSinceUSec,omitempty"`
}

type blocker struct {
	NodeID *uint32 `json:"nodeId,omitempty"`
	LockID *uint32 `json:"lockId,omitempty"`
	Mode   *string `json:"mode,omitempty"`
	Who    *string `json:"who,omitempty"`
	Waits  bool    `json:"waits"`
}

type waiter struct {
	Lock         lock      `json:"lock"`
	Who          string    `json:"who"`
	Blockers     []blocker `json:"blockers"`
	MasterNodeID *uint32   `json:"masterNodeId,omitempty"`
	Missing      *string   `json:"missing,omitempty"`
}

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

type queued struct {
	LockID     uint32  `json:"lockId"`
	NodeID     uint32  `json:"nodeId"`
	Mode       *string `json:"mode,omitempty"`
	WantedMode *string `json:"wantedMode,omitempty"`
}

type queues struct {
	Granted    []queued `json:"granted"`
	Converting []queued `json:"converting"`
	Waiting    []queued `json:"waiting"`
	Master     *uint32  `json:"master,omitempty"`
	Complete   bool     `json:"complete"`
}

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

type blocking struct {
	Lock     string  `json:"lock"`
	Resource string  `json:"resource"`
	Mode     string  `json:"mode"`
	NodeID   *uint32 `json:"nodeId,omitempty"`
}

type health struct {
	Stopped  bool     `json:"stopped"`
	Quorate  *bool    `json:"quorate,omitempty"`
	Reason   *string  `json:"reason,omitempty"`
	Members  []uint32 `json:"members"`
	Recovery uint32   `json:"recovery"`
}

type lockspace struct {
	Name      string  `json:"name"`
	State     string  `json:"state"`
	Locks     int     `json:"locks"`
	Orphans   *int    `json:"orphans,omitempty"`
	Error     *string `json:"error,omitempty"`
	RawValues bool    `json:"rawValues"`
	Health    *health `json:"health,omitempty"`
}

type orphan struct {
	LockID      uint32  `json:"lockId"`
	Resource    string  `json:"resource"`
	Mode        string  `json:"mode"`
	Holder      *holder `json:"holder,omitempty"`
	HolderOwner *uint32 `json:"holderOwner,omitempty"`
}

type bucket struct {
	UpToUSec *int64 `json:"upToUSec,omitempty"`
	Count    uint64 `json:"count"`
}

type latency struct {
	Count   uint64   `json:"count"`
	SumUSec int64    `json:"sumUSec"`
	Buckets []bucket `json:"buckets"`
}

type counters struct {
	LocksGranted     uint64  `json:"locksGranted"`
	LocksReleased    uint64  `json:"locksReleased"`
	LocksConverted   uint64  `json:"locksConverted"`
	LocksLost        uint64  `json:"locksLost"`
	RequestsRefused  uint64  `json:"requestsRefused"`
	RequestsCanceled uint64  `json:"requestsCanceled"`
	GrantLatency     latency `json:"grantLatency"`
}

type nodeName struct {
	NodeID uint32 `json:"nodeId"`
	Name   string `json:"name"`
}

type service struct {
	Version   string  `json:"version"`
	Commit    string  `json:"commit"`
	BuildDate string  `json:"buildDate"`
	Engine    string  `json:"engine"`
	StateFile string  `json:"stateFile"`
	NodeID    *uint32 `json:"nodeId,omitempty"`
	NodeName  string  `json:"nodeName"`

	Nodes []nodeName `json:"nodes"`

	ClusterName    *string `json:"clusterName,omitempty"`
	Quorate        *bool   `json:"quorate,omitempty"`
	LockCount      int     `json:"lockCount"`
	WaitingCount   int     `json:"waitingCount"`
	LockspaceCount int     `json:"lockspaceCount"`
	Degraded       *string `json:"degraded,omitempty"`
}

// interactive is the field of each call that an authoriser may refuse.
type interactive struct {
	Allow *bool `json:"allowInteractiveAuthentication"`
}

// options are the fields that Acquire and AcquireMany share.
type options struct {
	Owner             *string `json:"owner"`
	Label             *string `json:"label"`
	Lifetime          *string `json:"lifetime"`
	ProcessID         *uint32 `json:"processId"`
	ProcessStartTicks *uint64 `json:"processStartTicks"`
	OnLost            *string `json:"onLost"`
	OnLostData        *string `json:"onLostData"`
}

type acquireIn struct {
	name
	Mode string `json:"mode"`
	options
	Value    []byte  `json:"value,omitempty"`
	WaitUSec *uint64 `json:"waitUSec"`
	Progress *bool   `json:"progress"`
	interactive
}

type acquireOut struct {
	Waiting            *waiting  `json:"waiting,omitempty"`
	Granted            *grant    `json:"granted,omitempty"`
	LockFileDescriptor *int      `json:"lockFileDescriptor,omitempty"`
	Lost               *lost     `json:"lost,omitempty"`
	Blocking           *blocking `json:"blocking,omitempty"`
	Released           *bool     `json:"released,omitempty"`
}

type acquireManyIn struct {
	Wanted []want `json:"wanted"`
	options
	WaitUSec *uint64 `json:"waitUSec"`
	interactive
}

type acquireManyOut struct {
	Granted []grant `json:"granted"`
}

type convertIn struct {
	name
	Mode     string    `json:"mode"`
	Select   *selector `json:"select"`
	Value    []byte    `json:"value,omitempty"`
	WaitUSec *uint64   `json:"waitUSec"`
	interactive
}

type convertOut struct {
	Token uint64 `json:"token"`
}

type releaseIn struct {
	name
	Select *selector `json:"select"`
	Reason *string   `json:"reason"`
	interactive
}

type nothing struct{}

type releaseOwnerIn struct {
	Lockspace *string `json:"lockspace"`
	Owner     string  `json:"owner"`
}

type releasedOut struct {
	Released uint32 `json:"released"`
}

type releaseManyIn struct {
	Resources []name   `json:"resources"`
	Owner     string   `json:"owner"`
	Labels    []string `json:"labels,omitempty"`
	Reason    *string  `json:"reason"`
}

type inspectIn struct {
	name
	NodeID *uint32 `json:"nodeId"`
}

type inspectOut struct {
	Locks        []lock   `json:"locks"`
	Lost         []lost   `json:"lost"`
	Queues       *queues  `json:"queues,omitempty"`
	Waits        []wait   `json:"waits"`
	Value        []byte   `json:"value,omitempty"`
	ValueInvalid *bool    `json:"valueInvalid,omitempty"`
	Holder       *holder  `json:"holder,omitempty"`
	HolderOwner  *uint32  `json:"holderOwner,omitempty"`
	Health       *health  `json:"health,omitempty"`
	Missing      []string `json:"missing"`
}

// scope is what all lists of locks can be narrowed to.
type scope struct {
	Lockspace *string `json:"lockspace"`
	Resource  *string `json:"resource"`
	Owner     *string `json:"owner"`
	UserID    *uint32 `json:"userId"`
}

// pages is where a list that the service has in pages begins and ends.
type pages struct {
	After *string `json:"after"`
	Limit *uint64 `json:"limit"`
}

type listLocksIn struct {
	scope
	pages
	Mode   *string `json:"mode"`
	State  *string `json:"state"`
	NodeID *uint32 `json:"nodeId"`
}

type listLocksOut struct {
	Lock lock `json:"lock"`
}

type listWaitsIn struct {
	scope
	pages
}

type listWaitsOut struct {
	Waiter waiter `json:"waiter"`
}

type listLostIn struct {
	scope
	Limit *uint32 `json:"limit"`
}

type listLostOut struct {
	Lost lost `json:"lost"`
}

type clusterNode struct {
	NodeID  *uint32 `json:"nodeId,omitempty"`
	Name    *string `json:"name,omitempty"`
	Self    bool    `json:"self"`
	Answers bool    `json:"answers"`
	Version *string `json:"version,omitempty"`
	Missing *string `json:"missing,omitempty"`
}

type listNodesOut struct {
	Node clusterNode `json:"node"`
}

type listLockspacesOut struct {
	Lockspace lockspace `json:"lockspace"`
}

type joinIn struct {
	Lockspace string `json:"lockspace"`
	interactive
}

type leaveIn struct {
	Lockspace string  `json:"lockspace"`
	Force     *bool   `json:"force"`
	Reason    *string `json:"reason"`
	interactive
}

type listOrphansIn struct {
	Lockspace string `json:"lockspace"`
}

type listOrphansOut struct {
	Orphan orphan `json:"orphan"`
}

type adoptIn struct {
	Lockspace string  `json:"lockspace"`
	LockID    uint32  `json:"lockId"`
	Owner     *string `json:"owner"`
	Label     *string `json:"label"`
	UserID    *uint32 `json:"userId"`
	Resource  *string `json:"resource"`
	Mode      *string `json:"mode"`
	interactive
}

type adoptOut struct {
	Token uint64 `json:"token"`
	Lock  string `json:"lock"`
}

type purgeIn struct {
	Lockspace string   `json:"lockspace"`
	LockIDs   []uint32 `json:"lockIds"`
	Some      *bool    `json:"some"`
	Reason    *string  `json:"reason"`
	interactive
}

type purgeOut struct {
	Purged uint32 `json:"purged"`
}

// request is a call that waits.
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

type monitorIn struct {
	Events    []string `json:"events,omitempty"`
	Lockspace *string  `json:"lockspace"`
	OwnOnly   *bool    `json:"ownOnly"`
	Existing  *bool    `json:"existing"`
}

type monitorOut struct {
	Ready            *bool      `json:"ready,omitempty"`
	LockAdded        *lock      `json:"lockAdded,omitempty"`
	LockChanged      *lock      `json:"lockChanged,omitempty"`
	LockRemoved      *string    `json:"lockRemoved,omitempty"`
	LockLost         *lost      `json:"lockLost,omitempty"`
	Blocking         *blocking  `json:"blocking,omitempty"`
	LockspaceChanged *lockspace `json:"lockspaceChanged,omitempty"`
	ServiceChanged   *service   `json:"serviceChanged,omitempty"`
	RequestAdded     *request   `json:"requestAdded,omitempty"`
	RequestRemoved   *uint64    `json:"requestRemoved,omitempty"`
	Overflow         *bool      `json:"overflow,omitempty"`
}

type describeOut struct {
	Service  service  `json:"service"`
	Counters counters `json:"counters"`
}

// failure are the fields of the errors.
type failure struct {
	Message    string  `json:"message"`
	Holder     *string `json:"holder,omitempty"`
	Candidates []lock  `json:"candidates,omitempty"`
	Errno      *int    `json:"errno,omitempty"`
}
