package client

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// lockRow is a lock on the bus. The rows are structs of D-Bus, whose fields have no names there.
// Their order and types are those of data/org.example.DlmLock.xml; fields that were added later
// are in the details.
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

func (r lostRow) lost() Lost {
	return Lost{r.Lock, r.Lockspace, r.Resource, r.LockID, r.Mode, r.Owner, r.Label, moment(r.When), r.Reason}
}

// moment is a time on the bus: microseconds since 1970, 0 for none.
func moment(usec uint64) time.Time {
	if usec == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(usec))
}

// options returns the options that all lists of locks take.
func (f *Filter) options(limit int) map[string]godbus.Variant {
	opts := map[string]godbus.Variant{"limit": godbus.MakeVariant(uint32(limit))}
	set(opts, "lockspace", f.Lockspace)
	set(opts, "resource", f.Resource)
	set(opts, "owner", f.Owner)
	if f.HasUID {
		opts["uid"] = godbus.MakeVariant(f.UID)
	}
	return opts
}

func (b *bus) locks(ctx context.Context, f Filter, after LockName, limit int) ([]Lock, error) {
	opts := f.options(limit)
	set(opts, "mode", f.Mode)
	set(opts, "state", f.State)
	set(opts, "node", f.Node)
	set(opts, "after", after)
	var rows []lockRow
	if err := b.call(ctx, "ListLocks", []any{&rows}, opts); err != nil {
		return nil, err
	}
	locks := make([]Lock, len(rows))
	for i, r := range rows {
		locks[i] = r.lock()
	}
	return locks, nil
}

func (b *bus) lost(ctx context.Context, f Filter) ([]Lost, error) {
	var rows []lostRow
	if err := b.call(ctx, "ListLost", []any{&rows}, f.options(f.Limit)); err != nil {
		return nil, err
	}
	lost := make([]Lost, len(rows))
	for i, r := range rows {
		lost[i] = r.lost()
	}
	return lost, nil
}

// waiterRow is a lock that waits, on the bus.
type waiterRow struct {
	Lock                godbus.ObjectPath
	Lockspace, Resource string
	Mode, Wanted        string
	Since               uint64
	Who                 string
	For                 []struct {
		Node, LockID uint32
		Mode, Who    string
		Details      details
	}
	Details details
}

func (r *waiterRow) waiter() (Waiter, error) {
	w := Waiter{Lock: r.Lock, Lockspace: r.Lockspace, Resource: r.Resource, Mode: r.Mode, Wanted: r.Wanted,
		Since: moment(r.Since), Who: r.Who, For: make([]Blocker, len(r.For))}
	err := r.Details.store(map[string]any{"owner": &w.Owner, "label": &w.Label, "uid": &w.UID, "pid": &w.PID,
		"lockid": &w.LockID, "master": &w.Master, "missing": &w.Missing}, new(Health))
	for i, b := range r.For {
		w.For[i] = Blocker{Node: b.Node, LockID: b.LockID, Mode: b.Mode, Who: b.Who}
		err = errors.Join(err, b.Details.store(map[string]any{"waits": &w.For[i].Waits}, new(Health)))
	}
	return w, err
}

func (b *bus) waits(ctx context.Context, f Filter, after LockName, limit int) ([]Waiter, error) {
	opts := f.options(limit)
	set(opts, "after", after)
	var rows []waiterRow
	if err := b.call(ctx, "ListWaits", []any{&rows}, opts); err != nil {
		return nil, err
	}
	waiters := make([]Waiter, len(rows))
	for i := range rows {
		var err error
		if waiters[i], err = rows[i].waiter(); err != nil {
			return nil, wrap("ListWaits", err)
		}
	}
	return waiters, nil
}

