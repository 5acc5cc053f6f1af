package embedded

import (
	"context"
	"fmt"
	"strings"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/internal/story"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// pathOf is the object path of a lock, without what is the same for all.
func pathOf(ref api.Ref) godbus.ObjectPath { return godbus.ObjectPath(fmt.Sprintf("/%d", ref)) }

func grantOf(g *api.Grant) client.Grant {
	return client.Grant{Lockspace: g.Lockspace, Resource: g.Resource, LockID: uint32(g.LockID), Token: g.Token,
		Lock: pathOf(g.Ref)}
}

func modeOf(m dlm.Mode) string {
	if m == dlm.None {
		return ""
	}
	return m.String()
}

func lockOf(l *api.LockInfo) client.Lock {
	return client.Lock{Lock: pathOf(l.Ref), Lockspace: l.Lockspace, Resource: l.Resource, LockID: uint32(l.LockID),
		Mode: modeOf(l.Mode), Wanted: modeOf(l.Wanted), State: l.State.String(), Token: l.Token, Owner: l.Owner,
		Label: l.Label, UID: l.UID, PID: l.PID}
}

func locksOf(in []api.LockInfo) []client.Lock {
	out := make([]client.Lock, len(in))
	for i := range in {
		out[i] = lockOf(&in[i])
	}
	return out
}

func healthOf(h dlm.Health, known bool) client.Health {
	if !known {
		return client.Health{}
	}
	out := client.Health{Stopped: &h.Stopped, Reason: h.Reason, Members: h.Members}
	if h.Known {
		out.Quorate = &h.Quorate
	}
	return out
}

// Locks implements story.Service.
func (s *service) Locks(ctx context.Context, _ client.Filter) ([]client.Lock, error) {
	page, err := call(ctx, s, func(d *daemon, done func(api.Page, error)) { d.List(api.Filter{}, done) })
	return locksOf(page.Locks), err
}

// Lockspaces implements story.Service.
func (s *service) Lockspaces(ctx context.Context) ([]client.Lockspace, error) {
	spaces, err := call(ctx, s, func(d *daemon, done func([]api.LockspaceInfo, error)) { d.Lockspaces(done) })
	out := make([]client.Lockspace, len(spaces))
	for i, sp := range spaces {
		out[i] = client.Lockspace{Name: sp.Name, State: sp.State.String(), Locks: uint32(sp.Locks),
			Orphans: client.Count(sp.Orphans), Error: sp.Error, Health: healthOf(sp.Health, sp.HasHealth)}
	}
	return out, err
}

// Inspect implements story.Service.
func (s *service) Inspect(ctx context.Context, lockspace, resource string) (client.Inspection, error) {
	in, err := call(ctx, s, func(d *daemon, done func(api.Inspection, error)) { d.Inspect(lockspace, resource, done) })
	out := client.Inspection{Locks: locksOf(in.Locks), Health: healthOf(in.Health, in.HasHealth), Missing: in.Missing,
		Granted: queuedOf(in.Queues.Granted), Converting: queuedOf(in.Queues.Converting),
		Waiting: queuedOf(in.Queues.Waiting)}
	for _, l := range in.Lost {
		out.Lost = append(out.Lost, client.Lost{Lockspace: l.Lockspace, Resource: l.Resource, Mode: l.Mode.String(),
			Reason: l.Reason})
	}
	for _, w := range in.Waits {
		out.Waits = append(out.Waits, client.Wait{Node: w.Waiter.Node, Mode: w.Waiter.Mode.String(), Who: w.Waiter.Who,
			ForNode: w.For.Node, ForMode: w.For.Mode.String(), ForWho: w.For.Who})
	}
	if in.HasValue {
		out.Value, out.ValueInvalid = in.Value[:], &in.ValueInvalid
	}
	if in.HasHolder {
		out.Holder = &client.Holder{Node: in.Holder.Node, Mode: modeOf(in.Holder.Mode), Who: in.Holder.Who}
	}
	return out, err
}

func queuedOf(held []dlm.Held) (out []client.Queued) {
	for _, h := range held {
		out = append(out, client.Queued{LockID: uint32(h.LockID), Node: h.Node, Mode: modeOf(h.Mode),
			Wanted: modeOf(h.Wanted)})
	}
	return out
}

// Status implements story.Service: the properties that stories ask for.
func (s *service) Status(context.Context) (map[string]any, error) {
	d := s.n.current()
	if d == nil {
		return nil, errNotRunning
	}
	st := d.Service.Status()
	c := st.Counters
	return map[string]any{
		"NodeID": st.Node.ID, "ClusterName": st.Node.Cluster,
		"Quorate": st.Quorum == api.Quorate, "QuorumState": st.Quorum.String(),
		"LockCount": st.Locks, "WaitingCount": st.Waiting, "LockspaceCount": st.Lockspaces, "Degraded": st.Degraded,
		"LocksGranted": c.Granted, "LocksReleased": c.Released, "LocksConverted": c.Converted, "LocksLost": c.Lost,
		"RequestsRefused": c.Refused, "RequestsCanceled": c.Canceled,
		"GrantLatency": fmt.Sprintf("%d grants in %v", c.Latency.Count(), c.Latency.Sum),
	}, nil
}

// listener is a connection that listens.
type listener struct {
	service *service
	events  chan client.Event
	queue   []client.Event
	more    chan struct{}
}

// Watch implements story.Service.
func (s *service) Watch(ctx context.Context) (<-chan client.Event, error) {
	l := &listener{service: s, events: make(chan client.Event), more: make(chan struct{}, 1)}
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	s.n.listen = append(s.n.listen, l)
	go l.send(ctx)
	return l.events, nil
}

func (l *listener) send(ctx context.Context) {
	defer close(l.events)
	for {
		select {
		case <-l.more:
		case <-ctx.Done():
			return
		}
		l.service.n.mu.Lock()
		queue := l.queue
		l.queue = nil
		l.service.n.mu.Unlock()
		for _, e := range queue {
			select {
			case l.events <- e:
			case <-ctx.Done():
				return
			}
		}
	}
}

// notify is what the daemon says unasked. It is called on the service's own
// goroutine and must not block.
func (n *node) notify(notice api.Notice) {
	e, to := eventOf(notice)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.listen {
		if l.service.bus != n.bus || to != "" && to != l.service.caller.Session {
			continue
		}
		l.queue = append(l.queue, e)
		select {
		case l.more <- struct{}{}:
		default:
		}
	}
}

// forget ends what a connection listens to.
func (n *node) forget(s *service) {
	n.mu.Lock()
	defer n.mu.Unlock()
	kept := n.listen[:0]
	for _, l := range n.listen {
		if l.service != s {
			kept = append(kept, l)
		}
	}
	n.listen = kept
}

// eventOf makes of a notice what package client makes of the signal, and says to
// which session alone it goes; "" is everybody.
func eventOf(notice api.Notice) (client.Event, api.Session) {
	single := func(kind string, l *api.LockInfo) client.Event {
		return client.Event{Kind: client.EventKind(kind), Lock: pathOf(l.Ref), Lockspace: l.Lockspace, Resource: l.Resource,
			Mode: modeOf(l.Mode), State: l.State.String()}
	}
	switch n := notice.(type) {
	case api.LockLost:
		return client.Event{Kind: client.LockLost, Lock: pathOf(n.Ref), Lockspace: n.Lockspace, Resource: n.Resource,
			Mode: n.Mode.String(), Reason: n.Reason}, ""
	case api.BlockingNotice:
		to := n.Session
		if to == "" {
			to = "nobody"
		}
		return client.Event{Kind: client.Blocking, Lock: pathOf(n.Ref), Resource: n.Resource, Mode: n.Blocked.String(),
			Node: n.Node}, to
	case api.LockspaceChanged:
		e := client.Event{Kind: client.LockspaceChanged, Lockspace: n.Name, State: n.State.String(), Reason: n.Error}
		if n.Gone {
			e.State += ", gone"
		}
		if n.HasHealth && n.Health.Stopped {
			e.Reason += "stopped: " + n.Health.Reason
		}
		return e, ""
	case api.LockAdded:
		return single("lock-added", &n.LockInfo), ""
	case api.LockChanged:
		return single("lock-changed", &n.LockInfo), ""
	case api.LockRemoved:
		return single("lock-removed", &n.LockInfo), ""
	}
	return client.Event{Kind: client.StatusChanged}, ""
}

// request is the number of the acquire of a job that waits.
func (n *node) request(job string) api.Ref {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.requests[job]
}

func (n *node) setRequest(job string, ref api.Ref) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.requests[job] = ref
}

