package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// The types of data/org.example.DlmLock.varlink, as far as they are used here.
type (
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
	queuedReply struct {
		LockID     uint32  `json:"lockId"`
		NodeID     uint32  `json:"nodeId"`
		Mode       *string `json:"mode"`
		WantedMode *string `json:"wantedMode"`
	}
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
		Orphans *int32       `json:"orphans"`
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

// emptyIs turns the error of a list with nothing in it into none.
func emptyIs(err error, kind Kind) error {
	if errors.Is(err, kind) {
		return nil
	}
	return err
}

// noSuchLock is the kind of error of a list of locks with nothing in it.
const noSuchLock Kind = "NoSuchLock"

// parameters are those that all lists of locks take.
func (f *Filter) parameters(limit int) parameters {
	p := parameters{"limit": limit}
	put(p, "lockspace", f.Lockspace)
	put(p, "resource", f.Resource)
	put(p, "owner", f.Owner)
	if f.HasUID {
		p["userId"] = f.UID
	}
	return p
}

func (v *varlink) locks(ctx context.Context, f Filter, after LockName, limit int) ([]Lock, error) {
	p := f.parameters(limit)
	put(p, "mode", f.Mode)
	put(p, "state", f.State)
	put(p, "after", number(after))
	if f.Node != 0 {
		p["nodeId"] = f.Node
	}
	var locks []Lock
	err := v.each(ctx, "ListLocks", Name+".ListLocks", p, true, func(text json.RawMessage) error {
		var r struct {
			Lock lockReply `json:"lock"`
		}
		err := json.Unmarshal(text, &r)
		locks = append(locks, r.Lock.lock())
		return err
	})
	return locks, emptyIs(err, noSuchLock)
}

func (v *varlink) lost(ctx context.Context, f Filter) ([]Lost, error) {
	var lost []Lost
	err := v.each(ctx, "ListLost", Name+".ListLost", f.parameters(f.Limit), true, func(text json.RawMessage) error {
		var r struct {
			Lost lostReply `json:"lost"`
		}
		err := json.Unmarshal(text, &r)
		lost = append(lost, r.Lost.lost())
		return err
	})
	return lost, emptyIs(err, noSuchLock)
}

func (v *varlink) waits(ctx context.Context, f Filter, after LockName, limit int) ([]Waiter, error) {
	p := f.parameters(limit)
	put(p, "after", number(after))
	var waiters []Waiter
	err := v.each(ctx, "ListWaits", Name+".ListWaits", p, true, func(text json.RawMessage) error {
		var r struct {
			Waiter waiterReply `json:"waiter"`
		}
		err := json.Unmarshal(text, &r)
		waiters = append(waiters, r.Waiter.waiter())
		return err
	})
	return waiters, emptyIs(err, noSuchLock)
}

func (v *varlink) held(ctx context.Context, g Grant) (mode string, err error) {
	for after := LockName(""); ; {
		locks, err := v.locks(ctx, Filter{Lockspace: g.Lockspace, Resource: g.Resource}, after, pageSize)
		if err != nil {
			return "", err
		}
		for _, l := range locks {
			if l.Lock == g.Lock && l.State != "releasing" {
				return l.Mode, nil
			}
		}
		if len(locks) < pageSize {
			return "", &Error{Op: "Held", Kind: NotHeld, Message: "the service has no such lock"}
		}
		after = locks[len(locks)-1].Lock
	}
}

func (v *varlink) nodes(ctx context.Context) ([]Node, error) {
	var nodes []Node
	err := v.each(ctx, "ListNodes", Name+".ListNodes", nil, true, func(text json.RawMessage) error {
		var r struct {
			Node struct {
				ID      uint32 `json:"nodeId"`
				Name    string `json:"name"`
				Self    bool   `json:"self"`
				Answers bool   `json:"answers"`
				Version string `json:"version"`
				Missing string `json:"missing"`
			} `json:"node"`
		}
		err := json.Unmarshal(text, &r)
		nodes = append(nodes, Node(r.Node))
		return err
	})
	return nodes, err
}

func (v *varlink) inspect(ctx context.Context, node uint32, lockspace, resource string) (in Inspection, err error) {
	var r inspectReply
	p := parameters{"lockspace": lockspace, "resource": resource}
	if node != 0 {
		p["nodeId"] = node
	}
	err = v.call(ctx, "Inspect", Name+".Inspect", p, &r)
	if err != nil {
		return in, err
	}
	return r.inspection(), nil
}

// inspectReply is the reply of Inspect. What is null could not be looked at, and stays
// nil in an Inspection: that is something else than empty.
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

func (v *varlink) lockspaces(ctx context.Context) ([]Lockspace, error) {
	spaces := []Lockspace{}
	err := v.each(ctx, "ListLockspaces", Name+".ListLockspaces", nil, true, func(text json.RawMessage) error {
		var r struct {
			Lockspace lockspaceReply `json:"lockspace"`
		}
		err := json.Unmarshal(text, &r)
		spaces = append(spaces, r.Lockspace.lockspace())
		return err
	})
	return spaces, emptyIs(err, NoSuchLockspace)
}

func (v *varlink) join(ctx context.Context, lockspace string) error {
	p := parameters{"lockspace": lockspace}
	put(p, "allowInteractiveAuthentication", v.interaction)
	return v.call(ctx, "JoinLockspace", Name+".JoinLockspace", p, nil)
}

func (v *varlink) leave(ctx context.Context, lockspace string, force bool) error {
	p := parameters{"lockspace": lockspace}
	put(p, "force", force)
	put(p, "allowInteractiveAuthentication", v.interaction)
	return v.call(ctx, "LeaveLockspace", Name+".LeaveLockspace", p, nil)
}

func (v *varlink) orphans(ctx context.Context, lockspace string) ([]Orphan, error) {
	orphans := []Orphan{}
	err := v.each(ctx, "ListOrphans", Name+".ListOrphans", parameters{"lockspace": lockspace}, true,
		func(text json.RawMessage) error {
			var r struct {
				Orphan struct {
					LockID   uint32       `json:"lockId"`
					Resource string       `json:"resource"`
					Mode     *string      `json:"mode"`
					Holder   *holderReply `json:"holder"`
				} `json:"orphan"`
			}
			err := json.Unmarshal(text, &r)
			o := Orphan{LockID: r.Orphan.LockID, Resource: r.Orphan.Resource, Mode: upper(r.Orphan.Mode)}
			if h := r.Orphan.Holder; h != nil {
				o.Token, o.Who = h.Token, h.Label
			}
			orphans = append(orphans, o)
			return err
		})
	return orphans, emptyIs(err, noSuchLock)
}

func (v *varlink) adopt(ctx context.Context, lockspace string, orphan Orphan, a Adoption) (token uint64, err error) {
	p := parameters{"lockspace": lockspace, "lockId": orphan.LockID}
	put(p, "owner", a.Owner)
	put(p, "label", a.Label)
	put(p, "resource", orphan.Resource)
	put(p, "mode", orphan.Mode)
	put(p, "allowInteractiveAuthentication", v.interaction)
	if a.UID != nil {
		p["userId"] = *a.UID
	}
	var r struct {
		Token uint64 `json:"token"`
	}
	err = v.call(ctx, "AdoptOrphan", Name+".AdoptOrphan", p, &r)
	return r.Token, err
}

func (v *varlink) purge(ctx context.Context, lockspace string, lockids []uint32, some bool) (purged uint32, err error) {
	if lockids == nil {
		lockids = []uint32{}
	}
	p := parameters{"lockspace": lockspace, "lockIds": lockids}
	put(p, "some", some)
	put(p, "allowInteractiveAuthentication", v.interaction)
	var r struct {
		Purged uint32 `json:"purged"`
	}
	err = v.call(ctx, "Purge", Name+".Purge", p, &r)
	return r.Purged, err
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

// properties are those that the service has on the bus.
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

func (v *varlink) status(ctx context.Context) (map[string]any, error) {
	var r struct {
		Service  serviceReply `json:"service"`
		Counters struct {
			LocksGranted     uint64 `json:"locksGranted"`
			LocksReleased    uint64 `json:"locksReleased"`
			LocksConverted   uint64 `json:"locksConverted"`
			LocksLost        uint64 `json:"locksLost"`
			RequestsRefused  uint64 `json:"requestsRefused"`
			RequestsCanceled uint64 `json:"requestsCanceled"`
			GrantLatency     struct {
				Count   uint64 `json:"count"`
				SumUSec uint64 `json:"sumUSec"`
				Buckets []struct {
					UpToUSec *uint64 `json:"upToUSec"`
					Count    uint64  `json:"count"`
				} `json:"buckets"`
			} `json:"grantLatency"`
		} `json:"counters"`
	}
	if err := v.call(ctx, "Status", Name+".Describe", nil, &r); err != nil {
		return nil, err
	}
	st, c := r.Service.properties(), &r.Counters
	for key, n := range map[string]uint64{"LocksGranted": c.LocksGranted, "LocksReleased": c.LocksReleased,
		"LocksConverted": c.LocksConverted, "LocksLost": c.LocksLost, "RequestsRefused": c.RequestsRefused,
		"RequestsCanceled": c.RequestsCanceled} {
		st[key] = n
	}
	l := Latency{Count: c.GrantLatency.Count, Sum: c.GrantLatency.SumUSec}
	for _, b := range c.GrantLatency.Buckets {
		if b.UpToUSec != nil {
			l.Buckets = append(l.Buckets, Bucket{*b.UpToUSec, b.Count})
		}
	}
	st["GrantLatency"] = l
	return st, nil
}

// pause waits, and reports whether ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
