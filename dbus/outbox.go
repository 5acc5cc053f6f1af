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

// letter is a message to be sent: an answer, or a signal where call is nil. What
// it says is one of body, fill, raw and err.
type letter struct {
	call *call            // whose answer it is
	sig  godbus.Signature // of what it says
	body []any
	fill func(*encoder) // writes a long body when it is the letter's turn
	raw  []byte         // a body that other letters have as well
	err  error          // the answer is this error

	class  class  // signal: what it counts as
	lane   uint32 // signal: of whose letters it is one, see outbox
	weight int    // signal: bytes of memory that it takes, where they count
	dest   string // signal: to whom, or "" for all
	path   godbus.ObjectPath
	iface  string
	member string
}

// class is what a signal counts as while it waits to be written. Answers need
// no bound here, since the calls that are owed one are bounded.
type class uint8

const (
	broadcast    class = iota // and what goes to one connection now and then
	toSubscriber              // what a subscriber is told of every object
	mustSend                  // bounded elsewhere: one for each Request, subscriber or lost lock
	classes
)

// maxSignals bounds the signals of each class that wait.
var maxSignals = [classes]int{broadcast: 4096, toSubscriber: 65536, mustSend: math.MaxInt}

// maxSignalBytes bounds the memory of those that have a weight.
const maxSignalBytes = 16 << 20

// laneless is the lane of what is for everybody, or for a connection of which
// it is not known whose it is. It is no user id (setresuid(2)).
const laneless = math.MaxUint32

const (
	// maxBatch is how many letters are written at once.
	maxBatch = 32
	// laneQuantum is how many bytes of debt a lane is let off each time it is
	// passed over.
	laneQuantum = 4 << 10
)

// outbox is what waits to be written to the bus. post never blocks; one
// goroutine writes. There is a lane for each user: its letters are written in
// the order of the posts, and the lanes take turns, by bytes: a lane whose
// letters were long is passed over until the others had as much.
type outbox struct {
	bus  *Bus
	log  *slog.Logger
	wake chan struct{} // one slot
	done chan struct{} // closed when run has ended
	busy stopwatch     // of the letter that is being written

	mu      sync.Mutex
	lanes   map[uint32]*lane
	ring    []*lane      // those with letters; the next turn is the first one's
	signals [classes]int // in lanes, and being written
	weight  int          // of signals
	closed  bool
}

// lane is the letters of one user, by user id.
type lane struct {
	uid     uint32
	letters []letter
	debt    int // bytes that it is ahead of the others
}

func newOutbox(b *Bus, log *slog.Logger) *outbox {
	return &outbox{bus: b, log: log, wake: make(chan struct{}, 1), done: make(chan struct{}), lanes: make(map[uint32]*lane)}
}

// post puts a letter in the outbox. It reports false for a signal that does
// not fit.
func (o *outbox) post(l letter) bool {
	uid := l.lane
	if l.call != nil {
		uid = l.call.lane()
	}
	o.mu.Lock()
	if l.call == nil {
		if o.signals[l.class] >= maxSignals[l.class] || l.weight > 0 && o.weight+l.weight > maxSignalBytes {
			o.mu.Unlock()
			return false
		}
		o.signals[l.class]++
		o.weight += l.weight
	}
	in := o.lanes[uid]
	if in == nil {
		in = &lane{uid: uid}
		o.lanes[uid] = in
		o.ring = append(o.ring, in)
	}
	in.letters = append(in.letters, l)
	o.mu.Unlock()
	o.nudge()
	return true
}

// take takes the letters whose turn it is.
func (o *outbox) take(batch []letter) (_ []letter, closed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(batch) < maxBatch && len(o.ring) > 0 {
		in := o.ring[0]
		copy(o.ring, o.ring[1:])
		o.ring[len(o.ring)-1] = in
		if in.debt > 0 && len(o.ring) > 1 {
			in.debt -= laneQuantum
			continue
		}
		l := in.letters[0]
		in.letters[0] = letter{}
		in.letters = in.letters[1:]
		if len(in.letters) == 0 {
			o.ring = o.ring[:len(o.ring)-1]
			delete(o.lanes, in.uid)
		}
		batch = append(batch, l)
		if l.fill != nil {
			break // it is long
		}
	}
	return batch, o.closed
}

