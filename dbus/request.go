package dbus

import (
	"strconv"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/frontend"
)

// newRequest is Request.
type newRequest struct{ frontend.Request }

func parseRequest(body *reader) (request, error) {
	r := new(newRequest)
	var err error
	if r.Want, err = parseWant(r.Op(), body); err != nil {
		return nil, err
	}
	return r, parseOptions(r.Op(), frontend.RequestOptions, body, &r.Request)
}

// serve: the answer goes out when the Request waits, and Completed after it,
// since the service says both on one goroutine and they take the same user's turn.
func (r *newRequest) serve(c *call) {
	started := func(info frontend.RequestInfo, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		c.reply(requestPath(info.Number))
	}
	r.Run(&c.Call, started, c.srv.completed(c.from))
}

// completed makes a function that tells a connection how its Request has ended.
// The call is not kept for that: a Request may wait for days.
func (s *Server) completed(of *session) func(frontend.RequestInfo) {
	return func(r frontend.RequestInfo) {
		if of.Context().Err() != nil {
			return
		}
		// mustSend: a caller that waits for this signal would otherwise wait for ever. There is one
		// for each Request, of which a user has a bounded number.
		name, text := failure(&r)
		s.out.post(message{class: mustSend, user: r.UID, dest: of.name, path: requestPath(r.Number),
			iface: requestIfaceName, member: "Completed", sig: sigCompleted,
			body: []any{r.State.String(), lockOrNone(r.Grant.Ref), uint32(r.Grant.LockID), r.Grant.Token, name, text}})
	}
}

// requestPath is the object of a request. Its number never comes again, so no path means two
// requests.
func requestPath(number uint64) godbus.ObjectPath {
	return godbus.ObjectPath(RequestPrefix + strconv.FormatUint(number, 10))
}

// failure is the name and text of the error that a Request ended with.
func failure(r *frontend.RequestInfo) (name, text string) {
	if r.Err == nil {
		return "", ""
	}
	return errorName(r.Err), errorText(r.Err)
}

// pending is what an object of a Request is about.
type pending struct {
	frontend.RequestInfo
	position int // looked up to be read; unknownPosition where it is not
}

// unknownPosition leaves the property Position out. 0 would say that the request does
// not wait.
const unknownPosition = -1

// requestIface is the interface of a Request.
var requestIface = newIface(requestIfaceName, []property{
	text("Lockspace", emitsConst, func(p *pending) string { return p.Want.Lockspace }),
	text("Resource", emitsConst, func(p *pending) string { return p.Want.Resource }),
	text("Mode", emitsConst, func(p *pending) string { return modeName(p.Want.Mode) }),
	text("Owner", emitsConst, func(p *pending) string { return p.Owner }),
	text("Label", emitsConst, func(p *pending) string { return p.Label }),
	prop("UID", "u", emitsConst, func(_ *Server, p *pending) any { return p.UID }),
	prop("Since", "t", emitsConst, func(_ *Server, p *pending) any { return usec(p.Since) }),
	text("State", emitsTrue, func(p *pending) string { return p.State.String() }),
	prop("Lock", "o", emitsTrue, func(_ *Server, p *pending) any { return lockOrNone(p.Grant.Ref) }),
	prop("LockID", "u", emitsTrue, func(_ *Server, p *pending) any { return uint32(p.Grant.LockID) }),
	prop("Token", "t", emitsTrue, func(_ *Server, p *pending) any { return p.Grant.Token }),
	text("ErrorName", emitsTrue, func(p *pending) string { name, _ := failure(&p.RequestInfo); return name }),
	text("ErrorMessage", emitsTrue, func(p *pending) string { _, text := failure(&p.RequestInfo); return text }),
	prop("Position", "u", emitsFalse, func(_ *Server, p *pending) any {
		if p.position == unknownPosition {
			return nil
		}
		return uint32(p.position)
	}),
}, &method{name: "Cancel", parse: func(*reader) (request, error) { return cancelRequest{}, nil }})

// findRequest finds the Request that the call is for.
func (c *call) findRequest() (*pending, error) {
	if n, ok := number(c.id); ok {
		if info, ok := c.srv.core.Requests().Find(n); ok {
			return &pending{RequestInfo: info}, nil
		}
	}
	return nil, c.noObject("request")
}

// lookRequest adds the place in the queue, which the service knows.
func lookRequest(c *call) (any, error) {
	p, err := c.findRequest()
	if err == nil {
		p.position, err = ask(c, func(done func(int)) { c.srv.core.Requests().Position(p.Number, done) })
	}
	return p, err
}

// requestChildren are the names of the objects of requests, for Introspect.
func requestChildren(c *call) ([]string, error) {
	var names []string
	for _, r := range c.srv.core.Requests().List(MaxListed) {
		names = append(names, strconv.FormatUint(r.Number, 10))
	}
	return names, nil
}

// cancelRequest is Cancel.
type cancelRequest struct{ own }

func (cancelRequest) serve(c *call) {
	r, err := c.findRequest()
	if err != nil {
		c.Fail(err)
		return
	}
	(&frontend.CancelRequest{Number: r.Number}).Run(&c.Call, c.done)
}
