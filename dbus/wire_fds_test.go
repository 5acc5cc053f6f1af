package dbus

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"
)

// dbus-broker 34 and newer answers GetConnectionCredentials with a descriptor, and disconnects a
// connection that asks and has not negotiated any. Debian 12 has version 33, so this plays the
// newer one's part; with Debian 13 (make test-in-debian13) all tests of this package run on it.
func TestAnswersWithDescriptors(t *testing.T) {
	for _, answer := range []string{"AGREE_UNIX_FD", "ERROR"} {
		t.Run(answer, func(t *testing.T) {
			ours, theirs := socketPair(t)
			said := make(chan []string, 1)
			go playBroker(theirs, answer, said)
			conn, err := godbus.NewConn(newWire(ours, nil))
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			require.NoError(t, conn.Auth([]godbus.Auth{godbus.AuthExternal("0")}))
			require.Equal(t, []string{"AUTH", "AUTH EXTERNAL", "DATA", "NEGOTIATE_UNIX_FD", "BEGIN"}, <-said)
			before := openFiles(t)
			for range 3 {
				var creds map[string]godbus.Variant
				require.NoError(t, conn.BusObject().Call("org.freedesktop.DBus.GetConnectionCredentials", 0,
					":1.1").Store(&creds))
				require.Equal(t, uint32(42), creds["UnixUserID"].Value())
			}
			require.Equal(t, before, openFiles(t), "the descriptors are gone")
		})
	}
}

func socketPair(t *testing.T) (ours, theirs *net.UnixConn) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, err := net.FileConn(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		t.Cleanup(func() { _ = c.Close() })
		ends[i] = c.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// playBroker authenticates whoever it is, and answers each call as GetConnectionCredentials is
// answered, with standard input as the descriptor.
func playBroker(c *net.UnixConn, answer string, said chan<- []string) {
	in := bufio.NewReader(c)
	lines, err := playAuthentication(c, in, answer)
	if err != nil {
		return
	}
	said <- lines
	for {
		call, err := godbus.DecodeMessage(in)
		if err != nil {
			return
		}
		reply := &godbus.Message{Type: godbus.TypeMethodReply, Headers: map[godbus.HeaderField]godbus.Variant{
			godbus.FieldReplySerial: godbus.MakeVariant(call.Serial()),
			godbus.FieldSignature:   godbus.MakeVariant(godbus.SignatureOf(map[string]godbus.Variant{})),
			godbus.FieldUnixFDs:     godbus.MakeVariant(uint32(1)),
		}, Body: []any{map[string]godbus.Variant{"UnixUserID": godbus.MakeVariant(uint32(42)),
			"ProcessFD": godbus.MakeVariant(godbus.UnixFDIndex(0))}}}
		var text bytes.Buffer
		if err := reply.EncodeTo(&text, binary.LittleEndian); err != nil {
			panic(err)
		}
		_, _, _ = c.WriteMsgUnix(text.Bytes(), syscall.UnixRights(0), nil)
	}
}

// playAuthentication returns the lines that the client has sent, up to BEGIN.
func playAuthentication(c *net.UnixConn, in *bufio.Reader, answer string) (lines []string, err error) {
	if _, err := in.ReadByte(); err != nil { // the null byte that comes first
		return nil, err
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		line = strings.TrimSpace(line)
		if lines = append(lines, line); line == "BEGIN" {
			return lines, nil
		}
		reply := map[string]string{"AUTH": "REJECTED EXTERNAL", "AUTH EXTERNAL": "DATA", "DATA": "OK 1234",
			"NEGOTIATE_UNIX_FD": answer}[line]
		if _, err := c.Write([]byte(reply + "\r\n")); err != nil {
			return nil, err
		}
	}
}
