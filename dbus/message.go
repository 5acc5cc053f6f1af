package dbus

import (
	"encoding/binary"

	godbus "github.com/godbus/dbus/v5"
)

// The reader of method calls. godbus reads everything else; calls are read
// here, because anybody sends them, and godbus builds a tree of reflected
// values of whatever it is sent, at twenty times the cost, and ends the
// connection where it can't. Here nothing is read but the header and then, of
// a call whose signature is that of its method, the few types that our members
// take (D-Bus specification, "Type System" and "Message Format"). A bus lets
// only valid messages through; all the same every length is checked.

// header is the header of a message. The slices are parts of its frame.
type header struct {
	size int  // of the whole message
	cut  bool // it is too long, and its body was not read
	// Call, answer, error or signal.
	kind   godbus.Type
	flags  godbus.Flags
	serial uint32
	// Empty where the message has no such field; so are the others.
	path   []byte
	iface  []byte
	member []byte
	sender []byte
	// Of the body. A call is refused by it before its body is looked at.
	sig  []byte
	body reader
}

// headerSize is the fixed part of a header with the length of the array of
// fields.
const headerSize = 16

// orderOf is the byte order of a message.
func orderOf(frame []byte) binary.ByteOrder {
	if frame[0] == 'B' {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// messageSize is the length of the message that begins with head, which has
// headerSize bytes.
func messageSize(head []byte) (size int, ok bool) {
	order := orderOf(head)
	body, fields := uint64(order.Uint32(head[4:])), uint64(order.Uint32(head[12:]))
	n := headerSize + (fields+7)&^7 + body
	return int(n), n <= maxMessage
}

// headSize is the length of the header of the message that begins with head.
func headSize(head []byte) int {
	return headerSize + int((uint64(orderOf(head).Uint32(head[12:]))+7)&^7)
}

// parseHeader reads the header of a whole message. It is false for a header
// with a field of a type that the specification has no field of. Unknown fields of known
// types are passed over, as the specification demands ("Header Fields").
func parseHeader(frame []byte) (h header, ok bool) {
	order := orderOf(frame)
	h.kind, h.flags, h.serial = godbus.Type(frame[1]), godbus.Flags(frame[2]), order.Uint32(frame[8:])
	fields := int(order.Uint32(frame[12:]))
	body := headerSize + (fields+7)&^7
	if body > len(frame) {
		return h, false
	}
	r := reader{b: frame[:headerSize+fields], at: headerSize, order: order}
	for r.at < len(r.b) && !r.bad {
		r.align(8)
		code := godbus.HeaderField(r.byte())
		var value []byte
		switch string(r.signature()) {
		case "s", "o":
			value = r.bytes()
		case "g":
			value = r.signature()
		case "u":
			r.uint32()
		default:
			return h, false
		}
		switch code {
		case godbus.FieldPath:
			h.path = value
		case godbus.FieldInterface:
			h.iface = value
		case godbus.FieldMember:
			h.member = value
		case godbus.FieldSender:
			h.sender = value
		case godbus.FieldSignature:
			h.sig = value
		}
	}
	h.body = reader{b: frame[body:], order: order}
	return h, !r.bad
}

// reader reads the values of a message's body, one after the other. What is
// read behind the end is zero, and sets bad.
type reader struct {
	b []byte
	// Where in b to read on. Alignment counts from the beginning of b.
	at    int
	order binary.ByteOrder
	// Something did not fit; what is read from there on is zero, and the caller looks at
	// bad once, at the end.
	bad bool
}

// take returns the next n bytes.
func (r *reader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b)-r.at {
		r.bad = true
		return nil
	}
	p := r.b[r.at : r.at+n]
	r.at += n
	return p
}

// align skips to a multiple of n, a power of two.
func (r *reader) align(n int) { r.take(-r.at & (n - 1)) }

func (r *reader) byte() byte {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	r.align(2)
	if p := r.take(2); p != nil {
		return r.order.Uint16(p)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	r.align(4)
	if p := r.take(4); p != nil {
		return r.order.Uint32(p)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	r.align(8)
	if p := r.take(8); p != nil {
		return r.order.Uint64(p)
	}
	return 0
}

// bytes reads a string or object path without copying it.
func (r *reader) bytes() []byte {
	p := r.take(int(r.uint32()))
	r.take(1)
	return p
}

// text reads a string or object path.
func (r *reader) text() string { return string(r.bytes()) }

// signature reads a signature without copying it.
func (r *reader) signature() []byte {
	p := r.take(int(r.byte()))
	r.take(1)
	return p
}

// array begins an array of elements of that alignment, which ends where the
// reader's position is end.
func (r *reader) array(alignment int) (end int) {
	n := int(r.uint32())
	r.align(alignment)
	if n < 0 || n > len(r.b)-r.at {
		r.bad = true
	}
	return r.at + n
}

// more reports whether the array that ends at end has another element.
func (r *reader) more(end int) bool { return !r.bad && r.at < end }

// value reads a value of one of the types that an option may have (signatures).
func (r *reader) value(sig string) any {
	switch sig {
	case "s":
		return r.text()
	case "o":
		return godbus.ObjectPath(r.text())
	case "u":
		return r.uint32()
	case "t":
		return r.uint64()
	case "b":
		return r.uint32() != 0
	case "as":
		texts := []string{}
		for end := r.array(4); r.more(end); {
			texts = append(texts, r.text())
		}
		return texts
	case "ay":
		return append([]byte{}, r.take(int(r.uint32()))...)
	}
	r.bad = true
	return nil
}
