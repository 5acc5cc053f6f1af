package virtlockd

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The frame of a message, from libvirt's src/rpc/virnetprotocol.x: its length,
// itself included, then six words and a body. Every integer has 32 bits, in
// network order.
const (
	headerSize = 28
	// maxMessage is what libvirt calls VIR_NET_MESSAGE_MAX, with the length word.
	// It only decides which messages end the connection, and is never allocated.
	maxMessage = 33554432 + 4
	// maxString is VIR_LOCK_SPACE_PROTOCOL_STRING_MAX of src/locking/lock_protocol.x.
	maxString = 65536
	// maxBody is more than the arguments of any call have: two strings with their
	// lengths, and flags. What is behind the arguments of a call does not count.
	maxBody = 2*(4+maxString) + 64
)

// The programs, and the version that both have.
const (
	programLock      uint32 = 0x0EA7BEEF
	programKeepalive uint32 = 0x6b656570
	protocolVersion  uint32 = 1
)

// The kinds of messages (virNetMessageType).
const (
	kindCall    uint32 = 0
	kindReply   uint32 = 1
	kindMessage uint32 = 2
)

// The statuses of a message (virNetMessageStatus).
const (
	statusOK    uint32 = 0
	statusError uint32 = 1
)

// The procedures of the keepalive program: a ping is answered with a pong.
const (
	keepalivePing uint32 = 1
	keepalivePong uint32 = 2
)

// header is what every message begins with, behind its length.
type header struct {
	Program   uint32
	Version   uint32
	Procedure uint32
	Kind      uint32
	Serial    uint32
	Status    uint32
}

// message is one message that was read.
type message struct {
	header
	// body has what follows the header, up to maxBody bytes. Its memory is reused for the next
	// message.
	body []byte
}

// errLength ends a connection, as it does in virtlockd: where the next message
// begins is not known any more.
var errLength = errors.New("the length of a message is not possible")

// messageReader finds the messages in what is read from one connection. Of a call it keeps only the
// arguments that have arrived, whatever length the message claims to have.
type messageReader struct {
	part []byte // the beginning of a message that has come in parts
	got  int    // how much of that message has come; more than the length of part if not all of it is kept
	done bool   // the message was returned
}

// begun reports whether a part of the next message has come.
func (r *messageReader) begun() bool { return r.got > 0 && !r.done }

// next returns the next message in data, and what follows it. whole is false if data has only a part
// of a message, which is then kept. The body of the message is valid until the next call, and for as
// long as data is.
func (r *messageReader) next(data []byte) (m message, rest []byte, whole bool, err error) {
	if r.done {
		r.forget()
	}
	if r.got == 0 && len(data) >= headerSize { // most messages come as a whole
		size, err := messageSize(data)
		if err != nil || size <= min(len(data), headerSize+maxBody) {
			return parseMessage(data[:size]), data[size:], err == nil, err
		}
	}
	data = r.add(data, 4)
	if r.got < 4 {
		return m, nil, false, nil
	}
	size, err := messageSize(r.part)
	if err != nil {
		return m, nil, false, err
	}
	data = r.add(data, min(size, headerSize+maxBody))
	n := min(size-r.got, len(data)) // the rest of the message is not kept
	r.got += n
	if r.got < size {
		return m, nil, false, nil
	}
	r.done = true
	return parseMessage(r.part), data[n:], true, nil
}

// add keeps what was missing of the first n bytes of the message, and returns the rest of data.
func (r *messageReader) add(data []byte, n int) (rest []byte) {
	n = max(min(n-r.got, len(data)), 0)
	r.part = append(r.part, data[:n]...)
	r.got += n
	return data[n:]
}

// forget makes room for the next message. It frees the memory of a long one, because most clients
// send three short messages and then keep the connection for as long as the guest runs.
func (r *messageReader) forget() {
	if cap(r.part) > 1024 {
		r.part = nil
	}
	r.part, r.got, r.done = r.part[:0], 0, false
}

// messageSize returns the length of a message, with which the message begins.
func messageSize(b []byte) (int, error) {
	size := binary.BigEndian.Uint32(b)
	if size < headerSize || size > maxMessage {
		return 0, fmt.Errorf("%w: %d bytes", errLength, size)
	}
	return int(size), nil
}

// parseMessage parses a message.
func parseMessage(b []byte) (m message) {
	if len(b) < headerSize {
		return m
	}
	word := func(i int) uint32 { return binary.BigEndian.Uint32(b[4*i:]) }
	return message{header{Program: word(1), Version: word(2), Procedure: word(3), Kind: word(4), Serial: word(5),
		Status: word(6)}, b[headerSize:]}
}

// appendMessage appends a message with its length to b.
func appendMessage(b []byte, h header, body []byte) []byte {
	for _, word := range []uint32{uint32(headerSize + len(body)), h.Program, h.Version, h.Procedure, h.Kind, h.Serial,
		h.Status} {
		b = binary.BigEndian.AppendUint32(b, word)
	}
	return append(b, body...)
}

// answer is the header of what answers a call.
func (h header) answer(status uint32) header {
	h.Kind, h.Status = kindReply, status
	return h
}
