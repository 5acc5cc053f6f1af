package dbus

import (
	"strconv"
	"strings"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// lockPath is the object path of a lock.
func lockPath(r api.Ref) godbus.ObjectPath {
	return godbus.ObjectPath(LockPrefix + strconv.FormatUint(uint64(r), 10))
}

// parseLockPath reads what lockPath writes.
func parseLockPath(p godbus.ObjectPath) (api.Ref, bool) {
	digits, ok := strings.CutPrefix(string(p), LockPrefix)
	n, canonical := number(digits)
	return api.Ref(n), ok && canonical
}

// modeName is a mode on the bus; none is "".
func modeName(m dlm.Mode) string {
	if m == dlm.None {
		return ""
	}
	return m.String()
}

// usec is a time on the bus: microseconds since 1970, 0 for none.
func usec(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixMicro())
}

// A row of a list has fixed fields, which every element has, and at its end details,
// an a{sv} that can grow (docs/decisions/rows-that-grow.md).
//
// Rows that come in long lists are made in two ways. The answers of lists, up to
// frontend.LongAnswer bytes, are written by the encoder, without a Go value for each field.
// In the answer of Inspect the same rows are values of variants, which godbus writes; hence
// the types. Both have the signature that the description of the interface gives them.
//
// If the rows of a list do not all fit, the list ends earlier. The other rows are in the next
// page, which begins after the path of the last row (option after).

// lockRow is a lock in ListLocks and Inspect: (ossussstsssuuta{sv}).
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
	Details             map[string]godbus.Variant
}

// lockDetails are the details of a lock.
func lockDetails(l *api.LockInfo) []detail {
	var d []detail
	if l.OnLost != "" {
		d = append(d, detail{"on-lost", "s", l.OnLost})
	}
	if !l.Waiting.IsZero() {
		d = append(d, detail{"waiting-since", "t", usec(l.Waiting)})
	}
	return d
}

// lockRows makes the rows of a page of locks.
func lockRows(locks []api.LockInfo) []lockRow {
	rows := make([]lockRow, len(locks))
	for i := range locks {
		l := &locks[i]
		rows[i] = lockRow{
			lockPath(l.Ref), printable(l.Lockspace), printable(l.Resource), uint32(l.LockID),
			modeName(l.Mode), modeName(l.Wanted), l.State.String(), l.Token,
			printable(l.Owner), printable(l.Label), l.Lifetime.String(), l.UID, l.PID, usec(l.Since),
			variants(lockDetails(l)),
		}
	}
	return rows
}

// longRows writes an array of rows: as many as fit into frontend.LongAnswer bytes, but at least
// one, because a client that asks for the next page has to make progress.
func longRows[T any](e *encoder, of []T, write func(*T)) {
	at, first := e.begin(8)
	for i := range of {
		before := len(e.b)
		write(&of[i])
		if len(e.b) > frontend.LongAnswer && i > 0 {
			e.b = e.b[:before]
			break
		}
	}
	e.end(at, first)
}

// lockRows writes an array of lockRow.
func (e *encoder) lockRows(locks []api.LockInfo) { longRows(e, locks, e.lockRow) }

func (e *encoder) lockRow(l *api.LockInfo) {
	e.align(8)
	e.text(string(lockPath(l.Ref)))
	e.text(l.Lockspace)
	e.text(l.Resource)
	e.uint32(uint32(l.LockID))
	e.text(modeName(l.Mode))
	e.text(modeName(l.Wanted))
	e.text(l.State.String())
	e.uint64(l.Token)
	e.text(l.Owner)
	e.text(l.Label)
	e.text(l.Lifetime.String())
	e.uint32(l.UID)
	e.uint32(l.PID)
	e.uint64(usec(l.Since))
	e.details(lockDetails(l))
}

// lostRow is a lost lock in ListLost and Inspect: (ossussstsa{sv}).
type lostRow struct {
	Lock                godbus.ObjectPath
	Lockspace, Resource string
	LockID              uint32
	Mode, Owner, Label  string
	When                uint64
	Reason              string
	Details             map[string]godbus.Variant
}

// lostDetails are the details of a lost lock.
func lostDetails(l *api.Lost) []detail { return []detail{{"uid", "u", l.UID}} }

// lostRows makes the rows of lost locks.
func lostRows(lost []api.Lost) []lostRow {
	rows := make([]lostRow, len(lost))
	for i := range lost {
		l := &lost[i]
		rows[i] = lostRow{
			lockPath(l.Ref), printable(l.Lockspace), printable(l.Resource), uint32(l.LockID),
			modeName(l.Mode), printable(l.Owner), printable(l.Label), usec(l.At), printable(l.Reason),
			variants(lostDetails(l)),
		}
	}
	return rows
}

