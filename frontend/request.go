package frontend

import (
	"log/slog"
	"runtime/debug"

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

// Run queues. started gets the number of the request, or why it can't wait; ended
// gets how it ended, if started had no error. Both are called on one goroutine of
// the service. ended must not refer to the call: it may come after days.
func (m *Request) Run(c *Call, started func(api.Ref, error), ended func(api.Grant, error)) {
	if err := c.Authorize(api.ActAcquire, wanted(m.Op(), &m.Want, m.Options.Owner)); err != nil {
		started(0, err)
		return
	}
	log := c.core.log
	c.core.service.Request(c.Caller(), m.Want, m.Options, contained(c, started), func(g api.Grant, err error) {
		defer func() {
			if v := recover(); v != nil {
				log.Error("the end of a request panicked", slog.Any("err", v), slog.String("stack", string(debug.Stack())))
			}
		}()
		ended(g, err)
	})
}

// CancelRequest withdraws a request that still waits. Canceling your own request
// needs no authorisation.
type CancelRequest struct {
	Request api.Ref
	// What the request is for, for the authoriser and for errors.
	Want  api.Want
	Owner string
}

// Op implements Method.
func (*CancelRequest) Op() string { return "cancel" }

// Cost implements Method.
func (*CancelRequest) Cost() Cost { return Cost{} }

// Validate implements Method.
func (*CancelRequest) Validate() error { return nil }

// Run cancels the request.
func (m *CancelRequest) Run(c *Call, done func(error)) {
	c.othersToo(wanted(m.Op(), &m.Want, m.Owner), func(who api.Caller, done func(error)) {
		c.core.service.CancelRequest(who, m.Request, done)
	}, done)
}
