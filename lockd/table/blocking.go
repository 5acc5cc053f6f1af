package table

import (
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Contention: who waits for what is in the way. The DLM says that somebody
// waits, but not who; the other locks here and the DLM's queues may tell.

// blocking takes the news that l is in the way of m. Before the holder has an
// answer they can't know which lock that is about, so it is kept until then: the
// DLM does not repeat it.
func (t *Table) blocking(l *lock, m dlm.Mode) {
	switch {
	case l.probe, l.state == api.Releasing:
	case l.granted:
		t.tellBlocking(l, m)
	case !l.blocks || dlm.Stronger(m, l.blocked):
		l.blocks, l.blocked = true, m
	}
}

// contention is a holder who is still to be told, because it is being found out
// which node waits.
type contention struct {
	l    *lock
	mode dlm.Mode
}

// maxContended bounds those of one lockspace. A look costs the lock manager's
// whole table, so there is one at a time; holders beyond are told without.
const maxContended = 64

// tellBlocking tells the holder, with the node that waits where it can be known.
func (t *Table) tellBlocking(l *lock, m dlm.Mode) {
	switch sp := l.sp; {
	case dlm.Compatible(l.mode, m): // a conversion has made room meanwhile
	case t.waitsHere(l, m):
		t.notifyBlocking(l, m, t.node.ID)
	case sp.state != api.SpaceReady || len(sp.contended) >= maxContended:
		t.notifyBlocking(l, m, 0)
	default:
		sp.contended = append(sp.contended, contention{l, m})
		if len(sp.contended) == 1 {
			t.lookWhoWaits(sp)
		}
	}
}

func (t *Table) notifyBlocking(l *lock, m dlm.Mode, node uint32) {
	t.do(NotifyAction{api.BlockingNotice{LockInfo: l.info(), Blocked: m, Node: node}})
}

// lookWhoWaits looks for the first of those who are to be told, then for the next.
func (t *Table) lookWhoWaits(sp *space) {
	c := sp.contended[0]
	t.look(sp, Question{Resource: c.l.resource, Brief: true}, func(k Looked) {
		sp.contended = sp.contended[1:]
		if t.locks[c.l.ref] == c.l && c.l.state != api.Releasing && !dlm.Compatible(c.l.mode, c.mode) {
			t.notifyBlocking(c.l, c.mode, waitingNode(k.Queues, c.mode))
		}
		if len(sp.contended) > 0 {
			t.lookWhoWaits(sp)
		}
	})
}

// waitsHere reports whether a lock of this instance waits for m behind l. It
// looks at so many only.
func (t *Table) waitsHere(l *lock, m dlm.Mode) bool {
	seen := 0
	for o := l.sp.byResource[l.resource]; o != nil; o = o.nextRes {
		if seen++; seen > positionLimit {
			return false
		}
		if o != l && o.queued() && o.wanted == m {
			return true
		}
	}
	return false
}

// queued reports whether l stands in a queue of the DLM, or is about to.
func (l *lock) queued() bool {
	return l.flying && l.busy != nil && l.busy.wait > 0 && (l.busy.stage == stageLocking || l.busy.stage == stageConverting)
}

// waitingNode finds the node whose lock waits for m; 0 if the queues don't show it.
func waitingNode(q dlm.Queues, m dlm.Mode) uint32 {
	for _, queue := range [][]dlm.Held{q.Converting, q.Waiting} {
		for _, h := range queue {
			if h.Wanted == m {
				return h.Node
			}
		}
	}
	return 0
}
