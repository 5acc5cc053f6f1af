package dbus

import (
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// call is one method call on its way from the reader to the send queue.
type call struct {
	frontend.Call
	srv  *Server
	from *session // whose call it is; nil: answered in the reader, in no session's queue
	// The unique name to which the answer goes.
	sender string
	// The serial number of the call, which its answer names.
	serial uint32
	// The caller has asked for no answer (NO_REPLY_EXPECTED); it still counts as
	// unanswered until it is done.
	noReply bool
	// The method that was found by interface and member.
	method *method
	node   *node   // the object, or the kind of it
	id     string  // which of the kind
	req    request // nil with from nil
}

// request is a call whose arguments were read. Many are methods of frontend, and
// have what it costs and whether it is valid from there. serve runs on a
// goroutine of the session; it may block in the authoriser, and in ask. It sees
// to it that the call is answered, now or later.
type request interface {
	frontend.Method
	serve(c *call)
}

// own is the part of a request that is no method of frontend.
type own struct{}

func (own) Op() string          { return "" }
func (own) Validate() error     { return nil }
func (own) Cost() frontend.Cost { return frontend.Cost{} }

// Serve implements frontend.Handler.
func (c *call) Serve() { c.req.serve(c) }

// Fail implements frontend.Handler. Only the first answer counts.
func (c *call) Fail(err error) {
	if c.Answer() {
		c.srv.out.post(message{call: c, err: err})
	}
}

// reply answers with the method's out arguments. Only the first answer counts.
func (c *call) reply(body ...any) {
	if c.Answer() {
		c.srv.out.post(message{call: c, sig: c.method.outSig, body: body})
	}
}

// write answers with out arguments that fill writes when it is the answer's
// turn to be written. Only the first answer counts.
func (c *call) write(fill func(*encoder)) {
	if c.Answer() {
		c.srv.out.post(message{call: c, sig: c.method.outSig, fill: fill})
	}
}

// done answers a call without out arguments.
func (c *call) done(err error) {
	if err != nil {
		c.Fail(err)
		return
	}
	c.reply()
}

// answer makes a function that answers with the out arguments that row makes of
// a result, or with an error.
func answer[T any](c *call, row func(T) []any) func(T, error) {
	return func(v T, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		c.reply(row(v)...)
	}
}

// one is the out argument that a result is by itself.
func one[T any](v T) []any { return []any{v} }

// user is whose turn the answer takes in the send queue.
func (c *call) user() uint32 {
	if c.from != nil {
		return c.from.user()
	}
	return noUser
}

// user is whose turn takes what a session gets in the send queue.
func (c *session) user() uint32 {
	if uid, ok := c.UID(); ok {
		return uid
	}
	return noUser
}

// mayInspect asks whether the caller may look at an object.
func (c *call) mayInspect() error {
	return c.Authorize(api.ActInspect, frontend.About{Op: "inspect"})
}
