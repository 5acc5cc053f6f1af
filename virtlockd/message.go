package virtlockd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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
	// body is the first maxBody bytes of what follows the header. It belongs to
	// the reader, which uses the memory again for the next message.
	body []byte
}

// errLength ends a connection, as it does in virtlockd: where the next message
// begins is not known any more.
var errLength = errors.New("the length of a message is not possible")

// messageReader reads the messages of one connection. It allocates as much as has
// arrived of the arguments of a call, whatever length a message claims to have.
type messageReader struct {
	in   *bufio.Reader
	body []byte
}

func newMessageReader(r io.Reader) *messageReader {
	// As much as a call of a guest's disk has, whose path is long.
	return &messageReader{in: bufio.NewReaderSize(r, 512)}
}

// waiting reports whether a part of the next message has been read already.
func (r *messageReader) waiting() bool { return r.in.Buffered() > 0 }

// await returns when the next message has begun, or with the error of the
// connection: io.EOF if it has ended.
func (r *messageReader) await() error {
	_, err := r.in.Peek(1)
	return err
}

// whole reports whether all of the next message has been read, so that next does not
// wait for the client.
func (r *messageReader) whole() bool {
	n := r.in.Buffered()
	if n < headerSize {
		return false
	}
	head, _ := r.in.Peek(4)
	return binary.BigEndian.Uint32(head) <= uint32(n)
}

// next reads a message. The error is io.EOF if the connection ends between two
// messages, and io.ErrUnexpectedEOF if it ends within one.
func (r *messageReader) next() (message, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(r.in, head[:4]); err != nil {
		return message{}, err
	}
	size := binary.BigEndian.Uint32(head[:4])
	if size < headerSize || size > maxMessage {
		return message{}, fmt.Errorf("%w: %d bytes", errLength, size)
	}
	if _, err := io.ReadFull(r.in, head[4:]); err != nil {
		return message{}, unexpected(err)
	}
	word := func(i int) uint32 { return binary.BigEndian.Uint32(head[4*i:]) }
	m := message{header: header{Program: word(1), Version: word(2), Procedure: word(3), Kind: word(4), Serial: word(5),
		Status: word(6)}}
	if err := r.readBody(int(size) - headerSize); err != nil {
		return message{}, unexpected(err)
	}
	m.body = r.body
	return m, nil
}

// readBody reads size bytes and keeps the first maxBody of them.
func (r *messageReader) readBody(size int) error {
	keep := min(size, maxBody)
	r.body = r.body[:0]
	for len(r.body) < keep {
		n := min(keep-len(r.body), r.in.Size())
		at := len(r.body)
		r.body = append(r.body, make([]byte, n)...)
		if _, err := io.ReadFull(r.in, r.body[at:]); err != nil {
			return err
		}
	}
	_, err := io.CopyN(io.Discard, r.in, int64(size-keep))
	return err
}

// forget gives back the memory of a long message: most connections say three
// short ones and then stay open for as long as a guest runs.
func (r *messageReader) forget() {
	if cap(r.body) > 1024 {
		r.body = nil
	}
}

// unexpected makes an end of the connection within a message an error.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
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
