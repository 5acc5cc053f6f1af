package lockd

import (
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/state"
)

// journal is the goroutine that writes the state file. What was asked for
// while a write was under way becomes one write.
type journal struct {
	to   Journal
	post func(func()) bool
	well func() // the file could be written again; on the owner goroutine

	mu     sync.Mutex
	queue  []appendAction
	closed bool
	wake   chan struct{}

	backlog []state.Change // must be written, could not be yet; only run touches it
	spare   []appendAction
	buf     []state.Change
}

// retryInterval is how often a state file that can't be written is tried.
const retryInterval = time.Second

func newJournal(to Journal, post func(func()) bool, well func()) *journal {
	return &journal{to: to, post: post, well: well, wake: make(chan struct{}, 1)}
}

func (j *journal) append(a appendAction) {
	j.mu.Lock()
	j.queue = append(j.queue, a)
	first := len(j.queue) == 1
	j.mu.Unlock()
	if first {
		j.signal()
	}
}

func (j *journal) signal() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// close has run return after it has written what was asked for.
func (j *journal) close() {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.signal()
}

func (j *journal) run() {
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		batch, closed := j.take()
		if len(batch) > 0 {
			j.write(batch)
			continue
		}
		if closed {
			return
		}
		if len(j.backlog) > 0 {
			retry.Reset(retryInterval)
		}
		select {
		case <-j.wake:
		case <-retry.C:
			j.retry()
		}
	}
}

// take returns what was asked for since the last take. The slice is good until
// the next one: two take turns in being filled and being written.
func (j *journal) take() (batch []appendAction, closed bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	batch = j.queue
	j.queue, j.spare = j.spare[:0], batch
	return batch, j.closed
}

// write writes a batch behind the backlog, and tells each how it went.
func (j *journal) write(batch []appendAction) {
	j.buf = append(j.buf[:0], j.backlog...)
	for i := range batch {
		j.buf = append(j.buf, batch[i].changes...)
	}
	err := j.to.Append(j.buf)
	if err == nil {
		if len(j.backlog) > 0 { // perhaps nothing else was to be written
			j.backlog = nil
			j.post(j.well)
		}
	} else if len(batch) > 1 {
		// One of them may be what does not fit: let each stand for itself.
		for i := range batch {
			j.write(batch[i : i+1])
		}
		return
	}
	thens := make([]func(error), len(batch))
	for i := range batch {
		if err != nil && batch[i].must {
			j.backlog = append(j.backlog, batch[i].changes...)
		}
		thens[i] = batch[i].then
		batch[i] = appendAction{}
	}
	clear(j.buf)
	j.post(func() {
		for _, then := range thens {
			then(err)
		}
	})
}

// retry tries to write the backlog.
func (j *journal) retry() {
	if len(j.backlog) == 0 || j.to.Append(j.backlog) != nil {
		return
	}
	j.backlog = nil
	j.post(j.well)
}
