package client

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/process"
)

// grantReply is a Grant.
type grantReply struct {
	Lockspace string `json:"lockspace"`
	Resource  string `json:"resource"`
	LockID    uint32 `json:"lockId"`
	Token     uint64 `json:"token"`
	Lock      string `json:"lock"`
}

func (r *grantReply) grant(mode string) Grant {
	return Grant{r.Lockspace, r.Resource, dlm.Canonical(mode), r.LockID, r.Token, named(r.Lock)}
}

// options are the parameters that Acquire and AcquireMany share. The start time tells a process
// from a later one with the same pid. If it can't be read here (another pid namespace), the
// service reads it.
func (v *varlink) options(o *Options) parameters {
	p := parameters{}
	put(p, "owner", o.Owner)
	put(p, "label", o.Label)
	put(p, "lifetime", o.Lifetime)
	put(p, "onLost", o.OnLost)
	put(p, "onLostData", o.OnLostData)
	put(p, "allowInteractiveAuthentication", v.interaction)
	if o.PID != 0 {
		p["processId"] = o.PID
		if start, err := process.Start(o.PID); err == nil {
			p["processStartTicks"] = start
		}
	}
	if o.Value != nil {
		p["value"] = o.Value
	}
	return p
}

func (v *varlink) acquire(ctx context.Context, w Want, o Options, wait time.Duration) (Grant, error) {
	p := v.options(&o)
	put(p, "waitUSec", uint64(wait/time.Microsecond))
	return v.take(ctx, "Acquire", w, o, p)
}

// queued is one call for as long as the service lives. A lock with an owner is requested
// again if the service is restarted, which puts it at the end of the queue.
//
// Without an owner a call that was cut off is not repeated: the grant may have come just
// before, and a second request would then be a second lock, which waits for the first. A
// service that stops in order says that it has not granted it (ShuttingDown).
func (v *varlink) queued(ctx context.Context, w Want, o Options) (Grant, error) {
	end := time.Now().Add(o.Wait)
	for there := false; ; there = true {
		p := v.options(&o)
		if o.Wait > 0 {
			p["waitUSec"] = uint64(max(time.Until(end), time.Microsecond) / time.Microsecond)
		}
		var g Grant
		call := func() (err error) {
			g, err = v.take(ctx, "Request", w, o, p)
			return err
		}
		var err error
		if there {
			err = Patiently(ctx, call)
		} else {
			err = call()
		}
		var e *Error
		switch {
		case !errors.As(err, &e), ctx.Err() != nil, v.closed(), o.Wait > 0 && time.Now().After(end):
			return g, err
		case e.Kind != ShuttingDown && (e.Kind != NoAnswer || o.Owner == ""):
			return g, err
		}
	}
}

// take makes the call Acquire. A lock of lifetime "connection" gets a connection of its
// own, on which the service goes on after the grant.
func (v *varlink) take(ctx context.Context, op string, w Want, o Options, p parameters) (Grant, error) {
	p["lockspace"], p["resource"], p["mode"] = w.Lockspace, w.Resource, w.Mode
	var r struct {
		Granted *grantReply `json:"granted"`
	}
	read := func(text json.RawMessage) error {
		if err := json.Unmarshal(text, &r); err != nil || r.Granted != nil {
			return err
		}
		return errors.New("the reply has no grant")
	}
	// Without a limit, a call with "more" waits for ever, and one without "more" not at all.
	_, limited := p["waitUSec"]
	var err error
	switch {
	case o.Lifetime == Connection:
		if !limited && op == "Acquire" {
			p["waitUSec"] = 0
		}
		err = v.onItsOwn(ctx, op, p, read)
	default:
		err = v.each(ctx, op, Name+".Acquire", p, !limited && op != "Acquire", read)
	}
	if err != nil {
		return Grant{Lockspace: w.Lockspace, Resource: w.Resource, Mode: dlm.Canonical(w.Mode)}, err
	}
	return r.Granted.grant(w.Mode), nil
}

// onItsOwn makes the call Acquire on a new connection, which then stays open as long as
// the lock is there: a goroutine reads until the service says that it is not.
func (v *varlink) onItsOwn(ctx context.Context, op string, p parameters, first func(json.RawMessage) error) error {
	if err := checkStrings(p); err != nil {
		return &Error{Op: op, Kind: InvalidArgs, Message: err.Error()}
	}
	c, err := v.pool.dial(ctx)
	if err != nil {
		return varlinkError(op, err)
	}
	// The call goes on after the grant, without the caller's context.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	withdraw := context.AfterFunc(ctx, end)
	answered := make(chan error, 1)
	go func() {
		defer end()
		defer func() { _ = c.sock.Close() }()
		told := false
		err := v.on(life, c, op, Name+".Acquire", p, true, func(text json.RawMessage) error {
			if told {
				return nil
			}
			err := first(text)
			if told = err == nil; told {
				answered <- nil
			}
			return err
		})
		if !told {
			answered <- err
		}
	}()
	err = <-answered
	// The grant counts only if the context has not ended: otherwise withdraw has closed the
	// connection, or is about to, and the lock ends with it.
	if !withdraw() { // ctx has ended, and the connection with it
		return varlinkError(op, ctx.Err())
	}
	return err
}

