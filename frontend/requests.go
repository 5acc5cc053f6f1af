package frontend

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

const (
	// MaxEnded is how many ended requests of one session can be looked at; of more
	// the oldest go first.
	MaxEnded = 1024
	// sweepEvery is how often requests are thrown away that were kept long enough.
	sweepEvery = 5 * time.Second
)

// request is one request: while it waits, and for a while after it.
type request struct {
	session *Session
	keep    time.Duration // how long it can be looked at when it has ended
	info    RequestInfo   // guarded by Requests.mu
}

// Requests are the requests of all doors. The service knows which of them wait;
// what has ended is known here alone.
type Requests struct {
	core *Core

	mu sync.Mutex
	// The number of the next request.
	next uint64
	// By number: those that wait, and those that have ended and are kept for a while.
	all      map[uint64]*request
	sessions map[*Session]*sessionRequests
	live     int // that wait, or whose end has not been told yet
	// The service is ending: no request begins any more.
	down  bool
	idle  chan struct{} // where somebody waits for live to be 0
	sweep *time.Timer   // runs while something has ended; nil otherwise
}

// sessionRequests are those of one session.
type sessionRequests struct {
	live  map[*request]struct{}
	ended []*request // oldest first
}

// newRequests begins to number at the time, in microseconds: no number comes
// again after a restart.
func newRequests(core *Core) *Requests {
	return &Requests{core: core, next: uint64(time.Now().UnixMicro()),
		all: make(map[uint64]*request), sessions: make(map[*Session]*sessionRequests)}
}

// Requests are the requests of all doors.
func (c *Core) Requests() *Requests { return c.requests }

// add takes in a request that begins to wait, unless its session is gone.
func (b *Requests) add(r *request, ref api.Ref) (info RequestInfo, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.info.Ref, r.info.Number, r.info.Since = ref, b.next, time.Now()
	b.next++
	if r.session.ctx.Err() != nil {
		return r.info, false // gone has been called, or is about to be and finds nothing
	}
	of := b.sessions[r.session]
	if of == nil {
		of = &sessionRequests{live: make(map[*request]struct{})}
		b.sessions[r.session] = of
	}
	of.live[r] = struct{}{}
	b.all[r.info.Number] = r
	b.live++
	return r.info, true
}

// end notes how a request ended, and returns it with those that can't be looked
// at any more; ok is false if its session is gone. Otherwise told is to be
// called when the door knows of the end: until then the request counts as one
// that waits, or a shutdown that waits for the last of them would go on before
// the requester has the notice.
func (b *Requests) end(r *request, g api.Grant, err error) (info RequestInfo, dropped []*request, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	of := b.sessions[r.session]
	if of == nil || b.all[r.info.Number] != r {
		r.info.finish(g, err)
		return r.info, nil, false
	}
	if b.down && err != nil {
		w := &r.info.Want
		err = &api.Error{Op: "request", Lockspace: w.Lockspace, Resource: w.Resource, Mode: w.Mode, Kind: api.ShuttingDown,
			Text: "the service is about to end; ask again when it is back"}
	}
	r.info.finish(g, err)
	delete(of.live, r)
	of.ended = append(of.ended, r)
	if r.keep == 0 {
		dropped = of.drop(b, len(of.ended))
	} else if len(of.ended) > MaxEnded {
		dropped = of.drop(b, 1)
	}
	if len(of.ended) > 0 && b.sweep == nil && !b.down {
		b.sweep = time.AfterFunc(sweepEvery, b.throwAway)
	}
	return r.info, dropped, true
}

// drop forgets the n oldest that have ended.
func (of *sessionRequests) drop(b *Requests, n int) []*request {
	dropped := slices.Clone(of.ended[:n])
	for i, r := range dropped {
		delete(b.all, r.info.Number)
		of.ended[i] = nil
	}
	of.ended = of.ended[n:]
	return dropped
}

// told notes that the requester has got the notice that end has returned.
func (b *Requests) told() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.noLonger(1)
}

// noLonger counts those that wait no longer.
func (b *Requests) noLonger(n int) {
	b.live -= n
	if b.live == 0 && b.idle != nil {
		close(b.idle)
		b.idle = nil
	}
}

// gone forgets the requests of a session that is no more. The service cancels
// those that wait.
func (b *Requests) gone(s *Session) {
	b.mu.Lock()
	of := b.sessions[s]
	delete(b.sessions, s)
	var dropped []*request
	if of != nil {
		dropped = of.ended
		for r := range of.live {
			dropped = append(dropped, r)
		}
		for _, r := range dropped {
			delete(b.all, r.info.Number)
		}
		b.noLonger(len(of.live))
	}
	b.mu.Unlock()
	b.core.removed(dropped)
}

// throwAway forgets what has ended long ago.
func (b *Requests) throwAway() {
	now := time.Now()
	var dropped []*request
	b.mu.Lock()
	left := 0
	for _, of := range b.sessions {
		n := 0
		for n < len(of.ended) && now.Sub(of.ended[n].info.Ended) >= of.ended[n].keep {
			n++
		}
		dropped = append(dropped, of.drop(b, n)...)
		left += len(of.ended)
	}
	b.sweep = nil
	if left > 0 && !b.down {
		b.sweep = time.AfterFunc(sweepEvery, b.throwAway)
	}
	b.mu.Unlock()
	b.core.removed(dropped)
}

// Find describes a request, if it waits or has ended a short time ago.
func (b *Requests) Find(number uint64) (RequestInfo, bool) {
	r, ok := b.get(number)
	if !ok {
		return RequestInfo{}, false
	}
	return r.info, true
}

// get returns a copy of a request.
func (b *Requests) get(number uint64) (request, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.all[number]; r != nil {
		return *r, true
	}
	return request{}, false
}

// List describes the oldest requests, at most so many.
func (b *Requests) List(limit int) []RequestInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	numbers := make([]uint64, 0, len(b.all))
	for n := range b.all {
		numbers = append(numbers, n)
	}
	slices.SortFunc(numbers, cmp.Compare)
	numbers = numbers[:min(len(numbers), limit)]
	out := make([]RequestInfo, len(numbers))
	for i, n := range numbers {
		out[i] = b.all[n].info
	}
	return out
}

// Count is how many requests can be looked at.
func (b *Requests) Count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.all)
}

// Position tells the place of a waiting request among those of this node for its
// resource, 1 being the next; 0: it does not wait, or its place is not known.
func (b *Requests) Position(number uint64, done func(int)) {
	r, ok := b.get(number)
	if !ok || r.info.State != RequestWaiting {
		done(0)
		return
	}
	b.core.service.Position(r.info.Ref, done)
}

// shut withdraws what waits, because nobody could be told of the grant. Each
// requester hears that the service is about to end.
func (b *Requests) shut() {
	b.mu.Lock()
	b.down = true
	if b.sweep != nil {
		b.sweep.Stop()
		b.sweep = nil
	}
	var waiting []api.Ref
	for _, of := range b.sessions {
		for r := range of.live {
			waiting = append(waiting, r.info.Ref)
		}
	}
	b.mu.Unlock()
	for _, ref := range waiting {
		b.cancel(ref)
	}
}

// stopping reports whether shut was called.
func (b *Requests) stopping() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.down
}

// drained returns a channel that is closed when no request waits any more.
func (b *Requests) drained() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.live == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if b.idle == nil {
		b.idle = make(chan struct{})
	}
	return b.idle
}

// cancel has the service withdraw a request; how it ended comes as ever.
func (b *Requests) cancel(ref api.Ref) {
	b.core.service.CancelRequest(api.Caller{Privileged: true}, ref, func(error) {})
}
