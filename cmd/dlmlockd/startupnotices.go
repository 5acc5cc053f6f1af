package main

import (
	"sync"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// maxStartupNotices bounds how many notices of lost locks, and how many others, are kept before anybody
// can receive them. Further lost locks are only in the log and in Inspect, and further waits only in
// Inspect.
const maxStartupNotices = 10_000

// startupNotices keeps the notices of lost locks, and that somebody waits for a lock that is adopted
// already, until the bus name is taken: a signal that is sent before that has no sender to whom anybody
// listens, and the lock manager does not repeat it. Other notices are about states, which a client that
// comes later can read. Once the doors admit clients, who may have read by then, all notices are kept.
type startupNotices struct {
	to func(api.Notice)

	mu         sync.Mutex
	admitting  bool         // clients may have read the states
	opened     bool         // they are passed on at once from now on
	kept       []api.Notice // in the order in which they came
	lost, rest int          // how many of kept tell of a lost lock, and how many do not
}

func (s *startupNotices) notify(n api.Notice) {
	s.mu.Lock()
	opened := s.opened // once true it stays so, so the notice may be passed on without the lock
	if !opened {
		s.keep(n)
	}
	s.mu.Unlock()
	if opened {
		s.to(n)
	}
}

// keep keeps a notice for open. Waits, of which there may be one for each lock, take no room from lost
// locks.
func (s *startupNotices) keep(n api.Notice) {
	count := &s.rest
	switch n.(type) {
	case api.LockLost:
		count = &s.lost
	case api.BlockingNotice:
	default:
		if !s.admitting {
			return
		}
	}
	if *count < maxStartupNotices {
		*count++
		s.kept = append(s.kept, n)
	}
}

// admit is called before the doors admit clients.
func (s *startupNotices) admit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.admitting = true
}

// open passes on the notices that were kept, and every notice from then on. The lock is held
// meanwhile, so a new notice does not overtake those that were kept; passing one on adds it to a
// queue and does not block.
func (s *startupNotices) open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.kept {
		s.to(n)
	}
	s.kept, s.opened = nil, true
}
