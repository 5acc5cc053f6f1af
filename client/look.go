package client

import (
	"context"
	"encoding/hex"
	"fmt"
	"reflect"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// What is not known, or does not apply, is absent from the JSON of these types.
// data/dlmlockctl.schema.json describes it.

// Lock is a lock of the service.
type Lock struct {
	Lock      godbus.ObjectPath `json:"lock"`
	Lockspace string            `json:"lockspace"`
	Resource  string            `json:"resource"`
	LockID    uint32            `json:"lockid,omitempty"` // 0 while acquiring
	Mode      string            `json:"mode,omitempty"`   // granted; "" while acquiring
	Wanted    string            `json:"wanted,omitempty"` // the mode asked for, or ""
	State     string            `json:"state"`            // acquiring, held, converting, releasing
	Token     uint64            `json:"token,omitempty"`  // 0: none
	Owner     string            `json:"owner,omitempty"`
	Label     string            `json:"label,omitempty"`
	Lifetime  string            `json:"lifetime"`
	UID       uint32            `json:"uid"`
	PID       uint32            `json:"pid,omitempty"`  // of the caller, or of the process that the lock is tied to
	Since     time.Time         `json:"since,omitzero"` // when it was granted; zero before
	// Waiting is since when it stands in a queue; zero if it does not.
	Waiting time.Time `json:"waiting_since,omitzero"`
	OnLost  string    `json:"on_lost,omitempty"` // the helper that is run if it is lost
}

// Lost is a lock that was lost.
type Lost struct {
	Lock      godbus.ObjectPath `json:"lock"`
	Lockspace string            `json:"lockspace"`
	Resource  string            `json:"resource"`
	LockID    uint32            `json:"lockid"`
	Mode      string            `json:"mode"`
	Owner     string            `json:"owner,omitempty"`
	Label     string            `json:"label,omitempty"`
	When      time.Time         `json:"when"`
	Reason    string            `json:"reason"`
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
	Limit                                   int // at most so many; 0: all
}

// lockRow is a lock on the bus.
type lockRow struct {
	Lock                godbus.ObjectPath
	Lockspace, Resource string
	LockID              uint32
	Mode, Wanted, State string
	Token               uint64
	Owner, Label        string
	Lifetime            string
	UID, PID            uint32
	Since               uint64
	Details             details
}

func (r lockRow) lock() Lock {
	return Lock{r.Lock, r.Lockspace, r.Resource, r.LockID, r.Mode, r.Wanted, r.State, r.Token,
		r.Owner, r.Label, r.Lifetime, r.UID, r.PID, moment(r.Since), r.Details.moment("waiting-since"),
		r.Details.text("on-lost")}
}

// text is a detail that is a text, or "".
func (d details) text(key string) string {
	s, _ := d[key].Value().(string)
	return s
}

// moment is a detail that is a time, or the zero time.
func (d details) moment(key string) time.Time {
	usec, _ := d[key].Value().(uint64)
	return moment(usec)
}

// lostRow is a lost lock on the bus.
type lostRow struct {
	Lock                godbus.ObjectPath
	Lockspace, Resource string
	LockID              uint32
	Mode, Owner, Label  string
	When                uint64
	Reason              string
	Details             details
}

// moment is a time on the bus: microseconds since 1970, 0 for none.
func moment(usec uint64) time.Time {
	if usec == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(usec))
}

// pageSize is how many locks one call of ListLocks asks for, at most.
const pageSize = 5000

// Locks lists the locks of the service, oldest first, page by page (member
// ListLocks). Locks that come or go meanwhile may or may not be in the list.
func (c *Client) Locks(ctx context.Context, f Filter) ([]Lock, error) {
	opts := map[string]godbus.Variant{}
	for key, v := range map[string]string{
		"lockspace": f.Lockspace, "resource": f.Resource, "owner": f.Owner, "mode": f.Mode, "state": f.State,
	} {
		set(opts, key, v)
	}
	if f.HasUID {
		opts["uid"] = godbus.MakeVariant(f.UID)
	}
	locks := []Lock{}
	for f.Limit <= 0 || len(locks) < f.Limit {
		limit := pageSize
		if f.Limit > 0 {
			limit = min(limit, f.Limit-len(locks))
		}
		opts["limit"] = godbus.MakeVariant(uint32(limit))
		var rows []lockRow
		if err := c.call(ctx, "ListLocks", []any{&rows}, opts); err != nil {
			return nil, err
		}
		if len(rows) == 0 {
			break
		}
		for _, r := range rows {
			locks = append(locks, r.lock())
		}
		opts["after"] = godbus.MakeVariant(rows[len(rows)-1].Lock)
	}
	return locks, nil
}

