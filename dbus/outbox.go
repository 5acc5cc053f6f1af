package dbus

import (
	"log/slog"
	"math"
	"sync"

	godbus "github.com/godbus/dbus/v5"
)

// Signatures that headers need, parsed once.
var (
	sigString    = godbus.ParseSignatureMust("s")
	sigUint32    = godbus.ParseSignatureMust("u")
	sigPath      = godbus.ParseSignatureMust("o")
	sigSignature = godbus.ParseSignatureMust("g")
)

// letter is a message to be sent: an answer, or a signal where call is nil.
type letter struct {
	call *call            // whose answer it is
	sig  godbus.Signature // of body
	body []any
	err  error // the answer is this error

	class  class  // signal: what it counts as
	dest   string // signal: to whom, or "" for all
	path   godbus.ObjectPath
	iface  string
	member string
}

// class is what a signal counts as while it waits to be written. Answers need
// no bound here, since the calls that are owed one are bounded.
type class uint8

const (
	broadcast  class = iota // and what goes to one connection now and then
	subscribed              // what a subscriber is told of every object
	mustSend                // bounded elsewhere: one for each Request, subscriber or lost lock
	classes
)

// maxSignals bounds the signals of each class that wait.
var maxSignals = [classes]int{broadcast: 4096, subscribed: 65536, mustSend: math.MaxInt}

// outbox is what waits to be written to the bus. post never blocks; one
// goroutine writes, in the order of the posts, whole batches at a time.
type outbox struct {
	bus  *Bus
	log  *slog.Logger
	wake chan struct{} // one slot
	done chan struct{} // closed when run has ended
	busy stopwatch     // of the letter that is being written

	mu      sync.Mutex
	letters []letter
	signals [classes]int // of letters, and of those being written
	closed  bool
}

func newOutbox(b *Bus, log *slog.Logger) *outbox {
	return &outbox{bus: b, log: log, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// post puts a letter in the outbox. It reports false for a signal that does
// not fit.
func (o *outbox) post(l letter) bool {
	o.mu.Lock()
	if l.call == nil {
		if o.signals[l.class] >= maxSignals[l.class] {
			o.mu.Unlock()
			return false
		}
		o.signals[l.class]++
	}
	o.letters = append(o.letters, l)
	o.mu.Unlock()
	o.nudge()
	return true
}

func (o *outbox) nudge() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// close makes run end when all that was posted is written.
func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.nudge()
}

// run writes until close, or until the connection is gone.
func (o *outbox) run() {
	defer close(o.done)
	w := writer{conn: o.bus.conn, headers: make(map[godbus.HeaderField]godbus.Variant, 8), sent: make(chan *godbus.Call, 1)}
	var batch []letter
	for {
		select {
		case <-o.wake:
		case <-o.bus.Done():
			return
		}
		for {
			o.mu.Lock()
			batch, o.letters = o.letters, batch[:0]
			closed := o.closed
			o.mu.Unlock()
			if len(batch) == 0 {
				if closed {
					return
				}
				break
			}
			o.write(&w, batch)
		}
	}
}

func (o *outbox) write(w *writer, batch []letter) {
	many := len(batch) > 1
	if many {
		o.bus.wire.cork()
	}
	var signals [classes]int
	for i := range batch {
		if batch[i].call == nil {
			signals[batch[i].class]++
		} else {
			batch[i].call.giveBack()
		}
		o.writeOne(w, &batch[i])
	}
	if many {
		// A failed write ends the reader as well, and with it the connection.
		o.busy.start()
		_ = o.bus.wire.uncork()
		o.busy.stop()
	}
	for i := range batch {
		if c := batch[i].call; c != nil {
			c.sent()
		}
	}
	clear(batch)
	if signals != [classes]int{} {
		o.mu.Lock()
		for k, n := range signals {
			o.signals[k] -= n
		}
		o.mu.Unlock()
	}
}

// writeOne writes a letter. What godbus can't encode at all must not end the
// daemon: locks are at stake.
func (o *outbox) writeOne(w *writer, l *letter) {
	o.busy.start()
	defer func() {
		o.busy.stop()
		if v := recover(); v != nil {
			o.log.Error("a message can't be written", slog.String("signature", l.sig.String()), slog.Any("err", v))
		}
	}()
	w.write(l)
}

// writer makes messages of letters. It reuses one header map, because godbus
// keeps nothing of a message once it is written.
type writer struct {
	conn    *godbus.Conn
	headers map[godbus.HeaderField]godbus.Variant
	sent    chan *godbus.Call
}

func (w *writer) write(l *letter) {
	if l.call != nil && (l.call.noReply || l.call.peerGone()) {
		return
	}
	clear(w.headers)
	msg := godbus.Message{Headers: w.headers, Flags: godbus.FlagNoReplyExpected}
	sig, body := l.sig, l.body
	switch {
	case l.call == nil:
		msg.Type = godbus.TypeSignal
		w.headers[godbus.FieldPath] = godbus.MakeVariantWithSignature(l.path, sigPath)
		w.headers[godbus.FieldInterface] = godbus.MakeVariantWithSignature(l.iface, sigString)
		w.headers[godbus.FieldMember] = godbus.MakeVariantWithSignature(l.member, sigString)
		if l.dest != "" {
			w.headers[godbus.FieldDestination] = godbus.MakeVariantWithSignature(l.dest, sigString)
		}
	default:
		msg.Type = godbus.TypeMethodReply
		w.headers[godbus.FieldDestination] = godbus.MakeVariantWithSignature(l.call.sender, sigString)
		w.headers[godbus.FieldReplySerial] = godbus.MakeVariantWithSignature(l.call.serial, sigUint32)
		if l.err != nil {
			msg.Type = godbus.TypeError
			w.headers[godbus.FieldErrorName] = godbus.MakeVariantWithSignature(errorName(l.err), sigString)
			sig, body = sigString, []any{errorText(l.err)}
		}
	}
	if len(body) > 0 {
		w.headers[godbus.FieldSignature] = godbus.MakeVariantWithSignature(sig, sigSignature)
		msg.Body = body
	}
	w.conn.Send(&msg, w.sent)
	<-w.sent
}
