package libdlm

import "sync"

// lane is a queue of requests with one goroutine that serves them in order.
// Putting something in never blocks.
type lane struct {
	mu     sync.Mutex
	queue  []request
	closed bool
	wake   chan struct{} // holds one token while there may be work
}

func newLane() *lane { return &lane{wake: make(chan struct{}, 1)} }

// put adds a request. After shut it does nothing.
func (l *lane) put(r request) {
	l.mu.Lock()
	if !l.closed {
		l.queue = append(l.queue, r)
	}
	l.mu.Unlock()
	l.signal()
}

// shut ends run once the request that it serves is done. What waits is dropped.
func (l *lane) shut() {
	l.mu.Lock()
	l.closed, l.queue = true, nil
	l.mu.Unlock()
	l.signal()
}

func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// maxSpareRequests bounds the room that a lane keeps after a burst.
const maxSpareRequests = 1024

// run serves requests until shut.
func (l *lane) run(serve func(*request)) {
	var batch []request
	for {
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return
		}
		if cap(batch) > maxSpareRequests {
			batch = nil
		}
		batch, l.queue = l.queue, batch[:0]
		l.mu.Unlock()
		if len(batch) == 0 {
			<-l.wake
			continue
		}
		for i := range batch {
			serve(&batch[i])
		}
		clear(batch)
	}
}
