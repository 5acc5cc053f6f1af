package main

import (
	"context"
	"time"

	"github.com/dlmlock/dlmlockd/frontend"
)

// noBus is the value of --bus with which the service is not on a message bus.
const noBus = "none"

// busServer is the door for the message bus: *dbus.Server, or withoutBus.
type busServer interface {
	Start(ctx context.Context) error        // calls are answered, for whoever knows the unique name
	RequestName() error                     // and for everybody
	Done() <-chan struct{}                  // the connection to the bus is gone
	Shutdown(ctx context.Context) error     // answers calls under way and closes the connection
	ShutdownIdle(ctx context.Context) error // and has the bus start the service again for what comes
	Healthy(limit time.Duration) error      // nothing hangs for longer than limit
}

// withoutBus stands for the message bus where there is none: nobody calls, and the
// connection never ends.
type withoutBus struct{ core *frontend.Core }

func (withoutBus) Start(context.Context) error { return nil }

func (withoutBus) RequestName() error { return nil }

func (withoutBus) Done() <-chan struct{} { return nil }

// Shutdown waits for the calls that came through the other doors.
func (b withoutBus) Shutdown(ctx context.Context) error { return b.core.Shutdown(ctx, nil) }

// ShutdownIdle is Shutdown: nobody can start the service again through a bus.
func (b withoutBus) ShutdownIdle(ctx context.Context) error { return b.Shutdown(ctx) }

func (withoutBus) Healthy(time.Duration) error { return nil }
