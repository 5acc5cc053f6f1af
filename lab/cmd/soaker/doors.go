package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	dlmlock "github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
)

// door is a way to the service. An error that has a kind of package client says what has
// happened; after any other error that is not known.
type door interface {
	acquire(names []string, mode dlm.Mode, wait time.Duration) (tokens []uint64, err error)
	convert(name string, mode dlm.Mode, wait time.Duration) (token uint64, err error)
	release(names []string) error // without converts: one name
	modes() []dlm.Mode
	converts() bool // and acquires and releases several locks at once
	alive() bool
	cutAt() uint64 // when the connection was cut for the test; 0: never
	close()
}

var doors = map[string]func(*client) (door, error){
	"dbus": func(c *client) (door, error) {
		ctx, cancel := callContext()
		defer cancel()
		conn, err := dlmlock.Dial(ctx, c.bus)
		if err != nil {
			return nil, err
		}
		conn.AutoStart(false)
		return newOwn(c, conn), nil
	},
	"varlink": func(c *client) (door, error) {
		return newOwn(c, dlmlock.OpenVarlink(c.varlink)), nil
	},
	"driver":    newDriver,
	"virtlockd": newVirtlockd,
}

// callTime is how long a client waits for an answer.
const callTime = 20 * time.Second

func callContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), callTime)
}

// own is one of the service's own doors, used through package client.
type own struct {
	conn      *dlmlock.Client
	lockspace string
	options   dlmlock.Options
	stop      chan struct{}
	cut       atomic.Uint64
}

func newOwn(c *client, conn *dlmlock.Client) *own {
	o := &own{conn: conn, lockspace: c.lockspace, stop: make(chan struct{}), options: dlmlock.Options{
		Owner: fmt.Sprintf("n%d.%d", c.node, c.number), Lifetime: c.lifetime}}
	if c.lifetime == dlmlock.Process {
		o.options.PID = uint32(os.Getpid())
	}
	go o.watch(c, c.page.Cuts())
	return o
}

// watch cuts the connection, even in the middle of a call, when the test says so.
func (o *own) watch(c *client, cuts uint64) {
	ticks := time.NewTicker(again)
	defer ticks.Stop()
	for c.page.Cuts() == cuts {
		select {
		case <-o.stop:
			return
		case <-ticks.C:
		}
	}
	o.cut.Store(c.logbook.Now())
	_ = o.conn.Close()
}

func (o *own) want(name string, mode dlm.Mode) dlmlock.Want {
	return dlmlock.Want{Lockspace: o.lockspace, Resource: name, Mode: mode.String()}
}

func (o *own) acquire(names []string, mode dlm.Mode, wait time.Duration) (tokens []uint64, err error) {
	ctx, cancel := callContext()
	defer cancel()
	options := o.options
	options.Wait = wait
	if len(names) == 1 {
		g, err := o.conn.Acquire(ctx, o.want(names[0], mode), options)
		return []uint64{g.Token}, err
	}
	var want []dlmlock.Want
	for _, name := range names {
		want = append(want, o.want(name, mode))
	}
	grants, err := o.conn.AcquireMany(ctx, want, options)
	for _, g := range grants {
		tokens = append(tokens, g.Token)
	}
	return tokens, err
}

func (o *own) convert(name string, mode dlm.Mode, wait time.Duration) (uint64, error) {
	ctx, cancel := callContext()
	defer cancel()
	return o.conn.Convert(ctx, o.want(name, mode), o.selector(), wait)
}

func (o *own) release(names []string) error {
	ctx, cancel := callContext()
	defer cancel()
	if len(names) == 1 {
		return o.conn.Release(ctx, o.lockspace, names[0], o.selector())
	}
	var resources []dlmlock.Want
	for _, name := range names {
		resources = append(resources, dlmlock.Want{Lockspace: o.lockspace, Resource: name})
	}
	_, err := o.conn.ReleaseMany(ctx, resources, o.options.Owner)
	return err
}

func (o *own) selector() dlmlock.Selector { return dlmlock.Selector{Owner: o.options.Owner} }

func (o *own) modes() []dlm.Mode { return modes }
func (o *own) converts() bool    { return true }

func (o *own) cutAt() uint64 { return o.cut.Load() }

func (o *own) alive() bool {
	select {
	case <-o.conn.Done():
		return false
	default:
		return true
	}
}

func (o *own) close() {
	close(o.stop)
	_ = o.conn.Close()
}
