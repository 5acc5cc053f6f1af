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

// Names of the contract.
const (
	Name                   = "org.example.DlmLock"
	Path godbus.ObjectPath = "/org/example/DlmLock"
)

// Client is a connection to the service.
type Client struct {
	conn  *godbus.Conn
	end   context.CancelFunc
	flags godbus.Flags
}

// Dial connects to the message bus at address, or to the system bus for "".
// The service need not run: the first call starts it. The context bounds the
// connecting alone. The error is of kind NoBus; it is the context's, too, if the
// context has ended.
func Dial(ctx context.Context, address string) (*Client, error) {
	life, end := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, end)
	opts := []godbus.ConnOption{
		godbus.WithContext(life),
		godbus.WithSignalHandler(godbus.NewSequentialSignalHandler()),
		// Only the kernel's word on who we are; no cookies in a home directory.
		godbus.WithAuth(godbus.AuthExternal(strconv.Itoa(os.Geteuid()))),
	}
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
	return &Client{conn: conn, end: end}, nil
}

// Over uses a stream that is already connected to a message bus, for a bus that has no
// address here: behind a tunnel, or on another machine. The caller is the user whom the
// bus sees at the other end. The context limits only the connecting. The stream is
// closed with the Client, and if connecting fails; the error is of kind NoBus.
func Over(ctx context.Context, stream io.ReadWriteCloser) (*Client, error) {
	life, end := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	conn, err := godbus.NewConn(stream, godbus.WithContext(life),
		godbus.WithSignalHandler(godbus.NewSequentialSignalHandler()))
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
		return nil, &Error{Op: "connect", Kind: NoBus, Err: errors.Join(err, ctx.Err()),
			Message: fmt.Sprintf("can't connect to the message bus: %v", errors.Join(err, ctx.Err()))}
	}
	return &Client{conn: conn, end: end}, nil
}

// Close closes the connection. Locks with the lifetime "connection" end with it, and so
// do calls that have not been answered.
func (c *Client) Close() error {
	defer c.end()
	return c.conn.Close()
}

// Done is closed when the connection to the bus ends.
func (c *Client) Done() <-chan struct{} { return c.conn.Context().Done() }

// Conn returns the connection, for everything that this package does not do.
func (c *Client) Conn() *godbus.Conn { return c.conn }

// AllowInteraction lets polkit ask a person for a password where it would refuse
// otherwise. Calls may then take minutes. It must not be called during other calls.
func (c *Client) AllowInteraction(allow bool) { c.set(godbus.FlagAllowInteractiveAuthorization, allow) }

// AutoStart says whether calls start the service if it does not run, which they do by
// default. It must not be called during other calls.
func (c *Client) AutoStart(start bool) { c.set(godbus.FlagNoAutoStart, !start) }

func (c *Client) set(f godbus.Flags, on bool) {
	c.flags &^= f
	if on {
		c.flags |= f
	}
}

// call calls a member of the service's interface.
func (c *Client) call(ctx context.Context, member string, out []any, args ...any) error {
	return c.callOn(ctx, Path, Name, member, out, args...)
}

// callOn calls a member of an object. The message is built here because
// godbus's Object.Call drops the flag that allows interaction.
func (c *Client) callOn(ctx context.Context, path godbus.ObjectPath, iface, member string, out []any,
	args ...any) error {
	msg := &godbus.Message{
		Type:  godbus.TypeMethodCall,
		Flags: c.flags,
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
	done := c.conn.SendWithContext(ctx, msg, make(chan *godbus.Call, 1)).Done
	return wrap(member, (<-done).Store(out...))
}

// SeesPIDs reports whether pids of the service mean the same processes to this
// program: whether the bus, whose word the service takes, knows this program by
// the pid that it has here. It is false between a container and its host.
func (c *Client) SeesPIDs(ctx context.Context) bool {
	var pid uint32
	err := c.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", 0,
		c.conn.Names()[0]).
		Store(&pid)
	return err == nil && pid == uint32(os.Getpid())
}
