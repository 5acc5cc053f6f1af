package dbus

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// wire is the byte stream to the bus. godbus sees it as a plain stream and so
// never negotiates file descriptors: the bus lets no message with one through,
// and no caller can fill our descriptor table. (godbus never closes a
// descriptor that a message carries without naming it in its body.)
//
// Reads are buffered. Writes are too while corked, so that a batch of replies
// costs one system call.
type wire struct {
	conn *net.UnixConn
	in   *bufio.Reader

	mu     sync.Mutex
	out    []byte
	corked bool
}

// maxCorked is how many bytes gather before they are written although corked.
const maxCorked = 64 << 10

func newWire(c *net.UnixConn) *wire {
	return &wire{conn: c, in: bufio.NewReaderSize(c, 32<<10)}
}

func (w *wire) Read(p []byte) (int, error) { return w.in.Read(p) }

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
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

func (w *wire) flush() error {
	if len(w.out) == 0 {
		return nil
	}
	_, err := w.conn.Write(w.out)
	w.out = w.out[:0]
	if cap(w.out) > 4*maxCorked {
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
