package dbus

import (
	"errors"
	"log/slog"
	"strconv"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// requestOptions are the options of Request.
var requestOptions = acquireOptions[:len(acquireOptions)-1] // all but wait-usec

// queue is Request.
type queue struct {
	want api.Want
	opts api.AcquireOptions
}

func parseRequest(body *reader) (request, error) {
	want, err := parseWant("request", body)
	if err != nil {
		return nil, err
	}
	r := &queue{want: want}
	if err := parseOptions("request", requestOptions, body, &r.opts); err != nil {
		return nil, err
	}
	return r, checkTogether("request", &r.opts)
}

// serve: the answer goes out when the Request waits, and Completed after it,
// since the service says both on one goroutine and they are in one lane.
func (r *queue) serve(c *call) {
	if err := c.authorize(api.ActAcquire, wanted("request", r.want, r.opts.Owner)); err != nil {
		c.fail(err)
		return
	}
	s := c.srv
	p := &pending{peer: c.peer, uid: c.who.uid, lockspace: r.want.Lockspace, resource: r.want.Resource, mode: r.want.Mode,
		owner: r.opts.Owner, label: r.opts.Label}
	started := func(ref api.Ref, err error) {
		defer c.contain()
		if err != nil {
			c.fail(err)
			return
		}
		p.ref = ref
		there := s.requests.add(p)
		c.reply(p.path())
		if there {
			s.subs.added(p.path(), requestFace, p)
		}
	}
	s.api.Request(c.caller(), r.want, r.opts, started, s.completed(p))
}

// completed takes the end of a Request. It keeps p alone: a Request may wait
// for days.
func (s *Server) completed(p *pending) func(api.Grant, error) {
	return func(g api.Grant, err error) {
		defer func() {
			if v := recover(); v != nil {
				s.log.Error("the end of a request panicked", slog.Any("err", v))
			}
		}()
		done, ok := s.requests.end(p, g, err)
		if !ok {
			return // the requester is gone
		}
		defer s.requests.told()
		name, text := done.failure()
		s.out.post(letter{class: mustSend, lane: p.uid, dest: p.peer.name, path: done.path(), iface: requestIface, member: "Completed",
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
	peer      *peer
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
		p.position, err = ask(c, func(done func(int)) { c.srv.api.Position(p.ref, done) })
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

type cancelRequest struct{}

// serve: as for Release, the authoriser is asked only where the Request is
// another user's.
func (r cancelRequest) serve(c *call) {
	p, err := c.findRequest()
	if err != nil {
		c.fail(err)
		return
	}
	r.cancel(c, p, c.caller())
}

func (r cancelRequest) cancel(c *call, p *pending, who api.Caller) {
	c.srv.api.CancelRequest(who, p.ref, func(err error) {
		defer c.contain()
		switch {
		case err == nil:
			c.reply()
		case errors.Is(err, api.AccessDenied) && !who.Privileged:
			go r.cancelOthers(c, p, who)
		default:
			c.fail(err)
		}
	})
}

func (r cancelRequest) cancelOthers(c *call, p *pending, who api.Caller) {
	defer c.contain()
	if err := c.authorize(api.ActReleaseOthers, about{op: "cancel", lockspace: p.lockspace, resource: p.resource, mode: modeName(p.mode), owner: p.owner}); err != nil {
		c.fail(err)
		return
	}
	who.Privileged = true
	r.cancel(c, p, who)
}
