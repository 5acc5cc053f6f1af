package story

import (
	"slices"
	"sync"

	"github.com/dlmlock/dlmlockd/client"
)

// hearing is what a caller has heard from a service and not printed yet.
type hearing struct {
	mu     sync.Mutex
	events []client.Event
	looked int // how many there were when heard looked at them
}

func (p *player) listen(c *Command, s Service) error {
	events, err := s.Watch(p.t.Context())
	if err != nil {
		return err
	}
	h := &hearing{}
	p.heard[c.who()] = h
	go func() {
		for e := range events {
			h.mu.Lock()
			h.events = append(h.events, e)
			h.mu.Unlock()
		}
	}()
	return nil
}

// printHeard prints what was heard, and forgets it; in until only when it matches.
func (p *player) printHeard(c *Command) answer {
	h := p.heard[c.who()]
	if h == nil {
		return said("has not listened")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looked = len(h.events)
	events := slices.DeleteFunc(slices.Clone(h.events), func(e client.Event) bool { return !c.wantsEvent(&e) })
	if c.Until == nil {
		h.forget(c)
	}
	return func(out *Output) {
		for i := range events {
			out.event(&events[i])
		}
	}
}

// wantsEvent reports whether heard is about an event: it may name a kind.
func (c *Command) wantsEvent(e *client.Event) bool {
	return c.Arg(0) == "" || c.Arg(0) == string(e.Kind)
}

// printed forgets what heard has looked at.
func (h *hearing) printed(c *Command) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget(c)
}

func (h *hearing) forget(c *Command) {
	later := slices.Clone(h.events[h.looked:])
	h.events = slices.DeleteFunc(h.events[:h.looked], func(e client.Event) bool { return c.wantsEvent(&e) })
	h.events = append(h.events, later...)
}
