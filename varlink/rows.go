package varlink

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// some is a nullable field with a value.
func some[T any](v T) *T { return &v }

// unless0 is a nullable field whose zero value means that there is none.
func unless0[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// text is a text of any bytes; "" is null.
func text(s string) *string { return unless0(printable(s)) }

// mode is a mode; none is null.
func mode(m dlm.Mode) *string {
	if !m.Valid() {
		return nil
	}
	return some(modeName(m))
}

func modeName(m dlm.Mode) string { return strings.ToLower(m.String()) }

// usec is a time of a clock; none is null. The service says 1970 for none.
func usec(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	return unless0(t.UnixMicro())
}

// lockName is the name of a lock on this door: its reference in decimal, as a string,
// because it is a name and not a number.
func lockName(r api.Ref) string { return strconv.FormatUint(uint64(r), 10) }

// parseLockName reads what lockName writes, and nothing else: "+1" or "01" would be a
// second name of the same lock.
func parseLockName(arg api.Argument, s string) (api.Ref, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 || lockName(api.Ref(n)) != s {
		return 0, &api.Error{Kind: api.InvalidArgs, Mode: dlm.None, Argument: arg, Text: "it is not the name of a lock"}
	}
	return api.Ref(n), nil
}

func grantOf(g *api.Grant) *grant {
	return &grant{printable(g.Lockspace), printable(g.Resource), uint32(g.LockID), g.Token, lockName(g.Ref)}
}

// lockOf makes the row of a lock. An owner that is "" differs from none, hence HasOwner.
func lockOf(l *api.LockInfo) lock {
	r := lock{
		Lock: lockName(l.Ref), Lockspace: printable(l.Lockspace), Resource: printable(l.Resource),
		LockID: uint32(l.LockID), Mode: mode(l.Mode), WantedMode: mode(l.Wanted), State: l.State.String(), Token: l.Token,
		Label: text(l.Label), Lifetime: l.Lifetime.String(), OnLost: text(l.OnLost), UserID: l.UID,
		ProcessID: unless0(l.PID), SinceUSec: usec(l.Since), WaitingSinceUSec: usec(l.Waiting),
	}
	if l.HasOwner {
		r.Owner = some(printable(l.Owner))
	}
	return r
}

func waiterOf(w *api.Waiter) waiter {
	r := waiter{Lock: lockOf(&w.LockInfo), Who: printable(w.Who), Blockers: make([]blocker, len(w.For)),
		MasterNodeID: unless0(w.Master), Missing: text(w.Missing)}
	for i := range w.For {
		b := &w.For[i]
		r.Blockers[i] = blocker{unless0(b.Node), unless0(uint32(b.LockID)), mode(b.Mode), text(b.Who), b.Queued}
	}
	return r
}

func nodeNames(n *api.NodeNames) []nodeName {
	names := n.Map()
	rows := make([]nodeName, 0, len(names))
	for _, id := range slices.Sorted(maps.Keys(names)) {
		rows = append(rows, nodeName{id, printable(names[id])})
	}
	return rows
}

func locks(infos []api.LockInfo) []lock {
	rows := make([]lock, len(infos))
	for i := range infos {
		rows[i] = lockOf(&infos[i])
	}
	return rows
}

func lostOf(l *api.Lost) lost {
	r := lost{Lock: lockName(l.Ref), Lockspace: printable(l.Lockspace), Resource: printable(l.Resource),
		LockID: uint32(l.LockID), Mode: modeName(l.Mode), Label: text(l.Label), LostUSec: l.At.UnixMicro(),
		Reason: printable(l.Reason)}
	if l.HasOwner {
		r.Owner = some(printable(l.Owner))
	}
	return r
}

func blockingOf(n *api.BlockingNotice) *blocking {
	return &blocking{lockName(n.Ref), text(n.Lockspace), printable(n.Resource), modeName(n.Blocked), unless0(n.Node)}
}

func queuedOf(held []dlm.Held) []queued {
	rows := make([]queued, len(held))
	for i, h := range held {
		rows[i] = queued{uint32(h.LockID), h.Node, mode(h.Mode), mode(h.Wanted)}
	}
	return rows
}

func holderOf(h *api.Holder) *holder {
	return &holder{unless0(h.Node), mode(h.Mode), unless0(h.Token), text(h.Who)}
}

func waitsOf(waits []api.Wait) []wait {
	rows := make([]wait, len(waits))
	for i := range waits {
		w, b := &waits[i].Waiter, &waits[i].For
		rows[i] = wait{w.Node, unless0(uint32(w.LockID)), modeName(w.Mode), printable(w.Who),
			unless0(b.Node), unless0(uint32(b.LockID)), mode(b.Mode), text(b.Who)}
	}
	return rows
}

func healthOf(h *dlm.Health) *health {
	r := &health{Stopped: h.Stopped, Reason: text(h.Reason), Members: h.Members, Recovery: h.Recovery}
	if r.Members == nil {
		r.Members = []uint32{}
	}
	if h.Known {
		r.Quorate = some(h.Quorate)
	}
	return r
}

func lockspaceOf(s *api.LockspaceInfo) lockspace {
	r := lockspace{Name: printable(s.Name), State: s.State.String(), Locks: s.Locks, Error: text(s.Error),
		RawValues: s.RawValues}
	if s.Orphans >= 0 {
		r.Orphans = some(s.Orphans)
	}
	if s.HasHealth {
		r.Health = healthOf(&s.Health)
	}
	return r
}

func nodeOf(n *api.NodeView) clusterNode {
	return clusterNode{unless0(n.ID), text(n.Name), n.Self, n.Answers, text(n.Version), text(n.Missing)}
}

func orphanOf(o *api.Orphan) orphan {
	r := orphan{LockID: uint32(o.LockID), Resource: printable(o.Resource), Mode: modeName(o.Mode)}
	if o.HasHolder {
		r.Holder, r.HolderOwner = holderOf(&o.Holder), some(o.Holder.Owner)
	}
	return r
}

// inspectionOf makes the reply of Inspect. Has... says what could be found out; what
// could not stays null. A value block that only the queues show has no flag for whether
// it is valid.
func inspectionOf(in *api.Inspection) inspectOut {
	r := inspectOut{Locks: locks(in.Locks), Lost: make([]lost, len(in.Lost)), Waits: waitsOf(in.Waits),
		Missing: make([]string, len(in.Missing))}
	for i := range in.Lost {
		r.Lost[i] = lostOf(&in.Lost[i])
	}
	for i, m := range in.Missing {
		r.Missing[i] = printable(m)
	}
	if in.HasQueues {
		q := &in.Queues
		r.Queues = &queues{queuedOf(q.Granted), queuedOf(q.Converting), queuedOf(q.Waiting), unless0(q.Master), q.Complete}
		if q.HasValue && !in.HasValue {
			r.Value = q.Value[:]
		}
	}
	if in.HasValue {
		r.Value, r.ValueInvalid = in.Value[:], some(in.ValueInvalid)
	}
	if in.HasHolder {
		r.Holder, r.HolderOwner = holderOf(&in.Holder), some(in.Holder.Owner)
	}
	if in.HasHealth {
		r.Health = healthOf(&in.Health)
	}
	return r
}

func latencyOf(l *api.Latency) latency {
	r := latency{SumUSec: l.Sum.Microseconds(), Buckets: make([]bucket, len(l.Buckets))}
	r.Count = l.Count()
	for i, n := range l.Cumulative() {
		r.Buckets[i].Count = n
		if i < len(api.LatencyBounds) { // the last one has no bound
			r.Buckets[i].UpToUSec = some(api.LatencyBounds[i].Microseconds())
		}
	}
	return r
}

// describe makes the reply of Describe, and events of Monitor. What the build and the
// configuration say is the door's; everything else comes from the service.
func (d *Door) describe(st *api.Status) describeOut {
	c := &st.Counters
	s := service{
		Version: d.cfg.Version, Commit: d.cfg.Commit, BuildDate: d.cfg.BuildDate, Engine: st.Engine,
		StateFile: printable(d.cfg.StateFile), NodeID: unless0(uint32(st.Node.ID)), NodeName: printable(st.Node.Name),
		Nodes:       nodeNames(&st.Names),
		ClusterName: text(st.Node.Cluster), LockCount: st.Locks, WaitingCount: st.Waiting, LockspaceCount: st.Lockspaces,
		Degraded: text(st.Degraded),
	}
	if st.Quorum != api.QuorumUnknown {
		s.Quorate = some(st.Quorum == api.Quorate)
	}
	done := counters{c.Granted, c.Released, c.Converted, c.Lost, c.Refused, c.Canceled, latencyOf(&c.Latency)}
	return describeOut{s, done}
}

// printable makes any bytes a JSON string that carries them.
func printable(s string) string { return frontend.Transportable(s) }
