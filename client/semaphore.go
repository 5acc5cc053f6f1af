package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
)

// Semaphore lets up to Places holders in at a time, on all nodes of the cluster
// together.
//
// The lock manager has no semaphores. This one is a lock for each place, on the resources
// RESOURCE/1 to RESOURCE/N. All programs that use it must agree on N. A caller that finds
// no free place queues for all places at once, and keeps the first that it gets. That
// serves waiters nearly in the order of arrival; the exception is two places that become
// free at the same time: one of them may be granted to a caller that has just been
// granted the other, and then goes to the next one. Each waiter costs N requests, so a
// semaphore is meant for few places: up to MaxPlaces.
//
// A fencing token distinguishes earlier holders of a place from later ones. Tokens of
// different places can't be compared.
type Semaphore struct {
	Client              *Client
	Lockspace, Resource string
	Places              int
	Options             Options // Wait is ignored
}

// MaxPlaces is how many places a Semaphore may have.
const MaxPlaces = 64

// queued is the result of the wait for one place.
type queued struct {
	h   *Held
	err error
}

// queue waits for all places at once, until queueing ends; a lock that it gets lives as long as
// ctx. Each place has one result, even if nobody reads it any more.
func (s *Semaphore) queue(queueing, ctx context.Context) <-chan queued {
	places := make(chan queued, s.Places)
	for i := range s.Places {
		go func() {
			o := s.Options
			o.Wait = -1
			h, err := s.Client.hold(queueing, ctx, []Want{s.place(i)}, o)
			places <- queued{h, err}
		}()
	}
	return places
}

// Acquire takes a place, and waits for it if necessary, as Client.Lock does.
func (s *Semaphore) Acquire(ctx context.Context) (held context.Context, release func() error, err error) {
	held, release, err = s.TryAcquire(ctx)
	if !errors.Is(err, WouldBlock) {
		return held, release, err
	}
	queueing, enough := context.WithCancel(ctx)
	defer enough()
	places := s.queue(queueing, ctx)
	var first *Held
	var failed error
	for range s.Places {
		p := <-places
		switch {
		case p.err != nil && queueing.Err() == nil:
			failed = p.err // one place that can't be waited for: the others still can
		case p.err != nil:
		case first == nil:
			first = p.h
			enough()
		default: // granted before its withdrawal arrived; the next may have it
			failed = errors.Join(failed, p.h.unlock())
		}
	}
	switch {
	case first != nil:
		return context.WithValue(first.Context(), heldKey{}, first), first.unlock, nil
	case failed != nil:
		return nil, nil, failed
	}
	return nil, nil, &Error{Op: "Request", Kind: Canceled, Message: "canceled", Err: context.Cause(ctx)}
}

// TryAcquire takes a place that is free. If there is none, the error is of kind
// WouldBlock.
func (s *Semaphore) TryAcquire(ctx context.Context) (held context.Context, release func() error, err error) {
	if s.Places < 1 || s.Places > MaxPlaces {
		return nil, nil, &Error{Op: "Acquire", Kind: InvalidArgs,
			Message: fmt.Sprintf("a semaphore has 1 to %d places, not %d", MaxPlaces, s.Places)}
	}
	// Starts at a random place, so that callers that try at once don't all try the same one.
	for i, first := 0, rand.IntN(s.Places); i < s.Places; i++ {
		o := s.Options
		o.Wait = 0
		held, release, err = s.Client.lock(ctx, []Want{s.place((first + i) % s.Places)}, o)
		if !errors.Is(err, WouldBlock) {
			return held, release, err
		}
	}
	return nil, nil, err
}

// place is the lock of a place. Places are numbered from 1, as people count them.
func (s *Semaphore) place(i int) Want {
	return Want{s.Lockspace, fmt.Sprintf("%s/%d", s.Resource, i+1), "EX"}
}
