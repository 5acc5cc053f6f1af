package dbus

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// rawClient speaks the protocol by hand, to send what no library would.
type rawClient struct {
	conn   net.Conn
	in     *bufio.Reader
	serial uint32
}

func dialRaw(t *testing.T, b *testbus.Bus) *rawClient {
	c, err := net.Dial("unix", strings.TrimPrefix(b.Address, "unix:path="))
	require.NoError(t, err)
	r := &rawClient{conn: c, in: bufio.NewReader(c)}
	_, err = fmt.Fprintf(c, "\x00AUTH EXTERNAL %x\r\n", "0")
	require.NoError(t, err)
	line, err := r.in.ReadString('\n')
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(line, "OK "), line)
	_, err = c.Write([]byte("BEGIN\r\n"))
	require.NoError(t, err)
	require.NoError(t, r.send(godbus.TypeMethodCall, "org.freedesktop.DBus", "/org/freedesktop/DBus",
		"org.freedesktop.DBus", "Hello", "", nil))
	r.answer(t)
	return r
}

// send sends a message whose header godbus makes and whose body is given.
func (r *rawClient) send(kind godbus.Type, dest string, path godbus.ObjectPath, iface, member, sig string,
	body []byte) error {
	msg := &godbus.Message{Type: kind, Headers: map[godbus.HeaderField]godbus.Variant{
		godbus.FieldDestination: godbus.MakeVariant(dest), godbus.FieldPath: godbus.MakeVariant(path),
		godbus.FieldInterface: godbus.MakeVariant(iface), godbus.FieldMember: godbus.MakeVariant(member)}}
	if sig != "" {
		msg.Headers[godbus.FieldSignature] = godbus.MakeVariant(godbus.ParseSignatureMust(sig))
	}
	var head bytes.Buffer
	if err := msg.EncodeTo(&head, binary.LittleEndian); err != nil {
		return err
	}
	r.serial++
	out := head.Bytes()
	binary.LittleEndian.PutUint32(out[4:], uint32(len(body)))
	binary.LittleEndian.PutUint32(out[8:], r.serial)
	_, err := r.conn.Write(append(out, body...))
	return err
}

func (r *rawClient) call(t *testing.T, member, sig string, body []byte) bool {
	require.NoError(t, r.send(godbus.TypeMethodCall, Name, Path, Name, member, sig, body))
	return r.answer(t)
}

// answer waits for an answer; it is false if the bus ends the connection.
func (r *rawClient) answer(t *testing.T) bool {
	require.NoError(t, r.conn.SetReadDeadline(time.Now().Add(patience)))
	for {
		msg, err := godbus.DecodeMessage(r.in)
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return false
		}
		require.NoError(t, err)
		if msg.Type == godbus.TypeMethodReply || msg.Type == godbus.TypeError {
			return true
		}
	}
}