// ask carries out calls that only this place has.
func (n *node) ask(ctx context.Context, cmd *story.Command, out *story.Output) error {
	d := n.current()
	if d == nil {
		return errNotRunning
	}
	s := &service{n: n}
	switch cmd.Verb {
	case "position":
		place, err := call(ctx, s, func(d *daemon, done func(int, error)) {
			d.Position(n.request(cmd.Arg(0)), func(n int) { done(n, nil) })
		})
		out.Say("position %d", place)
		return err
	case "watch":
		d.Watch(cmd.Arg(0) == "on")
		return nil
	case "snapshot":
		locks, err := call(ctx, s, func(d *daemon, done func([]api.LockInfo, error)) {
			d.Snapshot(100, func(_ []api.LockspaceInfo, locks []api.LockInfo, _ func(api.Ref) int) { done(locks, nil) })
		})
		out.Locks(locksOf(locks))
		return err
	case "sessions":
		sessions, err := call(ctx, s, func(d *daemon, done func([]api.Session, error)) {
			d.Sessions(func(names []api.Session) { done(names, nil) })
		})
		var names []string
		for _, session := range sessions {
			_, name, _ := strings.Cut(string(session), "/:")
			name, _, _ = strings.Cut(name, ".")
			names = append(names, name)
		}
		out.Say("bound to %v", names)
		return err
	case "idle":
		needed, err := call(ctx, s, func(d *daemon, done func(string, error)) {
			d.Idle(func(needed string) { done(needed, nil) })
		})
		out.Say("needed because %q", needed)
		return err
	}
	return errOther
}
