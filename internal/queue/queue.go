// Package queue owns the one queue that goroutines of this module hand work over
// with: whoever adds never blocks, and the reader takes all there is at once.
//
// Concurrency: any number of goroutines may add. One goroutine reads, that is,
// calls Take and waits for Wake.
package queue

import "sync"

// Queue is a first-in, first-out queue with one reader. What bounds it, where
// nothing outside does, is the limit that New is given.
type Queue[T any] struct {
	wake chan struct{} // holds a token while the queue may have something to tell

	mu      sync.Mutex
	items   []T
	limit   int
	dropped int
	closed  bool
}

// New makes a queue of at most limit items; 0 means without limit.
func New[T any](limit int) *Queue[T] {
	return &Queue[T]{wake: make(chan struct{}, 1), limit: limit}
}

// Add puts v at the end. It returns false, and drops v, if the queue is closed or
// full. It never blocks.
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

// Batch is what Take found.
type Batch[T any] struct {
	Items   []T  // in the order in which they were added
	Dropped int  // how many more did not fit since the last Take
	Closed  bool // nothing is added any more
}

// Take returns all that was added since the last Take. The queue keeps the array
// of spare for what comes next, so a reader that passes the items of the batch
// before last allocates nothing; nil is fine.
func (q *Queue[T]) Take(spare []T) Batch[T] {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := Batch[T]{Items: q.items, Dropped: q.dropped, Closed: q.closed}
	q.items, q.dropped = spare[:0], 0
	return b
}

// Wake has a token whenever something was added to an empty queue, or the queue
// was closed, since the reader last received from it. A token may be left from
// something that was taken meanwhile: Take then finds nothing.
func (q *Queue[T]) Wake() <-chan struct{} { return q.wake }

// Close has Add refuse everything from now on. What is in the queue stays there.
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
