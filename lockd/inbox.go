package lockd

import (
	"sync"

	"github.com/dlmlock/dlmlockd/dlm"
)

// message is one thing for the owner goroutine: a function, or an event of a
// lockspace.
type message struct {
	fn func()
	sp *space
	ev dlm.Event
}

// inbox is an unbounded queue: whoever adds never blocks, so that an engine's
// dispatcher or a bus reader is never held up by the owner goroutine. What
// bounds it is outside: calls per sender, and one event per operation.
type inbox struct {
	mu     sync.Mutex
	queue  []message
	closed bool
	wake   chan struct{} // holds one token while queue may be non-empty
}

func (b *inbox) add(m message) bool {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	b.queue = append(b.queue, m)
	first := len(b.queue) == 1
	b.mu.Unlock()
	if first {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// take returns everything that was added, in order, and keeps old for what
// comes next.
func (b *inbox) take(old []message) []message {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queue
	b.queue = old[:0]
	return q
}

func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}

// post has fn run on the owner goroutine; false if the service has stopped.
func (s *Service) post(fn func()) bool { return s.inbox.add(message{fn: fn}) }
