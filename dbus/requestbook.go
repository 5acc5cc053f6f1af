package dbus

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

const (
	// RequestKept is how long a Request can be read after it has ended.
	RequestKept = 60 * time.Second
	// MaxEnded is how many ended Requests of one connection can be read; of
	// more the oldest go first.
	MaxEnded = 1024
	// sweepEvery is how often what was kept long enough is thrown away.
	sweepEvery = 5 * time.Second
)

// requestBook keeps the Requests. The service knows which of them wait; what
// has ended is known here alone.
type requestBook struct {
	srv  *Server
	idle chan struct{} // closed when down and none waits

	mu       sync.Mutex
	next     uint64
	all      map[uint64]*pending
	sessions map[*session]*sessionRequests
	live     int // that wait, or whose end has not been posted yet
	down     bool
	sweep    *time.Timer // runs while something has ended; nil otherwise
}

// sessionRequests are those of one connection.
type sessionRequests struct {
	live  map[*pending]struct{}
	ended []*pending // oldest first
}

// newRequestBook begins to number at the time, in microseconds: no number comes
// again after a restart, so no path does.
func newRequestBook(s *Server) *requestBook {
	return &requestBook{srv: s, idle: make(chan struct{}), next: uint64(time.Now().UnixMicro()),
		all: make(map[uint64]*pending), sessions: make(map[*session]*sessionRequests)}
}

// add takes in a Request that begins to wait, unless its requester is gone.
func (b *requestBook) add(p *pending) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p.num, p.since = b.next, time.Now()
	b.next++
	if p.from.Context().Err() != nil {
		return false // gone has been called, or is about to be and finds nothing
	}
	of := b.sessions[p.from]
	if of == nil {
		of = &sessionRequests{live: make(map[*pending]struct{})}
		b.sessions[p.from] = of
	}
	of.live[p] = struct{}{}
	b.all[p.num] = p
	b.live++
	if b.down {
		b.cancel(p)
	}
	return true
}

// end notes how a Request ended, and returns it; ok is false if the requester
// is gone. Otherwise told is to be called when Completed is in the outbox: until
// then the Request counts as one that waits, or a shutdown that waits for the
// last of them would close the outbox before its Completed is in it.
func (b *requestBook) end(p *pending, g api.Grant, err error) (_ pending, ok bool) {
	var dropped []*pending
	defer func() { b.tellRemoved(dropped) }()
	b.mu.Lock()
	defer b.mu.Unlock()
	of := b.sessions[p.from]
	if of == nil || b.all[p.num] != p {
		return pending{}, false
	}
	if b.down && err != nil {
		err = &api.Error{Op: "request", Lockspace: p.lockspace, Resource: p.resource, Mode: p.mode, Kind: api.ShuttingDown,
			Text: "the service is about to end; ask again when it is back"}
	}
	p.finish(g, err)
	delete(of.live, p)
	of.ended = append(of.ended, p)
	if len(of.ended) > MaxEnded {
		dropped = of.dropEnded(b, 1)
	}
	if b.sweep == nil && !b.down {
		b.sweep = time.AfterFunc(sweepEvery, b.throwAway)
	}
	return *p, true
}

// dropEnded forgets the n oldest that have ended.
func (of *sessionRequests) dropEnded(b *requestBook, n int) []*pending {
	dropped := slices.Clone(of.ended[:n])
	for i, p := range dropped {
		delete(b.all, p.num)
		of.ended[i] = nil
	}
	of.ended = of.ended[n:]
	return dropped
}

// told says that what end has returned has been posted.
func (b *requestBook) told() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.noLonger(1)
}

// noLonger counts those that wait no longer.
func (b *requestBook) noLonger(n int) {
	b.live -= n
	b.checkIdle()
}

func (b *requestBook) checkIdle() {
	if !b.down || b.live > 0 {
		return
	}
	select {
	case <-b.idle:
	default:
		close(b.idle)
	}
}

// gone forgets the Requests of a connection that is no more. The service
// cancels those that wait.
func (b *requestBook) gone(p *session) {
	b.mu.Lock()
	of := b.sessions[p]
	delete(b.sessions, p)
	var dropped []*pending
	if of != nil {
		dropped = of.ended
		for r := range of.live {
			dropped = append(dropped, r)
		}
		for _, r := range dropped {
			delete(b.all, r.num)
		}
		b.noLonger(len(of.live))
	}
	b.mu.Unlock()
	b.tellRemoved(dropped)
}

// throwAway forgets what has ended long ago.
func (b *requestBook) throwAway() {
	before := time.Now().Add(-RequestKept)
	var dropped []*pending
	b.mu.Lock()
	left := 0
	for _, of := range b.sessions {
		n, _ := slices.BinarySearchFunc(of.ended, before, func(p *pending, t time.Time) int { return p.ended.Compare(t) })
		dropped = append(dropped, of.dropEnded(b, n)...)
		left += len(of.ended)
	}
	b.sweep = nil
	if left > 0 && !b.down {
		b.sweep = time.AfterFunc(sweepEvery, b.throwAway)
	}
	b.mu.Unlock()
	b.tellRemoved(dropped)
}

func (b *requestBook) tellRemoved(dropped []*pending) {
	for _, p := range dropped {
		b.srv.subs.removed(p.path(), requestFace)
	}
}

// find returns a copy of a Request.
func (b *requestBook) find(num uint64) (pending, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.all[num]; p != nil {
		return *p, true
	}
	return pending{}, false
}

// list returns copies of the oldest, at most so many.
func (b *requestBook) list(limit int) []pending {
	b.mu.Lock()
	defer b.mu.Unlock()
	nums := make([]uint64, 0, len(b.all))
	for n := range b.all {
		nums = append(nums, n)
	}
	slices.SortFunc(nums, cmp.Compare)
	nums = nums[:min(len(nums), limit)]
	out := make([]pending, len(nums))
	for i, n := range nums {
		out[i] = *b.all[n]
	}
	return out
}

// shutdown withdraws what waits, and waits until that has been told, or ctx or
// gone ends.
func (b *requestBook) shutdown(ctx context.Context, gone <-chan struct{}) error {
	b.shut()
	select {
	case <-b.idle:
	case <-gone:
	case <-ctx.Done():
		return fmt.Errorf("requests stay unanswered: %w", ctx.Err())
	}
	return nil
}

// shut withdraws what waits, because nobody could be told of the grant. Each
// requester hears that the service is about to end.
func (b *requestBook) shut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = true
	if b.sweep != nil {
		b.sweep.Stop()
		b.sweep = nil
	}
	for _, of := range b.sessions {
		for p := range of.live {
			b.cancel(p)
		}
	}
	b.checkIdle()
}

// cancel has the service withdraw a Request; how it ended comes as ever.
func (b *requestBook) cancel(p *pending) {
	b.srv.service().CancelRequest(api.Caller{Privileged: true}, p.ref, func(error) {})
}
