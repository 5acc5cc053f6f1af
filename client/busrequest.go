package client

import (
	"context"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/dlm"
)

// requestCompleted is the end of a Request of this connection. It is internal to the
// package.
const requestCompleted EventKind = "request-completed"

// completion has the arguments of the signal Completed.
type completion struct {
	request     godbus.ObjectPath
	state       string
	lock        godbus.ObjectPath
	lockid      uint32
	token       uint64
	name, words string // of the error
}

// cancelTime is how long it may take to withdraw a request whose caller has given up.
const cancelTime = 5 * time.Second

// queued takes one lock by a Request, which keeps its place in the queue for as
// long as it takes. The error is of kind Unknown if the service has none.
//
// Acquire can't do this: it waits for 20 s at most, because many bus libraries end
// a call after 25 s, and a grant that comes later would reach nobody.
func (b *bus) queued(ctx context.Context, w Want, o Options) (Grant, error) {
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	// Before the call: the signal may come right after the answer.
	events, err := b.listen(watching, true)
	if err != nil {
		stop()
		return Grant{}, err
	}
	var over <-chan time.Time
	if o.Wait > 0 {
		timer := time.NewTimer(o.Wait)
		defer timer.Stop()
		over = timer.C
	}
	for there := false; ; there = true {
		asked, r, late := b.request(ctx, w, o, there, over)
		if late != nil {
			// stop is called when the request has been withdrawn, which needs the events.
			if o.sure {
				b.abandon(asked, events, stop, w, o)
			} else {
				go b.abandon(asked, events, stop, w, o)
			}
			return Grant{}, late
		}
		if r.err != nil {
			stop()
			return Grant{}, r.err
		}
		done, why := b.await(ctx, events, r.path, over)
		if g, err, final := o.outcome(w, done, why); final {
			stop()
			return g, err
		}
		// The service is restarting. A request that has failed has left nothing
		// behind, and with an owner the call is idempotent.
	}
}

// request makes a request and waits for its number, the path r. If the context or the time
// ends first, late says so; the request may then exist nevertheless, and asked gets its path.
func (b *bus) request(ctx context.Context, w Want, o Options, patiently bool,
	over <-chan time.Time) (asked <-chan requested, r requested, late error) {
	asking, leave := context.WithCancel(ctx)
	defer leave()
	asked = b.ask(asking, w, o, patiently)
	select {
	case r = <-asked:
	case <-ctx.Done():
		late = wrap("Request", ctx.Err())
	case <-over:
		late = errOver
	}
	return asked, r, late
}

// outcome returns the result of a request that has ended; final is false if the
// request should be made again. That is so if the service ended in order, or if it ended
// otherwise and there is an owner: then asking again finds a lock that was granted.
func (o *Options) outcome(w Want, done *completion, why error) (g Grant, err error, final bool) {
	switch {
	case done != nil && done.state == "granted":
		return Grant{w.Lockspace, w.Resource, dlm.Canonical(w.Mode), done.lockid, done.token, done.lock}, nil, true
	case why != nil:
		return g, why, true
	case done != nil && kindOf(done.name) != ShuttingDown:
		return g, &Error{Op: "Request", Kind: kindOf(done.name), Name: done.name, Message: done.words}, true
	case done == nil && o.Owner == "":
		return g, &Error{Op: "Request", Kind: NoAnswer, Message: "the service ended while the request waited"}, true
	}
	return g, nil, false
}

// requested is the answer of the member Request.
type requested struct {
	path godbus.ObjectPath // the object of the request, which has the member Cancel
	err  error
}

// ask calls the member Request, again and again if the service was restarted. The call
// itself outlives the context, because its answer is needed to withdraw the request.
func (b *bus) ask(ctx context.Context, w Want, o Options, patiently bool) <-chan requested {
	asked := make(chan requested, 1)
	go func() {
		var r requested
		call := func() error {
			return b.call(context.WithoutCancel(ctx), "Request", []any{&r.path}, w.Lockspace, w.Resource, w.Mode, o.variants(0))
		}
		if patiently {
			r.err = Patiently(ctx, call)
		} else {
			r.err = call()
		}
		asked <- r
	}()
	return asked
}

// abandon withdraws a request whose caller did not wait for the answer. If it has been
// granted, the lock is released, unless it has an owner, who may have had it before.
func (b *bus) abandon(asked <-chan requested, events <-chan Event, stop func(), w Want, o Options) {
	defer stop()
	var r requested
	select {
	case r = <-asked:
	case <-time.After(cancelTime):
		// A service that does not answer grants nothing either; Close ends the call.
		r.err = errOver
	}
	if r.err != nil {
		return
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	done, _ := b.await(gone, events, r.path, nil)
	if done != nil && done.state == "granted" && o.Owner == "" {
		ctx, cancel := context.WithTimeout(context.Background(), cancelTime)
		defer cancel()
		_ = b.release(ctx, w.Lockspace, w.Resource, Selector{Lock: done.lock}) // the caller no longer waits for an error
	}
}

// stopTime is how long the remaining signals of a service that stops may take.
const stopTime = time.Second

// errOver means that the time to wait is over.
var errOver = &Error{Op: "Request", Kind: Timeout, Message: "not granted in the time given"}

// withdraw cancels a request whose caller has given up. The request still ends with a signal,
// because the grant may have come first.
func (b *bus) withdraw(ctx context.Context, request godbus.ObjectPath) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTime)
	defer cancel()
	// An error means that it no longer waits, which is as good.
	_ = b.callOn(ctx, request, Name+".Request", "Cancel", nil)
}

// await waits for the end of a request. If the service ends first, done and why are
// nil. When the context or the time is over, the request is withdrawn; a grant that
// came before that counts.
func (b *bus) await(ctx context.Context, events <-chan Event, request godbus.ObjectPath,
	over <-chan time.Time) (done *completion, why error) {
	quit := ctx.Done()
	var enough <-chan time.Time
	stopped := false
	withdraw := func(err error) {
		why, quit, over = err, nil, nil
		b.withdraw(ctx, request)
		enough = time.After(cancelTime)
	}
	for {
		select {
		case e, ok := <-events:
			switch {
			case !ok:
				return nil, wrap("Request", godbus.ErrClosed)
			case e.Kind == ServiceStopped:
				stopped = true
			case e.Kind == requestCompleted && e.completed.request == request:
				done = e.completed
			}
		case <-quit:
			withdraw(wrap("Request", ctx.Err()))
		case <-over:
			withdraw(errOver)
		case <-enough:
			return done, why
		}
		// A service that stops in an orderly way sends both, in either order. A new
		// one must not be called before all signals of the old one have come, or the end of
		// the old request could be taken for that of the new one.
		ending := done != nil && kindOf(done.name) == ShuttingDown
		switch {
		case done != nil && (stopped || !ending):
			return done, why
		case (stopped || ending) && enough == nil:
			enough = time.After(stopTime)
		}
	}
}
