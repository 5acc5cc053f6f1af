package libdlm

import "github.com/dlmlock/dlmlockd/dlm"

// The first request of a node for a resource asks the directory node who the master is. If such a
// request is canceled while it asks, and the directory node fails before it answers, the recovery
// ends the request and leaves the resource without a master in the kernel's list of unused
// resources. The next request of this node for that resource makes the kernel panic (on 6.1, 6.12 and
// 7.2, docs/kernel-bugs/09.md). A time limit that ends while the cluster still waits for a dead node
// is enough, as is a client that gives up.
//
// So no request is canceled before its node is known to have found the master. A scout finds that
// out: a request for the same resource in NL with NOQUEUE, which ends at once, granted or not, when
// the master has replied. It can't overtake the request. While the master is being looked up, it
// waits behind the request in the resource; and a master replies in the order of the requests. If
// the directory node is dead, the scout ends after the recovery, when the kernel has sent both
// again. The result of a cancel would not come earlier either.
//
// If the process dies, the kernel drops its scouts, and no record mentions them. It then also ends
// the requests that were under way, as a cancel would: see masterless.go.

// scout is the request that precedes the cancel of a new lock.
type scout struct {
	cookie dlm.Cookie
	id     dlm.LockID // once it is granted
	// lock is to be canceled; nil after that.
	lock *lock
	seq  uint32 // of the operation to cancel
}

// firstScout is the first cookie of a scout. The cookies of the user of a lockspace are smaller.
const firstScout dlm.Cookie = 1 << 63

// sendScout begins to cancel a new lock that is with the kernel.
func (s *lockspace) sendScout(l *lock) {
	s.lastScout++
	c := &scout{cookie: firstScout + s.lastScout, lock: l, seq: l.seq}
	s.scouts[c.cookie] = c
	s.calls.Add(kernelCall{scout: c, kind: callScout, name: l.resource})
}

// serveScout makes a call for a scout: its request, or its unlock.
func (s *lockspace) serveScout(r *kernelCall) {
	c := r.scout
	s.mu.Lock()
	if r.kind == callScout && !s.closed && !c.lock.goesOn(c.seq) {
		delete(s.scouts, c.cookie) // the lock was granted, or refused, before there was anything to find out
	}
	_, needed := s.scouts[c.cookie]
	id := c.id
	s.mu.Unlock()
	if !needed {
		return
	}
	var err error
	if r.kind == callScout {
		_, err = s.device.request(c.cookie, r.name, dlm.NL, dlm.NoQueue)
	} else {
		err = s.device.unlock(c.cookie, id)
	}
	switch {
	case err == nil:
	case r.kind == callScoutEnd && statusOf(err) == dlm.StatusNotFound:
		s.mu.Lock()
		delete(s.scouts, c.cookie) // somebody else has removed it
		s.mu.Unlock()
	default:
		s.later(r)
	}
}

// scouted handles a result of a scout, which means that the node knows the master of the resource.
func (s *lockspace) scouted(c *scout, r *result) {
	if r.blocking {
		return
	}
	if l := c.lock; l != nil && l.goesOn(c.seq) {
		s.calls.Add(kernelCall{lock: l, seq: c.seq, kind: callCancel})
	}
	c.lock = nil
	if r.status != dlm.StatusOK {
		delete(s.scouts, c.cookie) // not granted, or unlocked
		return
	}
	c.id = r.id
	s.calls.Add(kernelCall{scout: c, kind: callScoutEnd})
}

// goesOn reports whether the operation with that number has not ended yet.
func (l *lock) goesOn(seq uint32) bool { return l.seq == seq && l.op != dlm.OpNone }