// owe notes what was written for a lane.
func (o *outbox) owe(uid uint32, bytes int) {
	if in := o.lanes[uid]; in != nil {
		in.debt = max(in.debt, 0) + bytes
	}
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
	w := writer{bus: o.bus, headers: make(map[godbus.HeaderField]godbus.Variant, 8), sent: make(chan *godbus.Call, 1)}
	var batch []letter
	for {
		select {
		case <-o.wake:
		case <-o.bus.Done():
			return
		}
		for {
			var closed bool
			if batch, closed = o.take(batch[:0]); len(batch) == 0 {
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
	sizes := make([]int, len(batch))
	for i := range batch {
		if batch[i].call != nil {
			batch[i].call.Release()
		}
		sizes[i] = o.writeOne(w, &batch[i])
	}
	if many {
		// A failed write ends the reader as well, and with it the connection.
		o.busy.start()
		_ = o.bus.wire.uncork()
		o.busy.stop()
	}
	w.drop()
	for i := range batch {
		if c := batch[i].call; c != nil {
			c.Sent(sizes[i])
		}
	}
	o.mu.Lock()
	for i := range batch {
		l := &batch[i]
		uid := l.lane
		if l.call == nil {
			o.signals[l.class]--
			o.weight -= l.weight
		} else {
			uid = l.call.lane()
		}
		o.owe(uid, sizes[i])
	}
	o.mu.Unlock()
	clear(batch)
}

// writeOne writes a letter and returns its size. What can't be encoded at all
// must not end the daemon: locks are at stake.
func (o *outbox) writeOne(w *writer, l *letter) (size int) {
	o.busy.start()
	defer func() {
		o.busy.stop()
		if v := recover(); v != nil {
			o.log.Error("a message can't be written", slog.String("signature", l.sig.String()), slog.Any("err", v))
		}
	}()
	before := o.bus.wire.wrote.Load()
	w.write(l)
	return int(o.bus.wire.wrote.Load() - before)
}

// writer makes messages of letters. It reuses one header map, because godbus
// keeps nothing of a message once it is written, and the buffers of long ones.
type writer struct {
	bus     *Bus
	headers map[godbus.HeaderField]godbus.Variant
	sent    chan *godbus.Call
	body    encoder
	whole   []byte
}

// drop drops buffers that were made for a very long message.
func (w *writer) drop() {
	if cap(w.body.b) > maxKept {
		w.body.b = nil
	}
	if cap(w.whole) > maxKept {
		w.whole = nil
	}
}

func (w *writer) write(l *letter) {
	switch {
	case l.call != nil && (l.call.noReply || l.call.Gone()):
	case l.fill != nil:
		w.body.b = w.body.b[:0]
		l.fill(&w.body)
		w.writeRaw(l, w.body.b)
	case l.raw != nil:
		w.writeRaw(l, l.raw)
	default:
		w.writeBody(l)
	}
}

// writeRaw writes a letter whose body is encoded.
func (w *writer) writeRaw(l *letter, body []byte) {
	kind, serial := godbus.TypeSignal, uint32(0)
	fields := []headerField{{godbus.FieldDestination, "s", l.dest}, {godbus.FieldPath, "o", string(l.path)},
		{godbus.FieldInterface, "s", l.iface}, {godbus.FieldMember, "s", l.member}}
	if l.call != nil {
		kind, serial = godbus.TypeMethodReply, l.call.serial
		fields = []headerField{{godbus.FieldDestination, "s", l.call.sender}}
	}
	w.whole = message(w.whole, kind, w.bus.serials.GetSerial(), serial, l.sig.String(), fields, body)
	_, _ = w.bus.wire.Write(w.whole) // an error ends the reader as well
}

// writeBody has godbus write a letter.
func (w *writer) writeBody(l *letter) {
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
	w.bus.conn.Send(&msg, w.sent)
	<-w.sent
}
