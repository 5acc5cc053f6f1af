package table

import (
	"log/slog"
	"math"
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

// binding is what a lock of lifetime connection or process hangs on: a bus
// name or a process. When that ends, so do the locks.
type binding struct {
	session api.Session // lifetime connection
	proc    process.ID  // lifetime process
	locks   map[*lock]struct{}
	dead    bool
	doubt   string // why it is not known whether the process lives; "" if it is
}

type bindKey struct {
	session api.Session
	proc    process.ID
}

func (b *binding) key() bindKey { return bindKey{b.session, b.proc} }

// bind hangs l on its connection or process, as its lifetime says.
func (t *Table) bind(l *lock, proc process.ID) {
	k := bindKey{}
	switch l.lifetime {
	case state.Connection:
		k.session = l.session
	case state.Process:
		k.proc = proc
	default:
		return
	}
	b := t.bindings[k]
	if b == nil {
		b = &binding{session: k.session, proc: k.proc, locks: map[*lock]struct{}{}}
		t.bindings[k] = b
		if k.proc != (process.ID{}) {
			t.do(WatchAction{k.proc, l.uid})
		}
	}
	b.locks[l] = struct{}{}
	l.bound = b
}

func (t *Table) unbind(l *lock) {
	b := l.bound
	if b == nil {
		return
	}
	l.bound = nil
	delete(b.locks, l)
	if len(b.locks) > 0 {
		return
	}
	delete(t.bindings, b.key())
	delete(t.doubts, b)
	if b.proc != (process.ID{}) {
		t.do(UnwatchAction{b.proc})
	}
}

// rebind notes that another connection asks for what the owner has already: it
// is the one that is told of the lock, and a connection lock hangs on it from
// now on. hangs is whether there is one of those: then the call may be answered
// only when the changes are written.
func (t *Table) rebind(c *call) (changes []state.Change, hangs bool) {
	for _, l := range c.locks {
		if l == nil || c.caller.Session == "" || l.session == c.caller.Session {
			continue
		}
		if l.lifetime == state.Connection {
			t.unbind(l)
			l.session = c.caller.Session
			t.bind(l, process.ID{})
			hangs = true
		}
		l.session = c.caller.Session
		m := state.Mark{ID: uint64(l.ref)}
		m.Sender, m.BusID = l.session.Recorded()
		changes = append(changes, m)
	}
	return changes, hangs
}

// endBinding releases everything that hangs on a name or process that is gone.
// Locks of a lockspace that is not ready are released when it is.
func (t *Table) endBinding(k bindKey, why string) {
	b := t.bindings[k]
	if b == nil || b.dead {
		return
	}
	b.dead = true
	var in []*lock
	for l := range b.locks {
		in = append(in, l)
	}
	slices.SortFunc(in, byRef)
	var idle []*lock
	release := func() {
		t.releaseEnded(idle, why)
		idle = nil
	}
	t.slices(len(in), func(i int) {
		l := in[i]
		switch {
		case t.locks[l.ref] != l || l.bound != b: // gone by now
		case l.state == api.Acquiring && l.busy != nil:
			t.giveUp(l.busy, l.busy.error(api.Canceled, l.sp.name, l.resource, l.wanted, why))
		case l.sp.state != api.SpaceReady:
		case l.busy != nil:
			t.park(t.endCall(l), l)
		default:
			idle = append(idle, l)
		}
		if (i+1)%sliceLength == 0 {
			release()
		}
	}, release)
}

// releaseEnded releases locks whose lifetime is over, in one call.
func (t *Table) releaseEnded(in []*lock, why string) {
	if len(in) == 0 {
		return
	}
	for _, l := range in {
		t.logLock(slog.LevelInfo, "lifetime over, releasing", l, slog.String("err", why))
	}
	t.releaseAll(in, false)
}

// endCall is a release of exactly l for when it is not busy any more.
func (t *Table) endCall(l *lock) *call {
	return &call{kind: callRelease, op: "release", heapIdx: -1, lifetime: true, seq: math.MaxUint64, space: l.sp.name, resource: l.resource,
		sel: api.Selector{Ref: l.ref}, caller: api.Caller{UID: l.uid, Privileged: true}}
}

// Sessions returns those that locks hang on, for the front ends, which know which
// of them are still there.
func (t *Table) Sessions() []api.Session {
	var out []api.Session
	for k := range t.bindings {
		if k.session != "" {
			out = append(out, k.session)
		}
	}
	slices.Sort(out)
	return out
}

// checkLifetime checks what a lifetime needs.
func (t *Table) checkLifetime(c *call) *api.Error {
	bad := func(text string) *api.Error { return c.error(api.InvalidArgs, "", "", dlm.None, text) }
	k := bindKey{}
	switch c.opts.Lifetime {
	case state.Persistent:
		if c.opts.PID != 0 || c.opts.HasStart {
			return bad("pid and start-time are allowed only with the lifetime process")
		}
		return nil
	case state.Connection:
		if c.caller.Session == "" {
			return bad("the lifetime connection needs a connection that the lock can be tied to")
		}
		k.session = c.caller.Session
	case state.Process:
		if c.proc == (process.ID{}) {
			return bad("the lifetime process needs the pid of a process")
		}
		k.proc = c.proc
	default:
		return bad("the lifetime is persistent, connection or process")
	}
	if b := t.bindings[k]; b != nil && b.dead {
		return bad("the connection or process that the lock would be tied to has ended")
	}
	return nil
}