func (v *varlink) acquireMany(ctx context.Context, want []Want, o Options, wait time.Duration) ([]Grant, error) {
	p := v.options(&o)
	put(p, "waitUSec", uint64(wait/time.Microsecond))
	delete(p, "value") // a value is for one resource
	wanted := make([]parameters, len(want))
	for i, w := range want {
		wanted[i] = parameters{"lockspace": w.Lockspace, "resource": w.Resource, "mode": w.Mode}
	}
	p["wanted"] = wanted
	var r struct {
		Granted []grantReply `json:"granted"`
	}
	if err := v.many(ctx, o, p, &r); err != nil {
		return nil, err
	}
	grants := make([]Grant, len(r.Granted))
	for i := range r.Granted {
		grants[i] = r.Granted[i].grant("")
	}
	return grants, nil
}

// many makes the call AcquireMany. The connection to which locks of lifetime "connection"
// are tied stays open until the client is closed: the service does not say when they are
// gone.
func (v *varlink) many(ctx context.Context, o Options, p parameters, out any) error {
	const op = "AcquireMany"
	if o.Lifetime != Connection {
		return v.call(ctx, op, Name+"."+op, p, out)
	}
	if err := checkStrings(p); err != nil {
		return &Error{Op: op, Kind: InvalidArgs, Message: err.Error()}
	}
	c, err := v.pool.dial(ctx)
	if err != nil {
		return varlinkError(op, err)
	}
	err = v.on(ctx, c, op, Name+"."+op, p, false, func(text json.RawMessage) error { return json.Unmarshal(text, out) })
	if err == nil && c.cut { // the locks end with the connection
		err = varlinkError(op, ctx.Err())
	}
	if err != nil {
		_ = c.sock.Close()
		return err
	}
	v.pool.hold(c)
	return nil
}

func (s *Selector) parameters() parameters {
	p := parameters{}
	put(p, "owner", s.Owner)
	put(p, "lockId", s.LockID)
	put(p, "token", s.Token)
	put(p, "lock", number(s.Lock))
	return p
}

func (v *varlink) convert(ctx context.Context, w Want, s Selector, wait time.Duration,
	value []byte) (token uint64, err error) {
	p := parameters{"lockspace": w.Lockspace, "resource": w.Resource, "mode": w.Mode, "select": s.parameters()}
	put(p, "waitUSec", uint64(wait/time.Microsecond))
	put(p, "allowInteractiveAuthentication", v.interaction)
	if value != nil {
		p["value"] = value
	}
	var r struct {
		Token uint64 `json:"token"`
	}
	err = v.call(ctx, "Convert", Name+".Convert", p, &r)
	return r.Token, err
}

func (v *varlink) release(ctx context.Context, lockspace, resource string, s Selector) error {
	p := parameters{"lockspace": lockspace, "resource": resource, "select": s.parameters()}
	put(p, "allowInteractiveAuthentication", v.interaction)
	return v.call(ctx, "Release", Name+".Release", p, nil)
}

// released is the reply of ReleaseOwner and ReleaseMany.
type releasedReply struct {
	Released uint32 `json:"released"`
}

func (v *varlink) releaseOwner(ctx context.Context, lockspace, owner string) (released uint32, err error) {
	p := parameters{"owner": owner}
	put(p, "lockspace", lockspace)
	var r releasedReply
	err = v.call(ctx, "ReleaseOwner", Name+".ReleaseOwner", p, &r)
	return r.Released, err
}

func (v *varlink) releaseMany(ctx context.Context, resources []Want, owner string) (released uint32, err error) {
	rows := make([]parameters, len(resources))
	for i, w := range resources {
		rows[i] = parameters{"lockspace": w.Lockspace, "resource": w.Resource}
	}
	var r releasedReply
	err = v.call(ctx, "ReleaseMany", Name+".ReleaseMany", parameters{"resources": rows, "owner": owner}, &r)
	return r.Released, err
}

// upper is a mode as this package has it.
func upper(mode *string) string {
	if mode == nil {
		return ""
	}
	return strings.ToUpper(*mode)
}

// value returns what a pointer points to; nil is zero.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
