package libdlm

import (
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// The kernel ends the requests of a process that dies as if they were canceled. If one of them was
// asking for the master of its resource, and the node that it asked fails, the recovery leaves the
// resource without a master, and the next request for it makes the kernel panic (cancel.go). So the
// next process must not make that request. It finds these resources in debugfs when it begins, and
// whenever nodes have joined or left the cluster. For as long as they are listed, requests for them
// wait, and those with NOQUEUE are refused. A resource is listed until another node has requested it,
// or until the next recovery. A cancel of a request that was stuck (stuck.go) can leave a resource
// without a master as well.
//
// Where debugfs can't be read, and before 6.10, requests are made without this check. The kernel may
// list a resource only a moment after the recovery has ended, so the list is read once more a second
// later; a request that is made in between is not protected.

// masterlessPause is the time until resources without a master are looked for again.
const masterlessPause = time.Second

// masterless is what the goroutine of the call queue knows of resources without a master.
type masterless struct {
	names  map[string]bool
	looked time.Time
	// waiting are the requests that wait, by resource and in their order.
	waiting map[string][]kernelCall
	timed   bool // a callWaiting is on its way
}

// keptBack reports whether a request must not be made now. Then it is made later, or refused.
func (s *lockspace) keptBack(r *kernelCall) bool {
	m := &s.masterless
	changed := s.gate.Changed()
	if changed {
		time.AfterFunc(masterlessPause, func() { s.doubtful.Store(true) })
	}
	if changed || s.doubtful.Swap(false) || len(m.names) > 0 && time.Since(m.looked) >= masterlessPause {
		s.lookForMasterless(m)
	}
	noQueue := r.flags&dlm.NoQueue != 0
	switch listed := m.names[r.name]; {
	case listed && noQueue:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refuseRequest(r)
	case listed || !noQueue && len(m.waiting[r.name]) > 0: // not before those that wait already
		s.wait(m, r)
	default:
		return false
	}
	return true
}

// wait keeps a request until resources without a master are looked for again, unless it was canceled.
func (s *lockspace) wait(m *masterless, r *kernelCall) {
	s.mu.Lock()
	over := s.closed || !r.lock.goesOn(r.seq)
	s.mu.Unlock()
	if over {
		return
	}
	if m.waiting == nil {
		m.waiting = make(map[string][]kernelCall)
	}
	m.waiting[r.name] = append(m.waiting[r.name], *r)
	if !m.timed {
		m.timed = true
		time.AfterFunc(masterlessPause, func() { s.calls.Add(kernelCall{kind: callWaiting}) })
	}
}

// serveWaiting makes the requests that wait, or keeps them again.
func (s *lockspace) serveWaiting() {
	m := &s.masterless
	waiting := m.waiting
	m.waiting, m.timed = nil, false
	for _, calls := range waiting {
		for i := range calls {
			s.hold()
			s.serve(&calls[i])
		}
	}
}

func (s *lockspace) refuseRequest(r *kernelCall) {
	if !s.closed && r.lock.goesOn(r.seq) {
		s.finish(r.lock, dlm.Event{Status: dlm.StatusMasterless})
	}
}

func (s *lockspace) lookForMasterless(m *masterless) {
	names, err := s.gate.Masterless()
	m.looked = time.Now()
	if err != nil {
		s.log.Debug("resources without a master can't be looked for", "err", err)
		return
	}
	found, one := 0, ""
	for name := range names {
		if !m.names[name] {
			found, one = found+1, name
		}
	}
	if found > 0 { // one line: a kill in the middle of many requests can leave that many resources
		s.log.Warn("the kernel has left resources without a master, and would panic at a request for one of them: requests "+
			"wait until another node has locked the resource, or a node has joined or left the cluster",
			"found", found, "resource", one)
	}
	m.names = names
}
