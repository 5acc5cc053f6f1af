package client

import (
	"context"
	"encoding/hex"
	"time"
)

// What is not known, or does not apply, is absent from the JSON of these types.
// data/dlmlockctl.schema.json describes it.

// Lock is a lock of the service.
type Lock struct {
	Lock      LockName  `json:"lock"`
	Lockspace string    `json:"lockspace"`
	Resource  string    `json:"resource"`
	LockID    uint32    `json:"lockid,omitempty"` // 0 while acquiring
	Mode      string    `json:"mode,omitempty"`   // granted; "" while acquiring
	Wanted    string    `json:"wanted,omitempty"` // the mode asked for, or ""
	State     string    `json:"state"`            // acquiring, held, converting, releasing
	Token     uint64    `json:"token,omitempty"`  // 0: none
	Owner     string    `json:"owner,omitempty"`
	Label     string    `json:"label,omitempty"`
	Lifetime  string    `json:"lifetime"`
	UID       uint32    `json:"uid"`
	PID       uint32    `json:"pid,omitempty"`  // of the caller, or of the process that the lock is tied to
	Since     time.Time `json:"since,omitzero"` // when it was granted; zero before
	// Waiting is since when it waits in a queue; zero if it does not.
	Waiting time.Time `json:"waiting_since,omitzero"`
	OnLost  string    `json:"on_lost,omitempty"` // the helper that is run if it is lost
}

// Lost is a lock that was lost.
type Lost struct {
	Lock      LockName  `json:"lock"`
	Lockspace string    `json:"lockspace"`
	Resource  string    `json:"resource"`
	LockID    uint32    `json:"lockid"`
	Mode      string    `json:"mode"`
	Owner     string    `json:"owner,omitempty"`
	Label     string    `json:"label,omitempty"`
	When      time.Time `json:"when"`
	Reason    string    `json:"reason"`
}

// Queued is a lock in a queue of the lock manager, of any node.
type Queued struct {
	LockID uint32 `json:"lockid"`           // on the node that looks
	Node   uint32 `json:"node,omitempty"`   // 0: not known
	Mode   string `json:"mode,omitempty"`   // granted, or ""
	Wanted string `json:"wanted,omitempty"` // waited for, or ""
}

// Holder is what the last holder in PW or EX has published about itself.
type Holder struct {
	Node  uint32 `json:"node,omitempty"` // 0: it has released the lock
	Mode  string `json:"mode,omitempty"`
	Token uint64 `json:"token,omitempty"`
	Who   string `json:"who,omitempty"` // the first bytes of its label or owner
}

// Wait says who waits for whom.
type Wait struct {
	Node    uint32 `json:"node,omitempty"`
	LockID  uint32 `json:"lockid,omitempty"` // 0: not known
	Mode    string `json:"mode,omitempty"`   // waited for
	Who     string `json:"who,omitempty"`    // owner, label or process
	ForNode uint32 `json:"for_node,omitempty"`
	ForID   uint32 `json:"for_lockid,omitempty"`
	ForMode string `json:"for_mode,omitempty"`
	ForWho  string `json:"for_who,omitempty"`
}

// Waiter is a lock of the service that waits in a queue, for its first grant or for
// another mode.
type Waiter struct {
	Lock      LockName  `json:"lock"`
	Lockspace string    `json:"lockspace"`
	Resource  string    `json:"resource"`
	LockID    uint32    `json:"lockid,omitempty"` // of one that waits for another mode
	Mode      string    `json:"mode,omitempty"`   // granted, or ""
	Wanted    string    `json:"wanted"`           // waited for
	Since     time.Time `json:"waiting_since"`
	Who       string    `json:"who"` // owner, label or process
	Owner     string    `json:"owner,omitempty"`
	Label     string    `json:"label,omitempty"`
	UID       uint32    `json:"uid"`
	PID       uint32    `json:"pid,omitempty"`
	// For is what it waits for, 16 at most. Empty: that can't be seen from this node.
	For     []Blocker `json:"for"`
	Master  uint32    `json:"master,omitempty"`  // the node that keeps the queues; 0: not known
	Missing string    `json:"missing,omitempty"` // why the queues are not known
}

// Blocker is a lock that is in the way of a Waiter.
type Blocker struct {
	Node   uint32 `json:"node,omitempty"`   // 0: not known
	LockID uint32 `json:"lockid,omitempty"` // on this node; 0: not known
	Mode   string `json:"mode,omitempty"`   // held, or wanted if it waits itself
	Who    string `json:"who,omitempty"`    // owner, label or process
	Waits  bool   `json:"waits,omitempty"`  // it waits in the queue itself
}

