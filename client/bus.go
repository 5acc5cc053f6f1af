package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	godbus "github.com/godbus/dbus/v5"
)

// bus is the transport over D-Bus: a connection to a message bus, and with which flags
// calls are made.
type bus struct {
	conn  *godbus.Conn
	end   context.CancelFunc // of the context of conn
	flags godbus.Flags       // of every call: whether it may start the service, or a password may be asked for
}

// busOptions deliver signals one after the other. With godbus's default handler each signal has
// a goroutine, and the start of the service could be seen before its end.
func busOptions(life context.Context) []godbus.ConnOption {
	return []godbus.ConnOption{godbus.WithContext(life), godbus.WithSignalHandler(godbus.NewSequentialSignalHandler())}
}

// dialBus connects to the bus at address, or to the system bus for "".
func dialBus(ctx context.Context, address string) (transport, error) {
	// ctx bounds only the connecting. The connection lives until close.
	life, end := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, end)
	// Only the kernel's word on who we are; no cookies in a home directory.
	opts := append(busOptions(life), godbus.WithAuth(godbus.AuthExternal(strconv.Itoa(os.Geteuid()))))
	var conn *godbus.Conn
	var err error
	if address == "" {
		address = "the system bus"
		conn, err = godbus.ConnectSystemBus(opts...)
	} else {
		conn, err = godbus.Connect(address, opts...)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		end()
		err = errors.Join(err, ctx.Err())
		return nil, &Error{Op: "connect", Kind: NoBus, Err: err,
			Message: fmt.Sprintf("can't connect to the message bus (%s): %v", address, err)}
	}
	return &bus{conn: conn, end: end}, nil
}

// busOver uses a stream that is connected to a bus. Closing the stream is all that can
// interrupt the handshake, since a stream need not have deadlines.
func busOver(ctx context.Context, stream io.ReadWriteCloser) (transport, error) {
	life, end := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	conn, err := godbus.NewConn(stream, busOptions(life)...)
	if err == nil {
		err = conn.Auth([]godbus.Auth{godbus.AuthExternal(strconv.Itoa(os.Geteuid()))})
	}
	if err == nil {
		err = conn.Hello()
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		end()
		stream.Close()
		err = errors.Join(err, ctx.Err())
		return nil, &Error{Op: "connect", Kind: NoBus, Err: err,
			Message: fmt.Sprintf("can't connect to the message bus: %v", err)}
	}
	return &bus{conn: conn, end: end}, nil
}

func (b *bus) with(s settings) transport {
	other := *b
	other.flags = 0
	if s.interaction {
		other.flags |= godbus.FlagAllowInteractiveAuthorization
	}
	if s.noAutoStart {
		other.flags |= godbus.FlagNoAutoStart
	}
	return &other
}

func (b *bus) close() error {
	defer b.end()
	return b.conn.Close()
}

func (b *bus) done() <-chan struct{} { return b.conn.Context().Done() }

// call calls a member of the service's interface.
func (b *bus) call(ctx context.Context, member string, out []any, args ...any) error {
	return b.callOn(ctx, Path, Name, member, out, args...)
}

// callOn calls a member of an object. The message is built here because
// godbus's Object.Call drops the flag that allows interaction.
func (b *bus) callOn(ctx context.Context, path godbus.ObjectPath, iface, member string, out []any,
	args ...any) error {
	msg := &godbus.Message{
		Type:  godbus.TypeMethodCall,
		Flags: b.flags,
		Headers: map[godbus.HeaderField]godbus.Variant{
			godbus.FieldDestination: godbus.MakeVariant(Name),
			godbus.FieldPath:        godbus.MakeVariant(path),
			godbus.FieldInterface:   godbus.MakeVariant(iface),
			godbus.FieldMember:      godbus.MakeVariant(member),
		},
		Body: args,
	}
	if len(args) > 0 {
		msg.Headers[godbus.FieldSignature] = godbus.MakeVariant(godbus.SignatureOf(args...))
	}
	done := b.conn.SendWithContext(ctx, msg, make(chan *godbus.Call, 1)).Done
	return wrap(member, (<-done).Store(out...))
}

// seesPIDs compares this process's own pid with the one that the bus sees. They differ in a
// container with a pid namespace of its own, where the pids of other processes mean nothing
// to the service.
func (b *bus) seesPIDs(ctx context.Context) bool {
	var pid uint32
	err := b.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", 0,
		b.conn.Names()[0]).
		Store(&pid)
	return err == nil && pid == uint32(os.Getpid())
}
