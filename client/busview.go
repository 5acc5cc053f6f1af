package client

import (
	"context"
	"errors"
	"slices"
)

// BusView is what the message bus knows of the service and of those that it needs.
type BusView struct {
	Running   bool // the service has its name
	Activated bool // a call would start the service
	Polkit    bool // polkit runs, or a call would start it
}

// polkitName is the name of polkit on the bus.
const polkitName = "org.freedesktop.PolicyKit1"

// View asks the message bus. Nothing is started for that. The error is of kind
// NotSupported where there is no bus: the client uses Varlink.
func (c *Client) View(ctx context.Context) (BusView, error) { return c.transport().view(ctx) }

func (b *bus) view(ctx context.Context) (BusView, error) {
	var v BusView
	var startable []string
	var polkit bool
	daemon := b.conn.BusObject()
	err := errors.Join(
		daemon.CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, Name).Store(&v.Running),
		daemon.CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, polkitName).Store(&polkit),
		daemon.CallWithContext(ctx, "org.freedesktop.DBus.ListActivatableNames", 0).Store(&startable),
	)
	v.Activated = slices.Contains(startable, Name)
	v.Polkit = polkit || slices.Contains(startable, polkitName)
	return v, wrap("View", err)
}
