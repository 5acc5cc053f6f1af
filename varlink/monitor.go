package varlink

import (
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

const (
	// maxEvents is how many events may wait to be written to a client that does not
	// read, or that is still being told what there is.
	maxEvents = 16 << 10
	// maxOwnEvents is the same for the locks of one owner, root's aside: a user may have as many
	// of these Monitors as connections, and together they take no more memory than those that
	// watch everything (1,024 times 128 is 8 times 16,384).
	maxOwnEvents = 128
	// snapshotPage is how many locks are told before the service is asked for more.
	snapshotPage = frontend.MaxRows
)

// eventKinds are the fields of monitorOut that can be asked for. The others, ready and
// overflow, come in any case.
var eventKinds = []string{"lockAdded", "lockChanged", "lockRemoved", "lockLost", "blocking", "requestAdded",
	"requestRemoved", "lockspaceChanged", "serviceChanged"}

// ownedKinds are those of eventKinds that are about a lock or a request.
var ownedKinds = eventKinds[:7]

// monitor is Monitor.
//
// It subscribes first, and then lists what there is, page by page. Both the pages
// and the events come in the order in which things happened. So an event about a
// lock on a page that has come is told after that page, and one about a lock that
// no page has had yet is not told, because a page that comes has what it tells.
type monitor struct {
	monitorIn
	silent
	kinds map[string]bool  // nil: all
	of    *frontend.Owners // whose locks and requests; nil: everybody's
	call  *call
	sub   *frontend.Subscription // nil: not yet, or no more

	mu   sync.Mutex
	upTo api.Ref // locks after it are on a page that comes
}

func (m *monitor) method(*wire.Call) (frontend.Method, error) {
	if err := m.owners(); err != nil {
		return nil, err
	}
	if m.of != nil && m.Events == nil {
		m.Events = ownedKinds
	}
	if m.Events != nil {
		m.kinds = make(map[string]bool, len(m.Events))
	}
	for i, kind := range m.Events {
		switch field := fmt.Sprintf("events[%d]", i); {
		case !slices.Contains(eventKinds, kind):
			return nil, badParameter{field, "there is no such kind of event"}
		case m.of != nil && !slices.Contains(ownedKinds, kind):
			return nil, badParameter{field, "this kind of event has no owner; leave out owner and ownerPrefix"}
		}
		m.kinds[kind] = true
	}
	if m.Lockspace != nil {
		if err := (&frontend.Join{Lockspace: *m.Lockspace}).Validate(); err != nil {
			return nil, about(err, "monitor", name{})
		}
	}
	return nil, nil
}

// owners reads the parameters owner and ownerPrefix.
func (m *monitor) owners() error {
	switch {
	case m.Owner != nil && m.OwnerPrefix != nil:
		return badParameter{"ownerPrefix", "it can't be given together with owner"}
	case m.Owner != nil:
		m.of = &frontend.Owners{Name: *m.Owner}
	case m.OwnerPrefix != nil:
		m.of = &frontend.Owners{Name: *m.OwnerPrefix, Prefix: true}
	default:
		return nil
	}
	if *m.of == (frontend.Owners{Prefix: true}) {
		return badParameter{"ownerPrefix", "it must have at least one byte; use ownOnly for all locks of the caller's user"}
	}
	if err := (&frontend.Subscribe{Of: m.of}).Validate(); err != nil {
		return about(err, "monitor", name{})
	}
	return nil
}

// run subscribes, and leaves the rest to the connection's goroutine (begin), which may
// wait for the client. Events that come meanwhile queue behind it.
func (m *monitor) run(c *call) {
	m.call = c
	existing := m.Existing == nil || *m.Existing
	if !existing {
		m.upTo = math.MaxUint64
	}
	sub, err := (&frontend.Subscribe{Sink: m.event, Of: m.of}).Run(&c.Call)
	if err != nil {
		c.Fail(err)
		return
	}
	m.mu.Lock()
	m.sub = sub
	m.mu.Unlock()
	c.replies.Add(message{more: true, pump: func(c *call) error { return m.begin(c, existing) }})
}

// leave implements leaver. Nothing else would end the call.
func (m *monitor) leave(c *call, why error) {
	m.end()
	c.Fail(why)
}

// end ends the subscription, before the call is answered: whoever begins anew must not find that the
// old one still counts. Events may come for a moment still, and are dropped because the call is
// answered.
func (m *monitor) end() {
	m.mu.Lock()
	sub := m.sub
	m.sub = nil
	m.mu.Unlock()
	if sub != nil {
		sub.Close() // it does not wait for an event that is being delivered, which may have called us
	}
}

// begin tells what there is, and that it was told.
func (m *monitor) begin(c *call, existing bool) error {
	if existing {
		if err := m.snapshot(c); err != nil {
			return err
		}
	}
	n, err := c.wire.Continue(monitorOut{Ready: some(true)})
	c.pay(n)
	return err
}

// snapshot tells what there is. Core.Snapshot calls back between two events, so covered
// divides them: what happened before is on a page, and what happens afterwards is told.
func (m *monitor) snapshot(c *call) error {
	first := make(chan frontend.Snapshot, 1)
	c.door.cfg.Core.Snapshot(snapshotPage, func(s frontend.Snapshot) {
		m.covered(s.Locks, len(s.Locks) < snapshotPage)
		first <- s
	})
	s := <-first
	var outs []monitorOut
	if m.kind("serviceChanged") {
		outs = append(outs, monitorOut{ServiceChanged: some(c.status().(describeOut).Service)})
	}
	for i := range s.Lockspaces {
		outs = append(outs, m.lockspaceChanged(&s.Lockspaces[i], false))
	}
	for i := range s.Requests {
		outs = append(outs, m.requestAdded(&s.Requests[i]))
	}
	if err := m.stage(c, outs); err != nil {
		return err
	}
	return m.pages(c, s.Locks)
}

// covered notes up to which lock all were listed. It is called where the events
// come from.
func (m *monitor) covered(locks []api.LockInfo, last bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(locks); n > 0 {
		m.upTo = locks[n-1].Ref
	}
	if last {
		m.upTo = math.MaxUint64
	}
}

// pages writes a page of locks and those that follow it.
func (m *monitor) pages(c *call, locks []api.LockInfo) error {
	for {
		outs := make([]monitorOut, 0, len(locks))
		for i := range locks {
			outs = append(outs, m.lockAdded(&locks[i]))
		}
		if err := m.stage(c, outs); err != nil || len(locks) < snapshotPage {
			return err
		}
		next := make(chan []api.LockInfo, 1)
		f := api.Filter{Granted: true, After: locks[len(locks)-1].Ref, Limit: snapshotPage}
		c.door.cfg.Core.Service().List(f, func(p api.Page, err error) {
			// After an error no page comes any more, so no event may be held back.
			m.covered(p.Locks, err != nil || len(p.Locks) < snapshotPage)
			next <- p.Locks
		})
		locks = <-next
	}
}

// stage writes replies, leaving out those that are empty.
func (m *monitor) stage(c *call, outs []monitorOut) error {
	for i := range outs {
		if outs[i] == (monitorOut{}) {
			continue
		}
		if err := c.stage(outs[i]); err != nil {
			return err
		}
	}
	return nil
}

// event takes an event, where the service's notices come from. It never blocks: a client
// that has fallen too far behind gets Overflow as its last reply, and can begin anew.
func (m *monitor) event(e frontend.Event) {
	out := m.describe(e)
	if out == (monitorOut{}) {
		return
	}
	most := int32(maxEvents)
	if m.of != nil && m.call.UID() != 0 {
		most = maxOwnEvents
	}
	if m.call.unread.Add(1) <= most {
		m.call.replies.Add(message{make: func() any { return out }, more: true})
		return
	}
	m.end()
	m.call.reply(monitorOut{Overflow: some(true)})
}

// describe makes the reply of an event; it is empty if the client does not want it, may
// not see it, or will have it on a page.
func (m *monitor) describe(e frontend.Event) (out monitorOut) {
	switch e := e.(type) {
	case api.LockAdded:
		if m.told(e.Ref) {
			out = m.lockAdded(&e.LockInfo)
		}
	case api.LockChanged:
		if m.told(e.Ref) && m.wants("lockChanged", &e.LockInfo) {
			out.LockChanged = some(lockOf(&e.LockInfo))
		}
	case api.LockRemoved:
		if m.told(e.Ref) && m.wants("lockRemoved", &e.LockInfo) {
			out.LockRemoved = some(lockName(e.Ref))
		}
	case api.LockLost:
		if m.wants("lockLost", &e.LockInfo) {
			out.LockLost = some(lostOf(&e.Lost))
		}
	case api.BlockingNotice:
		// That somebody waits is for the holder.
		if uid := m.call.UID(); m.wants("blocking", &e.LockInfo) && (uid == 0 || uid == e.UID) {
			out.Blocking = blockingOf(&e)
		}
	case frontend.LockspaceChanged:
		out = m.lockspaceChanged(&e.LockspaceInfo, e.Gone)
	case api.StatusChanged:
		if m.kind("serviceChanged") {
			out.ServiceChanged = some(m.call.door.describe(&e.Status).Service)
		}
	case frontend.RequestAdded:
		out = m.requestAdded(&e.RequestInfo)
	case frontend.RequestRemoved:
		if m.wantsRequest("requestRemoved", &e.RequestInfo) {
			out.RequestRemoved = some(e.Number)
		}
	}
	return out
}

// told reports whether the lock is on a page that has come. References only grow, and
// pages are in their order, so one number is enough; a lock that is added later is after
// all pages.
func (m *monitor) told(ref api.Ref) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return ref <= m.upTo
}

