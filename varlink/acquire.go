package varlink

import (
	"errors"
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// descriptor is the lifetime that the service knows nothing of.
const descriptor = "descriptor"

// acquire is Acquire. What is to wait for longer than the service lets a call
// wait is a Request there.
//
// It has two ends: the connection's goroutine, which reads, writes, and notices that
// the client is gone (leave), and the owner of the table, which brings the start and
// the grant (started, granted). mu guards what both use; it is held for a few
// assignments only, since the owner must not be kept waiting.
type acquire struct {
	acquireIn
	now    frontend.Acquire // a wait of MaxWait at most
	queue  frontend.Request // any wait
	queues bool             // which of them
	limit  time.Duration    // of the wait, where it queues; 0: none
	holds  bool             // it goes on after the grant
	pipe   *pipe            // lifetime descriptor

	mu    sync.Mutex
	ref   api.Ref       // of the Request, while it waits
	why   error         // how a wait ends that was ended here; the first reason counts
	timer *time.Timer   // of limit; nil: there is none, or it does not run yet
	ended chan struct{} // closed when a wait that queues has ended; nil if it does not queue
	held  api.Ref       // the lock that a call that goes on is about
}

// method decides what the call is. The service knows no descriptors: such a lock is one
// of lifetime connection on a session of its own, which ends with the descriptor. A call
// without waitUSec does not wait, unless it has the flag more: then it waits for as long
// as the client stays.
func (a *acquire) method(w *wire.Call) (frontend.Method, error) {
	fd := a.Lifetime != nil && *a.Lifetime == descriptor
	if fd {
		a.Lifetime = some("connection")
	}
	a.holds = w.More && !fd && a.Lifetime != nil && *a.Lifetime == "connection"
	a.queues = a.WaitUSec == nil && w.More || a.WaitUSec != nil && *a.WaitUSec > uint64(api.MaxWait/time.Microsecond)
	if err := a.possible(w, fd); err != nil {
		return nil, err
	}
	want, err := wanted(a.name, a.Mode)
	if err != nil {
		return nil, about(err, "acquire", a.name)
	}
	if a.queues {
		return a.request(want, w)
	}
	a.now.Want = want
	s := setter[frontend.Acquire]{table: frontend.AcquireOptions, into: &a.now}
	s.options(&a.options, w)
	given(&s, api.ArgLabel, a.Label)
	given(&s, api.ArgWait, a.WaitUSec)
	if a.Value != nil {
		s.set(api.ArgValue, a.Value)
	}
	return s.done("acquire")
}

// request makes a Request of the call. The service puts no limit on its wait, so waitUSec
// becomes a timer here (started).
func (a *acquire) request(want api.Want, w *wire.Call) (frontend.Method, error) {
	a.queue.Want, a.ended = want, make(chan struct{})
	if a.WaitUSec != nil {
		a.limit = time.Duration(min(*a.WaitUSec, maxWaitUSec)) * time.Microsecond
	}
	s := setter[frontend.Request]{table: frontend.RequestOptions, into: &a.queue}
	s.options(&a.options, w)
	given(&s, api.ArgLabel, a.Label)
	if a.Value != nil {
		s.set(api.ArgValue, a.Value)
	}
	return s.done("acquire")
}

// maxWaitUSec is a wait that is as good as one without end: 30 years.
const maxWaitUSec = 30 * 365 * 24 * 3600 * 1000 * 1000

// possible checks what only this door has.
func (a *acquire) possible(w *wire.Call, fd bool) error {
	invalid := func(arg api.Argument, text string) error {
		return &api.Error{Op: "acquire", Kind: api.InvalidArgs, Mode: dlm.None, Argument: arg, Text: text}
	}
	switch {
	case w.Oneway && fd:
		return invalid(api.ArgLifetime, "a oneway call has no reply that a descriptor could come with")
	case w.Oneway && a.queues:
		return invalid("waitUSec", "a oneway call waits for 20000000 (20 s) at most")
	case isTrue(a.Progress) && !w.More:
		return invalid("progress", "it needs a call with the flag more")
	}
	if fd {
		a.pipe = new(pipe)
	}
	return nil
}

// session implements sessionChooser: a lock of lifetime descriptor hangs on a
// session of its own. The pipe is made before the lock is taken, because a grant could
// not be answered without it.
func (a *acquire) session(c *call, of *frontend.Session) (*frontend.Session, error) {
	if a.pipe == nil {
		return of, nil
	}
	if err := a.pipe.open(c); err != nil {
		a.pipe = nil
		return of, &api.Error{Op: "acquire", Kind: api.LimitExceeded, Mode: dlm.None, Err: err,
			Text: "no descriptor can be made: " + err.Error()}
	}
	c.after = a.pipe.sent
	return a.pipe.session, nil
}

// run implements input. The answers come on the owner's goroutine, maybe before run
// returns.
func (a *acquire) run(c *call) {
	if a.queues {
		a.queue.Run(&c.Call, func(r frontend.RequestInfo, err error) { a.started(c, r, err) },
			func(r frontend.RequestInfo) { a.granted(c, r.Grant, a.reason(r.Err)) })
		return
	}
	a.now.Run(&c.Call, func(g api.Grant, err error) { a.granted(c, g, err) })
}

// started takes the number of a Request that waits. After an error there is no Request,
// and granted does not come.
func (a *acquire) started(c *call, r frontend.RequestInfo, err error) {
	if err != nil {
		c.Fail(err)
		return
	}
	a.mu.Lock()
	a.ref = r.Ref
	why := a.why
	if why == nil && a.limit > 0 {
		a.timer = time.AfterFunc(a.limit, func() { a.withdraw(c, a.timeout()) })
	}
	a.mu.Unlock()
	if why != nil {
		a.withdraw(c, why) // the client, or the service, has gone meanwhile
		return
	}
	if isTrue(a.Progress) {
		go a.report(c, r.Number)
	}
}

// timeout returns the error of a wait whose time is over, which looks like that of Acquire in the
// service. Only the table knows the holder; reason adds it.
func (a *acquire) timeout() error {
	return &api.Error{Op: "acquire", Lockspace: a.Lockspace, Resource: a.Resource, Mode: a.queue.Want.Mode,
		Kind: api.Timeout, Text: "not granted in the time given", Hint: api.HintWaitLonger}
}

// withdraw ends a wait. If the lock is granted all the same, the caller gets it. Before
// started has come there is nothing to cancel yet: why is noted, and started goes on
// with it. The answer of CancelRequest is of no use, since granted comes in any case.
func (a *acquire) withdraw(c *call, why error) {
	a.mu.Lock()
	ref := a.ref
	if a.why == nil {
		a.why = why
	}
	a.mu.Unlock()
	if ref != 0 {
		c.door.cfg.Core.Service().CancelRequest(c.Caller(), ref, func(error) {})
	}
}

// reason is how a Request ended; one that was withdrawn here says why.
func (a *acquire) reason(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.ended)
	if a.timer != nil {
		a.timer.Stop() // otherwise it would keep the call in memory, for up to maxWaitUSec
	}
	if a.why == nil || !errors.Is(err, api.Canceled) {
		return err
	}
	var why, end *api.Error
	if errors.As(a.why, &why) && why.Kind == api.Timeout && errors.As(err, &end) {
		why.Holder = end.Holder
	}
	return a.why
}

