package peers

import (
	"encoding/binary"
	"errors"
)

// The header of each message: 20 bytes, integers big-endian.
//
//	 0  2  magic "DP"
//	 2  1  version of what follows the header
//	 3  1  kind
//	 4  4  node that it is for, 0: all
//	 8  4  process that it is for, 0: any of that node
//	12  8  number of the question, of the node that asks
//
// JSON follows. The header never changes, so that every version can tell what is for it.
const (
	headerSize = 20
	magic      = 0x4450
	version    = 1

	// MaxMessage is the largest message in bytes. corosync takes 1 MiB; what is larger than a
	// packet of the network it sends in parts.
	MaxMessage = 64 << 10
	// maxAnswer bounds what is written into an answer: a page ends before it.
	maxAnswer = 48 << 10
)

// kind is what a message is.
type kind uint8

const (
	hello  kind = iota + 1 // which build its sender is
	ask                    // a question to one node
	answer                 // to the process that has asked
)

// message is a message between services.
type message struct {
	version uint8
	kind    kind
	to      Member // zero: all
	id      uint64
	body    []byte
}

var errMessage = errors.New("it is not a message of this program")

func (m *message) encode() []byte {
	b := make([]byte, headerSize, headerSize+len(m.body))
	binary.BigEndian.PutUint16(b, magic)
	b[2], b[3] = m.version, byte(m.kind)
	binary.BigEndian.PutUint32(b[4:], m.to.Node)
	binary.BigEndian.PutUint32(b[8:], m.to.PID)
	binary.BigEndian.PutUint64(b[12:], m.id)
	return append(b, m.body...)
}

// decode reads only the header: a message in a newer version has to be distinguished from
// rubbish, because its sender gets an answer (answerTo).
func decode(b []byte) (message, error) {
	if len(b) < headerSize || len(b) > MaxMessage || binary.BigEndian.Uint16(b) != magic {
		return message{}, errMessage
	}
	return message{version: b[2], kind: kind(b[3]), body: b[headerSize:],
		to: Member{binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])},
		id: binary.BigEndian.Uint64(b[12:])}, nil
}

// isFor reports whether a message is meant for a member. Corosync delivers each message to the
// whole group, so most are not.
func (m *message) isFor(self Member) bool {
	return (m.to.Node == 0 || m.to.Node == self.Node) && (m.to.PID == 0 || m.to.PID == self.PID)
}
