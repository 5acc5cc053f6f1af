package dbus

import (
	"errors"
	"log/slog"
	"runtime/debug"
	"sync/atomic"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// call is one method call on its way from the reader to the outbox.
type call struct {
	srv         *Server
	peer        *peer // nil: answered in the reader, in nobody's line
	who         *identity
	sender      string
	serial      uint32
	noReply     bool
	interactive bool
	method      *method
	node        *node   // the object, or the kind of it
	id          string  // which of the kind
	req         request // nil with peer nil
	weight      int32   // how much of the sender's room it takes
	size        int     // bytes of its message
	room        int     // bytes that its answer may have, if it may be long
	entered     bool    // it had its turn, and leaves it with the answer
	unchecked   bool    // whose it is was not known when it came
	answered    atomic.Bool
}

// request is a call whose arguments were read and found valid. serve runs on
// the goroutine of the sender's line; it may block in the Authorizer, and in
// ask. It sees to it that the call is answered, now or later.
type request interface {
	serve(c *call)
}

// long is a request whose answer may be long: room says how many bytes.
type long interface{ room() int }

// costly is a request that is more work than most: work says how many locks it
// is about, or what else is as much work.
type costly interface{ work() int }

// heavy is a request that takes more memory than most: weight says how many
// more it counts for.
type heavy interface{ weight() int32 }

// reply answers with the method's out arguments. Only the first answer counts.
func (c *call) reply(body ...any) {
	if c.answered.CompareAndSwap(false, true) {
		c.srv.out.post(letter{call: c, sig: c.method.outSig, body: body})
	}
}

// write answers with out arguments that fill writes when it is the answer's
// turn to be written. Only the first answer counts.
func (c *call) write(fill func(*encoder)) {
	if c.answered.CompareAndSwap(false, true) {
		c.srv.out.post(letter{call: c, sig: c.method.outSig, fill: fill})
	}
}

// worked has the caller pay for so many locks that the call was about.
func (c *call) worked(locks int) {
	s := c.peer.user.share
	c.srv.desk.charge(s, int64(locks)*s.credit.rate.lock)
}

// lane is the lane of its answer in the outbox.
func (c *call) lane() uint32 {
	if c.peer != nil {
		if who := c.peer.who.Load(); who != nil {
			return who.uid
		}
	}
	return laneless
}

// fail answers with an error. Only the first answer counts.
func (c *call) fail(err error) {
	if c.answered.CompareAndSwap(false, true) {
		c.srv.out.post(letter{call: c, err: err})
	}
}

// drop ends a call that nobody waits for any more.
func (c *call) drop() {
	if c.answered.CompareAndSwap(false, true) {
		c.giveBack()
		c.sent(0)
	}
}

// giveBack is called once, before the answer is written: who has read it may
// call again at once.
func (c *call) giveBack() {
	if c.peer != nil {
		c.peer.count(-c.weight)
	}
}

// sent is called once, when the answer of so many bytes is written or not
// wanted.
func (c *call) sent(bytes int) {
	if c.entered {
		c.srv.desk.leave(c.peer.user.share, c.room, bytes)
	}
	c.srv.gate.leave()
}

func (c *call) peerGone() bool { return c.peer != nil && c.peer.ctx.Err() != nil }

// contain keeps a panic from ending the daemon: locks are at stake. It is to
// be deferred in every function that the call runs in.
func (c *call) contain() {
	v := recover()
	if v == nil {
		return
	}
	name := ""
	if c.method != nil {
		name = c.method.name
	}
	c.srv.log.Error("a call panicked", slog.String("sender", c.sender), slog.String("method", name),
		slog.Any("err", v), slog.String("stack", string(debug.Stack())))
	c.fail(busError{errFailed, "internal error of the lock service; its log says more. The outcome of the call is unknown: see Inspect"})
}

// caller is who calls, for the service.
func (c *call) caller() api.Caller {
	return api.Caller{UID: c.who.uid, GIDs: c.who.gids, PID: c.who.pid, Seen: c.peer.seen, Session: c.srv.bus.session(c.sender), Privileged: c.who.uid == 0}
}

// about is what a call wants to do: for the authoriser, its rules and its
// messages, and for the error that the caller gets where it refuses.
type about struct {
	op                         string // as in the other errors of the member
	lockspace, resource, owner string // "": none
	mode                       string // "": none
}

// authorize asks whether the caller may do it. Root may do everything, and is
// never made to wait for an authoriser: a broken one must not keep the
// administrator out. (polkit does not ask about root either.)
func (c *call) authorize(a api.Action, w about) error {
	if c.who.uid == 0 {
		return nil
	}
	details := make(map[string]string, 4)
	for _, d := range [...][2]string{{"lockspace", w.lockspace}, {"resource", w.resource}, {"mode", w.mode}, {"owner", w.owner}} {
		if d[1] != "" {
			details[d[0]] = d[1]
		}
	}
	s := api.Subject{Sender: c.sender, UID: c.who.uid, GIDs: c.who.gids, Interactive: c.interactive}
	return w.refusal(c.srv.auth.Authorize(c.peer.ctx, s, a, details))
}

// refusal makes the authoriser's error one of the call: an authoriser knows
// actions, and an action stands for several members.
func (w about) refusal(err error) error {
	var e *api.Error
	if !errors.As(err, &e) {
		return err
	}
	refused := *e
	refused.Op, refused.Lockspace, refused.Resource, refused.Mode = w.op, w.lockspace, w.resource, dlm.None
	if m, err := dlm.ParseMode(w.mode); err == nil {
		refused.Mode = m
	}
	return &refused
}
