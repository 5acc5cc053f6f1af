package varlink

// interactive is the field of each call that an authoriser may refuse. It has the name
// that systemd's interfaces give it.
type interactive struct {
	Allow *bool `json:"allowInteractiveAuthentication"`
}

// options are the fields that Acquire and AcquireMany share.
type options struct {
	Owner             *string `json:"owner"` // with one, also "", asking again is idempotent
	Label             *string `json:"label"`
	Lifetime          *string `json:"lifetime"`          // null: persistent
	ProcessID         *uint32 `json:"processId"`         // in the pid namespace of the caller
	ProcessStartTicks *uint64 `json:"processStartTicks"` // field 22 of proc_pid_stat(5)
	OnLost            *string `json:"onLost"`            // the name of a helper in dlmlockd.toml
	OnLostData        *string `json:"onLostData"`        // what the helper gets
}

// acquireIn are the parameters of Acquire. How long it waits depends on the flag
// more as well (acquire.method).
type acquireIn struct {
	name
	Mode string `json:"mode"`
	options
	Value    []byte  `json:"value,omitempty"`
	WaitUSec *uint64 `json:"waitUSec"`
	Progress *bool   `json:"progress"`
	interactive
}

// acquireOut is each reply of Acquire: with more, first any number of Waiting, then
// Granted, then any number of Blocking, and at last Lost or Released. Exactly one of
// these is there.
type acquireOut struct {
	Waiting            *waiting  `json:"waiting,omitempty"`
	Granted            *grant    `json:"granted,omitempty"`
	LockFileDescriptor *int      `json:"lockFileDescriptor,omitempty"` // its index in the message: always 0
	Lost               *lost     `json:"lost,omitempty"`
	Blocking           *blocking `json:"blocking,omitempty"`
	Released           *bool     `json:"released,omitempty"`
}

// acquireManyIn are the parameters of AcquireMany, which takes all locks or none. Unlike
// Acquire it never goes on after the grant.
type acquireManyIn struct {
	Wanted []want `json:"wanted"`
	options
	WaitUSec *uint64 `json:"waitUSec"`
	interactive
}

// acquireManyOut has the grants in the order of the call.
type acquireManyOut struct {
	Granted []grant `json:"granted"`
}

// convertIn are the parameters of Convert.
type convertIn struct {
	name
	Mode     string    `json:"mode"`
	Select   *selector `json:"select"`
	Value    []byte    `json:"value,omitempty"`
	WaitUSec *uint64   `json:"waitUSec"`
	interactive
}

// convertOut has the token of the lock in its new mode; 0 if that mode has none.
type convertOut struct {
	Token uint64 `json:"token"`
}

// releaseIn are the parameters of Release. Reason goes to the log and to the history.
type releaseIn struct {
	name
	Select *selector `json:"select"`
	Reason *string   `json:"reason"`
	interactive
}

// nothing is the parameters, or the reply, of a method that has none.
type nothing struct{}

// releaseOwnerIn are the parameters of ReleaseOwner. Null is all lockspaces; "" is
// refused, since it could be a variable that was not set.
type releaseOwnerIn struct {
	Lockspace *string `json:"lockspace"`
	Owner     string  `json:"owner"`
}

// releasedOut counts the locks that were released. That there was none is no error, so
// that a caller whose first answer was lost can ask again.
type releasedOut struct {
	Released uint32 `json:"released"`
}

// releaseManyIn are the parameters of ReleaseMany. Labels adds to Resources, and does
// not narrow them.
type releaseManyIn struct {
	Resources []name   `json:"resources"`
	Owner     string   `json:"owner"`
	Labels    []string `json:"labels,omitempty"`
	Reason    *string  `json:"reason"`
}

// inspectIn are the parameters of Inspect. With NodeID the service of that node is
// asked (package peers).
type inspectIn struct {
	name
	NodeID *uint32 `json:"nodeId"`
}

// inspectOut is what could be found out about a resource. What could not is null, and
// Missing says why, so that "not known" is never taken for "not there".
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
	Limit *uint64 `json:"limit"` // of the whole list, not of a page of the service
}

// The lists have one element in each reply, as lists of systemd's interfaces do: a
// client can begin with the first one, and no list is too long for a message.

// listLocksIn are the parameters of ListLocks.
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

// listLostIn are the parameters of ListLost, which has no pages: losses are kept up to
// frontend.MaxLost.
type listLostIn struct {
	scope
	Limit *uint32 `json:"limit"`
}

type listLostOut struct {
	Lost lost `json:"lost"`
}

type listNodesOut struct {
	Node clusterNode `json:"node"`
}

type listLockspacesOut struct {
	Lockspace lockspace `json:"lockspace"`
}

// joinIn are the parameters of JoinLockspace.
type joinIn struct {
	Lockspace string `json:"lockspace"`
	interactive
}

// leaveIn are the parameters of LeaveLockspace. Force loses the locks that are held.
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

// adoptIn are the parameters of AdoptOrphan. Resource and Mode are what the caller has
// seen: nothing is adopted if the kernel has reused the lockid for another lock since.
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

// purgeIn are the parameters of Purge: which orphans the caller has seen. Without Some
// these have to be all that there are.
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

// monitorIn are the parameters of Monitor. Existing is true if it is left out.
type monitorIn struct {
	Events      []string `json:"events,omitempty"`
	Lockspace   *string  `json:"lockspace"`
	OwnOnly     *bool    `json:"ownOnly"`
	Owner       *string  `json:"owner"`
	OwnerPrefix *string  `json:"ownerPrefix"`
	Existing    *bool    `json:"existing"`
}

// monitorOut is one event; exactly one field is there. It has to be comparable, since
// an empty one stands for an event that this caller does not get.
type monitorOut struct {
	Ready            *bool      `json:"ready,omitempty"` // all that there was has been told
	LockAdded        *lock      `json:"lockAdded,omitempty"`
	LockChanged      *lock      `json:"lockChanged,omitempty"`
	LockRemoved      *string    `json:"lockRemoved,omitempty"`
	LockLost         *lost      `json:"lockLost,omitempty"`
	Blocking         *blocking  `json:"blocking,omitempty"`
	LockspaceChanged *lockspace `json:"lockspaceChanged,omitempty"`
	ServiceChanged   *service   `json:"serviceChanged,omitempty"`
	RequestAdded     *request   `json:"requestAdded,omitempty"`
	RequestRemoved   *uint64    `json:"requestRemoved,omitempty"`
	Overflow         *bool      `json:"overflow,omitempty"` // the last reply: the client reads too slowly
}

// describeOut is each reply of Describe.
type describeOut struct {
	Service  service  `json:"service"`
	Counters counters `json:"counters"`
}

// failure are the fields of all errors of the interface together; each has the message,
// and those that are its own.
type failure struct {
	Message    string  `json:"message"`              // for people; programs go by the name of the error
	Holder     *string `json:"holder,omitempty"`     // of WouldBlock and Timeout
	Candidates []lock  `json:"candidates,omitempty"` // of Ambiguous
	Errno      *int    `json:"errno,omitempty"`      // of KernelError, as in errno(3)
}
