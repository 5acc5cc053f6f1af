package frontend

import (
	"errors"
	"log/slog"
	"runtime/debug"
	"sync/atomic"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Call is one call of a session. A door embeds it in a type of its own, fills
// in the exported fields and submits it; the rest is Core's.
type Call struct {
	Name        string // of the method, in the door's words, for the log
	Size        int    // bytes of the message: long ones cost more
	Interactive bool   // the caller allows that a person is asked for authorisation

	core    *Core
	session *Session // nil: answered by the reader, in no session's queue
	handler Handler
	// What the call is answered with at its turn, instead of being served. It waits for
	// its turn all the same, so that refusals are in the order of the calls and cost as
	// much as answers.
	refusal error
	// What the method costs by itself; toll adds what its message cost.
	cost Cost
	// How much of the room for unanswered calls of its session and its user it takes.
	weight int32
	// turnAwaited, turnTaken or turnOver: who may answer. A call can be answered while it
	// waits for its turn, because the session or the service ends, and must not be served
	// then.
	turn      atomic.Uint32
	unchecked bool // the user was not known when it came
	// Set by whoever answers or drops the call first, on whatever goroutine. Nobody
	// answers it after that.
	answered atomic.Bool
}

// Handler is the door's side of a call.
type Handler interface {
	// Serve runs the method. It is called on a goroutine of the session, in the
	// order of the calls, and may block in the authoriser.
	Serve()
	// Fail answers with an error. It may be called from any goroutine, also for a
	// call that is not served at all.
	Fail(err error)
}

// Dropper is a Handler that learns that its call was dropped, because the
// session has ended: there is neither an answer nor Fail.
type Dropper interface {
	// Dropped may be called from any goroutine.
	Dropped()
}

// Method is a method struct of this package with its arguments.
type Method interface {
	// Op is the name of the operation in errors and logs, such as "acquire".
	Op() string
	// Validate finds what is wrong with the arguments. The error is an *api.Error.
	Validate() error
	// Cost is what the call takes.
	Cost() Cost
}

// Cost is what a call takes beyond what every call does.
type Cost struct {
	Locks  int   // how many locks it is about beyond the first, or what else is as much work
	Room   int   // bytes that the answer may have, if it may be long
	Weight int32 // how many more calls it counts for, by the memory that it takes
}

// Begin counts a call that the door answers by itself, without a turn, in no
// session's queue. It reports false if the call has been refused because the
// gate is shut. Session.Submit begins a call that has not begun.
func (c *Core) Begin(call *Call, h Handler) bool {
	call.core, call.handler = c, h
	if c.gate.enter() {
		return true
	}
	h.Fail(&api.Error{Op: "call", Kind: api.ShuttingDown, Mode: dlm.None,
		Text: "the service is about to end; call again to start it anew"})
	return false
}

// Session is the session of the call; nil if the call was not submitted to one.
func (c *Call) Session() *Session { return c.session }

// Gone reports whether the session of the call has ended.
func (c *Call) Gone() bool { return c.session != nil && c.session.ctx.Err() != nil }

// UID is the user who calls. It is good from Serve on.
func (c *Call) UID() uint32 { return c.session.creds.Load().UID }

// Caller is who calls, for the service. It is good from Serve on.
func (c *Call) Caller() api.Caller {
	who := c.session.creds.Load()
	return api.Caller{UID: who.UID, GIDs: who.GIDs, PID: who.PID, Seen: c.session.seen,
		Session: c.session.name, Privileged: who.UID == 0}
}

// Answer claims the answer of the call. Whoever gets true answers; false means
// that the call has been answered or dropped. After it come Release, the bytes,
// and Sent.
func (c *Call) Answer() bool { return c.answered.CompareAndSwap(false, true) }

// Release is called once, just before the answer is written: whoever has read
// it may call again at once.
func (c *Call) Release() {
	if c.session != nil {
		c.session.count(-c.weight)
	}
}

// The turn of a call. A door may answer one whose client has gone before it has had
// its turn, on another goroutine than that of the session.
const (
	turnAwaited uint32 = iota
	turnTaken          // it is being served, and the turn ends with the answer
	turnOver
)

// Answered reports whether the call has been answered or dropped.
func (c *Call) Answered() bool { return c.answered.Load() }

// Sent is called once, after Release, when the answer of so many bytes is
// written or not wanted.
func (c *Call) Sent(bytes int) {
	if c.turn.Swap(turnOver) == turnTaken {
		c.core.sched.leave(c.session.user.account, c.cost.Room, c.session.door.cost(bytes))
	}
	if c.session != nil {
		c.session.answered(c)
	}
	c.core.gate.leave()
}

// Drop ends a call that nobody waits for any more, unless it has been answered.
func (c *Call) Drop() {
	if !c.Answer() {
		return
	}
	c.Release()
	c.Sent(0)
	if h, ok := c.handler.(Dropper); ok {
		h.Dropped()
	}
}

// Pay charges the user for bytes that were written for the call beside its
// answer, such as the events of a subscription.
func (c *Call) Pay(bytes int) {
	c.core.sched.charge(c.session.user.account, c.session.door.cost(bytes))
}

// payLocks charges the user for so many locks that the call turned out to be
// about.
func (c *Call) payLocks(locks int) {
	a := c.session.user.account
	c.core.sched.charge(a, int64(locks)*a.credit.rate.lock)
}

// toll is what the user pays before the call is served.
func (c *Call) toll() int64 {
	r := c.session.user.account.credit.rate
	cost := r.each + int64(c.cost.Locks)*r.lock
	if c.Size > freeBytes {
		cost += c.session.door.cost(c.Size)
	}
	return cost
}

// Contain keeps a panic from ending the daemon: locks are at stake. It is to be
// deferred in every function of a door that the call runs in, but not in Serve
// and in what is given to Run: those are contained already.
func (c *Call) Contain() { c.recovered(recover()) }

func (c *Call) recovered(v any) {
	if v == nil {
		return
	}
	session := ""
	if c.session != nil {
		session = string(c.session.name)
	}
	c.core.log.Error("a call panicked", slog.String("session", session), slog.String("method", c.Name),
		slog.Any("err", v), slog.String("stack", string(debug.Stack())))
	c.handler.Fail(&api.Error{Kind: api.Internal, Mode: dlm.None, Hint: api.HintInspect,
		Text: "internal error of the lock service; its log says more. The outcome of the call is unknown"})
}

// contained makes of done a function in which a panic ends the call alone.
func contained[T any](c *Call, done func(T, error)) func(T, error) {
	return func(v T, err error) {
		defer c.Contain()
		done(v, err)
	}
}

// containedError is contained for a method without a result.
func containedError(c *Call, done func(error)) func(error) {
	return func(err error) {
		defer c.Contain()
		done(err)
	}
}

// About is what a call wants to do: for the authoriser, its rules and its
// messages, and for the error that the caller gets where it refuses.
type About struct {
	Op                         string // as in the other errors of the method
	Lockspace, Resource, Owner string // "": none
	Mode                       string // "": none
}

// Authorize asks whether the caller may do it, and blocks until that is known.
// Root may do everything, and is never made to wait for an authoriser: a broken
// one must not keep the administrator out. (polkit does not ask about root
// either.) Run of a method has asked already; this is for what a door serves by
// itself.
func (c *Call) Authorize(a api.Action, w About) error {
	who := c.session.creds.Load()
	if who.UID == 0 {
		return nil
	}
	details := make(map[string]string, 4)
	for _, d := range [...][2]string{
		{"lockspace", w.Lockspace}, {"resource", w.Resource}, {"mode", w.Mode}, {"owner", w.Owner},
	} {
		if d[1] != "" {
			details[d[0]] = d[1]
		}
	}
	return w.refusal(c.core.auth.Authorize(c.session.ctx, who.subject(c.Interactive), a, details))
}

// subject describes the caller for the authoriser.
func (who *Credentials) subject(interactive bool) api.Subject {
	return api.Subject{BusName: who.BusName, UID: who.UID, GIDs: who.GIDs,
		PID: who.PID, Start: who.Start, Interactive: interactive}
}

// refusal makes the authoriser's error one of the call: an authoriser knows
// actions, and an action stands for several methods.
func (w About) refusal(err error) error {
	var e *api.Error
	if !errors.As(err, &e) {
		return err
	}
	refused := *e
	refused.Op, refused.Lockspace, refused.Resource, refused.Mode = w.Op, w.Lockspace, w.Resource, dlm.None
	if m, err := dlm.ParseMode(w.Mode); err == nil {
		refused.Mode = m
	}
	return &refused
}

// othersToo runs do as the caller alone. Whose a lock is, the service knows; so
// the authoriser is asked, which may take its time, only where the service says
// that it is another user's. Then do runs again, with the right to act on the
// locks of others.
func (c *Call) othersToo(w About, do func(who api.Caller, done func(error)), done func(error)) {
	who := c.Caller()
	do(who, containedError(c, func(err error) {
		if who.Privileged || !errors.Is(err, api.AccessDenied) {
			done(err)
			return
		}
		go func() {
			defer c.Contain()
			if err := c.Authorize(api.ActReleaseOthers, w); err != nil {
				done(err)
				return
			}
			who.Privileged = true
			do(who, containedError(c, done))
		}()
	}))
}