// Held returns the mode in which a lock is held, from the properties of its object.
// The error is of kind NotHeld if the lock does not exist, or is being released.
// The call does not start the service.
func (c *Client) Held(ctx context.Context, lock godbus.ObjectPath) (mode string, err error) {
	quiet := Client{conn: c.conn, flags: godbus.FlagNoAutoStart}
	var all map[string]godbus.Variant
	err = quiet.callOn(ctx, lock, "org.freedesktop.DBus.Properties", "GetAll", []any{&all}, Name+".Lock")
	if err != nil {
		return "", err
	}
	v := values(all)
	if v["State"] == "releasing" {
		return "", &Error{Op: "Held", Kind: NotHeld, Message: "the lock is being released"}
	}
	mode, ok := v["Mode"].(string)
	if !ok {
		return "", &Error{Op: "Held", Kind: Failed, Message: "the answer has no mode"}
	}
	return mode, nil
}

// Inspect returns all that is known of one resource (member Inspect).
func (c *Client) Inspect(ctx context.Context, lockspace, resource string) (Inspection, error) {
	var d details
	var in Inspection
	if err := c.call(ctx, "Inspect", []any{&d}, lockspace, resource); err != nil {
		return in, err
	}
	var locks []lockRow
	var lost []lostRow
	err := d.store(map[string]any{
		"locks": &locks, "lost": &lost,
		"granted": &in.Granted, "converting": &in.Converting, "waiting": &in.Waiting, "waits": &in.Waits,
		"master": &in.Master, "complete": &in.Complete, "value": (*[]byte)(&in.Value), "value-invalid": &in.ValueInvalid,
		"holder": &in.Holder, "holder-owner": &in.HolderOwner, "missing": &in.Missing,
	}, &in.Health)
	if err != nil {
		return in, wrap("Inspect", err)
	}
	in.Locks, in.Lost = make([]Lock, len(locks)), make([]Lost, len(lost))
	for i, r := range locks {
		in.Locks[i] = r.lock()
	}
	for i, r := range lost {
		in.Lost[i] = Lost{r.Lock, r.Lockspace, r.Resource, r.LockID, r.Mode, r.Owner, r.Label, moment(r.When), r.Reason}
	}
	return in, nil
}

// details is an a{sv} of which every key is optional.
type details map[string]godbus.Variant

// store stores the values of the keys in into. A target that is a pointer to a
// pointer gets a new value, or stays nil if the key is missing. Other keys are
// ignored: a newer service may have more.
func (d details) store(into map[string]any, h *Health) error {
	for key, to := range map[string]any{
		"stopped": &h.Stopped, "quorate": &h.Quorate, "reason": &h.Reason, "members": &h.Members, "recovery": &h.Recovery,
	} {
		into[key] = to
	}
	for key, to := range into {
		v, ok := d[key]
		if !ok {
			continue
		}
		if p := reflect.ValueOf(to).Elem(); p.Kind() == reflect.Pointer {
			p.Set(reflect.New(p.Type().Elem()))
			to = p.Interface()
		}
		if err := godbus.Store([]any{v.Value()}, to); err != nil {
			return fmt.Errorf("%s in the answer: %w", key, err)
		}
	}
	return nil
}

// Lockspaces lists the lockspaces of the service (member ListLockspaces).
func (c *Client) Lockspaces(ctx context.Context) ([]Lockspace, error) {
	var rows []struct {
		Name, State string
		Locks       uint32
		Orphans     int32
		Details     map[string]godbus.Variant
	}
	if err := c.call(ctx, "ListLockspaces", []any{&rows}); err != nil {
		return nil, err
	}
	spaces := make([]Lockspace, len(rows))
	for i, r := range rows {
		s := Lockspace{Name: r.Name, State: r.State, Locks: r.Locks, Orphans: Count(r.Orphans)}
		if err := details(r.Details).store(map[string]any{"error": &s.Error}, &s.Health); err != nil {
			return nil, wrap("ListLockspaces", err)
		}
		spaces[i] = s
	}
	return spaces, nil
}

// Join makes this node a member of a lockspace (member JoinLockspace).
func (c *Client) Join(ctx context.Context, lockspace string) error {
	return c.call(ctx, "JoinLockspace", nil, lockspace, map[string]godbus.Variant{})
}