// leave implements leaver. What is left to do depends on how far the call has come: a
// lock that is held stays for the session to release (HungUp), a wait is withdrawn, and
// a call that waits for 20 s at most gets its answer by itself.
func (a *acquire) leave(c *call, why error) {
	a.mu.Lock()
	held := a.held
	a.mu.Unlock()
	switch {
	case held != 0:
		c.endHeld(held, why)
	case a.queues:
		a.withdraw(c, why)
	}
	// Nobody will get the descriptor of a client that is gone. If only the service ends,
	// the grant may still come, and with it a copy of the descriptor is kept.
	if a.pipe != nil && errors.Is(why, api.Canceled) {
		a.pipe.close()
	}
}

// endHeld ends a call that goes on about a lock. If the service ends, the next start
// goes on with that of a kept connection.
func (c *call) endHeld(ref api.Ref, why error) {
	c.door.unhold(ref, c)
	if c.conn.kept != "" && errors.Is(why, errEnding) {
		c.Drop()
		return
	}
	c.Fail(why)
}

// granted takes the end of the wait, on the owner's goroutine. The order counts: the
// door knows the lock (pipe.granted, hold) before the next notice of the service can
// come, so a loss right after the grant is told after it.
func (a *acquire) granted(c *call, g api.Grant, err error) {
	if err != nil {
		c.Fail(err)
		return
	}
	out := acquireOut{Granted: grantOf(&g)}
	switch {
	case a.pipe != nil:
		out.LockFileDescriptor = some(0)
		if c.Answer() {
			a.pipe.granted(g.Ref)
			c.replies.Add(message{parameters: out, file: a.pipe})
		}
	case a.holds:
		a.mu.Lock()
		a.held = g.Ref
		a.mu.Unlock()
		c.door.hold(g.Ref, c)
		c.replies.Add(message{make: func() any { return out }, more: true, keep: true, held: g.Ref})
	case c.Answer(): // false: the call was answered otherwise, and its session releases the lock
		c.replies.Add(message{parameters: out, keep: a.Lifetime != nil && *a.Lifetime == "connection"})
	}
	c.door.asked(&g)
}

