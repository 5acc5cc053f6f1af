// Package queue owns the queue with which goroutines of this module hand over work: adding to it
// never blocks, and the reader takes everything in it at once.
//
// Concurrency: any number of goroutines may add. One goroutine reads at a time, that is, calls Take
// and waits for Wake.
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
	added, first := q.put(v)
	if first {
		q.Nudge()
	}
	return added
}

// Put is Add without a token for the reader. It is for a queue that several goroutines read, one at
// a time: whoever adds sees to it that one of them looks.
func (q *Queue[T]) Put(v T) bool {
	added, _ := q.put(v)
	return added
}

func (q *Queue[T]) put(v T) (added, first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return false, false
	case q.limit > 0 && len(q.items) >= q.limit:
		q.dropped++
		return false, len(q.items) == 1
	}
	q.items = append(q.items, v)
	return true, len(q.items) == 1
}

// Empty reports whether there is nothing to take at this moment.
func (q *Queue[T]) Empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) == 0
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
	q.Nudge()
}

// Closed reports whether Close was called.
func (q *Queue[T]) Closed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

// Nudge has the reader look, as Add does.
func (q *Queue[T]) Nudge() {
	select {
	case q.wake <- struct{}{}:
	default: // one token is enough
	}
}
