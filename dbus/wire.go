package dbus

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// wire is the byte stream to the bus. godbus sees it as a plain stream, and gets
// no file descriptor: read(2) has no place for those that come with the bytes, so
// the kernel drops them (unix(7), SCM_RIGHTS), and no caller can fill our
// descriptor table. All the same, wire tells the bus that this connection takes
// descriptors. dbus-broker 34 and newer answers GetConnectionCredentials with one
// (ProcessFD), and disconnects whoever asks without having said so.
//
// It reads message by message. Method calls it gives to onCall, in the order of
// arrival; godbus, which would run each in a goroutine of its own, never sees
// them. Of the others it lets through what godbus can read: godbus ends the
// connection at a message that it can't, and anybody may send us a signal.
//
// Writes gather while corked, so that a batch of replies costs one system
// call.
type wire struct {
	conn *net.UnixConn
	// Since when nobody reads, for the watchdog.
	idle   *idleReader
	onCall func(*header) // runs in the reader; the header is good until it returns
	// The stream from the bus.
	in     *bufio.Reader
	frame  []byte        // what godbus has not read yet of a line or message
	buf    []byte        // what frame is a part of, for the next message
	binary bool          // authentication is over: messages, not lines
	unread atomic.Uint64 // messages that were dropped
	wrote  atomic.Uint64 // bytes

	mu  sync.Mutex
	out []byte
	// Write gathers in out what flush then sends in one system call.
	corked bool
}

const (
	// maxCorked is how many bytes gather before they are written although
	// corked.
	maxCorked = 64 << 10
	// maxKept is how large a buffer stays for the next time.
	maxKept = 256 << 10
	// maxMessage is the longest message (D-Bus specification, "Message
	// Format": 2^27 bytes).
	maxMessage = 1 << 27
	// MaxCall is the longest message that is read whole. Of a longer call only
	// the header is, if that is no longer than maxHeader, so that it can be
	// answered.
	MaxCall   = 8 << 20
	maxHeader = 64 << 10
)

func newWire(c *net.UnixConn, onCall func(*header)) *wire {
	idle := &idleReader{from: c}
	return &wire{conn: c, idle: idle, onCall: onCall, in: bufio.NewReaderSize(idle, 32<<10)}
}

// idleReader knows since when nobody reads, which is when the reader goroutine
// does something else. A reader that waits for the bus is where it should be.
type idleReader struct {
	from io.Reader
	left stopwatch
}

func (r *idleReader) Read(p []byte) (int, error) {
	r.left.stop()
	defer r.left.start()
	return r.from.Read(p)
}

// stopwatch tells for how long something goes on.
type stopwatch struct{ since atomic.Int64 }

func (w *stopwatch) start() { w.since.Store(int64(time.Since(began))) }
func (w *stopwatch) stop()  { w.since.Store(0) }

// began is in front of every start of a stopwatch, so 0 is none.
var began = time.Now().Add(-time.Hour)

// shows is how long it has run; 0 if it does not run.
func (w *stopwatch) shows() time.Duration {
	if at := w.since.Load(); at != 0 {
		return time.Since(began) - time.Duration(at)
	}
	return 0
}

// Read gives godbus a part of one line or one message.
func (w *wire) Read(p []byte) (int, error) {
	for len(w.frame) == 0 {
		if err := w.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.frame)
	w.frame = w.frame[n:]
	return n, nil
}

// next reads the next line, or message, and leaves in frame what godbus is to
// read of it; frame stays empty if that is nothing. An error ends the connection.
func (w *wire) next() error {
	if !w.binary {
		return w.nextLine()
	}
	head, err := w.in.Peek(headerSize)
	if err != nil {
		return err
	}
	size, ok := messageSize(head)
	if !ok {
		return fmt.Errorf("the bus sent a message longer than %d bytes", maxMessage)
	}
	isCall := godbus.Type(head[1]) == godbus.TypeMethodCall
	whole := size
	if size > MaxCall {
		whole = headSize(head)
	}
	// What is too long is no call, or one whose header alone is too long to be answered.
	if whole < size && (!isCall || whole > maxHeader) {
		w.unread.Add(1)
		return w.skip(size)
	}
	frame, err := w.readFrame(whole)
	switch {
	case err != nil:
		return err
	case isCall:
		w.takeCall(frame, size)
		return w.skip(size - whole)
	case !readable(frame):
		w.unread.Add(1)
		return nil
	}
	w.frame = frame
	return nil
}

