package client

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// emptyIs turns the error for an empty list into no error. The interface has such errors because
// a method that replies with "more" has to reply at least once, and a reply needs an element.
func emptyIs(err error, kind Kind) error {
	if errors.Is(err, kind) {
		return nil
	}
	return err
}

// noSuchLock is the kind of error of a list of locks with nothing in it.
const noSuchLock Kind = "NoSuchLock"

// parameters returns the parameters that all lists of locks take.
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

// held looks through the locks of the resource: the interface has no method for one lock. Most
// resources have few.
func (v *varlink) held(ctx context.Context, g Grant) (Lock, error) {
	for after := LockName(""); ; {
		locks, err := v.locks(ctx, Filter{Lockspace: g.Lockspace, Resource: g.Resource}, after, pageSize)
		if err != nil {
			return Lock{}, err
		}
		for _, l := range locks {
			if l.Lock == g.Lock && l.State != "releasing" {
				return l, nil
			}
		}
		if len(locks) < pageSize {
			return Lock{}, &Error{Op: "Held", Kind: NotHeld, Message: "the service has no such lock"}
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

// adopt sends what the caller has seen of the orphan. The service compares that with the orphan,
// because the kernel may have reused the lockid since.
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
		lockids = []uint32{} // not null, which the interface does not allow; an empty list expects no orphan
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
