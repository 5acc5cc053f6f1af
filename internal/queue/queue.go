// Package queue owns the queue with which goroutines of this module hand over work: adding to it
// never blocks, and the reader takes everything in it at once.
//
// Concurrency: any number of goroutines may add. One goroutine reads, that is, calls Take and waits
// for Wake.
package queue

import "sync"

// Queue is a first-in, first-out queue with one reader. Unless its users bound it, the limit given
// to New does.
type Queue[T any] struct {
	wake chan struct{} // holds a token while there may be news for the reader

	mu      sync.Mutex
	items   []T
	limit   int
	dropped int
	closed  bool
}

// New makes a queue of at most limit items; 0 stands for no limit.
func New[T any](limit int) *Queue[T] {
	return &Queue[T]{wake: make(chan struct{}, 1), limit: limit}
}

// Add adds v at the end. It returns false, and drops v, if the queue is closed or full. It never
// blocks.
func (q *Queue[T]) Add(v T) bool {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return false
	}
	full := q.limit > 0 && len(q.items) >= q.limit
	if full {
		q.dropped++
	} else {
		q.items = append(q.items, v)
	}
	first := len(q.items) == 1
	q.mu.Unlock()
	if first {
		q.signal()
	}
	return !full
}

// Batch is the result of Take.
type Batch[T any] struct {
	Items   []T  // in the order in which they were added
	Dropped int  // how many more did not fit since the last Take
	Closed  bool // nothing more will be added
}

// Take returns everything that was added since the last Take. The queue reuses the array of spare
// for the items that follow, so a reader that passes the items of the batch before last allocates
// nothing; nil is allowed.
func (q *Queue[T]) Take(spare []T) Batch[T] {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := Batch[T]{Items: q.items, Dropped: q.dropped, Closed: q.closed}
	q.items, q.dropped = spare[:0], 0
	return b
}

// Wake has a token if, since the reader last received from it, something was added to an empty
// queue or the queue was closed. The token may be left over from items that have been taken
// already: then Take finds nothing.
func (q *Queue[T]) Wake() <-chan struct{} { return q.wake }

// Close makes Add refuse everything from now on. Items in the queue stay there.
func (q *Queue[T]) Close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
}

func (q *Queue[T]) signal() {
	select {
	case q.wake <- struct{}{}:
	default: // one token is enough
	}
}
