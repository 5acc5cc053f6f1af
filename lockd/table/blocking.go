package table

import (
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Contention: who waits for what is in the way. The DLM says that somebody
// waits, but not who; the other locks here and the DLM's queues may tell.

// Who uses up the news that a lock is in the way of another one, which the DLM does not repeat:
//
//	the lock is held, or is being converted   its holder is told
//	its holder has no answer yet              nobody: it is kept, and told after the answer
//	it is an orphan that was adopted          nobody: it is kept for who gets the lock, if anybody
//	it is being released                      nobody: it is kept, and told if the release fails
//
// It is dropped if the lock ends, or has a mode by then that is not in the way.

// blocking takes the news that l is in the way of m.
func (l *lock) blocking(m dlm.Mode) {
	if l.told && l.public() != api.Releasing {
		l.sp.blocked.tell(l, m)
		return
	}
	l.keepBlocked(m)
}

// keepBlocked keeps the news until l is held (idle). Before the holder has an answer they can't know
// which lock it is about, and a release may fail. Of CW and PR, neither of which is the stronger one,
// the first is kept: if the holder makes room for it, the DLM has news of the other.
func (l *lock) keepBlocked(m dlm.Mode) {
	if l.blocked == dlm.None || dlm.Stronger(m, l.blocked) {
		l.blocked = m
	}
}

// contention is a holder who is still to be told, because it is being found out
// which node waits.
type contention struct {
	l    *lock
	mode dlm.Mode
}

// blockedHolders are the holders of a lockspace who are still to be told, the first one
// of whom is looked for.
type blockedHolders struct {
	sp    *lockspace
	queue []contention
}

// maxContended bounds those of one lockspace. A look costs the lock manager's
// whole table, so there is one at a time. Holders beyond that get the notice without the
// node.
const maxContended = 64

// tell tells the holder of l, with the node that waits where it can be known.
func (x *blockedHolders) tell(l *lock, m dlm.Mode) {
	switch sp := x.sp; {
	case dlm.Compatible(l.mode, m): // a conversion has made room meanwhile
	case sp.waitsHere(l, m):
		l.notifyBlocking(m, sp.t.conf.Node.ID)
	case !sp.ready() || len(x.queue) >= maxContended:
		l.notifyBlocking(m, 0)
	default:
		x.queue = append(x.queue, contention{l, m})
		if len(x.queue) == 1 {
			x.look()
		}
	}
}

// notifyBlocking gives the notice to the front end of the holder; node is 0 where it is not
// known which node waits.
func (l *lock) notifyBlocking(m dlm.Mode, node uint32) {
	l.sp.t.do(NotifyAction{api.BlockingNotice{LockInfo: l.info(), Blocked: m, Node: node}})
}

// look looks for who waits for the first holder in the queue.
func (x *blockedHolders) look() {
	x.sp.t.look(x.sp, Question{Resource: x.queue[0].l.resource, Brief: true}, x)
}

// looked tells the first holder in the queue what was found, and looks for the next one.
func (x *blockedHolders) looked(k Looked) {
	c, t := x.queue[0], x.sp.t
	x.queue = x.queue[1:]
	switch {
	case !t.locks.has(c.l):
	case c.l.public() == api.Releasing:
		c.l.keepBlocked(c.mode)
	case !dlm.Compatible(c.l.mode, c.mode):
		c.l.notifyBlocking(c.mode, waitingNode(k.Queues, c.mode))
	}
	if len(x.queue) > 0 {
		x.look()
	}
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
func (sp *lockspace) localHolder(resource string, mode dlm.Mode, except *call) *api.HeldBy {
	for l := sp.byResource[resource]; l != nil; l = l.nextRes {
		if l.mode == dlm.None || dlm.Compatible(l.mode, mode) || except != nil && l.busy == except {
			continue
		}
		return &api.HeldBy{Mode: l.mode, UID: l.uid, Label: l.label, Owner: l.owner}
	}
	return nil
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
