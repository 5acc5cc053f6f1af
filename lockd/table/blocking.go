package table

import (
	"fmt"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Contention: who waits for what is in the way. The DLM says that somebody
// waits, but not who; the other locks here and the DLM's queues may tell.

// blocking takes the news that l is in the way of m. Before the holder has an
// answer they can't know which lock that is about, so it is kept until then: the
// DLM does not repeat it.
func (l *lock) blocking(m dlm.Mode) {
	switch {
	case l.kind != clientLock, l.public() == api.Releasing:
	case l.told:
		l.sp.tellBlocking(l, m)
	case l.blocked == dlm.None || dlm.Stronger(m, l.blocked):
		l.blocked = m
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
func (sp *lockspace) tellBlocking(l *lock, m dlm.Mode) {
	switch t := sp.t; {
	case dlm.Compatible(l.mode, m): // a conversion has made room meanwhile
	case sp.waitsHere(l, m):
		l.notifyBlocking(m, t.conf.Node.ID)
	case sp.state != api.SpaceReady || len(sp.contended) >= maxContended:
		l.notifyBlocking(m, 0)
	default:
		sp.contended = append(sp.contended, contention{l, m})
		if len(sp.contended) == 1 {
			sp.lookWhoWaits()
		}
	}
}

func (l *lock) notifyBlocking(m dlm.Mode, node uint32) {
	l.sp.t.do(NotifyAction{api.BlockingNotice{LockInfo: l.info(), Blocked: m, Node: node}})
}

// lookWhoWaits looks for the first of those who are to be told, then for the next.
func (sp *lockspace) lookWhoWaits() {
	t, c := sp.t, sp.contended[0]
	t.look(sp, Question{Resource: c.l.resource, Brief: true}, lookerFunc(func(k Looked) {
		sp.contended = sp.contended[1:]
		if t.locks.byRef[c.l.ref] == c.l && c.l.public() != api.Releasing && !dlm.Compatible(c.l.mode, c.mode) {
			c.l.notifyBlocking(c.mode, waitingNode(k.Queues, c.mode))
		}
		if len(sp.contended) > 0 {
			sp.lookWhoWaits()
		}
	}))
}

// waitsHere reports whether a lock of this instance waits for m behind l. It
// looks at so many only.
func (sp *lockspace) waitsHere(l *lock, m dlm.Mode) bool {
	seen := 0
	for o := sp.byResource[l.resource]; o != nil; o = o.nextRes {
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
	if l.busy == nil || l.busy.wait == 0 {
		return false
	}
	switch o := l.busy.op.(type) {
	case *acquireOp:
		return l.state == lockLocking
	case *convertOp:
		return l.state == lockConverting && o.stage == convertConverting
	}
	return false
}

// localHolder names a lock of this instance that is in the way of mode.
func (sp *lockspace) localHolder(resource string, mode dlm.Mode, except *call) string {
	for l := sp.byResource[resource]; l != nil; l = l.nextRes {
		if l.mode == dlm.None || dlm.Compatible(l.mode, mode) || except != nil && l.busy == except {
			continue
		}
		who := l.label
		if who == "" {
			who = l.owner
		}
		s := fmt.Sprintf("this node (%s, uid %d", l.mode, l.uid)
		if who != "" {
			s += ", " + fmt.Sprintf("%q", who)
		}
		return s + ")"
	}
	return ""
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