// held asks the object of the lock. It does not start the service for that: if the service does
// not run, the caller asks again.
func (b *bus) held(ctx context.Context, g Grant) (l Lock, err error) {
	quiet := bus{conn: b.conn, flags: godbus.FlagNoAutoStart}
	var all map[string]godbus.Variant
	err = quiet.callOn(ctx, g.Lock, "org.freedesktop.DBus.Properties", "GetAll", []any{&all}, Name+".Lock")
	if err != nil {
		return l, err
	}
	v := values(all)
	if l.State, _ = v["State"].(string); l.State == "releasing" {
		return l, &Error{Op: "Held", Kind: NotHeld, Message: "the lock is being released"}
	}
	mode, ok := v["Mode"].(string)
	if !ok {
		return l, &Error{Op: "Held", Kind: Failed, Message: "the answer has no mode"}
	}
	l.Mode = mode
	l.Token, _ = v["Token"].(uint64)
	return l, nil
}

func (b *bus) nodes(ctx context.Context) ([]Node, error) {
	var rows []struct {
		ID      uint32
		Details map[string]godbus.Variant
	}
	if err := b.call(ctx, "ListNodes", []any{&rows}); err != nil {
		return nil, err
	}
	nodes := make([]Node, len(rows))
	for i, r := range rows {
		n := Node{ID: r.ID}
		err := details(r.Details).store(map[string]any{"name": &n.Name, "self": &n.Self, "answers": &n.Answers,
			"version": &n.Version, "missing": &n.Missing}, new(Health))
		if err != nil {
			return nil, wrap("ListNodes", err)
		}
		nodes[i] = n
	}
	return nodes, nil
}

func (b *bus) inspect(ctx context.Context, node uint32, lockspace, resource string) (Inspection, error) {
	var d details
	var in Inspection
	member, args := "Inspect", []any{lockspace, resource}
	if node != 0 {
		member, args = "InspectNode", []any{node, lockspace, resource}
	}
	if err := b.call(ctx, member, []any{&d}, args...); err != nil {
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
		in.Lost[i] = r.lost()
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

func (b *bus) lockspaces(ctx context.Context) ([]Lockspace, error) {
	var rows []struct {
		Name, State string
		Locks       uint32
		Orphans     int32
		Details     map[string]godbus.Variant
	}
	if err := b.call(ctx, "ListLockspaces", []any{&rows}); err != nil {
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

func (b *bus) join(ctx context.Context, lockspace string) error {
	return b.call(ctx, "JoinLockspace", nil, lockspace, map[string]godbus.Variant{})
}

func (b *bus) leave(ctx context.Context, lockspace string, force bool) error {
	o := map[string]godbus.Variant{}
	set(o, "force", force)
	return b.call(ctx, "LeaveLockspace", nil, lockspace, o)
}

func (b *bus) orphans(ctx context.Context, lockspace string) ([]Orphan, error) {
	var rows []struct {
		LockID         uint32
		Resource, Mode string
		Details        map[string]godbus.Variant
	}
	if err := b.call(ctx, "ListOrphans", []any{&rows}, lockspace); err != nil {
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

// adopt sends what the caller has seen of the orphan. The service compares that with the orphan,
// because the kernel may have reused the lockid since.
func (b *bus) adopt(ctx context.Context, lockspace string, orphan Orphan, a Adoption) (token uint64, err error) {
	o := map[string]godbus.Variant{}
	set(o, "owner", a.Owner)
	set(o, "label", a.Label)
	set(o, "resource", orphan.Resource)
	set(o, "mode", orphan.Mode)
	if a.UID != nil {
		o["uid"] = godbus.MakeVariant(*a.UID)
	}
	var path godbus.ObjectPath
	err = b.call(ctx, "AdoptOrphan", []any{&token, &path}, lockspace, orphan.LockID, o)
	return token, err
}

func (b *bus) purge(ctx context.Context, lockspace string, lockids []uint32, some bool) (purged uint32, err error) {
	if lockids == nil {
		lockids = []uint32{}
	}
	o := map[string]godbus.Variant{}
	set(o, "some", some)
	err = b.call(ctx, "Purge", []any{&purged}, lockspace, lockids, o)
	return purged, err
}

func (b *bus) status(ctx context.Context) (map[string]any, error) {
	var all map[string]godbus.Variant
	err := b.callOn(ctx, Path, "org.freedesktop.DBus.Properties", "GetAll", []any{&all}, Name)
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

// values are the properties without their D-Bus types.
func values(m map[string]godbus.Variant) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = v.Value()
	}
	return out
}