// Inspection is all that is known of one resource. A nil pointer and a nil list
// were not looked at; Missing says why.
type Inspection struct {
	Locks        []Lock   `json:"locks"`
	Lost         []Lost   `json:"lost"`
	Granted      []Queued `json:"granted,omitzero"`
	Converting   []Queued `json:"converting,omitzero"`
	Waiting      []Queued `json:"waiting,omitzero"`
	Waits        []Wait   `json:"waits,omitzero"`
	Master       uint32   `json:"master,omitempty"`
	Complete     *bool    `json:"complete,omitempty"`
	Value        Hex      `json:"value,omitempty"` // the lock value block, 32 bytes
	ValueInvalid *bool    `json:"value_invalid,omitempty"`
	Holder       *Holder  `json:"holder,omitempty"`
	HolderOwner  *uint32  `json:"holder_owner,omitempty"` // hash of its user id and owner, 0: it has none
	Health
	Missing []string `json:"missing,omitempty"`
}

// Hex is bytes that are written as two hexadecimal digits each.
type Hex []byte

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

// Health is the condition of a lockspace, as far as it is known.
type Health struct {
	Stopped  *bool    `json:"stopped,omitempty"`
	Quorate  *bool    `json:"quorate,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Members  []uint32 `json:"members,omitempty"`
	Recovery *uint32  `json:"recovery,omitempty"`
}

// Count is a number of things, negative if it is not known.
type Count int32

// IsZero leaves a number that is not known out of the JSON, and keeps 0.
func (c Count) IsZero() bool { return c < 0 }

// Lockspace is a lockspace of the service.
type Lockspace struct {
	Name    string `json:"name"`
	State   string `json:"state"` // joining, ready, leaving, failed
	Locks   uint32 `json:"locks"`
	Orphans Count  `json:"orphans,omitzero"`
	Error   string `json:"error,omitempty"`
	Health
}

// Orphan is a lock on this node that belongs to no process and is in no record.
type Orphan struct {
	LockID   uint32 `json:"lockid"`
	Resource string `json:"resource"`
	Mode     string `json:"mode"`
	// From its value block; zero where that tells nothing.
	Token uint64 `json:"token,omitempty"`
	Who   string `json:"who,omitempty"` // the first bytes of the label or owner
}

// Filter says which locks to list. Zero fields match any.
type Filter struct {
	Lockspace, Resource, Owner, Mode, State string
	UID                                     uint32
	HasUID                                  bool
	Limit                                   int    // at most this many; 0: all
	Node                                    uint32 // of the service on that node; 0: of this one
}

// pageSize is how many locks one call of ListLocks asks for, at most.
const pageSize = 5000

// Adoption says whose lock an orphan becomes.
type Adoption struct {
	Owner, Label string
	UID          *uint32 // nil: the caller's
}

// Latency is how long the calls took that ended in a grant.
type Latency struct {
	Count   uint64   `json:"count"`
	Sum     uint64   `json:"sum_usec"`
	Buckets []Bucket `json:"buckets"`
}

// Bucket counts the calls that took at most Bound microseconds. Calls that took longer
// than the last bound are in no bucket.
type Bucket struct {
	Bound uint64 `json:"le_usec"`
	Count uint64 `json:"count"`
}

// Mean is the mean time; 0 without calls.
func (l *Latency) Mean() time.Duration {
	if l.Count == 0 {
		return 0
	}
	return time.Duration(l.Sum/l.Count) * time.Microsecond
}

// Within returns a time within which at least this part (0 to 1) of the calls was
// granted, as exactly as the buckets allow; ok is false if they do not say.
func (l *Latency) Within(part float64) (d time.Duration, ok bool) {
	for _, b := range l.Buckets {
		if l.Count > 0 && float64(b.Count) >= part*float64(l.Count) {
			return time.Duration(b.Bound) * time.Microsecond, true
		}
	}
	return 0, false
}

// Locks lists the locks of the service, oldest first, page by page (member
// ListLocks). Locks that come or go meanwhile may or may not be in the list.
func (c *Client) Locks(ctx context.Context, f Filter) ([]Lock, error) {
	return pages(f.Limit, pageSize, func(after LockName, limit int) ([]Lock, error) {
		return c.transport().locks(ctx, f, after, limit)
	}, func(l *Lock) LockName { return l.Lock })
}

// pages reads a list of locks page by page: at most limit elements in all (0: no limit), and at
// most most in one call. page asks for the locks after the one given, and name returns the name
// of an element.
func pages[T any](limit, most int, page func(after LockName, limit int) ([]T, error),
	name func(*T) LockName) ([]T, error) {
	all := []T{}
	after := LockName("")
	for limit <= 0 || len(all) < limit {
		if limit > 0 {
			most = min(most, limit-len(all))
		}
		more, err := page(after, most)
		if err != nil {
			return nil, err
		}
		if len(more) == 0 {
			break
		}
		all, after = append(all, more...), name(&more[len(more)-1])
	}
	return all, nil
}

// Waits lists the locks of the service that wait, the longest wait first, and what each
// waits for (member ListWaits). The filter's Mode, State and Node are not used.
func (c *Client) Waits(ctx context.Context, f Filter) ([]Waiter, error) {
	return pages(f.Limit, waitsPage, func(after LockName, limit int) ([]Waiter, error) {
		return c.transport().waits(ctx, f, after, limit)
	}, func(w *Waiter) LockName { return w.Lock })
}

// waitsPage is how many locks one call of ListWaits asks for, at most: as many as the
// service puts into one answer.
const waitsPage = 256

// lostMost is how many lost locks the service lists, at most.
const lostMost = 1000

// Lost lists the locks that were lost lately on this node, the last one first, also
// of lockspaces that were left (member ListLost). The filter's Mode and State are
// not used.
func (c *Client) Lost(ctx context.Context, f Filter) ([]Lost, error) {
	if f.Limit <= 0 || f.Limit > lostMost {
		f.Limit = lostMost
	}
	lost, err := c.transport().lost(ctx, f)
	if lost == nil && err == nil {
		lost = []Lost{}
	}
	return lost, err
}

// Held returns the mode in which the lock of a grant is held now. The error is of kind
// NotHeld if the lock does not exist, or is being released. The call does not start
// the service.
func (c *Client) Held(ctx context.Context, g Grant) (mode string, err error) {
	l, err := c.transport().held(ctx, g)
	return l.Mode, err
}

// Inspect returns all that is known of one resource (member Inspect).
func (c *Client) Inspect(ctx context.Context, lockspace, resource string) (Inspection, error) {
	return c.transport().inspect(ctx, 0, lockspace, resource)
}

// InspectNode is Inspect on another node (member InspectNode).
func (c *Client) InspectNode(ctx context.Context, node uint32, lockspace, resource string) (Inspection, error) {
	return c.transport().inspect(ctx, node, lockspace, resource)
}

// Node is a node of the cluster.
type Node struct {
	ID      uint32 `json:"node"`
	Name    string `json:"name,omitempty"`    // what the administrator calls it
	Self    bool   `json:"self"`              // that of this service
	Answers bool   `json:"answers"`           // its service can be asked
	Version string `json:"version,omitempty"` // of its service
	Missing string `json:"missing,omitempty"` // why it can't be asked
}

// Nodes lists the nodes of the cluster (member ListNodes).
func (c *Client) Nodes(ctx context.Context) ([]Node, error) { return c.transport().nodes(ctx) }

// Lockspaces lists the lockspaces of the service (member ListLockspaces).
func (c *Client) Lockspaces(ctx context.Context) ([]Lockspace, error) {
	return c.transport().lockspaces(ctx)
}

// Join makes this node a member of a lockspace (member JoinLockspace).
func (c *Client) Join(ctx context.Context, lockspace string) error {
	return c.transport().join(ctx, lockspace)
}

// Leave makes this node leave a lockspace (member LeaveLockspace). With force
// the locks held in it are lost.
func (c *Client) Leave(ctx context.Context, lockspace string, force bool) error {
	return c.transport().leave(ctx, lockspace, force)
}

// Orphans lists the locks that belong to no process and are in no record (member
// ListOrphans).
func (c *Client) Orphans(ctx context.Context, lockspace string) ([]Orphan, error) {
	return c.transport().orphans(ctx, lockspace)
}

// Adopt makes an orphan a lock of an owner (member AdoptOrphan), if it is still the
// one that Orphans returned.
func (c *Client) Adopt(ctx context.Context, lockspace string, orphan Orphan, a Adoption) (token uint64, err error) {
	return c.transport().adopt(ctx, lockspace, orphan, a)
}

// Purge removes the orphans of a lockspace, if they are still exactly these (member
// Purge). It returns how many were removed.
func (c *Client) Purge(ctx context.Context, lockspace string, lockids []uint32) (purged uint32, err error) {
	return c.transport().purge(ctx, lockspace, lockids, false)
}

// PurgeSome removes these orphans of a lockspace and leaves the others.
func (c *Client) PurgeSome(ctx context.Context, lockspace string, lockids []uint32) (purged uint32, err error) {
	return c.transport().purge(ctx, lockspace, lockids, true)
}

// Status returns the properties of the service by name. GrantLatency is a
// Latency.
func (c *Client) Status(ctx context.Context) (map[string]any, error) {
	return c.transport().status(ctx)
}
