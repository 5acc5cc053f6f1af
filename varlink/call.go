package varlink

import (
	"context"
	"sync/atomic"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/internal/queue"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// maxReplies is how many replies before the last one may wait to be written,
// because the client does not read.
const maxReplies = 1024

// call is one call. It lives on the connection's goroutine: Serve makes it, submits it
// and then writes what others put into replies, until the last reply is written. All
// others (the owner of the table, timers, notices) only add to replies, which never
// blocks, so that a client that does not read delays nobody.
type call struct {
	frontend.Call
	door    *Door
	conn    *conn
	wire    *wire.Call
	in      input
	replies *queue.Queue[message] // unbounded; unread bounds what may be in it
	unread  atomic.Int32          // replies that are not written
	// after runs on the connection's goroutine once the last message is written, or
	// could not be.
	after func(err error)
}

// message is one reply, or several. What a long list takes in memory is made when the
// client has read what was before it (make, fill, pump), not when the service answers.
type message struct {
	parameters any
	make       func() any          // instead of parameters: makes them when they are written
	err        error               // instead of parameters
	more       bool                // others follow
	file       *pipe               // beside the message: its end for the client
	keep       bool                // a lock hangs on the connection now
	held       api.Ref             // with more and keep: the lock that the call goes on about
	fill       func(c *call) error // instead of all that: writes all replies
	pump       func(c *call) error // with more: writes many replies that others follow
	dropped    bool                // nobody waits for an answer
}

// input is what a method gets from the parameters of a call.
type input interface {
	// method is the frontend's method for it; nil where the door serves the call by
	// itself. The error is about the parameters.
	method(w *wire.Call) (frontend.Method, error)
	// allow is whether a person may be asked for authorisation.
	allow() bool
	// run runs what method has returned.
	run(c *call)
}

func (i *interactive) allow() bool { return i.Allow != nil && *i.Allow }

// silent is embedded in the input of calls without allowInteractiveAuthentication:
// nobody is asked for a password because of them.
type silent struct{}

func (silent) allow() bool { return false }

// Serve implements wire.Handler. It returns when the last reply is written or dropped;
// the next call of the connection is served only then.
func (h handler) Serve(ctx context.Context, w *wire.Call) {
	cn := w.Conn.Data.(*conn)
	c := &call{door: h.d, conn: cn, wire: w, replies: queue.New[message](0)}
	if c.Name, c.in = inputOf(w); w.Resumed != 0 {
		c.resume()
	}
	c.Size = w.Size()
	session := cn.begin(w.Oneway)
	defer cn.finish()
	c.submit(session)
	c.write(ctx)
}

// inputOf finds the method of a call, and its name for the log.
func inputOf(w *wire.Call) (name string, in input) {
	if answer, known := standard[w.Method]; known {
		return w.Method, &direct{answer: answer}
	}
	m, known := methods[w.Method]
	switch {
	case !known:
		return "an unknown method", &direct{answer: unknown}
	case m.needsMore && !w.More:
		return m.name, &direct{answer: expectMore}
	}
	return m.name, m.input()
}

// direct is a call that the door answers without the service. It waits for its turn
// and costs its user what every call costs.
type direct struct {
	silent
	answer func(*Door, *wire.Call) // reads the parameters, too
}

func (*direct) method(*wire.Call) (frontend.Method, error) { return nil, nil }

func (m *direct) run(c *call) {
	c.fill(func(c *call) error {
		m.answer(c.door, c.wire)
		n, err := c.wire.Written()
		c.pay(n)
		return err
	})
}

// submit reads the parameters and submits the call. A call that is refused here goes
// through the session as well, so that it costs its user what a call costs, and is
// logged.
func (c *call) submit(session *frontend.Session) {
	if _, alone := c.in.(*direct); !alone && c.wire.Resumed == 0 {
		if err := wire.Decode(c.wire.Parameters, c.in); err != nil {
			session.Refuse(&c.Call, c, parameterError(err))
			return
		}
	}
	m, err := c.in.method(c.wire)
	if err != nil {
		session.Refuse(&c.Call, c, err)
		return
	}
	c.Interactive = c.in.allow()
	if s, ok := c.in.(sessionChooser); ok {
		if session, err = s.session(c, session); err != nil {
			session.Refuse(&c.Call, c, err)
			return
		}
	}
	session.Submit(&c.Call, c, m)
}

// sessionChooser is an input whose lock may hang on another session than that of
// the connection. With an error the session is that of the connection.
type sessionChooser interface {
	session(c *call, of *frontend.Session) (*frontend.Session, error)
}

// Serve implements frontend.Handler.
func (c *call) Serve() { c.in.run(c) }

// Fail implements frontend.Handler. A call is answered once: Answer lets only the first
// answer through, since the service and the end of the client may bring one each.
func (c *call) Fail(err error) {
	if c.Answer() {
		c.replies.Add(message{err: err})
	}
}

// Dropped implements frontend.Handler: the session has ended before the call had its
// turn.
func (c *call) Dropped() { c.replies.Add(message{dropped: true}) }

// reply ends the call.
func (c *call) reply(parameters any) {
	if c.Answer() {
		c.replies.Add(message{parameters: parameters})
	}
}

// fill ends the call with replies that fill writes, on the connection's
// goroutine.
func (c *call) fill(fill func(c *call) error) {
	if c.Answer() {
		c.replies.Add(message{fill: fill})
	}
}

// tell sends a reply that others follow. If too many wait to be read already, the
// call fails.
func (c *call) tell(parameters any) { c.tellLater(func() any { return parameters }) }

// tellLater is tell for a reply that is made when it is written.
func (c *call) tellLater(parameters func() any) {
	if c.unread.Add(1) > maxReplies {
		c.Fail(errNotRead)
		return
	}
	c.replies.Add(message{make: parameters, more: true})
}

// plain ends a call that has nothing to say.
func (c *call) plain(err error) {
	if err != nil {
		c.Fail(err)
		return
	}
	c.reply(nothing{})
}

// write writes the replies until the last one. The client, or the service, may come to
// its end before that: each is noticed once, and leave then sees to it that a last
// reply comes. Other calls get theirs from the service in any case, within their wait.
func (c *call) write(ctx context.Context) {
	gone, ending := ctx.Done(), c.door.ending.Done()
	var spare []message
	for {
		batch := c.replies.Take(spare)
		for i := range batch.Items {
			if c.writeOne(&batch.Items[i]) {
				return
			}
		}
		if spare = batch.Items; len(batch.Items) > 0 {
			continue
		}
		// Only a call that has to wait costs a second goroutine for the reader.
		c.wire.Wait()
		select {
		case <-c.replies.Wake():
		case <-gone:
			gone = nil
			c.leave(&api.Error{Kind: api.Canceled, Text: "the client is gone"})
		case <-ending:
			ending = nil
			c.leave(errEnding)
		}
	}
}

var (
	errNotRead = &api.Error{Kind: api.LimitExceeded,
		Text: "more replies are waiting to be read than are kept; call again"}
	errUntaken = &api.Error{Kind: api.Canceled, Text: "the client does not take the replies"}
	errEnding  = &api.Error{Kind: api.ShuttingDown, Text: "the service is about to end; ask again when it is back"}
)

// leaver is an input whose calls may go on for as long as the client, or the
// service. leave ends such a call when one of them is gone, which why says. All
// other calls get their answer from the service.
type leaver interface{ leave(c *call, why error) }

func (c *call) leave(why error) {
	if l, ok := c.in.(leaver); ok {
		l.leave(c, why)
	}
}

// writeOne writes a message and reports whether it was the last one.
func (c *call) writeOne(m *message) (last bool) {
	switch {
	case m.dropped:
		c.wire.Drop()
		c.ended(context.Canceled)
		return true
	case m.pump != nil:
		c.wire.Wait()
		if m.pump(c) != nil {
			c.leave(errUntaken)
		}
		return false
	case m.more:
		c.unread.Add(-1)
		c.keep(m)
		n, err := c.wire.Continue(m.make())
		// A failed write does not end the call here: leave ends what the service has
		// of it, and the last message comes as its answer.
		c.stepKept("a reply of a kept connection is written")
		if c.pay(n); err != nil {
			c.leave(errUntaken)
		}
		return false
	}
	// Room for long answers is what they take of a message bus. Here a client that
	// does not read holds up itself alone, so the room is given back before the
	// bytes go out.
	c.Release()
	c.Sent(0)
	c.keep(m)
	n, err := c.writeLast(m)
	c.stepKept("the last reply of a kept connection is written")
	c.pay(n)
	c.ended(err)
	return true
}

// pay has the user pay for bytes that were written. A call that came after the
// end of the service belongs to no session.
func (c *call) pay(n int) {
	if n > 0 && c.Session() != nil {
		c.Pay(n)
	}
}

// writeLast writes the reply that ends the call. fill pays for what it writes itself.
func (c *call) writeLast(m *message) (n int, err error) {
	switch {
	case m.err != nil:
		return writeError(c.wire, m.err)
	case m.fill != nil:
		c.wire.Wait()
		return 0, m.fill(c)
	case m.file != nil:
		return c.wire.ReplyFile(m.parameters, m.file.theirs)
	}
	return c.wire.Reply(m.parameters)
}

// keep has what the lock hangs on kept, before its caller is told of the grant (the
// table of events is in keep.go).
func (c *call) keep(m *message) {
	switch {
	case m.file != nil:
		m.file.keep()
	case m.keep:
		c.conn.keep(c.wire.Conn, m.held)
		if m.held != 0 {
			c.wire.GoOn()
		}
	}
	c.stepKept("write a reply of a kept connection")
}

func (c *call) stepKept(name string) {
	if c.conn.kept != "" {
		c.door.step(name)
	}
}

func (c *call) ended(err error) {
	if c.after != nil {
		c.after(err)
	}
}
