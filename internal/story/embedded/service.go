package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/internal/story"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// service is the daemon of a node as one connection sees it. It implements
// story.Service: it makes of the calls what a front end and package client do.
type service struct {
	n      *node
	caller api.Caller
	bus    int // the bus that it is a connection to
}

// Done tells package story whether the connection has ended: it does with its bus.
func (s *service) Done() <-chan struct{} {
	done := make(chan struct{})
	if s.bus != s.n.bus {
		close(done)
	}
	return done
}

var (
	_ story.Service  = (*service)(nil)
	_ story.Canceler = (*service)(nil)
)

// Dial implements story.Backend. Each connection has a name of its own.
func (c *cluster) Dial(_ context.Context, who story.Caller, id int) (story.Service, error) {
	n := c.node(id)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dialed++
	return &service{n: n, bus: n.bus, caller: api.Caller{
		UID: who.UID, PID: who.PID, Privileged: who.UID == 0, Session: n.session(fmt.Sprintf(":%s.%d", who.Name, n.dialed)),
	}}, nil
}

func (n *node) current() *daemon {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.daemon
}

func (n *node) setDaemon(d *daemon) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.daemon = d
}

var errNotRunning = &client.Error{Kind: client.NotRunning, Message: "the service does not run"}

// call makes an asynchronous call of the daemon wait for its answer.
func call[T any](ctx context.Context, s *service, do func(d *daemon, done func(T, error))) (T, error) {
	type result struct {
		v   T
		err error
	}
	var none T
	d := s.n.current()
	if d == nil {
		return none, errNotRunning
	}
	answer := make(chan result, 1)
	do(d, func(v T, err error) { answer <- result{v, err} })
	story.Asked(ctx)
	var r result
	select {
	case r = <-answer:
	case <-d.killed:
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
	select {
	case <-d.killed: // whatever it says now, nobody hears it
		return none, errNotRunning
	default:
		return r.v, refused(r.err)
	}
}

func call0(ctx context.Context, s *service, do func(d *daemon, done func(error))) error {
	_, err := call(ctx, s, func(d *daemon, done func(struct{}, error)) {
		do(d, func(err error) { done(struct{}{}, err) })
	})
	return err
}

// refused makes of an error of the service what package client makes of it.
func refused(err error) error {
	var e *api.Error
	if !errors.As(err, &e) {
		return err
	}
	out := &client.Error{Op: e.Op, Kind: client.Kind(e.Kind), Message: e.Error()}
	if len(e.Candidates) > 0 {
		out.Err = &story.Candidates{Locks: locksOf(e.Candidates)}
	}
	return out
}

func wantOf(w client.Want) api.Want {
	mode, _ := dlm.ParseMode(w.Mode) // one that is no mode is refused by the service
	return api.Want{Lockspace: w.Lockspace, Resource: w.Resource, Mode: mode}
}

func wantsOf(want []client.Want) []api.Want {
	all := make([]api.Want, len(want))
	for i, w := range want {
		all[i] = wantOf(w)
	}
	return all
}

func valueOf(text []byte) *dlm.Value {
	if text == nil {
		return nil
	}
	v := new(dlm.Value)
	copy(v[:], text)
	return v
}

func optionsOf(o story.Options) api.AcquireOptions {
	lifetime, _ := state.ParseLifetime(o.Lifetime)
	return api.AcquireOptions{Owner: o.Owner, HasOwner: o.HasOwner, Label: o.Label, Lifetime: lifetime, PID: o.PID,
		Start: o.Start, HasStart: o.Start != 0, Value: valueOf(o.Value), Wait: o.Wait}
}

func selectorOf(s client.Selector) api.Selector {
	return api.Selector{Owner: s.Owner, HasOwner: s.Owner != "", LockID: dlm.LockID(s.LockID)}
}

// Acquire implements story.Service. A wait without end, or longer than one call
// may last, is a Request, as in package client.
func (s *service) Acquire(ctx context.Context, w client.Want, o story.Options) (client.Grant, error) {
	if o.Wait < 0 || o.Wait > api.MaxWait {
		return s.request(ctx, w, o)
	}
	g, err := s.AcquireMany(ctx, []client.Want{w}, o)
	if err != nil {
		return client.Grant{}, err
	}
	return g[0], nil
}

// AcquireMany implements story.Service.
func (s *service) AcquireMany(ctx context.Context, want []client.Want, o story.Options) ([]client.Grant, error) {
	grants, err := call(ctx, s, func(d *daemon, done func([]api.Grant, error)) {
		d.Acquire(s.caller, wantsOf(want), optionsOf(o), done)
	})
	all := make([]client.Grant, len(grants))
	for i := range grants {
		all[i] = grantOf(&grants[i])
	}
	return all, err
}

func (s *service) request(ctx context.Context, w client.Want, o story.Options) (client.Grant, error) {
	wait := o.Wait
	o.Wait = 0
	if wait > 0 {
		over := time.AfterFunc(wait, func() { _ = s.CancelJob(context.Background(), story.JobOf(ctx)) })
		defer over.Stop()
	}
	g, err := call(ctx, s, func(d *daemon, done func(api.Grant, error)) {
		d.Request(s.caller, wantOf(w), optionsOf(o), func(ref api.Ref, err error) {
			s.n.setRequest(story.JobOf(ctx), ref)
			if err != nil {
				done(api.Grant{}, err)
			}
		}, done)
	})
	return grantOf(&g), err
}

// CancelJob implements story.Canceler. The request may be that of another
// connection, which is refused for another user.
func (s *service) CancelJob(ctx context.Context, job string) error {
	ref := s.n.request(job)
	return call0(ctx, s, func(d *daemon, done func(error)) { d.CancelRequest(s.caller, ref, done) })
}

// ConvertValue implements story.Service.
func (s *service) ConvertValue(ctx context.Context, w client.Want, sel client.Selector, wait time.Duration,
	value []byte) (uint64, error) {
	g, err := call(ctx, s, func(d *daemon, done func(api.Grant, error)) {
		d.Convert(s.caller, wantOf(w), selectorOf(sel), api.ConvertOptions{Wait: wait, Value: valueOf(value)}, done)
	})
	return g.Token, err
}

// Release implements story.Service.
func (s *service) Release(ctx context.Context, lockspace, resource string, sel client.Selector) error {
	return call0(ctx, s, func(d *daemon, done func(error)) {
		d.Release(s.caller, lockspace, resource, selectorOf(sel), done)
	})
}

// ReleaseOwner implements story.Service.
func (s *service) ReleaseOwner(ctx context.Context, lockspace, owner string) (uint32, error) {
	return call(ctx, s, func(d *daemon, done func(uint32, error)) { d.ReleaseOwner(s.caller, lockspace, owner, done) })
}

// ReleaseLabel implements story.Service.
func (s *service) ReleaseLabel(ctx context.Context, resources []client.Want, owner, label string) (uint32, error) {
	var labels []string
	if label != "" {
		labels = []string{label}
	}
	return call(ctx, s, func(d *daemon, done func(uint32, error)) {
		d.ReleaseMany(s.caller, wantsOf(resources), owner, labels, done)
	})
}

// Join implements story.Service.
func (s *service) Join(ctx context.Context, lockspace string) error {
	return call0(ctx, s, func(d *daemon, done func(error)) { d.Join(s.caller, lockspace, done) })
}

// Leave implements story.Service.
func (s *service) Leave(ctx context.Context, lockspace string, force bool) error {
	return call0(ctx, s, func(d *daemon, done func(error)) { d.Leave(s.caller, lockspace, force, done) })
}

// Orphans implements story.Service.
func (s *service) Orphans(ctx context.Context, lockspace string) ([]client.Orphan, error) {
	found, err := call(ctx, s, func(d *daemon, done func([]api.Orphan, error)) { d.Orphans(lockspace, done) })
	var all []client.Orphan
	for _, o := range found {
		one := client.Orphan{LockID: uint32(o.LockID), Resource: o.Resource, Mode: o.Mode.String()}
		if o.HasHolder {
			one.Token, one.Who = o.Holder.Token, o.Holder.Who
		}
		all = append(all, one)
	}
	return all, err
}

// Adopt implements story.Service.
func (s *service) Adopt(ctx context.Context, lockspace string, o client.Orphan, a client.Adoption) (uint64, error) {
	mode, err := dlm.ParseMode(o.Mode)
	if err != nil {
		return 0, err
	}
	g, err := call(ctx, s, func(d *daemon, done func(api.Grant, error)) {
		d.AdoptOrphan(s.caller, lockspace, dlm.LockID(o.LockID), api.AdoptOptions{Owner: a.Owner, HasOwner: a.Owner != "",
			Label: a.Label, Resource: o.Resource, Mode: mode, HasMode: true}, done)
	})
	return g.Token, err
}

// Purge implements story.Service.
func (s *service) Purge(ctx context.Context, lockspace string, lockids []uint32) (uint32, error) {
	var ids []dlm.LockID
	for _, id := range lockids {
		ids = append(ids, dlm.LockID(id))
	}
	return call(ctx, s, func(d *daemon, done func(uint32, error)) { d.Purge(s.caller, lockspace, ids, false, done) })
}

// Close implements story.Service: the caller leaves the bus.
func (s *service) Close() error {
	s.n.forget(s)
	if d := s.n.current(); d != nil {
		d.SessionGone(s.caller.Session)
	}
	return nil
}
