package dbus

import (
	"log/slog"
	"math"
	"sync"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/internal/queue"
)

// Signatures that headers need, parsed once.
var (
	sigString    = godbus.ParseSignatureMust("s")
	sigUint32    = godbus.ParseSignatureMust("u")
	sigPath      = godbus.ParseSignatureMust("o")
	sigSignature = godbus.ParseSignatureMust("g")
)

// message is a message to be sent: an answer, or a signal where call is nil. What
// it says is one of body, fill, raw and err.
type message struct {
	call *call            // whose answer it is
	sig  godbus.Signature // of what it says
	// The values of a short message, which godbus encodes.
	body []any
	fill func(*encoder) // writes a long body when it is the message's turn
	raw  []byte         // a body that other messages have as well
	err  error          // the answer is this error

	user   uint32 // whose turn it takes (a uid); of an answer, post finds that out
	class  class  // signal: what it counts as
	weight int    // signal: bytes of memory that it takes, where they count
	dest   string // signal: to whom, or "" for all
	// Of a signal; so are iface and member.
	path   godbus.ObjectPath
	iface  string
	member string
}

// class is what a signal counts as while it waits to be written. Answers need
// no bound here, since the calls that are owed one are bounded.
type class uint8

const (
	broadcast    class = iota // and what goes to one connection now and then
	toSubscriber              // what subscribers get about every object
	mustSend                  // bounded elsewhere: one for each Request, subscriber or lost lock
	classes
)

// maxSignals bounds the signals of each class that wait. A bus that stands still would
// otherwise fill the memory of the process that holds everybody's locks.
var maxSignals = [classes]int{broadcast: 4096, toSubscriber: 65536, mustSend: math.MaxInt}

// maxSignalBytes bounds the memory of those that have a weight.
const maxSignalBytes = 16 << 20

// noUser is the user of what is for everybody, or for a connection of which it
// is not known whose it is. It is no user id (setresuid(2)).
const noUser = math.MaxUint32

const (
	// maxBatch is how many messages are written at once. More would save little, and the
	// first answer of a batch waits for the last one to be encoded.
	maxBatch = 32
	// quantum is how many bytes of debt a user is let off each time their turn is
	// passed over.
	quantum = 4 << 10
	// maxSpare is how many messages the array has that is kept for the next ones.
	maxSpare = 4096
)

// sendQueue is what waits to be written to the bus. post never blocks; one
// goroutine writes. The messages of each user are written in the order of the
// posts, and the users take turns by bytes (deficit round robin): a user whose
// messages were long is passed over until the others had as much.
type sendQueue struct {
	bus *Bus
	log *slog.Logger
	// What was posted and not sorted by user yet.
	in   *queue.Queue[message]
	done chan struct{} // closed when run has ended
	busy stopwatch     // of the message that is being written

	mu      sync.Mutex
	signals [classes]int // that wait, and that are being written
	weight  int          // of signals

	// These belong to run.
	users map[uint32]*userQueue
	ring  []*userQueue // those with messages; the next turn is the first one's
	// An array for the next messages, kept so that most of them need no new memory.
	spare []message
}

// userQueue is the messages of one user.
type userQueue struct {
	uid      uint32
	messages []message
	debt     int // bytes that the user is ahead of the others
}

func newSendQueue(b *Bus, log *slog.Logger) *sendQueue {
	return &sendQueue{bus: b, log: log, in: queue.New[message](0), done: make(chan struct{}),
		users: make(map[uint32]*userQueue)}
}

// post puts a message in the queue. It reports false for a signal that does not
// fit.
func (q *sendQueue) post(m message) bool {
	if m.call != nil {
		m.user = m.call.user()
	} else if !q.admit(&m) {
		return false
	}
	if !q.in.Add(m) {
		q.forget(&m)
	}
	return true
}

// admit counts a signal, if it fits.
func (q *sendQueue) admit(m *message) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.signals[m.class] >= maxSignals[m.class] || m.weight > 0 && q.weight+m.weight > maxSignalBytes {
		return false
	}
	q.signals[m.class]++
	q.weight += m.weight
	return true
}

