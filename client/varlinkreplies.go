package client

import (
	"fmt"
)

// The types of data/org.example.DlmLock.varlink, as far as they are used here. A field is a
// pointer where null differs from zero; elsewhere null reads as zero, which is "none" in the
// types of this package. Modes are in lower case over Varlink, and in upper case in this package
// (upper). Times are in microseconds since 1970.
type (
	// lockReply is also what Monitor and the errors about several locks have.
	lockReply struct {
		Lock       string  `json:"lock"`
		Lockspace  string  `json:"lockspace"`
		Resource   string  `json:"resource"`
		LockID     uint32  `json:"lockId"`
		Mode       *string `json:"mode"`
		WantedMode *string `json:"wantedMode"`
		State      string  `json:"state"`
		Token      uint64  `json:"token"`
		Owner      string  `json:"owner"`
		Label      string  `json:"label"`
		Lifetime   string  `json:"lifetime"`
		UserID     uint32  `json:"userId"`
		ProcessID  uint32  `json:"processId"`
		SinceUSec  uint64  `json:"sinceUSec"`
		Waiting    uint64  `json:"waitingSinceUSec"`
		OnLost     string  `json:"onLost"`
	}
	lostReply struct {
		Lock      string  `json:"lock"`
		Lockspace string  `json:"lockspace"`
		Resource  string  `json:"resource"`
		LockID    uint32  `json:"lockId"`
		Mode      *string `json:"mode"`
		Owner     string  `json:"owner"`
		Label     string  `json:"label"`
		LostUSec  uint64  `json:"lostUSec"`
		Reason    string  `json:"reason"`
	}
	// queuedReply is a lock of any program on any node, as the kernel shows it.
	queuedReply struct {
		LockID     uint32  `json:"lockId"`
		NodeID     uint32  `json:"nodeId"`
		Mode       *string `json:"mode"`
		WantedMode *string `json:"wantedMode"`
	}
	// holderReply is what the last holder that wrote the value block has put into it.
	holderReply struct {
		NodeID uint32  `json:"nodeId"`
		Mode   *string `json:"mode"`
		Token  uint64  `json:"token"`
		Label  string  `json:"label"`
	}
	waitReply struct {
		NodeID        uint32  `json:"nodeId"`
		LockID        uint32  `json:"lockId"`
		Mode          *string `json:"mode"`
		Who           string  `json:"who"`
		BlockerNodeID uint32  `json:"blockerNodeId"`
		BlockerLockID uint32  `json:"blockerLockId"`
		BlockerMode   *string `json:"blockerMode"`
		Blocker       string  `json:"blocker"`
	}
	waiterReply struct {
		Lock     lockReply `json:"lock"`
		Who      string    `json:"who"`
		Blockers []struct {
			NodeID uint32  `json:"nodeId"`
			LockID uint32  `json:"lockId"`
			Mode   *string `json:"mode"`
			Who    string  `json:"who"`
			Waits  bool    `json:"waits"`
		} `json:"blockers"`
		Master  uint32 `json:"masterNodeId"`
		Missing string `json:"missing"`
	}
	healthReply struct {
		Stopped  bool     `json:"stopped"`
		Quorate  *bool    `json:"quorate"`
		Reason   string   `json:"reason"`
		Members  []uint32 `json:"members"`
		Recovery uint32   `json:"recovery"`
	}
	queuesReply struct {
		Granted    []queuedReply `json:"granted"`
		Converting []queuedReply `json:"converting"`
		Waiting    []queuedReply `json:"waiting"`
		Master     uint32        `json:"master"`
		Complete   bool          `json:"complete"`
	}
	lockspaceReply struct {
		Name    string       `json:"name"`
		State   string       `json:"state"`
		Locks   uint32       `json:"locks"`
		Orphans *int32       `json:"orphans"` // null: they can't be seen
		Error   string       `json:"error"`
		Health  *healthReply `json:"health"`
	}
)

func (r *lockReply) lock() Lock {
	return Lock{Lock: named(r.Lock), Lockspace: r.Lockspace, Resource: r.Resource, LockID: r.LockID, Mode: upper(r.Mode),
		Wanted: upper(r.WantedMode), State: r.State, Token: r.Token, Owner: r.Owner, Label: r.Label, Lifetime: r.Lifetime,
		UID: r.UserID, PID: r.ProcessID, Since: moment(r.SinceUSec),
		Waiting: moment(r.Waiting), OnLost: r.OnLost}
}

// candidate describes a lock that a call may have meant, for people.
func (r *lockReply) candidate() string {
	text := fmt.Sprintf("lockid %d in %s", r.LockID, upper(r.Mode))
	if r.Owner != "" {
		text += fmt.Sprintf(" for owner %q", r.Owner)
	}
	if r.Label != "" {
		text += " (" + r.Label + ")"
	}
	return text
}

func (r *lostReply) lost() Lost {
	return Lost{Lock: named(r.Lock), Lockspace: r.Lockspace, Resource: r.Resource, LockID: r.LockID, Mode: upper(r.Mode),
		Owner: r.Owner, Label: r.Label, When: moment(r.LostUSec), Reason: r.Reason}
}

