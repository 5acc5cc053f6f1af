package dbus

import (
	"errors"
	"strconv"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// queue is Request.
type queue struct{ frontend.Request }

func parseRequest(body *reader) (request, error) {
	r := new(queue)
	var err error
	if r.Want, err = parseWant(r.Op(), body); err != nil {
		return nil, err
	}
	return r, parseOptions(r.Op(), frontend.RequestOptions, body, &r.Request)
}

// serve: the answer goes out when the Request waits, and Completed after it,
// since the service says both on one goroutine and they are in one lane.
func (r *queue) serve(c *call) {
	s := c.srv
	p := &pending{from: c.from, uid: c.UID(), lockspace: r.Want.Lockspace, resource: r.Want.Resource, mode: r.Want.Mode,
		owner: r.Options.Owner, label: r.Options.Label}
	started := func(ref api.Ref, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		p.ref = ref
		there := s.requests.add(p)
		c.reply(p.path())
		if there {
			s.subs.added(p.path(), requestFace, p)
		}
	}
	r.Run(&c.Call, started, s.completed(p))
}

// completed takes the end of a Request. It keeps p alone: a Request may wait
// for days.
func (s *Server) completed(p *pending) func(api.Grant, error) {
	return func(g api.Grant, err error) {
		done, ok := s.requests.end(p, g, err)
		if !ok {
			return // the requester is gone
		}
		defer s.requests.told()
		name, text := done.failure()
		s.out.post(letter{class: mustSend, lane: p.uid, dest: p.from.name, path: done.path(), iface: requestIface, member: "Completed",
			sig: sigCompleted, body: []any{done.state.String(), lockOrNone(done.grant.Ref), uint32(done.grant.LockID), done.grant.Token, name, text}})
		s.subs.changed(done.path(), requestFace, &done)
	}
}

// requestState is how far a Request has got.
type requestState uint8

const (
	stateWaiting requestState = iota
	stateGranted
	stateCanceled
	stateFailed
)

func (s requestState) String() string {
	return [...]string{"waiting", "granted", "canceled", "failed"}[s]
}

// pending is one Request: while it waits, and for a while after it.
type pending struct {
	num       uint64 // of its path
	ref       api.Ref
	from      *session
	uid       uint32
	state     requestState
	mode      dlm.Mode
	lockspace string
	resource  string
	owner     string
	label     string
	since     time.Time // when it began to wait
	ended     time.Time
	grant     grantID
	err       error
	position  int // looked up to be read
}

// grantID is what a Request has brought; zero while it waits.
type grantID struct {
	Ref    api.Ref
	LockID dlm.LockID
	Token  uint64
}

func (p *pending) path() godbus.ObjectPath {
	return godbus.ObjectPath(RequestPrefix + strconv.FormatUint(p.num, 10))
}

// failure is the name and text of the error that a Request ended with.
func (p *pending) failure() (name, text string) {
	if p.err == nil {
		return "", ""
	}
	return errorName(p.err), errorText(p.err)
}

// finish notes how it ended.
func (p *pending) finish(g api.Grant, err error) {
	p.ended, p.err = time.Now(), err
	switch {
	case err == nil:
		p.state, p.grant = stateGranted, grantID{g.Ref, g.LockID, g.Token}
	case errors.Is(err, api.Canceled):
		p.state = stateCanceled
	default:
		p.state = stateFailed
	}
}

// requestFace is the interface of a Request.
var requestFace = newIface(requestIface, []property{
	text("Lockspace", emitsConst, func(p *pending) string { return p.lockspace }),
	text("Resource", emitsConst, func(p *pending) string { return p.resource }),
	text("Mode", emitsConst, func(p *pending) string { return modeName(p.mode) }),
	text("Owner", emitsConst, func(p *pending) string { return p.owner }),
	text("Label", emitsConst, func(p *pending) string { return p.label }),
	prop("UID", "u", emitsConst, func(_ *Server, p *pending) any { return p.uid }),
	prop("Since", "t", emitsConst, func(_ *Server, p *pending) any { return usec(p.since) }),
	text("State", emitsTrue, func(p *pending) string { return p.state.String() }),
	prop("Lock", "o", emitsTrue, func(_ *Server, p *pending) any { return lockOrNone(p.grant.Ref) }),
	prop("LockID", "u", emitsTrue, func(_ *Server, p *pending) any { return uint32(p.grant.LockID) }),
	prop("Token", "t", emitsTrue, func(_ *Server, p *pending) any { return p.grant.Token }),
	text("ErrorName", emitsTrue, func(p *pending) string { name, _ := p.failure(); return name }),
	text("ErrorMessage", emitsTrue, func(p *pending) string { _, text := p.failure(); return text }),
	prop("Position", "u", emitsFalse, func(_ *Server, p *pending) any { return uint32(p.position) }),
}, &method{name: "Cancel", parse: func(*reader) (request, error) { return cancelRequest{}, nil }})

// findRequest finds the Request that the call is for.
func (c *call) findRequest() (*pending, error) {
	num, ok := number(c.id)
	if ok {
		if p, ok := c.srv.requests.find(num); ok {
			return &p, nil
		}
	}
	return nil, c.noObject("request")
}

// lookRequest adds the place in the queue, which the service knows.
func lookRequest(c *call) (any, error) {
	p, err := c.findRequest()
	if err == nil && p.state == stateWaiting {
		p.position, err = ask(c, func(done func(int)) { c.srv.service().Position(p.ref, done) })
	}
	return p, err
}

func requestChildren(c *call) ([]string, error) {
	var names []string
	for _, p := range c.srv.requests.list(MaxListed) {
		names = append(names, strconv.FormatUint(p.num, 10))
	}
	return names, nil
}

type cancelRequest struct{ own }

func (cancelRequest) serve(c *call) {
	p, err := c.findRequest()
	if err != nil {
		c.Fail(err)
		return
	}
	m := frontend.CancelRequest{Request: p.ref, Owner: p.owner,
		Want: api.Want{Lockspace: p.lockspace, Resource: p.resource, Mode: p.mode}}
	m.Run(&c.Call, c.done)
}
