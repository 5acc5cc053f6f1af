package story

import (
	"slices"
	"sync"

	"github.com/dlmlock/dlmlockd/client"
)

// hearing is what a caller has heard from a service.
type hearing struct {
	mu     sync.Mutex
	events []client.Event
	shown  int // how many of them have been printed
	seen   int // how many there were when heard looked
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

// printHeard prints what was heard since it was printed last.
func (p *player) printHeard(c *Command) answer {
	h := p.heard[c.who()]
	if h == nil {
		return said("has not listened")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = len(h.events)
	events := slices.Clone(h.events[h.shown:])
	if c.Until == nil {
		h.shown = h.seen
	}
	if kind := c.Arg(0); kind != "" {
		events = slices.DeleteFunc(events, func(e client.Event) bool { return string(e.Kind) != kind })
	}
	return func(out *Output) {
		for i := range events {
			out.event(&events[i])
		}
	}
}
