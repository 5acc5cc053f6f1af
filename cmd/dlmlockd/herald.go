package main

import (
	"sync"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// heraldMax bounds what is kept before anybody can listen. Of more lost locks
// the log and Inspect tell.
const heraldMax = 10_000

// herald keeps the notices of lost locks until the bus name is taken: a signal
// sent before that has no sender that anybody listens to. Other notices are of
// states, which whoever comes later can read.
type herald struct {
	to func(api.Notice)

	mu     sync.Mutex
	opened bool
	kept   []api.Notice
}

func (h *herald) notify(n api.Notice) {
	h.mu.Lock()
	opened := h.opened
	if _, lost := n.(api.LockLost); lost && !opened && len(h.kept) < heraldMax {
		h.kept = append(h.kept, n)
	}
	h.mu.Unlock()
	if opened {
		h.to(n)
	}
}

// open passes on what was kept and from then on everything.
func (h *herald) open() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.kept {
		h.to(n)
	}
	h.kept, h.opened = nil, true
}
