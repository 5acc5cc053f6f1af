package agent

import (
	"os"
	"sync"
)

// backlog holds input that a process has not read yet, without a limit: were
// there one, a signal could not overtake the input of a process that is stuck.
type backlog struct {
	mu      sync.Mutex
	changed *sync.Cond
	pieces  [][]byte
	ended   bool
}

func newBacklog() *backlog {
	b := &backlog{}
	b.changed = sync.NewCond(&b.mu)
	return b
}

// add appends input; none is taken after end.
func (b *backlog) add(p []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		b.pieces = append(b.pieces, p)
		b.changed.Signal()
	}
}

// end marks the end of input, after what is held.
func (b *backlog) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.changed.Signal()
}

// next waits for the next piece; false at the end.
func (b *backlog) next() ([]byte, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.pieces) == 0 && !b.ended {
		b.changed.Wait()
	}
	if len(b.pieces) == 0 {
		return nil, false
	}
	p := b.pieces[0]
	b.pieces = b.pieces[1:]
	return p, true
}

// pour writes the input to the process and closes its pipe at the end. When
// the process doesn't read any more (its end, usually), the rest is dropped.
func (b *backlog) pour(input *os.File) {
	defer input.Close()
	for {
		p, ok := b.next()
		if !ok {
			return
		}
		if _, err := input.Write(p); err != nil {
			return
		}
	}
}
