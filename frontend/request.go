package frontend

import (
	"errors"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Request queues for a lock without a deadline.
type Request struct {
	Want    api.Want
	Options api.AcquireOptions // without Wait
}

// RequestOptions are the options of Request.
var RequestOptions = append(
	acquireOptions(func(m *Request) *api.AcquireOptions { return &m.Options }),
	value(func(m *Request) **dlm.Value { return &m.Options.Value }))

// Op implements Method.
func (*Request) Op() string { return "request" }

// Cost implements Method.
func (*Request) Cost() Cost { return Cost{} }

// Validate implements Method.
func (m *Request) Validate() error {
	if err := checkWant(&m.Want); err != nil {
		return invalid(m.Op(), err)
	}
	return invalid(m.Op(), checkAcquire(&m.Options))
}

// Run queues. started gets the request, which waits, or why it can't. If it had
// no error, ended gets the request when it has ended, whether or not the session
// is still there. Both are called on one goroutine of the service. ended should
// not refer to the call, since it may come after days, unless it answers the
// call.
func (m *Request) Run(c *Call, started func(RequestInfo, error), ended func(RequestInfo)) {
	if err := c.Authorize(api.ActAcquire, wanted(m.Op(), &m.Want, m.Options.Owner)); err != nil {
		started(RequestInfo{}, err)
		return
	}
	core := c.core
	r := &request{session: c.session, keep: c.session.door.keep, info: RequestInfo{
		Session: c.session.name, UID: c.UID(), Want: m.Want, Owner: m.Options.Owner, Label: m.Options.Label}}
	began := func(ref api.Ref, err error) {
		if err != nil {
			started(RequestInfo{}, err)
			return
		}
		info, there := core.requests.add(r, ref)
		started(info, nil)
		if there {
			core.hub.publish(RequestAdded{info})
		}
		if there && core.requests.stopping() {
			core.requests.cancel(ref)
		}
	}
	core.service.Request(c.Caller(), m.Want, m.Options, contained(c, began), func(g api.Grant, err error) {
		core.finish(r, g, err, ended)
	})
}

// finish notes and tells how a request has ended. It refers to the request
// alone, and not to the call that made it.
func (c *Core) finish(r *request, g api.Grant, err error, ended func(RequestInfo)) {
	defer func() {
		if v := recover(); v != nil {
			c.log.Error("the end of a request panicked", slog.Any("err", v), slog.String("stack", string(debug.Stack())))
		}
	}()
	info, dropped, ok := c.requests.end(r, g, err)
	if !ok { // its session is gone
		ended(info)
		return
	}
	defer c.requests.told()
	ended(info)
	c.hub.publish(RequestChanged{info})
	c.removed(dropped)
}

// removed tells of requests that can't be looked at any more.
func (c *Core) removed(dropped []*request) {
	for _, r := range dropped {
		// It may be ending just now.
		c.requests.mu.Lock()
		info := r.info
		c.requests.mu.Unlock()
		c.hub.publish(RequestRemoved{info})
	}
}

// RequestState is how far a request has got.
type RequestState uint8

// The states of a request.
const (
	RequestWaiting RequestState = iota
	RequestGranted
	RequestCanceled
	RequestFailed
)

func (s RequestState) String() string {
	return [...]string{"waiting", "granted", "canceled", "failed"}[s]
}

// RequestInfo describes a request, of whatever door.
type RequestInfo struct {
	Number uint64  // its name: it never comes again, not even after a restart
	Ref    api.Ref // the service's number
	// Whose it is: the end of the session cancels it.
	Session api.Session
	UID     uint32
	// What it waits for; its Mode is that of Grant when it is granted.
	Want  api.Want
	Owner string
	Label string
	// How far it has got. It changes once, from RequestWaiting to what it ended with.
	State RequestState
	Since time.Time // when it began to wait
	Ended time.Time // zero while it waits
	Grant api.Grant // what it brought: zero unless State is RequestGranted
	Err   error     // what it ended with, or nil
}

// finish notes how the request ended.
func (i *RequestInfo) finish(g api.Grant, err error) {
	i.Ended, i.Err = time.Now(), err
	switch {
	case err == nil:
		i.State, i.Grant = RequestGranted, g
	case errors.Is(err, api.Canceled):
		i.State = RequestCanceled
	default:
		i.State = RequestFailed
	}
}

// CancelRequest withdraws a request that still waits. Canceling your own request
// needs no authorisation.
type CancelRequest struct{ Number uint64 }

// Op implements Method.
func (*CancelRequest) Op() string { return "cancel" }

// Cost implements Method.
func (*CancelRequest) Cost() Cost { return Cost{} }

// Validate implements Method.
func (*CancelRequest) Validate() error { return nil }

// Run cancels the request.
func (m *CancelRequest) Run(c *Call, done func(error)) {
	r, ok := c.core.requests.get(m.Number)
	if !ok {
		done(&api.Error{Op: m.Op(), Kind: api.NotHeld, Mode: dlm.None, Text: "there is no such request any more"})
		return
	}
	c.othersToo(wanted(m.Op(), &r.info.Want, r.info.Owner), func(who api.Caller, done func(error)) {
		c.core.service.CancelRequest(who, r.info.Ref, done)
	}, done)
}
