package table

import (
	"fmt"
	"log/slog"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// Status is a snapshot of the service.
func (t *Table) Status() api.Status {
	s := api.Status{Ready: t.ready, Engine: t.conf.Engine, Node: t.conf.Node, Names: t.names, Quorum: t.knownQuorum(),
		Locks:      t.locks.count(),
		Lockspaces: len(t.spaces.byName), Degraded: t.degradation(), Counters: t.counters, Helpers: len(t.losses.running)}
	for _, u := range t.locks.perUID {
		s.Waiting += u.waiting
	}
	return s
}

// knownQuorum is what the node and each of its lockspaces were told last. Of two
// answers the bad one counts: they are of different moments.
func (t *Table) knownQuorum() api.Quorum {
	q := t.conf.Quorum
	for _, sp := range t.spaces.byName {
		switch {
		case !sp.health.known || !sp.health.Known:
		case !sp.health.Quorate:
			return api.Inquorate
		case q == api.QuorumUnknown:
			q = api.Quorate
		}
	}
	return q
}

// JournalHealth takes why nothing new can be written down, or nil.
func (t *Table) JournalHealth(err error) {
	if err == nil {
		t.degraded = ""
		t.log(slog.LevelInfo, msgStateWritable.String())
		return
	}
	t.degraded = "new locks are refused, because the state file can't be written: " + err.Error() + "; " +
		state.Advice(err)
	t.log(slog.LevelError, msgStateNotWritable.String(), slog.String("err", err.Error()))
}

// Needed finds what would go wrong, or stay undone, if the process ended now; "" if
// nothing. Persistent locks need nobody.
func (t *Table) Needed() string {
	switch {
	case !t.ready:
		return "locks of the state file are being adopted"
	case t.degraded != "":
		return t.degraded
	case len(t.calls.requests) > 0:
		return fmt.Sprintf("%d requests wait", len(t.calls.requests))
	case len(t.calls.sessions) > 0:
		return "calls are under way"
	case len(t.lifetimes.bindings) > 0:
		return fmt.Sprintf("locks are tied to %d connections or processes", len(t.lifetimes.bindings))
	case len(t.losses.running) > 0:
		return fmt.Sprintf("helpers of %d lost locks run", len(t.losses.running))
	case t.locks.guarded > 0:
		return fmt.Sprintf("%d locks have a helper that is run if they are lost", t.locks.guarded)
	case len(t.retries.cancels)+len(t.retries.unlocks)+len(t.probes.readers) > 0:
		return "locks are being released"
	}
	for _, sp := range t.spaces.byName {
		if !sp.state.idle() || !sp.retryAt.IsZero() {
			return fmt.Sprintf("lockspace %s is %s", sp.name, sp.public())
		}
	}
	return ""
}

// Stop begins an orderly shutdown: nothing new is taken, waits are withdrawn,
// and every persistent lock stays.
func (t *Table) Stop() {
	t.stopping = true
	for _, c := range t.calls.waiting() {
		switch c.op.(type) {
		case *acquireOp, *convertOp:
			if c.op.waitsFor().queued {
				c.stopWaiting(c.errorOf(api.ShuttingDown, "", "", dlm.None, "the service is stopping; ask again when it is back"))
			}
		}
	}
	t.log(slog.LevelInfo, "stopping", slog.Int("locks", t.locks.count()))
}

// Stopping reports whether Stop was called.
func (t *Table) Stopping() bool { return t.stopping }

// Quiet reports whether no call and no helper is under way any more. Joining and
// leaving take too long to be waited for.
func (t *Table) Quiet() bool {
	for _, c := range t.calls.waiting() {
		switch c.op.(type) {
		case *joinOp, *leaveOp:
		default:
			if c.place.started {
				return false
			}
		}
	}
	return len(t.losses.running) == 0
}
