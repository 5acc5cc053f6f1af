package client

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"

	godbus "github.com/godbus/dbus/v5"
)

// Names of the contract.
const (
	Name                   = "org.example.DlmLock"
	Path godbus.ObjectPath = "/org/example/DlmLock"

	// VarlinkSocket is where the service listens for Varlink.
	VarlinkSocket = "/run/dlmlock/" + Name
	// AddressVariable is the environment variable that says how Open connects: the path
	// of a Varlink socket, which begins with "/", or a D-Bus address.
	AddressVariable = "DLMLOCK_ADDRESS"
)

// Client is a connection to the service, over D-Bus or over Varlink.
type Client struct {
	// redial connects anew; nil: that is not possible.
	redial func(context.Context) (transport, error)

	mu   sync.Mutex
	base transport // with the settings; keeper.reconnect replaces it
	set  settings
	kept keeper // the locks of Hold
}

// Config says how to connect. Its zero value is right for a program on a host.
type Config struct {
	// Bus is the address of a message bus.
	Bus string
	// Varlink is the path of a Varlink socket of the service. It comes before Bus.
	Varlink string
}

// Open connects to the service: as the Config says, or else as the environment variable
// DLMLOCK_ADDRESS says, or else over the system bus, or, where there is no system bus,
// over the Varlink socket at VarlinkSocket.
//
// The service need not run: the first call starts it where systemd is set up for that, and
// it is the first call that fails where no service answers at the socket. The context bounds
// only the time to connect. The error is of kind NoBus if there is neither a bus nor a
// socket.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	if cfg == (Config{}) {
		if a := os.Getenv(AddressVariable); strings.HasPrefix(a, "/") {
			cfg.Varlink = a
		} else {
			cfg.Bus = a
		}
	}
	if cfg.Varlink != "" {
		return OpenVarlink(cfg.Varlink), nil
	}
	c, err := Dial(ctx, cfg.Bus)
	if errors.Is(err, NoBus) && cfg.Bus == "" && ctx.Err() == nil {
		if _, serr := os.Stat(VarlinkSocket); serr == nil {
			return OpenVarlink(VarlinkSocket), nil
		}
	}
	return c, err
}

// Dial connects to the message bus at address, or to the system bus for "".
// The service need not run: the first call starts it. The context bounds the
// connecting alone. The error is of kind NoBus; it is the context's, too, if the
// context has ended.
func Dial(ctx context.Context, address string) (*Client, error) {
	redial := func(ctx context.Context) (transport, error) { return dialBus(ctx, address) }
	t, err := redial(ctx)
	if err != nil {
		return nil, err
	}
	return &Client{base: t, redial: redial}, nil
}

// Over uses a stream that is already connected to a message bus, for a bus that has no
// address here: behind a tunnel, or on another machine. The caller is the user whom the
// bus sees at the other end. The context limits only the connecting. The stream is
// closed with the Client, and if connecting fails; the error is of kind NoBus.
func Over(ctx context.Context, stream io.ReadWriteCloser) (*Client, error) {
	t, err := busOver(ctx, stream)
	if err != nil {
		return nil, err
	}
	return &Client{base: t}, nil
}

// OpenVarlink uses the Varlink socket at path, or at VarlinkSocket for "". Calls
// connect when they need a connection, so a service that does not run is an error of
// kind NotRunning of the first call.
func OpenVarlink(path string) *Client {
	path = cmp.Or(path, VarlinkSocket)
	redial := func(context.Context) (transport, error) { return newVarlink(path), nil }
	t, _ := redial(context.Background())
	return &Client{base: t, redial: redial}
}

// Close closes the connection. Locks with the lifetime "connection" end with it, and so
// do calls that have not been answered.
func (c *Client) Close() error {
	c.kept.stop()
	return c.transport().close()
}

// Done is closed when the connection to the bus ends or, over Varlink, by Close.
func (c *Client) Done() <-chan struct{} { return c.transport().done() }

// Conn returns the connection to the bus, for everything that this package does not
// offer; nil over Varlink.
func (c *Client) Conn() *godbus.Conn {
	if b, ok := c.transport().(*bus); ok {
		return b.conn
	}
	return nil
}

// Varlink returns the path of the Varlink socket that the client uses; "" over D-Bus.
func (c *Client) Varlink() string {
	if v, ok := c.transport().(*varlink); ok {
		return v.pool.path
	}
	return ""
}

// AllowInteraction lets polkit ask a person for a password where it would refuse
// otherwise. Calls may then take minutes. It must not be called during other calls.
func (c *Client) AllowInteraction(allow bool) { c.change(func(s *settings) { s.interaction = allow }) }

// AutoStart says whether calls start the service if it does not run, which they do by
// default. Over Varlink systemd decides that. It must not be called during other
// calls.
func (c *Client) AutoStart(start bool) { c.change(func(s *settings) { s.noAutoStart = !start }) }

// change makes a transport with other settings. Calls under way have the old one.
func (c *Client) change(what func(*settings)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	what(&c.set)
	c.base = c.base.with(c.set)
}

func (c *Client) transport() transport {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base
}

// SeesPIDs reports whether pids of the service mean the same processes to this
// program, as far as that can be found out. It is false between a container and its
// host.
func (c *Client) SeesPIDs(ctx context.Context) bool { return c.transport().seesPIDs(ctx) }
