package dbus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Names of the contract.
const (
	// Name is the well-known bus name, and the interface's.
	Name = "org.example.DlmLock"
	// Path is the object that everything is below.
	Path godbus.ObjectPath = "/org/example/DlmLock"
	// LockPrefix and the number of a lock (api.Ref) make its path.
	LockPrefix = string(Path) + "/lock/"
	// RequestPrefix and a number make the path of a Request.
	RequestPrefix = string(Path) + "/request/"
	// LockspacePrefix and the escaped name of a lockspace make its path.
	LockspacePrefix = string(Path) + "/lockspace/"

	// The interfaces of the objects with these prefixes.
	lockIfaceName      = Name + ".Lock"
	requestIfaceName   = Name + ".Request"
	lockspaceIfaceName = Name + ".Lockspace"
)

const systemBus = "unix:path=/run/dbus/system_bus_socket;unix:path=/var/run/dbus/system_bus_socket"

// SystemAddress is where the system bus is: $DBUS_SYSTEM_BUS_ADDRESS, or the
// well-known sockets (D-Bus specification, "System message bus").
func SystemAddress() string {
	if a := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"); a != "" {
		return a
	}
	return systemBus
}

// Bus is a connection to a message bus. It takes method calls from the moment
// a Server is started on it; until then it answers that the service is
// starting.
type Bus struct {
	// godbus's connection, which authenticates and reads what is not a call.
	conn *godbus.Conn
	// What is between it and the socket: it takes the calls out of the stream.
	wire    *wire
	serials serials
	// The id of the bus, which is part of the names of the sessions: after a restart of
	// the bus a unique name may be another connection's.
	guid  string
	alien string // why pids that the bus tells mean nothing here; "" if they are ours
	// Gets the calls, once Start has been called.
	server atomic.Pointer[Server]
}

// Connect connects to the bus at address ("" means SystemAddress). The context
// bounds the connecting, not the connection.
func Connect(ctx context.Context, address string) (*Bus, error) {
	if address == "" {
		address = SystemAddress()
	}
	c, err := dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("connect to the message bus: %w", err)
	}
	stop := limit(ctx, c)
	b := new(Bus)
	b.wire = newWire(c, b.take)
	if err := b.greet(); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("connect to the message bus at %s: %w", address, errors.Join(err, ctx.Err()))
	}
	stop()
	return b, nil
}

// greet authenticates, gets a unique name and the id of the bus, and finds out whether pids of
// the bus mean the same here.
func (b *Bus) greet() (err error) {
	b.conn, err = godbus.NewConn(b.wire,
		godbus.WithSignalHandler(&signals{bus: b, rest: godbus.NewSequentialSignalHandler()}),
		godbus.WithSerialGenerator(&b.serials),
		// Only the kernel's word on who we are; no cookies in a home directory.
		godbus.WithAuth(godbus.AuthExternal(fmt.Sprint(os.Geteuid()))))
	if err != nil {
		return err
	}
	err = b.conn.Auth([]godbus.Auth{godbus.AuthExternal(fmt.Sprint(os.Geteuid()))})
	if err == nil {
		err = b.conn.Hello()
	}
	if err == nil {
		err = b.conn.BusObject().Call("org.freedesktop.DBus.GetId", 0).Store(&b.guid)
	}
	if err != nil {
		_ = b.conn.Close()
		return err
	}
	b.compareNumbers()
	return nil
}

// compareNumbers finds out whether the bus numbers processes as we do. It does
// not where it runs in another pid namespace; then a pid of its credentials is
// another process here. A bus that does not tell our own pid counts as such.
func (b *Bus) compareNumbers() {
	var pid uint32
	err := b.conn.BusObject().Call("org.freedesktop.DBus.GetConnectionUnixProcessID", 0, b.conn.Names()[0]).Store(&pid)
	switch {
	case err != nil:
		b.alien = "the message bus did not give the pid of this service: " + err.Error()
	case pid != uint32(os.Getpid()):
		b.alien = fmt.Sprintf("the message bus is in another pid namespace: it knows this service as process %d, "+
			"which is process %d here", pid, os.Getpid())
	}
}

// Conn is the godbus connection, for calls to other services. Replies and
// signals of this service go through the Server alone.
func (b *Bus) Conn() *godbus.Conn { return b.conn }

// GUID is the bus's own id: unique names are never reused within one
// (D-Bus specification, org.freedesktop.DBus.GetId).
func (b *Bus) GUID() string { return b.guid }

// Sessions is the name space of the sessions that this bus's connections are.
func (b *Bus) Sessions() api.Session { return b.session("") }

// session is the session that a connection is, by its unique name.
func (b *Bus) session(name string) api.Session { return api.MakeSession("dbus", b.guid, name) }

// nameOf returns the unique name of a session that is a connection of this bus.
func (b *Bus) nameOf(s api.Session) (name string, ok bool) { return s.In(b.Sessions()) }

// Done is closed when the connection is gone, by Close or because the bus is.
func (b *Bus) Done() <-chan struct{} { return b.conn.Context().Done() }

// Close closes the connection.
func (b *Bus) Close() error { return b.conn.Close() }

// take takes every method call, in the reader goroutine.
func (b *Bus) take(h *header) {
	if s := b.server.Load(); s != nil {
		s.take(h)
		return
	}
	// Only somebody who calls the unique name can be so early.
	if len(h.sender) > 0 && h.flags&godbus.FlagNoReplyExpected == 0 {
		e := errorReply(string(h.sender), h.serial, busError{errFailed, "the service is starting; call " + Name})
		go b.conn.Send(e, nil)
	}
}

// signals sees the signals that the bus sends us. It runs in the reader, so a
// vanished sender stays behind the calls it made.
type signals struct {
	bus  *Bus
	rest godbus.SignalHandler
}

// DeliverSignal implements godbus.SignalHandler.
func (h *signals) DeliverSignal(iface, name string, sig *godbus.Signal) {
	if iface != "org.freedesktop.DBus" || name != "NameOwnerChanged" || sig.Sender != "org.freedesktop.DBus" {
		h.rest.DeliverSignal(iface, name, sig)
		return
	}
	if len(sig.Body) != 3 {
		return
	}
	who, _ := sig.Body[0].(string)
	owner, _ := sig.Body[2].(string)
	if s := h.bus.server.Load(); s != nil && owner == "" && strings.HasPrefix(who, ":") {
		s.sessionGone(who)
	}
}

// AddSignal implements godbus.SignalRegistrar for Conn().Signal.
func (h *signals) AddSignal(ch chan<- *godbus.Signal) { h.rest.(godbus.SignalRegistrar).AddSignal(ch) }

// RemoveSignal implements godbus.SignalRegistrar.
func (h *signals) RemoveSignal(ch chan<- *godbus.Signal) {
	h.rest.(godbus.SignalRegistrar).RemoveSignal(ch)
}

// Terminate implements godbus.Terminator.
func (h *signals) Terminate() { h.rest.(godbus.Terminator).Terminate() }

// serials numbers our messages. A number comes again after 2^32 messages; by
// then nobody waits for the answer to the first.
type serials struct{ last atomic.Uint32 }

// GetSerial implements godbus.SerialGenerator. 0 is no serial.
func (s *serials) GetSerial() uint32 {
	for {
		if n := s.last.Add(1); n != 0 {
			return n
		}
	}
}

// RetireSerial implements godbus.SerialGenerator.
func (s *serials) RetireSerial(uint32) {}