// acquireMany is AcquireMany.
type acquireMany struct {
	acquireManyIn
	m frontend.AcquireMany
}

// method puts the labels in. The service takes either one label for all locks or a
// label for each; here a lock may have its own beside that of the call, so the call has
// one for each as soon as one lock has.
func (a *acquireMany) method(w *wire.Call) (frontend.Method, error) {
	s := setter[frontend.AcquireMany]{table: frontend.AcquireManyOptions, into: &a.m}
	s.options(&a.options, w)
	given(&s, api.ArgWait, a.WaitUSec)
	var labels []string
	for i := range a.Wanted {
		w := &a.Wanted[i]
		n := name{w.Lockspace, w.Resource}
		want, err := wanted(n, w.Mode)
		if err != nil {
			return nil, about(err, "acquire", n)
		}
		a.m.Wants = append(a.m.Wants, want)
		label := w.Label
		if label == nil {
			label = a.Label
		}
		labels = append(labels, deref(label))
		if w.Label != nil {
			s.set(api.ArgLabels, labels[i:]) // checked here alone, so that the error is about this one
		}
	}
	if a.m.Options.Labels != nil {
		s.set(api.ArgLabels, labels)
	} else {
		given(&s, api.ArgLabel, a.Label)
	}
	return s.done("acquire")
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (a *acquireMany) run(c *call) {
	a.m.Run(&c.Call, func(grants []api.Grant, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		out := acquireManyOut{Granted: make([]grant, len(grants))}
		for i := range grants {
			out.Granted[i] = *grantOf(&grants[i])
			c.door.asked(&grants[i])
		}
		if c.Answer() {
			keep := a.Lifetime != nil && *a.Lifetime == "connection" && len(grants) > 0
			c.replies.Add(message{parameters: out, keep: keep})
		}
	})
}

// convert is Convert.
type convert struct {
	convertIn
	m frontend.Convert
}

func (v *convert) method(*wire.Call) (frontend.Method, error) {
	var err error
	if v.m.Want, err = wanted(v.name, v.Mode); err != nil {
		return nil, about(err, "convert", v.name)
	}
	s := setter[frontend.Convert]{table: frontend.ConvertOptions, into: &v.m}
	given(&s, api.ArgWait, v.WaitUSec)
	if v.Value != nil {
		s.set(api.ArgValue, v.Value)
	}
	s.selector(v.Select)
	return s.done("convert")
}

func (v *convert) run(c *call) {
	v.m.Run(&c.Call, func(g api.Grant, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		c.reply(convertOut{g.Token})
	})
}
