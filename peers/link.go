package peers

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
)

// Member is a process in the group: the service on a node. Corosync reports both numbers with
// each message, and a sender can't choose them (cpg_deliver(3)). The pid tells a service from
// the one that ran there before.
type Member struct{ Node, PID uint32 }

// Event is what a Link delivers: a message with its sender, or the members of the group.
type Event struct {
	From Member
	Data []byte // nil: Members is the group now, and Self this process's place in it

	Self    Member
	Members []Member
}

// Link is a connection to the group. Receive blocks until there is an event; Send blocks for a
// bounded time. An error of either ends the link. Close ends a Receive.
type Link interface {
	Send(data []byte) error
	Receive() (Event, error)
	Close() error
}

// RelaySocket is where the relay to corosync listens (dlmlockd-cpg.socket).
const RelaySocket = "/run/dlmlockd-cpg.sock"

// The first byte of each packet of the relay, which is followed by
//
//	relayMessage   node, pid of the sender; the message
//	relayMembers   node, pid of this process; node, pid of each member
//	relayFailed    why it closes the connection, for people
//
// with integers of 4 bytes in the machine's order. Packets to the relay are messages.
const (
	relayMessage = 'M'
	relayMembers = 'C'
	relayFailed  = 'E'
)

// sendTimeout is how long the relay may take to accept a message. While corosync is busy, for
// example because its membership changes, the relay tries to send one for 10 s and reads no
// other (pump in cpg/relay_cgo.go).
const sendTimeout = 10 * time.Second

// relay is the Link through the relay. The socket is of type SOCK_SEQPACKET (unix(7)): it
// keeps the bounds of messages, and the end of the connection reads as an empty packet.
type relay struct {
	conn *net.UnixConn
	buf  []byte // of Receive, used again for each packet
}

// DialRelay returns a function that connects to the relay at a path.
func DialRelay(path string) func(context.Context) (Link, error) {
	return func(ctx context.Context) (Link, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unixpacket", path)
		if err != nil {
			return nil, fmt.Errorf("the relay to corosync can't be reached (dlmlockd-cpg.socket): %w", err)
		}
		// The 64 bytes are for what precedes a message in a packet. The kernel cuts off a longer
		// packet, which then can't be parsed.
		return &relay{conn: conn.(*net.UnixConn), buf: make([]byte, MaxMessage+64)}, nil
	}
}

func (r *relay) Send(data []byte) error {
	_ = r.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	_, err := r.conn.Write(data)
	return err
}

func (r *relay) Close() error { return r.conn.Close() }

func (r *relay) Receive() (Event, error) {
	n, err := r.conn.Read(r.buf)
	if err != nil {
		return Event{}, fmt.Errorf("the relay to corosync has ended: %w", err)
	}
	if n == 0 {
		return Event{}, errors.New("the relay to corosync has ended")
	}
	return parsePacket(r.buf[:n])
}

// parsePacket reads a packet, which is not empty. One that can't be read ends the link. The
// data are copied: a question may wait in Peers.asked while the buffer is used again.
func parsePacket(b []byte) (Event, error) {
	kind, b := b[0], b[1:]
	members := func(b []byte) (all []Member) {
		for ; len(b) >= 8; b = b[8:] {
			all = append(all, Member{binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(b[4:])})
		}
		return all
	}
	switch {
	case kind == relayMessage && len(b) >= 8:
		return Event{From: members(b[:8])[0], Data: append([]byte{}, b[8:]...)}, nil
	case kind == relayMembers && len(b) >= 8 && len(b)%8 == 0:
		all := members(b)
		return Event{Self: all[0], Members: all[1:]}, nil
	case kind == relayFailed:
		return Event{}, errors.New(string(b))
	}
	return Event{}, errors.New("the relay to corosync has sent what can't be read")
}