// forget ends a message that came after close: nobody is there any more.
func (q *sendQueue) forget(m *message) {
	if m.call != nil {
		m.call.Release()
		m.call.Sent(0)
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.signals[m.class]--
	q.weight -= m.weight
}

// take takes the messages whose turn it is, in turns of the users in ring: a user with
// debt is passed over, and a little of the debt is forgiven for it. A user who is alone
// is never passed over, so nothing waits without need.
func (q *sendQueue) take(batch []message) (_ []message, closed bool) {
	in := q.in.Take(q.spare)
	for i := range in.Items {
		q.sort(&in.Items[i])
	}
	clear(in.Items)
	if q.spare = in.Items; cap(q.spare) > maxSpare {
		q.spare = nil
	}
	for len(batch) < maxBatch && len(q.ring) > 0 {
		of := q.ring[0]
		copy(q.ring, q.ring[1:])
		q.ring[len(q.ring)-1] = of
		if of.debt > 0 && len(q.ring) > 1 {
			of.debt -= quantum
			continue
		}
		m := of.messages[0]
		of.messages[0] = message{}
		of.messages = of.messages[1:]
		if len(of.messages) == 0 {
			q.ring = q.ring[:len(q.ring)-1]
			delete(q.users, of.uid)
		}
		batch = append(batch, m)
		if m.fill != nil {
			break // it is long
		}
	}
	return batch, in.Closed
}

// sort puts a message behind the others of its user.
func (q *sendQueue) sort(m *message) {
	of := q.users[m.user]
	if of == nil {
		of = &userQueue{uid: m.user}
		q.users[m.user] = of
		q.ring = append(q.ring, of)
	}
	of.messages = append(of.messages, *m)
}

// owe notes what was written for a user.
func (q *sendQueue) owe(uid uint32, bytes int) {
	if of := q.users[uid]; of != nil {
		of.debt = max(of.debt, 0) + bytes
	}
}

// close makes run end when all that was posted is written.
func (q *sendQueue) close() { q.in.Close() }

// run writes until close, or until the connection is gone.
func (q *sendQueue) run() {
	defer close(q.done)
	w := writer{bus: q.bus, headers: make(map[godbus.HeaderField]godbus.Variant, 8), sent: make(chan *godbus.Call, 1)}
	var batch []message
	for {
		select {
		case <-q.in.Wake():
		case <-q.bus.Done():
			return
		}
		for {
			var closed bool
			if batch, closed = q.take(batch[:0]); len(batch) == 0 {
				if closed {
					return
				}
				break
			}
			q.write(&w, batch)
		}
	}
}

// write writes a batch in as few system calls as it takes. Each call then learns how long its
// answer was, and each user's debt grows by what was written for them.
func (q *sendQueue) write(w *writer, batch []message) {
	many := len(batch) > 1
	if many {
		q.bus.wire.cork()
	}
	sizes := make([]int, len(batch))
	for i := range batch {
		if batch[i].call != nil {
			batch[i].call.Release()
		}
		sizes[i] = q.writeOne(w, &batch[i])
	}
	if many {
		// The watchdog (busy) sees a bus that takes nothing.
		// A failed write ends the reader as well, and with it the connection.
		q.busy.start()
		_ = q.bus.wire.uncork()
		q.busy.stop()
	}
	w.drop()
	for i := range batch {
		if c := batch[i].call; c != nil {
			c.Sent(sizes[i])
		}
	}
	q.mu.Lock()
	for i := range batch {
		if batch[i].call == nil {
			q.signals[batch[i].class]--
			q.weight -= batch[i].weight
		}
	}
	q.mu.Unlock()
	for i := range batch {
		q.owe(batch[i].user, sizes[i])
	}
	clear(batch)
}

// writeOne writes a message and returns its size. What can't be encoded at all
// must not end the daemon: locks are at stake.
func (q *sendQueue) writeOne(w *writer, m *message) (size int) {
	q.busy.start()
	defer func() {
		q.busy.stop()
		if v := recover(); v != nil {
			q.log.Error("a message can't be written", slog.String("signature", m.sig.String()), slog.Any("err", v))
		}
	}()
	before := q.bus.wire.wrote.Load()
	w.write(m)
	return int(q.bus.wire.wrote.Load() - before)
}

// writer makes D-Bus messages. It reuses one header map, because godbus
// keeps nothing of a message once it is written, and the buffers of long ones.
type writer struct {
	bus *Bus
	// The header fields of the message that godbus writes.
	headers map[godbus.HeaderField]godbus.Variant
	sent    chan *godbus.Call
	// Of a long message, whose fill writes it; its memory is used again.
	body  encoder
	whole []byte
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

// write writes one message, or nothing if nobody wants the answer: the caller has said
// NO_REPLY_EXPECTED or has left the bus.
func (w *writer) write(m *message) {
	switch {
	case m.call != nil && (m.call.noReply || m.call.Gone()):
	case m.fill != nil:
		w.body.b = w.body.b[:0]
		m.fill(&w.body)
		w.writeRaw(m, w.body.b)
	case m.raw != nil:
		w.writeRaw(m, m.raw)
	default:
		w.writeBody(m)
	}
}

// writeRaw writes a message whose body is encoded.
func (w *writer) writeRaw(m *message, body []byte) {
	kind, serial := godbus.TypeSignal, uint32(0)
	fields := []headerField{{godbus.FieldDestination, "s", m.dest}, {godbus.FieldPath, "o", string(m.path)},
		{godbus.FieldInterface, "s", m.iface}, {godbus.FieldMember, "s", m.member}}
	if m.call != nil {
		kind, serial = godbus.TypeMethodReply, m.call.serial
		fields = []headerField{{godbus.FieldDestination, "s", m.call.sender}}
	}
	w.whole = encodeMessage(w.whole, kind, w.bus.serials.GetSerial(), serial, m.sig.String(), fields, body)
	_, _ = w.bus.wire.Write(w.whole) // an error ends the reader as well
}

// writeBody has godbus write a message.
func (w *writer) writeBody(m *message) {
	clear(w.headers)
	msg := godbus.Message{Headers: w.headers, Flags: godbus.FlagNoReplyExpected}
	sig, body := m.sig, m.body
	switch {
	case m.call == nil:
		msg.Type = godbus.TypeSignal
		w.headers[godbus.FieldPath] = godbus.MakeVariantWithSignature(m.path, sigPath)
		w.headers[godbus.FieldInterface] = godbus.MakeVariantWithSignature(m.iface, sigString)
		w.headers[godbus.FieldMember] = godbus.MakeVariantWithSignature(m.member, sigString)
		if m.dest != "" {
			w.headers[godbus.FieldDestination] = godbus.MakeVariantWithSignature(m.dest, sigString)
		}
	default:
		msg.Type = godbus.TypeMethodReply
		w.headers[godbus.FieldDestination] = godbus.MakeVariantWithSignature(m.call.sender, sigString)
		w.headers[godbus.FieldReplySerial] = godbus.MakeVariantWithSignature(m.call.serial, sigUint32)
		if m.err != nil {
			msg.Type = godbus.TypeError
			w.headers[godbus.FieldErrorName] = godbus.MakeVariantWithSignature(errorName(m.err), sigString)
			sig, body = sigString, []any{errorText(m.err)}
		}
	}
	if len(body) > 0 {
		w.headers[godbus.FieldSignature] = godbus.MakeVariantWithSignature(sig, sigSignature)
		msg.Body = body
	}
	w.bus.conn.Send(&msg, w.sent)
	<-w.sent
}

// busCost returns what a message of so many bytes costs its user (frontend.DoorConfig). In a
// message of n times frontend.LongAnswer each byte costs n times as much, because the bus passes
// nothing else on meanwhile.
func busCost(bytes int) int64 {
	n := int64(bytes)
	return max(n, n*n/frontend.LongAnswer)
}