func (m *monitor) kind(kind string) bool { return m.kinds == nil || m.kinds[kind] }

func (m *monitor) wants(kind string, l *api.LockInfo) bool {
	return m.kind(kind) && m.concerns(l.Lockspace, l.UID, l.Owner)
}

// concerns applies the parameters that narrow all events about locks. What existed before the
// subscription comes here unfiltered.
func (m *monitor) concerns(lockspace string, uid uint32, owner string) bool {
	return (m.Lockspace == nil || *m.Lockspace == lockspace) &&
		(m.of == nil && !isTrue(m.OwnOnly) || uid == m.call.UID()) && (m.of == nil || m.of.Match(owner))
}

func (m *monitor) lockAdded(l *api.LockInfo) (out monitorOut) {
	if m.wants("lockAdded", l) {
		out.LockAdded = some(lockOf(l))
	}
	return out
}

func (m *monitor) lockspaceChanged(s *api.LockspaceInfo, gone bool) (out monitorOut) {
	if m.kind("lockspaceChanged") && (m.Lockspace == nil || *m.Lockspace == s.Name) {
		out.LockspaceChanged = some(lockspaceOf(s))
		if gone {
			out.LockspaceChanged.State = "left"
		}
	}
	return out
}

func (m *monitor) wantsRequest(kind string, r *frontend.RequestInfo) bool {
	return m.kind(kind) && m.concerns(r.Want.Lockspace, r.UID, r.Owner)
}

// requestAdded tells of a request that waits.
func (m *monitor) requestAdded(r *frontend.RequestInfo) (out monitorOut) {
	if r.State == frontend.RequestWaiting && m.wantsRequest("requestAdded", r) {
		out.RequestAdded = &request{Request: r.Number, Lockspace: printable(r.Want.Lockspace),
			Resource: printable(r.Want.Resource), Mode: modeName(r.Want.Mode), Owner: text(r.Owner), Label: text(r.Label),
			UserID: r.UID, SinceUSec: r.Since.UnixMicro()}
	}
	return out
}