// lostRows writes an array of lostRow.
func (e *encoder) lostRows(lost []api.Lost) { longRows(e, lost, e.lostRow) }

func (e *encoder) lostRow(l *api.Lost) {
	e.align(8)
	e.text(string(lockPath(l.Ref)))
	e.text(l.Lockspace)
	e.text(l.Resource)
	e.uint32(uint32(l.LockID))
	e.text(modeName(l.Mode))
	e.text(l.Owner)
	e.text(l.Label)
	e.uint64(usec(l.At))
	e.text(l.Reason)
	e.details(lostDetails(l))
}

// waiterRow is a lock in ListWaits: (osssstsa(uussa{sv})a{sv}).
type waiterRow struct {
	Lock                godbus.ObjectPath
	Lockspace, Resource string
	Mode, Wanted        string
	Since               uint64
	Who                 string
	For                 []blockerRow
	Details             map[string]godbus.Variant
}

// blockerRow is a lock that a waiter waits for.
type blockerRow struct {
	Node, LockID uint32
	Mode, Who    string
	Details      map[string]godbus.Variant
}

// waiterRows writes an array of waiterRow.
func (e *encoder) waiterRows(waiters []api.Waiter) { longRows(e, waiters, e.waiterRow) }

func (e *encoder) waiterRow(w *api.Waiter) {
	e.align(8)
	e.text(string(lockPath(w.Ref)))
	e.text(w.Lockspace)
	e.text(w.Resource)
	e.text(modeName(w.Mode))
	e.text(modeName(w.Wanted))
	e.uint64(usec(w.Waiting))
	e.text(w.Who)
	at, first := e.begin(8)
	for _, b := range w.For {
		e.align(8)
		e.uint32(b.Node)
		e.uint32(uint32(b.LockID))
		e.text(modeName(b.Mode))
		e.text(b.Who)
		var d []detail
		if b.Queued {
			d = append(d, detail{"waits", "b", true})
		}
		e.details(d)
	}
	e.end(at, first)
	e.details(waiterDetails(w))
}

// waiterDetails are the details of a waiter.
func waiterDetails(w *api.Waiter) []detail {
	d := []detail{{"uid", "u", w.UID}}
	for key, text := range map[string]string{"owner": w.Owner, "label": w.Label, "missing": w.Missing} {
		if text != "" {
			d = append(d, detail{key, "s", text})
		}
	}
	for key, n := range map[string]uint32{"pid": w.PID, "lockid": uint32(w.LockID), "master": w.Master} {
		if n != 0 {
			d = append(d, detail{key, "u", n})
		}
	}
	return d
}

// queueRow is a lock in one of the lock manager's queues: (uuss). It may be a lock of any program
// on any node. Of other nodes' locks the lockid is the master's own number (dlm.Held).
type queueRow struct {
	LockID, Node uint32
	Mode, Wanted string
}

// queueRows makes the rows of one queue of a resource.
func queueRows(queue []dlm.Held) []queueRow {
	rows := make([]queueRow, len(queue))
	for i, h := range queue {
		rows[i] = queueRow{uint32(h.LockID), h.Node, modeName(h.Mode), modeName(h.Wanted)}
	}
	return rows
}

// holderRow is what a holder in PW or EX has published: (usts).
type holderRow struct {
	Node  uint32
	Mode  string
	Token uint64
	Who   string
}

// waitRow says who waits for whom in Inspect: (uussuuss). Zeros and "" stand for what is not
// known, because D-Bus has no null.
type waitRow struct {
	Node, LockID    uint32
	Mode, Who       string
	ForNode, ForID  uint32
	ForMode, ForWho string
}

// waitRows makes the rows of an inspection's waits.
func waitRows(waits []api.Wait) []waitRow {
	rows := make([]waitRow, len(waits))
	for i, w := range waits {
		rows[i] = waitRow{w.Waiter.Node, uint32(w.Waiter.LockID), modeName(w.Waiter.Mode), printable(w.Waiter.Who),
			w.For.Node, uint32(w.For.LockID), modeName(w.For.Mode), printable(w.For.Who)}
	}
	return rows
}

// orphanRow is an orphan in ListOrphans: (ussa{sv}).
type orphanRow struct {
	LockID         uint32
	Resource, Mode string
	Details        map[string]godbus.Variant
}

// orphanRows makes the rows of orphans; the holder is there only where the value block names
// one.
func orphanRows(orphans []api.Orphan) []orphanRow {
	rows := make([]orphanRow, len(orphans))
	for i, o := range orphans {
		d := map[string]godbus.Variant{}
		if o.HasHolder {
			d["token"] = godbus.MakeVariant(o.Holder.Token)
			d["who"] = godbus.MakeVariant(printable(o.Holder.Who))
			d["owner-hash"] = godbus.MakeVariant(o.Holder.Owner)
		}
		rows[i] = orphanRow{uint32(o.LockID), printable(o.Resource), modeName(o.Mode), d}
	}
	return rows
}