// nextLine reads a line of the authentication (D-Bus specification, "Authentication Protocol").
// OK is the last one for godbus. Descriptors are negotiated before godbus sees it, and a bus that
// has none (ERROR) will do as well.
func (w *wire) nextLine() (err error) {
	line, err := w.in.ReadBytes('\n')
	if w.binary = bytes.HasPrefix(line, []byte("OK ")); w.binary && err == nil {
		if _, err = w.conn.Write([]byte("NEGOTIATE_UNIX_FD\r\n")); err == nil {
			_, err = w.in.ReadSlice('\n')
		}
	}
	w.frame = line
	return err
}

// readFrame reads n bytes into the buffer that all messages share, so they are good until
// the next one is read. A buffer that a long message needed is not kept for short ones.
func (w *wire) readFrame(n int) ([]byte, error) {
	if cap(w.buf) < n || cap(w.buf) > maxKept {
		w.buf = make([]byte, max(n, 4096))
	}
	_, err := io.ReadFull(w.in, w.buf[:n])
	return w.buf[:n], err
}

// takeCall hands over a method call, of which size bytes were sent and frame was read. One
// without a valid header can't be answered, since nothing says to whom.
func (w *wire) takeCall(frame []byte, size int) {
	h, ok := parseHeader(frame)
	if !ok {
		w.unread.Add(1)
		return
	}
	h.size, h.cut = size, len(frame) < size
	w.onCall(&h)
}

// skip reads past what is not kept.
func (w *wire) skip(n int) error {
	_, err := w.in.Discard(n)
	return err
}

// readable tells whether godbus can read a message that a bus let through. It
// can't where containers are nested deeper than 63, which needs as many
// characters of type codes, nor dictionaries with some types of keys. Whatever
// may be like that is tried, which is rare.
func readable(frame []byte) bool {
	const suspicious = 48
	n := bytes.Count(frame, []byte("a")) + bytes.Count(frame, []byte("v")) + bytes.Count(frame, []byte("("))
	dicts := bytes.Count(frame, []byte("{")) - bytes.Count(frame, []byte("{s"))
	return n < suspicious && dicts == 0 || tryDecode(frame)
}

func tryDecode(frame []byte) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	_, err := godbus.DecodeMessage(bytes.NewReader(frame))
	var invalid godbus.InvalidMessageError
	return err == nil || errors.As(err, &invalid) // godbus skips an invalid one itself
}

// Write takes what godbus writes. Between cork and flush it is only gathered.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrote.Add(uint64(len(p)))
	if !w.corked {
		return w.conn.Write(p)
	}
	w.out = append(w.out, p...)
	if len(w.out) < maxCorked {
		return len(p), nil
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *wire) Close() error { return w.conn.Close() }

// cork makes writes gather until uncork.
func (w *wire) cork() {
	w.mu.Lock()
	w.corked = true
	w.mu.Unlock()
}

// uncork writes what has gathered.
func (w *wire) uncork() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.corked = false
	return w.flush()
}

// flush sends what was gathered.
func (w *wire) flush() error {
	if len(w.out) == 0 {
		return nil
	}
	_, err := w.conn.Write(w.out)
	w.out = w.out[:0]
	if cap(w.out) > maxKept {
		w.out = nil
	}
	return err
}

// dial connects to the first address of the list that can be reached. Only
// unix sockets are supported: the bus must vouch for the caller's uid, and
// without a socket of this host it can't.
func dial(ctx context.Context, address string) (*net.UnixConn, error) {
	var last error
	for a := range strings.SplitSeq(address, ";") {
		if a == "" {
			continue
		}
		name, err := socketName(a)
		if err == nil {
			var d net.Dialer
			var c net.Conn
			if c, err = d.DialContext(ctx, "unix", name); err == nil {
				return c.(*net.UnixConn), nil
			}
		}
		last = err
	}
	if last == nil {
		return nil, fmt.Errorf("bus address %q names no socket", address)
	}
	return nil, last
}

// socketName reads one address of the D-Bus specification ("Server
// Addresses") as the name that package net knows.
func socketName(address string) (string, error) {
	transport, pairs, _ := strings.Cut(address, ":")
	if transport != "unix" {
		return "", fmt.Errorf("bus address %q: only unix: addresses are supported", address)
	}
	for pair := range strings.SplitSeq(pairs, ",") {
		key, value, _ := strings.Cut(pair, "=")
		if key != "path" && key != "abstract" {
			continue
		}
		value, err := godbus.UnescapeBusAddressValue(value)
		if err != nil {
			return "", fmt.Errorf("bus address %q: %w", address, err)
		}
		if key == "abstract" {
			value = "@" + value
		}
		return value, nil
	}
	return "", fmt.Errorf("bus address %q: neither path nor abstract is given", address)
}

// limit makes the connection fail when the context ends, until stop is called.
func limit(ctx context.Context, c net.Conn) (stop func()) {
	cancel := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	return func() {
		if cancel() {
			_ = c.SetDeadline(time.Time{})
		}
	}
}