// Leave makes this node leave a lockspace (member LeaveLockspace). With force
// the locks held in it are lost.
func (c *Client) Leave(ctx context.Context, lockspace string, force bool) error {
	o := map[string]godbus.Variant{}
	set(o, "force", force)
	return c.call(ctx, "LeaveLockspace", nil, lockspace, o)
}

// Orphans lists the locks that belong to no process and are in no record (member
// ListOrphans).
func (c *Client) Orphans(ctx context.Context, lockspace string) ([]Orphan, error) {
	var rows []struct {
		LockID         uint32
		Resource, Mode string
		Details        map[string]godbus.Variant
	}
	if err := c.call(ctx, "ListOrphans", []any{&rows}, lockspace); err != nil {
		return nil, err
	}
	orphans := make([]Orphan, len(rows))
	for i, r := range rows {
		o := &orphans[i]
		*o = Orphan{LockID: r.LockID, Resource: r.Resource, Mode: r.Mode}
		if err := details(r.Details).store(map[string]any{"token": &o.Token, "who": &o.Who}, new(Health)); err != nil {
			return nil, wrap("ListOrphans", err)
		}
	}
	return orphans, nil
}

// Adoption says whose lock an orphan becomes.
type Adoption struct {
	Owner, Label string
	UID          *uint32 // nil: the caller's
}

// Adopt makes an orphan a lock of an owner (member AdoptOrphan), if it is still the
// one that Orphans returned.
func (c *Client) Adopt(ctx context.Context, lockspace string, orphan Orphan, a Adoption) (token uint64, err error) {
	o := map[string]godbus.Variant{}
	set(o, "owner", a.Owner)
	set(o, "label", a.Label)
	set(o, "resource", orphan.Resource)
	set(o, "mode", orphan.Mode)
	if a.UID != nil {
		o["uid"] = godbus.MakeVariant(*a.UID)
	}
	var path godbus.ObjectPath
	err = c.call(ctx, "AdoptOrphan", []any{&token, &path}, lockspace, orphan.LockID, o)
	return token, err
}

// Purge removes the orphans of a lockspace, if they are still exactly these (member
// Purge). It returns how many were removed.
func (c *Client) Purge(ctx context.Context, lockspace string, lockids []uint32) (purged uint32, err error) {
	return c.purge(ctx, lockspace, lockids, false)
}

// PurgeSome removes these orphans of a lockspace and leaves the others.
func (c *Client) PurgeSome(ctx context.Context, lockspace string, lockids []uint32) (purged uint32, err error) {
	return c.purge(ctx, lockspace, lockids, true)
}

func (c *Client) purge(ctx context.Context, lockspace string, lockids []uint32, some bool) (purged uint32, err error) {
	if lockids == nil {
		lockids = []uint32{}
	}
	o := map[string]godbus.Variant{}
	set(o, "some", some)
	err = c.call(ctx, "Purge", []any{&purged}, lockspace, lockids, o)
	return purged, err
}

// Latency is how long the calls took that ended in a grant.
type Latency struct {
	Count   uint64   `json:"count"`
	Sum     uint64   `json:"sum_usec"`
	Buckets []Bucket `json:"buckets"`
}

// Bucket counts the calls that took no longer than Bound microseconds. Calls that
// took longer than the last bound are in no bucket.
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

// Within returns a time that at least this part (0 to 1) of the calls stayed
// within, as exactly as the buckets tell; ok is false if they don't.
func (l *Latency) Within(part float64) (d time.Duration, ok bool) {
	for _, b := range l.Buckets {
		if l.Count > 0 && float64(b.Count) >= part*float64(l.Count) {
			return time.Duration(b.Bound) * time.Microsecond, true
		}
	}
	return 0, false
}

// Status returns the properties of the service by name. GrantLatency is a
// Latency.
func (c *Client) Status(ctx context.Context) (map[string]any, error) {
	var all map[string]godbus.Variant
	err := c.callOn(ctx, Path, "org.freedesktop.DBus.Properties", "GetAll", []any{&all}, Name)
	if err != nil {
		return nil, err
	}
	st := values(all)
	if v, ok := all["GrantLatency"]; ok {
		var l Latency
		if err := godbus.Store([]any{v.Value()}, &l); err != nil {
			return nil, wrap("Status", fmt.Errorf("GrantLatency in the answer: %w", err))
		}
		st["GrantLatency"] = l
	}
	return st, nil
}

func values(m map[string]godbus.Variant) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = v.Value()
	}
	return out
}