// nodeRow is a node in ListNodes: (ua{sv}).
type nodeRow struct {
	Node    uint32
	Details map[string]godbus.Variant
}

// nodeRows makes the rows of nodes. A node that could not be asked has a row, with the reason in
// missing.
func nodeRows(nodes []api.NodeView) []nodeRow {
	rows := make([]nodeRow, len(nodes))
	for i := range nodes {
		n := &nodes[i]
		d := map[string]godbus.Variant{"self": godbus.MakeVariant(n.Self), "answers": godbus.MakeVariant(n.Answers)}
		for name, text := range map[string]string{"name": n.Name, "version": n.Version, "missing": n.Missing} {
			if text != "" {
				d[name] = godbus.MakeVariant(printable(text))
			}
		}
		rows[i] = nodeRow{n.ID, d}
	}
	return rows
}

// spaceRow is a lockspace in ListLockspaces: (ssuia{sv}).
type spaceRow struct {
	Name, State string
	Locks       uint32
	Orphans     int32
	Details     map[string]godbus.Variant
}

// spaceRows makes the rows of lockspaces.
func spaceRows(spaces []api.LockspaceInfo) []spaceRow {
	rows := make([]spaceRow, len(spaces))
	for i := range spaces {
		sp := &spaces[i]
		rows[i] = spaceRow{printable(sp.Name), sp.State.String(), uint32(sp.Locks), int32(sp.Orphans), spaceDetails(sp)}
	}
	return rows
}

// spaceDetails are the details of a lockspace, also in the signal LockspaceChanged.
func spaceDetails(sp *api.LockspaceInfo) map[string]godbus.Variant {
	d := map[string]godbus.Variant{"object": godbus.MakeVariant(spacePath(sp.Name))}
	if sp.Error != "" {
		d["error"] = godbus.MakeVariant(printable(sp.Error))
	}
	if sp.RawValues {
		d["raw-values"] = godbus.MakeVariant(true)
	}
	if sp.HasHealth {
		addHealth(d, &sp.Health)
	}
	return d
}

// addHealth adds what was seen of the cluster; what is not known is left out.
func addHealth(d map[string]godbus.Variant, h *dlm.Health) {
	d["stopped"] = godbus.MakeVariant(h.Stopped)
	if h.Known {
		d["quorate"] = godbus.MakeVariant(h.Quorate)
	}
	if h.Reason != "" {
		d["reason"] = godbus.MakeVariant(printable(h.Reason))
	}
	if len(h.Members) > 0 { // this node is one of them, so none is not known
		d["members"] = godbus.MakeVariant(h.Members)
	}
	d["recovery"] = godbus.MakeVariant(h.Recovery)
}

// inspection is the answer of Inspect. What could not be looked at has no key; an empty array
// means that nothing was found.
func inspection(in *api.Inspection) map[string]godbus.Variant {
	d := map[string]godbus.Variant{
		"locks": godbus.MakeVariant(lockRows(in.Locks)),
		"lost":  godbus.MakeVariant(lostRows(in.Lost)),
	}
	missing := make([]string, 0, len(in.Missing))
	for _, m := range in.Missing {
		missing = append(missing, printable(m))
	}
	if in.HasQueues {
		q := &in.Queues
		d["granted"] = godbus.MakeVariant(queueRows(q.Granted))
		d["converting"] = godbus.MakeVariant(queueRows(q.Converting))
		d["waiting"] = godbus.MakeVariant(queueRows(q.Waiting))
		d["master"] = godbus.MakeVariant(q.Master)
		d["complete"] = godbus.MakeVariant(q.Complete)
		// The table of the kernel shows the block, but not whether it is valid.
		if q.HasValue && !in.HasValue {
			d["value"] = godbus.MakeVariant(q.Value[:])
		}
	}
	d["waits"] = godbus.MakeVariant(waitRows(in.Waits))
	if in.HasValue {
		d["value"] = godbus.MakeVariant(in.Value[:])
		d["value-invalid"] = godbus.MakeVariant(in.ValueInvalid)
	}
	if in.HasHolder {
		h := &in.Holder
		d["holder"] = godbus.MakeVariant(holderRow{h.Node, modeName(h.Mode), h.Token, printable(h.Who)})
		d["holder-owner"] = godbus.MakeVariant(h.Owner)
	}
	if in.HasHealth {
		addHealth(d, &in.Health)
	}
	d["missing"] = godbus.MakeVariant(missing)
	return d
}