func (r *waiterReply) waiter() Waiter {
	l := r.Lock.lock()
	w := Waiter{Lock: l.Lock, Lockspace: l.Lockspace, Resource: l.Resource, LockID: l.LockID, Mode: l.Mode,
		Wanted: l.Wanted, Since: l.Waiting, Who: r.Who, Owner: l.Owner, Label: l.Label, UID: l.UID, PID: l.PID,
		For: make([]Blocker, len(r.Blockers)), Master: r.Master, Missing: r.Missing}
	for i, b := range r.Blockers {
		w.For[i] = Blocker{Node: b.NodeID, LockID: b.LockID, Mode: upper(b.Mode), Who: b.Who, Waits: b.Waits}
	}
	return w
}

func queue(rows []queuedReply) []Queued {
	out := make([]Queued, len(rows))
	for i, r := range rows {
		out[i] = Queued{LockID: r.LockID, Node: r.NodeID, Mode: upper(r.Mode), Wanted: upper(r.WantedMode)}
	}
	return out
}

// health returns the zero Health, in which nothing is known, if the service could not look.
func (r *healthReply) health() Health {
	if r == nil {
		return Health{}
	}
	h := Health{Stopped: &r.Stopped, Quorate: r.Quorate, Reason: r.Reason, Recovery: &r.Recovery}
	if len(r.Members) > 0 {
		h.Members = r.Members
	}
	return h
}

// inspectReply is the reply of Inspect. A field that could not be looked at is null, and stays
// nil in an Inspection: nil is not the same as empty.
type inspectReply struct {
	Locks        []lockReply  `json:"locks"`
	Lost         []lostReply  `json:"lost"`
	Queues       *queuesReply `json:"queues"`
	Waits        []waitReply  `json:"waits"`
	Value        []byte       `json:"value"`
	ValueInvalid *bool        `json:"valueInvalid"`
	Holder       *holderReply `json:"holder"`
	HolderOwner  *uint32      `json:"holderOwner"`
	Health       *healthReply `json:"health"`
	Missing      []string     `json:"missing"`
}

func (r *inspectReply) inspection() Inspection {
	in := Inspection{Locks: make([]Lock, len(r.Locks)), Lost: make([]Lost, len(r.Lost)), Value: r.Value,
		ValueInvalid: r.ValueInvalid, HolderOwner: r.HolderOwner, Health: r.Health.health(), Missing: r.Missing}
	for i := range r.Locks {
		in.Locks[i] = r.Locks[i].lock()
	}
	for i := range r.Lost {
		in.Lost[i] = r.Lost[i].lost()
	}
	if q := r.Queues; q != nil {
		in.Granted, in.Converting, in.Waiting = queue(q.Granted), queue(q.Converting), queue(q.Waiting)
		// If the queues are known, so is who waits for whom, even if nobody does.
		in.Master, in.Complete, in.Waits = q.Master, &q.Complete, []Wait{}
	}
	for _, w := range r.Waits {
		in.Waits = append(in.Waits, Wait{Node: w.NodeID, LockID: w.LockID, Mode: upper(w.Mode), Who: w.Who,
			ForNode: w.BlockerNodeID, ForID: w.BlockerLockID, ForMode: upper(w.BlockerMode), ForWho: w.Blocker})
	}
	if h := r.Holder; h != nil {
		in.Holder = &Holder{Node: h.NodeID, Mode: upper(h.Mode), Token: h.Token, Who: h.Label}
	}
	return in
}

func (r *lockspaceReply) lockspace() Lockspace {
	s := Lockspace{Name: r.Name, State: r.State, Locks: r.Locks, Orphans: -1, Error: r.Error, Health: r.Health.health()}
	if r.Orphans != nil {
		s.Orphans = Count(*r.Orphans)
	}
	return s
}

type serviceReply struct {
	Version   string `json:"version"`
	Commit    string `json:"commit"`
	BuildDate string `json:"buildDate"`
	Engine    string `json:"engine"`
	StateFile string `json:"stateFile"`
	NodeID    uint32 `json:"nodeId"`
	NodeName  string `json:"nodeName"`
	Nodes     []struct {
		NodeID uint32 `json:"nodeId"`
		Name   string `json:"name"`
	} `json:"nodes"`
	ClusterName    string `json:"clusterName"`
	Quorate        *bool  `json:"quorate"`
	LockCount      uint32 `json:"lockCount"`
	WaitingCount   uint32 `json:"waitingCount"`
	LockspaceCount uint32 `json:"lockspaceCount"`
	Degraded       string `json:"degraded"`
}

// properties returns the properties as the service has them on the bus, so programs see the same
// over both doors: where Quorate is null here, it is false there, with QuorumState "unknown".
func (s *serviceReply) properties() map[string]any {
	quorum := "unknown"
	if s.Quorate != nil {
		quorum = map[bool]string{true: "quorate", false: "inquorate"}[*s.Quorate]
	}
	nodes := make(map[uint32]string, len(s.Nodes))
	for _, n := range s.Nodes {
		nodes[n.NodeID] = n.Name
	}
	return map[string]any{
		"Nodes":   nodes,
		"Version": s.Version, "Commit": s.Commit, "BuildDate": s.BuildDate, "Engine": s.Engine,
		"StateFile": s.StateFile,
		"NodeID":    s.NodeID, "NodeName": s.NodeName, "ClusterName": s.ClusterName, "Quorate": value(s.Quorate),
		"QuorumState": quorum, "LockCount": s.LockCount, "WaitingCount": s.WaitingCount,
		"LockspaceCount": s.LockspaceCount, "Degraded": s.Degraded,
	}
}
